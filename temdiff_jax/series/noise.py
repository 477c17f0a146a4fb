"""What the tilts say about themselves: mean, contrast, noise, coverage.

Everything a reconstruction needs before the first step, estimated from the data
alone, so that no unit has to be known: intensities are mapped to mean 0 and a
contrast of about 1 before the first solve.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.inverse.problem import Units
from temdiff_jax.projector import backproject, ray_lengths

# A random medium with this correlation length (voxels) has projections whose
# standard deviation is sqrt(length * thickness) times its own.
CORRELATION_LENGTH = 8.0
# Smallest relative noise assumed: interpolation and discretisation limit the
# agreement of a projection with any voxel volume at about this level.
NOISE_FLOOR = 0.02


def noise_per_tilt(tilts: jax.Array) -> jax.Array:
    """Noise standard deviation of each tilt, ``[n_tilts]``.

    Median absolute response to the difference of two Laplacians, which cancels
    smooth content: sigma = median |L * p| / (0.6745 * 6).

    Args:
      tilts: ``[n_tilts, u, y]`` with at least 3 pixels along u and y.

    Source: Immerkaer, Comput. Vis. Image Underst. 64 (1996) 300, with the median
    in place of the mean.
    """
    second_u = tilts[:, 2:] - 2 * tilts[:, 1:-1] + tilts[:, :-2]
    both = second_u[..., 2:] - 2 * second_u[..., 1:-1] + second_u[..., :-2]
    return jnp.median(jnp.abs(both), axis=(1, 2)) / (0.6745 * 6.0)


def estimate_units(
    tilts: jax.Array, geometry: TiltGeometry, valid: jax.Array | None = None
) -> Units:
    """Mean density and contrast per voxel from the tilts alone.

    Args:
      tilts: ``[n_tilts, u, y]`` line integrals.
      geometry: Rays.
      valid: Per tilt weight ``[n_tilts]``, 0 leaves a tilt out.

    Returns:
      Scalars in intensity per voxel.
    """
    lengths = ray_lengths(geometry)
    weight = jnp.ones(tilts.shape[0]) if valid is None else valid
    weight = weight[:, None, None]
    top = jnp.sum(weight * lengths * tilts)
    rows = tilts.shape[2] / lengths.shape[2]  # that have the same lengths
    bottom = jnp.sum(weight * lengths**2) * rows
    mean = top / bottom
    centred = tilts - mean * lengths
    scale = jnp.sqrt(CORRELATION_LENGTH * lengths)
    power = jnp.sum(weight * centred**2) / (jnp.sum(weight * scale**2) * rows)
    contrast = jnp.sqrt(power)
    return Units(mean, jnp.where(contrast > 0, contrast, 1.0))


def normalise_tilts(
    tilts: jax.Array, geometry: TiltGeometry, units: Units
) -> jax.Array:
    """``(y - mean A 1) / contrast``, ``[n_tilts, u, y]``."""
    return (tilts - units.mean * ray_lengths(geometry)) / units.contrast


def data_precision(tilts: jax.Array, valid: jax.Array | None = None) -> jax.Array:
    """Inverse noise variance per tilt of normalised tilts, ``[n_tilts, 1, 1]``.

    A floor relative to the tilt's own spread keeps noiseless data from being
    fitted below what the discretisation can represent.
    """
    sigma = noise_per_tilt(tilts)
    floor = NOISE_FLOOR * jnp.std(tilts, axis=(1, 2))
    variance = jnp.maximum(sigma**2 + floor**2, 1e-12)
    weight = 1.0 / variance
    if valid is not None:
        weight = weight * valid
    return weight[:, None, None]


def coverage(geometry: TiltGeometry, weight: jax.Array) -> jax.Array:
    """How well each voxel is seen: ``A^T W 1 / max``, ``[z, x, 1]`` in [0, 1].

    A motion of the tilts is left out of it.
    """
    geometry = geometry.still()
    mean = jnp.mean(weight, axis=2, keepdims=True)
    ones = jnp.broadcast_to(mean, (geometry.num_tilts, geometry.num_u, 1))
    seen = backproject(ones, geometry)
    return seen / jnp.maximum(jnp.max(seen), 1e-30)
