"""Noise levels: grids to sample on and distributions to train on.

Every grid ``[num_steps + 1]`` holds ``num_steps`` levels from ``sigma_max`` down to
``sigma_min`` and a last zero, in the variance-exploding scale ``x = x0 + sigma z`` of
data of unit variance.  A family differs from another only in the variable in which
its levels are equally spaced; the variance-preserving and flow scales are views:

    VP    x_vp   = sqrt(ab) x,    ab = 1 / (1 + sigma^2)
    flow  x_flow = (1 - t) x,     t = sigma / (1 + sigma)
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from temdiff_jax.errors import InputError

SIGMA_MAX = 20.0
SIGMA_MIN = 0.02
# Offset of the cosine schedule, so that its first levels are not too close.
COSINE_OFFSET = 0.008


def karras(
    num_steps: int,
    *,
    sigma_max: float | jax.Array = SIGMA_MAX,
    sigma_min: float | jax.Array = SIGMA_MIN,
    rho: float = 7.0,
) -> jax.Array:
    """Decreasing levels ``[num_steps + 1]``, the last one zero.

    s_i = (s_max^(1/rho) + i / (N - 1) (s_min^(1/rho) - s_max^(1/rho)))^rho.

    Source: Karras et al., NeurIPS 2022, equation 5.
    """
    if num_steps == 1:
        return jnp.array([sigma_max, 0.0])
    ramp = jnp.arange(num_steps) / (num_steps - 1)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return jnp.append((high + ramp * (low - high)) ** rho, 0.0)


def uniform_in(
    to_time: Callable[[jax.Array], jax.Array],
    to_sigma: Callable[[jax.Array], jax.Array],
    num_steps: int,
    sigma_max: float | jax.Array,
    sigma_min: float | jax.Array,
) -> jax.Array:
    """Levels equally spaced in a variable given with its inverse, then zero.

    Args:
      to_time: Monotonous function of sigma.
      to_sigma: Its inverse.
      num_steps: Levels above zero.
      sigma_max, sigma_min: First and last of them; a single level is the first.

    Returns:
      ``[num_steps + 1]``, decreasing.
    """
    high, low = to_time(jnp.asarray(sigma_max)), to_time(jnp.asarray(sigma_min))
    ramp = jnp.arange(num_steps) / max(num_steps - 1, 1)
    return jnp.append(to_sigma(high + ramp * (low - high)), 0.0)


def ve_geometric(
    num_steps: int,
    *,
    sigma_max: float | jax.Array = SIGMA_MAX,
    sigma_min: float | jax.Array = SIGMA_MIN,
) -> jax.Array:
    """Geometric levels, ``s_i = s_max (s_min / s_max)^(i / (N - 1))``, then zero.

    Source: Song and Ermon, NeurIPS 2019; Song et al., ICLR 2021, appendix C (VE).
    """
    return uniform_in(jnp.log, jnp.exp, num_steps, sigma_max, sigma_min)


def log_snr_uniform(
    num_steps: int,
    *,
    log_snr_min: float | jax.Array = -5.99,
    log_snr_max: float | jax.Array = 7.82,
) -> jax.Array:
    """Levels uniform in the logarithm of the signal-to-noise ratio, then zero.

    ``log SNR = ln(ab / (1 - ab)) = -2 ln sigma``, so that this is the geometric grid,
    given by its ends in other units.  The defaults are those of the other grids.

    Source: Kingma et al., NeurIPS 2021 (VDM); Lu et al., NeurIPS 2022 (DPM-Solver).
    """
    return uniform_in(
        lambda sigma: -2.0 * jnp.log(sigma),
        lambda log_snr: jnp.exp(-0.5 * log_snr),
        num_steps,
        jnp.exp(-0.5 * jnp.asarray(log_snr_min)),
        jnp.exp(-0.5 * jnp.asarray(log_snr_max)),
    )


def vp_linear(
    num_steps: int,
    *,
    sigma_max: float | jax.Array = SIGMA_MAX,
    sigma_min: float | jax.Array = SIGMA_MIN,
    beta_min: float = 0.1,
    beta_max: float = 20.0,
) -> jax.Array:
    """Levels uniform in the time of a linear ``beta(t)``, then zero.

    ``ln(1 + sigma^2) = beta_min t + (beta_max - beta_min) t^2 / 2``.

    Source: Ho et al., NeurIPS 2020 (DDPM); Song et al., ICLR 2021, appendix C (VP);
    Karras et al., NeurIPS 2022, table 1 (VP).
    """
    slope = beta_max - beta_min

    def to_time(sigma):
        decay = jnp.log1p(sigma**2)
        return (jnp.sqrt(beta_min**2 + 2.0 * slope * decay) - beta_min) / slope

    def to_sigma(time):
        return jnp.sqrt(jnp.expm1(beta_min * time + 0.5 * slope * time**2))

    return uniform_in(to_time, to_sigma, num_steps, sigma_max, sigma_min)


def vp_cosine(
    num_steps: int,
    *,
    sigma_max: float | jax.Array = SIGMA_MAX,
    sigma_min: float | jax.Array = SIGMA_MIN,
) -> jax.Array:
    """Levels uniform in the time of the cosine schedule, then zero.

    ``ab(t) = cos^2(a) / cos^2(a0)``, ``a = (t + o) / (1 + o) pi / 2``, o = 0.008 and
    a0 = a(0); levels are uniform in a, which is linear in t.

    Source: Nichol and Dhariwal, ICML 2021, equation 17.
    """
    first = COSINE_OFFSET / (1.0 + COSINE_OFFSET) * jnp.pi / 2.0

    # Differences of cosines are written as products: they vanish with sigma.
    def to_time(sigma):
        return jnp.arctan(jnp.sqrt(sigma**2 + jnp.sin(first) ** 2) / jnp.cos(first))

    def to_sigma(angle):
        return jnp.sqrt(jnp.sin(angle - first) * jnp.sin(angle + first)) / jnp.cos(
            angle
        )

    return uniform_in(to_time, to_sigma, num_steps, sigma_max, sigma_min)


def flow_uniform(
    num_steps: int,
    *,
    sigma_max: float | jax.Array = SIGMA_MAX,
    sigma_min: float | jax.Array = SIGMA_MIN,
    shift: float = 1.0,
) -> jax.Array:
    """Levels uniform in flow time ``t = sigma / (1 + sigma)``, then zero.

    A shift a moves time to ``a t / (1 + (a - 1) t)``, which multiplies sigma by a:
    levels are uniform in the time before the shift.

    Source: Liu et al., ICLR 2023 (rectified flow); Esser et al., ICML 2024,
    equation 23 (shift).
    """

    def to_time(sigma):
        return sigma / (shift + sigma)

    def to_sigma(time):
        return shift * time / (1.0 - time)

    return uniform_in(to_time, to_sigma, num_steps, sigma_max, sigma_min)


def training_sigma(
    key: jax.Array,
    shape: tuple[int, ...],
    *,
    log_mean: float = -0.4,
    log_std: float = 1.4,
) -> jax.Array:
    """Log-normal noise levels, clipped to the grid's range."""
    sigma = jnp.exp(log_mean + log_std * jax.random.normal(key, shape))
    return jnp.clip(sigma, SIGMA_MIN, SIGMA_MAX)


