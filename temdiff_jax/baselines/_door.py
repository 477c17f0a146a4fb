"""The door every classical method goes through: checks, geometry, units.

``f(tilts, angles, *, thickness=None, lateral_margin="auto", ...)`` takes line
integrals ``[n_tilts, y, x]`` and degrees, and returns a volume ``[z, y, x]`` of the
tilts' lateral extent.  Inside, the slab continues beyond the field of view
(``TiltGeometry.margin``), intensities have mean 0 and a contrast of about 1, and
the layout is the core's; so no option depends on the unit of the input.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike

from temdiff_jax import layout
from temdiff_jax.errors import InputError
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.series import noise

# The noise of a tilt is estimated from second differences along both axes.
MIN_PIXELS = 3

# Solver of normalised tilts: (tilts [n_tilts, u, y], weight [n_tilts, 1, 1],
# scaling) -> wide volume [z, x, y].
Solver = Callable[[jax.Array, jax.Array, noise.Scaling], jax.Array]


def enter(
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


def check_count(name: str, value: Any, *, smallest: int = 1) -> None:
    """Refuses what is not a whole number of at least ``smallest``."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < smallest:
        raise InputError(
            f"{name}: expected a whole number of at least {smallest}, got {value!r}; "
            "pass such a number or leave the option out"
        )


def check_number(
    name: str, value: Any, *, below: float = math.inf, zero: bool = False
) -> None:
    """Refuses what is not a finite number in (0, below), or [0, below)."""
    real = isinstance(value, numbers.Real) and math.isfinite(value)
    if not real or not (0 <= value < below) or (value == 0 and not zero):
        low = "zero or more" if zero else "above zero"
        high = f" and below {below:g}" if below < math.inf else ""
        raise InputError(
            f"{name}: expected a number {low}{high}, got {value!r}; pass such a "
            "number or leave the option out"
        )


def solve(solver: Solver, tilts: jax.Array, geometry: TiltGeometry) -> jax.Array:
    """Runs a solver of normalised tilts and returns to the input's units.

    To be traced inside the jitted entry point of a method.

    Args:
      solver: From normalised tilts to a wide volume, see ``Solver``.
      tilts: Line integrals ``[n_tilts, y, x]`` float32.
      geometry: Rays.

    Returns:
      ``[z, y, x]`` over the field of view, intensity per voxel.
    """
    core = layout.tilts_to_core(tilts)
    scaling = noise.estimate_scaling(core, geometry)
    normalised = noise.normalise_tilts(core, geometry, scaling)
    weight = noise.data_precision(normalised)
    volume = geometry.crop(solver(normalised, weight, scaling))
    return layout.volume_from_core(volume * scaling.contrast + scaling.mean)


def leave(volume: jax.Array) -> np.ndarray:
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
