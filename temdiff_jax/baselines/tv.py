"""Total variation: sparse gradients, by a primal-dual iteration.

    x = argmin 0.5 |A x - y|_W^2 + lam |grad x|_{2,1}

in normalised units (contrast about 1, W the inverse noise variance), so that lam is
an inverse contrast per voxel.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike

from temdiff_jax.baselines import shared
from temdiff_jax.inverse.problem import Problem
from temdiff_jax.projector import backproject, operator_norm, project
from temdiff_jax.series.checks import check_count, check_number

# (half-range in degrees, lam): configs/baselines.json
TUNED = (
    (4.0, 0.3),
    (5.0, 0.3),
    (10.0, 1.0),
    (20.0, 1.0),
    (30.0, 1.0),
    (60.0, 1.0),
)

NUM_ITERS = 300
# Bound on the squared norm of the forward-difference gradient in three dimensions.
GRADIENT_NORM_SQUARED = 12.0
# The power iteration approaches the norm of A from below.
NORM_SAFETY = 1.02
# Primal step in units of the inverse norm of W^(1/2) A: LONGEST_STEP at lam = 0, and
# 1 / (STEP_DECAY lam) at large lam (lowest objective after 300 steps, lam 0.1 to 10).
LONGEST_STEP = 3.0
STEP_DECAY = 2.0


def tv(
    tilts: ArrayLike,
    angles: ArrayLike,
    *,
    thickness: int | None = None,
    lateral_margin: int | str = "auto",
    lam: float | None = None,
    iterations: int = NUM_ITERS,
) -> np.ndarray:
    """Total-variation reconstruction of a tilt series.

    Args:
      tilts: Line integrals ``[n_tilts, y, x]``, intensity x voxel.
      angles: ``[n_tilts]`` degrees, any order.
      thickness: Voxels along the beam at zero tilt; default the detector's width.
      lateral_margin: Columns beyond the field of view, or ``"auto"``.
      lam: Weight of the gradient in normalised units, zero or more; ``None`` takes
        the tuned value.
      iterations: Primal-dual steps.

    Returns:
      Volume ``[z, y, x]`` float32, intensity.

    Raises:
      InputError: Tilts, angles, extents or options cannot be used.

    Source: Chambolle and Pock, J. Math. Imaging Vis. 40 (2011) 120, algorithm 1
    with theta = 1; steps per block as in Pock and Chambolle, ICCV 2011, 1762.
    """
    tilts, geometry = shared.check_series(
        tilts, angles, thickness=thickness, lateral_margin=lateral_margin
    )
    if lam is None:
        (lam,) = shared.tuned_row(TUNED, angles)
    check_number("lam", lam, zero=True)
    check_count("iterations", iterations)
    return shared.on_host(_reconstruct(tilts, geometry, float(lam), int(iterations)))


@jax.jit
def _reconstruct(tilts, geometry, lam, iterations):
    return shared.solve(
        lambda problem: tv_normalised(problem, lam=lam, iterations=iterations),
        tilts,
        geometry,
    )


def tv_normalised(
    problem: Problem,
    *,
    lam: jax.Array | float,
    iterations: jax.Array | int = NUM_ITERS,
) -> jax.Array:
    """Minimiser, wide normalised volume ``[z, x, y]``, from zero.

    Args:
      problem: Series.
      lam: Weight of the gradient.
      iterations: Primal-dual steps.
    """
    tilts, geometry, precision = problem.tilts, problem.geometry, problem.precision
    lam = jnp.asarray(lam, tilts.dtype)
    # Coherent errors only lower the precision below that of the independent part.
    largest = jnp.max(jnp.sqrt(precision.weight))
    norm = NORM_SAFETY * operator_norm(geometry) * largest
    # Each of the two dual blocks takes half of tau (s_1 |B|^2 + s_2 |grad|^2) <= 1.
    # Any primal step converges.  This one balances the travel of volume and duals:
    # the duals of the gradient are as long as lam.
    primal_step = LONGEST_STEP / (1.0 + LONGEST_STEP * STEP_DECAY * lam) / norm
    data_step = 0.5 / (primal_step * norm**2)
    gradient_step = 0.5 / (primal_step * GRADIENT_NORM_SQUARED)
    target = precision.whiten(tilts)

    def step(_, carry):
        volume, ahead, data_dual, gradient_dual = carry
        image = precision.whiten(project(ahead, geometry))
        data_dual = (data_dual + data_step * (image - target)) / (1.0 + data_step)
        gradient_dual = project_to_ball(
            gradient_dual + gradient_step * gradient(ahead), lam
        )
        descent = backproject(precision.whiten_transpose(data_dual), geometry)
        descent = descent + gradient_adjoint(gradient_dual)
        moved = volume - primal_step * descent
        return moved, 2.0 * moved - volume, data_dual, gradient_dual

    start = jnp.zeros(geometry.volume_shape, tilts.dtype)
    carry = (
        start,
        start,
        jnp.zeros_like(tilts),
        jnp.zeros((3, *geometry.volume_shape), tilts.dtype),
    )
    return lax.fori_loop(0, iterations, step, carry)[0]


def objective(volume: jax.Array, problem: Problem, lam: jax.Array | float) -> jax.Array:
    """``0.5 |A x - y|_W^2 + lam |grad x|_{2,1}``, a scalar."""
    residual = project(volume, problem.geometry) - problem.tilts
    length = jnp.sqrt(jnp.sum(gradient(volume) ** 2, axis=0))
    return 0.5 * jnp.sum(residual * (problem.precision * residual)) + lam * jnp.sum(
        length
    )


def gradient(volume: jax.Array) -> jax.Array:
    """Forward differences of ``[z, x, y]``, zero at the far faces, ``[3, z, x, y]``."""
    parts = []
    for axis in range(3):
        pad = [(0, 0)] * 3
        pad[axis] = (0, 1)
        parts.append(jnp.pad(jnp.diff(volume, axis=axis), pad))
    return jnp.stack(parts)


def gradient_adjoint(field: jax.Array) -> jax.Array:
    """Transpose of ``gradient``: ``[3, z, x, y]`` to ``[z, x, y]``."""
    total = jnp.zeros_like(field[0])
    for axis in range(3):
        inner = lax.slice_in_dim(field[axis], 0, field.shape[axis + 1] - 1, axis=axis)
        pad_before, pad_after = [(0, 0)] * 3, [(0, 0)] * 3
        pad_before[axis], pad_after[axis] = (1, 0), (0, 1)
        total = total + jnp.pad(inner, pad_before) - jnp.pad(inner, pad_after)
    return total


def project_to_ball(field: jax.Array, radius: jax.Array) -> jax.Array:
    """Shortens every vector of ``[3, z, x, y]`` to at most ``radius``."""
    length = jnp.sqrt(jnp.sum(field**2, axis=0))
    return field * jnp.minimum(1.0, radius / jnp.maximum(length, 1e-30))
