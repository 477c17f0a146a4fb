"""Small filters of tilt images."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np


def gaussian(tilts: jax.Array, sigma: float) -> jax.Array:
    """Gaussian of ``sigma`` pixels over ``[n_tilts, u, y]``, edges repeated."""
    if sigma <= 0:
        return tilts
    radius = math.ceil(4 * sigma)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    for axis in (1, 2):
        pad = [(0, 0)] * 3
        pad[axis] = (radius, radius)
        padded = jnp.pad(tilts, pad, mode="edge")
        size = tilts.shape[axis]
        total = jnp.zeros_like(tilts)
        for shift, tap in enumerate(kernel):
            part = jax.lax.slice_in_dim(padded, shift, shift + size, axis=axis)
            total = total + float(tap) * part
        tilts = total
    return tilts


def slope(tilts: jax.Array, axis: int) -> jax.Array:
    """Central difference along u (1) or y (2), one-sided at the borders."""
    if tilts.shape[axis] == 1:
        return jnp.zeros_like(tilts)
    return jnp.asarray(jnp.gradient(tilts, axis=axis))


def detail(tilts: jax.Array) -> jax.Array:
    """Difference of two Laplacians, ``[n_tilts, u - 2, y - 2]``.

    Cancels what is smooth; of white noise of variance 1 it has variance 36.

    Source: Immerkaer, Comput. Vis. Image Underst. 64 (1996) 300.
    """
    second_u = tilts[:, 2:] - 2 * tilts[:, 1:-1] + tilts[:, :-2]
    return second_u[..., 2:] - 2 * second_u[..., 1:-1] + second_u[..., :-2]
