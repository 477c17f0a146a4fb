"""Simultaneous iterative reconstruction (SIRT): all tilts at once.

    x <- x + r C A^T R (y - A x),   R = 1 / (A 1),   C = 1 / (A^T 1)

from the mean slab.  It converges to least squares weighted by R; the number of
iterations is the regularisation.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike

from temdiff_jax.baselines import _door
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.projector import backproject, project, ray_lengths

# (half-range in degrees, iterations): configs/baselines.json
TUNED = (
    (4.0, 100),
    (5.0, 100),
    (10.0, 100),
    (20.0, 20),
    (30.0, 20),
    (60.0, 50),
)

# Rays shorter and voxels seen by less than this many voxels are left alone.
SMALLEST_SUM = 1e-3


def sirt(
    tilts: ArrayLike,
    angles: ArrayLike,
    *,
    thickness: int | None = None,
    lateral_margin: int | str = "auto",
    iterations: int | None = None,
    relaxation: float = 1.0,
    positivity: bool = False,
) -> np.ndarray:
    """Simultaneous iterative reconstruction of a tilt series.

    Args:
      tilts: Line integrals ``[n_tilts, y, x]``, intensity x voxel.
      angles: ``[n_tilts]`` degrees, any order.
      thickness: Voxels along the beam at zero tilt; default the detector's width.
      lateral_margin: Columns beyond the field of view, or ``"auto"``.
      iterations: Passes over all tilts; ``None`` takes the tuned number.
      relaxation: Step r, in (0, 2).
      positivity: Whether intensities below zero are set to zero after each pass;
        right only where zero means vacuum.

    Returns:
      Volume ``[z, y, x]`` float32, intensity.

    Raises:
      InputError: Tilts, angles, extents or options cannot be used.

    Source: Gilbert, J. Theor. Biol. 36 (1972) 105; convergence for these weights:
    Censor and Elfving, SIAM J. Matrix Anal. Appl. 24 (2002) 40.
    """
    tilts, geometry = _door.enter(
        tilts, angles, thickness=thickness, lateral_margin=lateral_margin
    )
    if iterations is None:
        iterations = int(_door.tuned_row(TUNED, angles)[0])
    _door.check_count("iterations", iterations)
    _door.check_number("relaxation", relaxation, below=2.0)
    volume = _reconstruct(
        tilts, geometry, int(iterations), float(relaxation), bool(positivity)
    )
    return _door.leave(volume)


@jax.jit
def _reconstruct(tilts, geometry, iterations, relaxation, positivity):
    def solver(normalised, weight, scaling):
        del weight  # the row sums R are the weights
        # Zero of the input in normalised units.
        lowest = jnp.where(positivity, -scaling.mean / scaling.contrast, -jnp.inf)
        start = jnp.zeros(geometry.volume_shape, normalised.dtype)
        return sirt_normalised(
            start,
            normalised,
            geometry,
            iterations=iterations,
            relaxation=relaxation,
            lowest=lowest,
        )

    return _door.solve(solver, tilts, geometry)


def sirt_normalised(
    start: jax.Array,
    tilts: jax.Array,
    geometry: TiltGeometry,
    *,
    iterations: jax.Array | int,
    relaxation: jax.Array | float = 1.0,
    lowest: jax.Array | float = -np.inf,
) -> jax.Array:
    """Iterates on from ``start``; every option may be traced.

    Args:
      start: Wide volume ``[z, x, y]``.
      tilts: ``[n_tilts, u, y]`` in the units of ``start``.
      geometry: Rays.
      iterations: Passes over all tilts.
      relaxation: Step.
      lowest: Smallest intensity allowed.
    """
    lengths = ray_lengths(geometry)
    rows = safe_inverse(lengths)
    columns = safe_inverse(backproject(jnp.ones_like(lengths), geometry))
    columns = columns * jnp.asarray(relaxation, tilts.dtype)

    def step(_, volume):
        residual = rows * (tilts - project(volume, geometry))
        volume = volume + columns * backproject(residual, geometry)
        return jnp.maximum(volume, lowest)

    return lax.fori_loop(0, iterations, step, start)


def safe_inverse(sums: jax.Array) -> jax.Array:
    """``1 / sums``, zero where a sum is too small to divide by."""
    large = sums > SMALLEST_SUM
    return jnp.where(large, 1.0 / jnp.where(large, sums, 1.0), 0.0)
