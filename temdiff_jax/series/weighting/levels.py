"""How noisy a tilt is: from its counts, or from what a reconstruction leaves over."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.inverse.quadratic import Metric, proximal_update
from temdiff_jax.projector import project
from temdiff_jax.series.weighting import _filters

# Expected electrons below which a count is treated as this many: the logarithm of a
# count has no variance at zero.
MIN_COUNTS = 0.5


def variance_of_log(
    expected: jax.Array, read_noise: jax.Array | float = 0.0
) -> jax.Array:
    """Variance of ``-ln N`` for Poisson counts with read noise, any shape.

        var(ln N) = 1 / N + read^2 / N^2

    to first order in the relative noise: 3 % too small at 30 electrons.  Thin, bright
    rays weigh more.

    Args:
      expected: Expected electrons per pixel, not the noisy count itself: a pixel that
        happens to be dim would be trusted less than its equal, and a mean of many
        would be biased.
      read_noise: Electrons rms.
    """
    safe = jnp.maximum(expected, MIN_COUNTS)
    return 1 / safe + (read_noise / safe) ** 2


def expected_counts(
    tilts: jax.Array, dose: jax.Array | float, *, smoothing: float = 2.0
) -> jax.Array:
    """Expected electrons ``[n_tilts, u, y]`` behind bright-field line integrals.

    Args:
      tilts: ``-ln(N / dose)``.
      dose: Electrons per pixel of the unscattered beam, broadcastable to the tilts.
      smoothing: Gaussian over the counts, pixels, so that a pixel's own noise has
        little part in its weight; 0 for line integrals of an estimate.
    """
    return dose * _filters.gaussian(jnp.exp(-tilts), smoothing)


def relative_variance(tilts: jax.Array, *, smoothing: float = 2.0) -> jax.Array:
    """Variance of ``-ln N`` over its mean in each tilt, where the dose is unknown.

    Shot noise alone makes it proportional to ``1 / N``, and ``N`` is known up to the
    dose.  Times the noise level of a tilt it is the variance of its pixels.

    Args:
      tilts: Bright-field line integrals in natural units, ``[n_tilts, u, y]``.
      smoothing: As for ``expected_counts``.
    """
    inverse = 1 / expected_counts(tilts, 1.0, smoothing=smoothing)
    return inverse / jnp.mean(inverse, axis=(1, 2), keepdims=True)


def noise_from_residual(
    tilts: jax.Array,
    geometry: TiltGeometry,
    metric: Metric,
    start: jax.Array,
    key: jax.Array,
    *,
    keep: jax.Array | None = None,
    num_iters: int = 20,
    rounds: int = 3,
) -> jax.Array:
    """Noise standard deviation of each tilt, ``[n_tilts]``, from a residual.

    The finest detail of one tilt is texture and noise.  What a quadratic estimate from
    all tilts does not explain of it is nearly noise alone, but less than all noise,
    since the estimate follows some.  How much less is seen by sending noise of the
    assumed level through the same solve: the level is right when both leave the same
    spread of detail (median absolute value).

    Args:
      tilts: Normalised tilts, ``[n_tilts, u, y]``, at least 3 x 3 pixels.
      geometry: Rays.
      metric: Of the quadratic estimate.
      start: First guess, ``[n_tilts]``, as ``noise.noise_per_tilt``.
      key: Of the probe noise.
      keep: 0 where masked, ``[n_tilts, u, y]``.
      num_iters: Conjugate-gradient steps of each solve.
      rounds: Corrections of the level.

    Returns:
      Standard deviations in units of the tilts.  Misaligned tilts disagree, and their
      disagreement counts as noise here.
    """
    probe = jax.random.normal(key, tilts.shape, tilts.dtype)
    smallest = 1e-6 * jnp.std(tilts) + 1e-12
    seen = jnp.ones_like(tilts) if keep is None else keep.astype(tilts.dtype)
    inside = _unmasked_detail(seen)

    def left_over(data: jax.Array, weight: jax.Array) -> jax.Array:
        zero = jnp.zeros(geometry.volume_shape, tilts.dtype)
        volume, _ = proximal_update(
            zero, data, geometry, weight, metric, num_iters=num_iters
        )
        rest = jnp.abs(_filters.detail(data - project(volume, geometry)))
        return jnp.nanmedian(jnp.where(inside, rest, jnp.nan), axis=(1, 2))

    def correct(sigma: jax.Array, _):
        level = sigma[:, None, None]
        weight = seen / level**2
        both = jnp.stack([tilts, level * probe])
        of_data, of_noise = jax.vmap(left_over, (0, None))(both, weight)
        better = sigma * of_data / jnp.maximum(of_noise, 1e-30)
        # A fully masked tilt has no detail: nothing is learned of it.
        better = jnp.where(jnp.isfinite(better), better, sigma)
        return jnp.maximum(better, smallest), None

    start = jnp.maximum(start.astype(tilts.dtype), smallest)
    return jax.lax.scan(correct, start, length=rounds)[0]


def _unmasked_detail(seen: jax.Array) -> jax.Array:
    """Where all nine pixels behind a value of ``detail`` are unmasked."""
    rows = jnp.minimum(jnp.minimum(seen[:, 2:], seen[:, 1:-1]), seen[:, :-2])
    both = jnp.minimum(jnp.minimum(rows[..., 2:], rows[..., 1:-1]), rows[..., :-2])
    return both > 0