def training_uniform_in(
    to_time: Callable[[jax.Array], jax.Array],
    to_sigma: Callable[[jax.Array], jax.Array],
) -> Callable[[jax.Array, tuple[int, ...]], jax.Array]:
    """Noise levels uniform in a variable, between the ends of the grids.

    Args:
      to_time: Monotonous function of sigma.
      to_sigma: Its inverse.

    Returns:
      ``(key, shape) -> sigma``.
    """

    def draw(key, shape):
        low, high = to_time(jnp.asarray(SIGMA_MIN)), to_time(jnp.asarray(SIGMA_MAX))
        share = jax.random.uniform(key, shape)
        # Rounding of the two functions must not lead out of the range.
        return jnp.clip(to_sigma(low + share * (high - low)), SIGMA_MIN, SIGMA_MAX)

    return draw


# Distributions to train on, ``(key, shape) -> sigma`` in [SIGMA_MIN, SIGMA_MAX].
#
#   log_normal    ln s ~ N(-0.4, 1.4^2)
#   edm           ln s ~ N(ln 2 - 1.2, 1.2^2), of Karras et al., NeurIPS 2022, whose
#                 data have half the spread of ours
#   logit_normal  logit t ~ N(0, 1) in flow time t, of Esser et al., ICML 2024: since
#                 s = t / (1 - t), ln s ~ N(0, 1)
#   log_uniform   ln s uniform, as on the geometric grid
#   cosine        arctan s uniform: the cosine schedule of Nichol and Dhariwal, ICML
#                 2021, at uniform times, without its offset
#   flow_uniform  t = s / (1 + s) uniform: straight paths at uniform times
TRAINING_NOISE: dict[str, Callable[[jax.Array, tuple[int, ...]], jax.Array]] = {
    "log_normal": training_sigma,
    "edm": functools.partial(training_sigma, log_mean=math.log(2.0) - 1.2, log_std=1.2),
    "logit_normal": functools.partial(training_sigma, log_mean=0.0, log_std=1.0),
    "log_uniform": training_uniform_in(jnp.log, jnp.exp),
    "cosine": training_uniform_in(jnp.arctan, jnp.tan),
    "flow_uniform": training_uniform_in(
        lambda sigma: sigma / (1.0 + sigma), lambda time: time / (1.0 - time)
    ),
}


def training_noise(name: str) -> Callable[[jax.Array, tuple[int, ...]], jax.Array]:
    """The distribution of this name.

    Raises:
      InputError: There is none.
    """
    if name not in TRAINING_NOISE:
        raise InputError(
            f"training noise: expected one of {sorted(TRAINING_NOISE)}, got {name!r}; "
            "choose one of them"
        )
    return TRAINING_NOISE[name]
