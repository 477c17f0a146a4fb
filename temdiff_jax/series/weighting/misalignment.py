"""How far a series is misaligned, from the series itself.

With the volume a Gaussian of the metric's precision M, tilts y = A x + J S^(1/2) a + n
have the covariance

    C(v) = A M^-1 A^T + D + v J S J^T

when the parameters are off by v times the variances S.  The likelihood of the tilts is
stationary where, summed over the columns c of J S^(1/2),

    q = sum (c^T C^-1 y)^2    equals    t = sum c^T C^-1 c,

what the columns find in the residual and what they should find there.  For given
columns the update ``v <- v (q / t)^(1/2)`` never lowers the likelihood.  ``C^-1 y`` is
the weighted residual of the quadratic estimate, so a step costs two solves: one of the
tilts, and one of a random sum of the columns, whose expected product with itself is t.

Only the two shifts are looked at and the other parameters follow in proportion: images
of a changed tilt angle or gain also take up what the metric has wrong about the volume.

Source: Patterson & Thompson, Biometrika 58 (1971) 545 (q and t); Zhou, Hu, Qiao &
Zhou, J. Comput. Graph. Stat. 28 (2019) 350 (the update); Hutchinson, Commun. Stat.
Simul. Comput. 19 (1990) 433 (the random sum).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from temdiff_jax.inverse import precision
from temdiff_jax.inverse.problem import Problem
from temdiff_jax.inverse.quadratic import Metric, proximal_update
from temdiff_jax.projector import project
from temdiff_jax.series.weighting import derivatives
from temdiff_jax.series.weighting.derivatives import Spread

# A tilt counts for this many times what it should at most, so that a single one that
# is far off does not speak for all; the mean of a chi2 of two degrees loses MISSED.
MOST = 3.0
MISSED = math.exp(-MOST)
# Smaller shifts, in pixels, cannot be told from what the metric has wrong about the
# volume, which looks like up to 0.13 in aligned series of table T1: none are assumed.
NEGLIGIBLE_PX = 0.15
# It also ends where a step changes the spread by less than this share.
SETTLED = 0.03
NUM_SHIFTS = 2


class _State(NamedTuple):
    """Of the search: v, its last change, a volume to take derivatives of, steps."""

    variance: jax.Array
    ratio: jax.Array
    volume: jax.Array
    step: jax.Array


def estimate_misalignment(
    problem: Problem,
    metric: Metric,
    spread: Spread,
    volume: jax.Array,
    *,
    num_iters: int = 40,
    max_steps: int = 8,
) -> jax.Array:
    """The factor on ``spread`` that the tilts give evidence of, a scalar.

    It is 0 for aligned ones.

    Args:
      problem: Of its precision the independent part, 0 where masked.
      metric: Prior precision of the quadratic estimate.
      spread: Where the search begins, and the proportions of the parameters.
      volume: Quadratic estimate to begin with, wide ``[z, x, y]``.
      num_iters: Conjugate-gradient steps of a solve.
      max_steps: Of the search; each costs two solves.
    """
    tilts, geometry = problem.tilts, problem.geometry
    weight = problem.precision.weight
    background = problem.background()
    used = jnp.any(jnp.broadcast_to(weight, tilts.shape) > 0, axis=(1, 2))
    count = jnp.maximum(jnp.sum(used), 1)

    def advance(state: _State) -> _State:
        images = derivatives.derivative_images(
            state.volume, geometry, background=background
        )
        columns = derivatives.scale_images(images, spread)
        root = jnp.sqrt(state.variance)
        data_precision: Any = precision.low_rank(weight, root * columns)
        shifts = columns[:, :NUM_SHIFTS]

        def unexplained(data: jax.Array) -> tuple[jax.Array, jax.Array]:
            """``c^T C^-1 y`` of every shift and tilt, and the estimate from y."""
            zero = jnp.zeros(geometry.volume_shape, tilts.dtype)
            estimate, _ = proximal_update(
                zero, data, geometry, data_precision, metric, num_iters=num_iters
            )
            rest = data_precision * (data - project(estimate, geometry))
            inner = jnp.einsum("kmuy,kuy->km", shifts, rest, precision="highest")
            return inner, estimate

        key = jax.random.fold_in(jax.random.key(0), state.step)
        signs = jax.random.rademacher(key, shifts.shape[:2], tilts.dtype)
        mixed = jnp.einsum("kmuy,km->kuy", shifts, signs, precision="highest")
        found, estimate = unexplained(tilts)
        should, _ = unexplained(jnp.where(used[:, None, None], mixed, 0.0))
        expected = jnp.maximum(jnp.sum(signs * should), 1e-30)
        each = jnp.sum(found**2, axis=1)
        each = jnp.minimum(each, MOST * expected / count)
        ratio = jnp.sqrt(jnp.sum(each) / ((1 - MISSED) * expected))
        return _State(state.variance * ratio, ratio, estimate, state.step + 1)

    def goes_on(state: _State) -> jax.Array:
        moving = jnp.abs(jnp.sqrt(state.ratio) - 1) > SETTLED
        return (state.step < max_steps) & moving & matters(state)

    def matters(state: _State) -> jax.Array:
        return spread.shift_px * jnp.sqrt(state.variance) > NEGLIGIBLE_PX

    one = jnp.ones((), tilts.dtype)
    begin = _State(one, jnp.inf * one, volume, jnp.int32(0))
    found = lax.while_loop(goes_on, advance, begin)
    return jnp.where(matters(found), jnp.sqrt(found.variance), 0.0)
