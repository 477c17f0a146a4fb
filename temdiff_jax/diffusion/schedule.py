"""Noise levels: a grid to sample on and a distribution to train on."""

from __future__ import annotations

import jax
import jax.numpy as jnp

SIGMA_MAX = 20.0
SIGMA_MIN = 0.02


def karras(
    num_steps: int,
    *,
    sigma_max: float = SIGMA_MAX,
    sigma_min: float = SIGMA_MIN,
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
