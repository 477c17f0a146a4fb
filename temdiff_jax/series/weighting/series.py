"""The precision of a whole series, estimated together with a quadratic estimate.

Derivative images need a volume, and a volume needs weights: the two are found in turn.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from temdiff_jax.errors import InputError, check_known
from temdiff_jax.inverse import precision
from temdiff_jax.inverse.precision import Precision
from temdiff_jax.inverse.problem import Problem
from temdiff_jax.inverse.quadratic import Metric, proximal_update
from temdiff_jax.projector import project
from temdiff_jax.series.weighting import derivatives, robust
from temdiff_jax.series.weighting.derivatives import Spread
from temdiff_jax.series.weighting.misalignment import estimate_misalignment

# off: the weights as given; robust: times a factor per tilt; diagonal and low-rank: the
# variances of a misalignment as well, pixel by pixel or as the modes they are;
# adaptive: low-rank, with a misalignment estimated from the series.
FORMS = ("off", "robust", "diagonal", "low-rank", "adaptive")


class Weighted(NamedTuple):
    """A series with its precision and the estimate it was found with.

    Attributes:
      precision: ``Sigma^-1``, factors included; stands wherever a weight array does.
      volume: Quadratic estimate under it, wide ``[z, x, y]``, units of the tilts.
      chi2: ``[n_tilts]``, of that estimate under the precision without factors.
      factors: Robust factor of each tilt, ``[n_tilts]``, ones if not asked for.
      amplitudes: ``[n_tilts, 7]``: what the estimate says of the seven parameters of
        ``Spread``, in units of their spread; zeros without modes.
      misalignment: Factor on the spread given: for "adaptive" the estimate from
        the series, else 1.
    """

    precision: Precision
    volume: jax.Array
    chi2: jax.Array
    factors: jax.Array
    amplitudes: jax.Array
    misalignment: jax.Array


def weigh(
    problem: Problem,
    metric: Metric,
    *,
    form: str = "low-rank",
    spread: Spread | None = None,
    keep: jax.Array | None = None,
    rounds: int = 2,
    num_iters: int = 40,
) -> Weighted:
    """Precision and quadratic estimate of a series, in turn.

    Args:
      problem: Masked pixels repaired; of its precision the independent part.
      metric: Prior precision of the quadratic estimate.
      form: One of ``FORMS``.
      spread: Of the seven parameters, the offset in units of the normalised tilts;
        ``None`` takes ``Spread.for_tilts``.  For "adaptive" its proportions.
      keep: 0 where masked, broadcastable to the tilts.
      rounds: How often derivatives and factors are taken from a new estimate; each
        costs one solve more than the first.
      num_iters: Conjugate-gradient steps of a solve.

    Raises:
      InputError: Unknown form, or a number of rounds below one.
    """
    check_known("weighting", form, FORMS)
    if rounds < 1:
        raise InputError(
            f"weighting: expected at least one round, got {rounds}; pass 2 or leave "
            "it out"
        )
    tilts = problem.tilts
    keep = jnp.ones((1, 1, 1), tilts.dtype) if keep is None else jnp.asarray(keep)
    spread = Spread.for_tilts(tilts, keep) if spread is None else spread
    # Numbers as arrays: other values compile nothing.
    spread, metric = jax.tree.map(jnp.asarray, (spread, metric))
    masked = precision.diagonal(problem.precision.weight * keep)
    return _weigh(
        dataclasses.replace(problem, precision=masked, inputs=None),
        metric,
        spread,
        keep,
        form=form,
        rounds=rounds,
        num_iters=num_iters,
    )


@partial(jax.jit, static_argnames=("form", "rounds", "num_iters"))
def _weigh(
    problem: Problem,
    metric: Metric,
    spread: Spread,
    keep: jax.Array,
    *,
    form: str,
    rounds: int,
    num_iters: int,
) -> Weighted:
    tilts, geometry = problem.tilts, problem.geometry
    weight = problem.precision.weight

    def solve(data_precision: Any) -> jax.Array:
        zero = jnp.zeros(geometry.volume_shape, tilts.dtype)
        volume, _ = proximal_update(
            zero, tilts, geometry, data_precision, metric, num_iters=num_iters
        )
        return volume

    def covariance(volume: jax.Array) -> Precision:
        if form in ("off", "robust"):
            return precision.diagonal(weight)
        images = derivatives.derivative_images(
            volume, geometry, background=problem.background()
        )
        columns = derivatives.scale_images(images, spread)
        if form == "diagonal":
            return precision.diagonal(precision.with_variances(weight, columns))
        return precision.low_rank(weight, columns)

    factors = jnp.ones(tilts.shape[0], tilts.dtype)
    found = precision.diagonal(weight)
    volume = solve(found)
    misalignment = jnp.ones((), tilts.dtype)
    if form == "adaptive":
        misalignment = estimate_misalignment(
            problem, metric, spread, volume, num_iters=num_iters
        )
        spread = jax.tree.map(lambda s: misalignment * s, spread)
    for _ in range(rounds if form != "off" else 0):
        found = covariance(volume)
        residual = tilts - project(volume, geometry)
        factors = robust.tilt_factors(robust.chi2_per_tilt(residual, found, keep))
        volume = solve(found.scaled(factors))
    residual = tilts - project(volume, geometry)
    amplitudes = found.amplitudes(residual)
    if not amplitudes.shape[1]:
        amplitudes = jnp.zeros((tilts.shape[0], len(Spread._fields)), tilts.dtype)
    return Weighted(
        found.scaled(factors),
        volume,
        robust.chi2_per_tilt(residual, found, keep),
        factors,
        amplitudes,
        misalignment,
    )
