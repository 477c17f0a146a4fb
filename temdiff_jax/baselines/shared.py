"""What the classical methods share: checks, geometry, units.

``f(tilts, angles, *, thickness=None, lateral_margin="auto", ...)`` takes line
integrals ``[n_tilts, y, x]`` and degrees, and returns a volume ``[z, y, x]`` of the
tilts' lateral extent.  Inside, each is a function of a ``Problem``: the slab continues
beyond the field of view (``TiltGeometry.margin``), intensities have mean 0 and a
contrast of about 1; so no option depends on the unit of the input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import numpy as np
from numpy.typing import ArrayLike

from temdiff_jax import layout
from temdiff_jax.errors import InputError
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.inverse.problem import Problem
from temdiff_jax.series import inputs
from temdiff_jax.series.checks import MIN_PIXELS, check_count


def check_series(
    tilts: ArrayLike,
    angles: ArrayLike,
    *,
    thickness: int | None,
    lateral_margin: int | str,
) -> tuple[np.ndarray, TiltGeometry]:
    """Checks what a user gave and builds the geometry.

    Args:
      tilts: Line integrals ``[n_tilts, y, x]``, any real dtype.
      angles: ``[n_tilts]`` degrees.
      thickness: Voxels along the beam at zero tilt; ``None`` takes the width.
      lateral_margin: Columns beyond the field of view, or ``"auto"``.

    Returns:
      The tilts as float32, layout unchanged, and the geometry.

    Raises:
      InputError: Anything that cannot be a tilt series.
    """
    array = _line_integrals(tilts)
    degrees = _degrees(angles)
    if degrees.shape != array.shape[:1]:
        raise InputError(
            "tilts and angles disagree: expected one angle per tilt, got tilts "
            f"{list(array.shape)} and angles {list(degrees.shape)}; pass the angles "
            "of this series"
        )
    if thickness is None:
        thickness = array.shape[2]
    check_count("thickness", thickness)
    if lateral_margin != "auto":
        check_count("lateral_margin", lateral_margin, smallest=0)
    geometry = TiltGeometry.from_degrees(
        degrees,
        thickness=thickness,
        width=array.shape[2],
        height=array.shape[1],
        lateral_margin=lateral_margin,
    )
    return array, geometry


def _line_integrals(tilts: ArrayLike) -> np.ndarray:
    array = np.asarray(tilts)
    if array.ndim != 3 or array.dtype.kind not in "fiub":
        raise InputError(
            "tilts: expected real line integrals [n_tilts, y, x], got "
            f"{array.dtype} of shape {list(array.shape)}; stack the tilts along the "
            "first axis"
        )
    if array.shape[0] < 1 or min(array.shape[1:]) < MIN_PIXELS:
        raise InputError(
            f"tilts: expected at least one tilt of {MIN_PIXELS} x {MIN_PIXELS} "
            f"pixels, got shape {list(array.shape)}; pass whole tilts, not rows"
        )
    array = array.astype(np.float32)
    finite = np.isfinite(array)
    if not finite.all():
        raise InputError(
            "tilts: expected finite line integrals, got "
            f"{array.size - int(finite.sum())} of {array.size} pixels that are not, "
            f"first in tilt {int(np.argwhere(~finite)[0, 0])}; mask or repair them"
        )
    return array


def _degrees(angles: ArrayLike) -> np.ndarray:
    try:
        return np.asarray(angles, np.float64)
    except (TypeError, ValueError):
        raise InputError(
            f"angles: expected one number of degrees per tilt, got {angles!r:.80}; "
            "pass a flat list of numbers"
        ) from None


def solve(
    method: Callable[[Problem], jax.Array], tilts: jax.Array, geometry: TiltGeometry
) -> jax.Array:
    """Runs a method on line integrals and returns to the input's units.

    To be traced inside the jitted entry point of a method.

    Args:
      method: From a problem to a wide normalised volume.
      tilts: Line integrals ``[n_tilts, y, x]`` float32.
      geometry: Rays.

    Returns:
      ``[z, y, x]`` over the field of view, intensity per voxel.
    """
    problem = inputs.normalise(layout.tilts_to_core(tilts), geometry)
    return layout.volume_from_core(problem.to_input_units(method(problem)))


def on_host(volume: jax.Array) -> np.ndarray:
    """The volume on the host: float32 ``[z, y, x]``, C-contiguous, writable."""
    return np.array(volume, np.float32, order="C")


def half_range_deg(angles: ArrayLike) -> float:
    """Half the extent of the tilt range in degrees, at least one."""
    degrees = np.asarray(angles, np.float64)
    return max(0.5 * float(degrees.max() - degrees.min()), 1.0)


def tuned_row(
    table: Sequence[tuple[float, ...]], angles: ArrayLike
) -> tuple[float, ...]:
    """Options of the row whose half-range is nearest in ratio.

    Args:
      table: Rows of (half-range in degrees, options...).
      angles: ``[n_tilts]`` degrees.
    """
    at = math.log(half_range_deg(angles))
    return min(table, key=lambda row: abs(math.log(row[0]) - at))[1:]
