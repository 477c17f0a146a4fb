"""The only two transpositions: between file order and the numeric core.

Files and public functions use volumes ``[z, y, x]`` and tilts
``[n_tilts, y, x]``; inside the core the tilt-axis index y is contiguous:
volumes ``[z, x, y]``, tilts ``[n_tilts, u, y]``.  Each function runs once on
the way in or out, never inside a loop.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def volume_to_core(volume: ArrayLike) -> jax.Array:
    """``[..., z, y, x]`` to ``[..., z, x, y]``."""
    return jnp.swapaxes(jnp.asarray(volume), -1, -2)


def volume_from_core(volume: ArrayLike) -> jax.Array:
    """``[..., z, x, y]`` to ``[..., z, y, x]``."""
    return jnp.swapaxes(jnp.asarray(volume), -1, -2)


def tilts_to_core(tilts: ArrayLike) -> jax.Array:
    """``[..., n_tilts, y, x]`` to ``[..., n_tilts, u, y]``."""
    return jnp.swapaxes(jnp.asarray(tilts), -1, -2)


def tilts_from_core(tilts: ArrayLike) -> jax.Array:
    """``[..., n_tilts, u, y]`` to ``[..., n_tilts, y, x]``."""
    return jnp.swapaxes(jnp.asarray(tilts), -1, -2)
