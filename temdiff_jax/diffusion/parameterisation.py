"""From the raw network output F to a denoiser of unit-variance data.

    x_s = r + s z,  z ~ N(0, I);   D = c_skip x_s + c_out F(c_in x_s, ln(s) / 4)
    c_skip = 1 / (s^2 + 1),  c_out = s / sqrt(s^2 + 1),  c_in = 1 / sqrt(s^2 + 1)

At ``s >= SIGMA_MEAN`` the noisy input carries nothing; it is replaced by zero, a
sufficient statistic, and D is the conditional mean of the data.

Source: Karras et al., NeurIPS 2022 (EDM), with sigma_data = 1.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

SIGMA_MEAN = 80.0


def scalings(sigma: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """``c_skip, c_out, c_in`` for noise levels of any shape."""
    total = sigma**2 + 1.0
    mean_only = sigma >= SIGMA_MEAN
    c_skip = jnp.where(mean_only, 0.0, 1.0 / total)
    c_out = jnp.where(mean_only, 1.0, sigma / jnp.sqrt(total))
    c_in = jnp.where(mean_only, 0.0, 1.0 / jnp.sqrt(total))
    return c_skip, c_out, c_in


def noise_embedding(sigma: jax.Array) -> jax.Array:
    """Scalar shown to the network, ``ln(s) / 4``."""
    return jnp.log(sigma) / 4.0


def _wide(values: jax.Array) -> jax.Array:
    return values[:, None, None, None]


def denoise(
    network: Callable[[jax.Array, jax.Array], jax.Array],
    x: jax.Array,
    sigma: jax.Array,
) -> jax.Array:
    """Best guess of the clean data given noisy ``x``.

    Args:
      network: ``(scaled x, noise embedding [b]) -> F``, condition and parameters
        already bound.
      x: ``[b, z, x, y]``.
      sigma: ``[b]``.

    Returns:
      ``[b, z, x, y]``.
    """
    c_skip, c_out, c_in = scalings(sigma)
    raw = network(_wide(c_in) * x, noise_embedding(sigma))
    return _wide(c_skip) * x + _wide(c_out) * raw


def loss_per_example(
    network: Callable[[jax.Array, jax.Array], jax.Array],
    clean: jax.Array,
    sigma: jax.Array,
    noise: jax.Array,
) -> jax.Array:
    """``mean |D - r|^2 / c_out^2`` of each example, ``[b]``.

    Weighted so that F is asked for a target of unit variance at every level.
    """
    noisy = clean + _wide(sigma) * noise
    guess = denoise(network, noisy, sigma)
    _, c_out, _ = scalings(sigma)
    return jnp.mean(((guess - clean) / _wide(c_out)) ** 2, axis=(1, 2, 3))
