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

from temdiff_jax.baselines import shared
from temdiff_jax.inverse.problem import Problem
from temdiff_jax.projector import backproject, project, ray_lengths
from temdiff_jax.series.checks import check_count, check_number

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
    tilts, geometry = shared.check_series(
        tilts, angles, thickness=thickness, lateral_margin=lateral_margin
    )
    if iterations is None:
        iterations = int(shared.tuned_row(TUNED, angles)[0])
    check_count("iterations", iterations)
    check_number("relaxation", relaxation, below=2.0)
    volume = _reconstruct(
        tilts, geometry, int(iterations), float(relaxation), bool(positivity)
    )
    return shared.on_host(volume)


@jax.jit
def _reconstruct(tilts, geometry, iterations, relaxation, positivity):
    return shared.solve(
        lambda problem: sirt_normalised(
            problem,
            iterations=iterations,
            relaxation=relaxation,
            positivity=positivity,
        ),
        tilts,
        geometry,
    )


def sirt_normalised(
    problem: Problem,
    start: jax.Array | None = None,
    *,
    iterations: jax.Array | int,
    relaxation: jax.Array | float = 1.0,
    positivity: jax.Array | bool = False,
) -> jax.Array:
    """Wide normalised volume ``[z, x, y]``; every option may be traced.

    Args:
      problem: Of its precision, which pixels are not masked: the row sums R are the
        weights.
      start: Wide normalised volume to go on from; zeros unless given.
      iterations: Passes over all tilts.
      relaxation: Step.
      positivity: Whether nothing may lie below zero of the input.
    """
    tilts, geometry, units = problem.tilts, problem.geometry, problem.units
    lowest = jnp.where(positivity, -units.mean / units.contrast, -jnp.inf)
    if start is None:
        start = jnp.zeros(geometry.volume_shape, tilts.dtype)
    seen = problem.precision.seen().astype(tilts.dtype)
    lengths = ray_lengths(geometry)
    rows = safe_inverse(lengths) * seen
    columns = safe_inverse(backproject(jnp.ones_like(lengths) * seen, geometry))
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
