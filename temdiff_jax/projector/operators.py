"""Operators made of the projector pair: A^T W A, its norm, ray lengths."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.projector.placed import backproject, project


def normal_op(
    volume: jax.Array, geometry: TiltGeometry, weight: jax.Array | None = None
) -> jax.Array:
    """``A^T W A V`` for a volume ``[z, x, y]``.

    Args:
      volume: ``[z, x, y]``.
      geometry: Rays.
      weight: Data precision, broadcastable to ``[n_tilts, u, y]``; ``None`` is 1.

    Returns:
      ``[z, x, y]``, dtype of the volume.

    One tilt alone couples every plane with every other, so a matrix of the product
    would hold some ``3 nz`` numbers per voxel where the pair reads four; and going
    tilt by tilt reads the volume once more each time.  Neither is faster.
    """
    tilts = project(volume, geometry)
    if weight is not None:
        tilts = (tilts * weight).astype(volume.dtype)
    return backproject(tilts, geometry)


def operator_norm(geometry: TiltGeometry, *, num_iters: int = 20) -> jax.Array:
    """Largest singular value of A, by power iteration on one slice of y.

    All slices share one geometry, so a single row of y gives the norm of the
    whole operator.  Starts from a constant, which is close to the leading
    singular vector of a non-negative operator.
    """
    nz, nx, _ = geometry.volume_shape
    start = jnp.ones((nz, nx, 1), geometry.angles_rad.dtype)

    def step(volume, _):
        volume = volume / jnp.linalg.norm(volume)
        image = normal_op(volume, geometry)
        return image, jnp.linalg.norm(image)

    _, norms = lax.scan(step, start, length=num_iters)
    return jnp.sqrt(norms[-1])


def ray_lengths(geometry: TiltGeometry) -> jax.Array:
    """Chord length of every ray inside the volume, ``[n_tilts, u, 1]`` voxels.

    ``[n_tilts, u, y]`` where the tilts of the geometry have a motion.
    """
    nz, nx, ny = geometry.volume_shape
    rows = 1 if geometry.motion is None else ny
    return project(jnp.ones((nz, nx, rows), geometry.angles_rad.dtype), geometry)


def seen_by_all(geometry: TiltGeometry) -> jax.Array:
    """Mask ``[z, x]`` of the voxels whose ray falls on the detector in every tilt."""
    nz, nx, _ = geometry.volume_shape
    z = (jnp.arange(nz) - (nz - 1) / 2)[:, None]
    x = (jnp.arange(nx) - (nx - 1) / 2)[None, :]
    half = (geometry.num_u - 1) / 2

    def seen(angle):
        return jnp.abs(x * jnp.cos(angle) + z * jnp.sin(angle)) <= half

    return jnp.all(jax.vmap(seen)(geometry.angles_rad), axis=0)
