"""Tilts that do not agree with the rest weigh less."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def chi2_per_tilt(
    residual: jax.Array, weight: Any, keep: jax.Array | None = None
) -> jax.Array:
    """``r^T Sigma^-1 r / nu`` of each tilt, ``[n_tilts]``; 1 is what was expected.

    Args:
      residual: ``[n_tilts, u, y]``.
      weight: Data precision, an array or a ``Precision``.
      keep: 0 where masked, broadcastable to the tilts; nu counts the others.
    """
    total = jnp.sum(residual * (weight * residual), axis=(1, 2))
    seen = jnp.ones(()) if keep is None else (keep > 0)
    count = jnp.sum(jnp.broadcast_to(seen, residual.shape), axis=(1, 2))
    return total / jnp.maximum(count, 1)


def tilt_factors(chi2: jax.Array, expected: jax.Array | float = 1.0) -> jax.Array:
    """``min(1, expected / chi2)``, ``[n_tilts]``: factors on the precision of a tilt.

    Args:
      chi2: Per tilt and pixel, of an estimate.
      expected: What a good tilt has: 1, or the median of all where the level of the
        noise is not trusted.
    """
    return jnp.minimum(1.0, expected / jnp.maximum(chi2, 1e-30))
