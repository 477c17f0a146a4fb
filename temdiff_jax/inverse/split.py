"""What of a volume the tilts fix, and what only a prior can have put there.

    R = (A^T W A + l)^-1 A^T W A,   x = R x + (I - R) x

R x is the regularised reconstruction of the volume's own projections: content that the
tilts would return.  The rest would go unnoticed if it were anything else.  l is the
inverse variance that is expected of a voxel: content below the noise counts as unseen.

Sources: Bhadra et al., IEEE Trans. Med. Imaging 40 (2021) 3249 (null-space maps of
reconstructions), in the noise-aware form of Barrett and Myers, Foundations of Image
Science (2004), section 15.2.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from temdiff_jax.inverse import cg
from temdiff_jax.inverse.problem import Problem
from temdiff_jax.projector import backproject, project

NUM_ITERS = 30
WINDOW = 2.0  # voxels, standard deviation of the local mean


class Split(NamedTuple):
    """Parts of a volume over its field of view, mean removed, ``[z, x, y]``.

    Attributes:
      data: ``R x``.
      prior: ``(I - R) x``.
      share: Local share of the prior in [0, 1], see ``share_of``.
      total: ``|(I - R) x|^2 / |x|^2``.
    """

    data: jax.Array
    prior: jax.Array
    share: jax.Array
    total: jax.Array


@functools.partial(jax.jit, static_argnames="num_iters")
def split(problem: Problem, volume: jax.Array, *, num_iters: int = NUM_ITERS) -> Split:
    """Splits a volume into what the tilts fix and what they do not.

    Args:
      problem: Geometry and precision of the tilts.
      volume: Wide and normalised, ``[z, x, y]``.
      num_iters: Conjugate-gradient steps.
    """
    geometry, precision = problem.geometry, problem.precision
    inside = geometry.crop(volume)
    inside = inside - jnp.mean(inside)
    ridge = 1.0 / jnp.maximum(jnp.var(inside), 1e-12)
    wide = geometry.pad_lateral(inside)

    def seen(x):
        return backproject(precision * project(x, geometry), geometry)

    found, _ = cg.conjugate_gradient(
        lambda x: seen(x) + ridge * x,
        seen(wide),
        jnp.zeros_like(wide),
        num_iters=num_iters,
    )
    data = geometry.crop(found)
    prior = inside - data
    total = jnp.sum(prior**2) / jnp.maximum(jnp.sum(inside**2), 1e-30)
    return Split(data, prior, share_of(data, prior), total)


def share_of(data: jax.Array, prior: jax.Array) -> jax.Array:
    """``g(prior) / (g(data) + g(prior))``, g the local root mean square."""
    first, second = (jnp.sqrt(_local_mean(part**2)) for part in (data, prior))
    return second / jnp.maximum(first + second, 1e-30)


def _local_mean(volume: jax.Array) -> jax.Array:
    """Gaussian of ``WINDOW`` voxels, mirrored borders."""
    reach = int(4 * WINDOW)
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / WINDOW) ** 2)
    kernel = jnp.asarray(taps / taps.sum(), volume.dtype)
    for axis in range(3):
        rows = jnp.moveaxis(volume, axis, -1)
        wide = jnp.pad(rows, [(0, 0), (0, 0), (reach, reach)], mode="symmetric")
        size = rows.shape[-1]
        parts = [
            kernel[i] * jax.lax.dynamic_slice_in_dim(wide, i, size, -1)
            for i in range(kernel.size)
        ]
        volume = jnp.moveaxis(sum(parts[1:], parts[0]), -1, axis)
    return volume
