"""Simultaneous algebraic reconstruction (SART): tilt by tilt.

    x <- x + lam A_k^T [(y_k - A_k x) / (A_k 1)] / (A_k^T 1)

over the tilts in farthest-first order, from the mean slab.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike

from temdiff_jax.baselines import shared
from temdiff_jax.baselines.sirt import safe_inverse
from temdiff_jax.inverse.problem import Problem
from temdiff_jax.projector import backproject, project, ray_lengths
from temdiff_jax.series.checks import check_count, check_number

# (half-range in degrees, lam, sweeps): configs/baselines.json
TUNED = (
    (4.0, 0.3, 50),
    (5.0, 0.3, 20),
    (10.0, 0.3, 50),
    (20.0, 0.1, 10),
    (30.0, 0.1, 10),
    (60.0, 0.1, 10),
)


def sart(
    tilts: ArrayLike,
    angles: ArrayLike,
    *,
    thickness: int | None = None,
    lateral_margin: int | str = "auto",
    lam: float | None = None,
    sweeps: int | None = None,
) -> np.ndarray:
    """Simultaneous algebraic reconstruction of a tilt series.

    Args:
      tilts: Line integrals ``[n_tilts, y, x]``, intensity x voxel.
      angles: ``[n_tilts]`` degrees, any order.
      thickness: Voxels along the beam at zero tilt; default the detector's width.
      lateral_margin: Columns beyond the field of view, or ``"auto"``.
      lam: Relaxation in (0, 2); ``None`` takes the tuned value.
      sweeps: Passes over all tilts; ``None`` takes the tuned number.

    Returns:
      Volume ``[z, y, x]`` float32, intensity.

    Raises:
      InputError: Tilts, angles, extents or options cannot be used.

    Source: Andersen and Kak, Ultrason. Imaging 6 (1984) 81.
    """
    tilts, geometry = shared.check_series(
        tilts, angles, thickness=thickness, lateral_margin=lateral_margin
    )
    tuned_lam, tuned_sweeps = shared.tuned_row(TUNED, angles)
    lam = tuned_lam if lam is None else lam
    sweeps = int(tuned_sweeps) if sweeps is None else sweeps
    check_number("lam", lam, below=2.0)
    check_count("sweeps", sweeps)
    order = farthest_first(angles)
    return shared.on_host(_reconstruct(tilts, geometry, order, float(lam), int(sweeps)))


@jax.jit
def _reconstruct(tilts, geometry, order, lam, sweeps):
    return shared.solve(
        lambda problem: sart_normalised(problem, order=order, lam=lam, sweeps=sweeps),
        tilts,
        geometry,
    )


def sart_normalised(
    problem: Problem,
    start: jax.Array | None = None,
    *,
    order: jax.Array,
    lam: jax.Array | float,
    sweeps: jax.Array | int,
) -> jax.Array:
    """Wide normalised volume ``[z, x, y]``; every option may be traced.

    Args:
      problem: Of its precision, which pixels are not masked.
      start: Wide normalised volume to go on from; zeros unless given.
      order: Tilt indices in the order of use, ``[n_tilts]`` int32.
      lam: Relaxation.
      sweeps: Passes over all tilts.
    """
    tilts, geometry = problem.tilts, problem.geometry
    if start is None:
        start = jnp.zeros(geometry.volume_shape, tilts.dtype)
    seen_pixels = problem.precision.seen().astype(tilts.dtype)
    rows = safe_inverse(ray_lengths(geometry)) * seen_pixels
    lam = jnp.asarray(lam, tilts.dtype)
    # The tilt in hand is traced, so its planes are known only if all tilts agree.
    flags = set(geometry.steep or ())
    steep = (flags.pop(),) if len(flags) == 1 else None
    single = dataclasses.replace(geometry, steep=steep)

    def correct(volume, tilt):
        one = dataclasses.replace(
            single, angles_rad=lax.dynamic_slice_in_dim(geometry.angles_rad, tilt, 1)
        )
        measured = lax.dynamic_slice_in_dim(tilts, tilt, 1)
        row = lax.dynamic_slice_in_dim(rows, tilt, 1)
        residual = row * (measured - project(volume, one))
        seen = (row > 0).astype(tilts.dtype)
        column = lam * safe_inverse(backproject(seen, one))
        return volume + column * backproject(residual, one), None

    def sweep(_, volume):
        return lax.scan(correct, volume, order)[0]

    return lax.fori_loop(0, sweeps, sweep, start)


def farthest_first(angles: ArrayLike) -> np.ndarray:
    """Order of tilts in which each is farthest from those before it.

    Starts at the tilt nearest to zero; distances are between undirected rays, so
    -90 and 90 degrees coincide.  Ties go to the tilt farther from the one before,
    then to the first in the list.

    Args:
      angles: ``[n_tilts]`` degrees.

    Returns:
      Tilt indices ``[n_tilts]`` int32.

    Source: the greedy rule of Gonzalez, Theor. Comput. Sci. 38 (1985) 293.
    """
    degrees = np.asarray(angles, np.float64)
    apart = np.abs(degrees[:, None] - degrees[None, :]) % 180.0
    apart = np.minimum(apart, 180.0 - apart)
    order = [int(np.argmin(np.abs(degrees)))]
    nearest = apart[order[0]].copy()
    left = np.ones(degrees.size, bool)
    left[order[0]] = False
    while left.any():
        best = nearest[left].max()
        ties = np.flatnonzero(left & (nearest >= best - 1e-9))
        chosen = int(ties[np.argmax(apart[order[-1]][ties])])
        order.append(chosen)
        left[chosen] = False
        nearest = np.minimum(nearest, apart[chosen])
    return np.asarray(order, np.int32)
