"""One diffusion on several grids: coarse while the noise is large, fine at its end.

White noise of deviation s on a grid is, in means over 2 x 2 x 2 voxels, white noise of
deviation ``s / sqrt(8)`` on the coarser one, and independent noise in what the means
leave.  While s is far above what the specimen has of that fine detail, the noisy detail
tells nothing: the chain runs on the means, and draws the detail when it comes to the
finer grid,

    V = up(W) + (m - up(mean(m))) + s (z - up(mean(z))),   z ~ N(0, I),

with W the noisy coarse volume and m any guess of the fine one.  V is what noising
the fine volume itself to the level s would have given, but for the detail that m lacks.

Source: Jing et al., ECCV 2022 (subspace diffusion), here with means of a Haar basis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from temdiff_jax.diffusion import algebra

RATIO = 2
# Deviation of noise on a grid over that of its means.
SHRINK = float(RATIO) ** 1.5


class Grid(NamedTuple):
    """A grid of the pyramid: ``volume = base + unit * x``, over the field of view.

    Attributes:
      guess: Denoiser of x, with its pull to the data.
      base: Volume around which x is, ``[z, x, y]``.
      unit: Intensity of one unit of x, scalar.
      mean: Best guess of the volume before sampling, ``[z, x, y]``; its detail begins
        the chain on this grid.
      sigmas: Noise levels of x here, decreasing; the last is where the next grid
        begins, or zero.
    """

    guess: algebra.Predictor
    base: jax.Array
    unit: jax.Array
    mean: jax.Array
    sigmas: jax.Array


def coarsen(volume: jax.Array) -> jax.Array:
    """Means over cells of 2 x 2 x 2 voxels of ``[..., z, x, y]``, even extents."""
    *batch, nz, nx, ny = volume.shape
    cells = volume.reshape(*batch, nz // 2, 2, nx // 2, 2, ny // 2, 2)
    return jnp.mean(cells, axis=(-5, -3, -1))


def repeat(volume: jax.Array) -> jax.Array:
    """Every voxel of ``[..., z, x, y]`` as 2 x 2 x 2 voxels."""
    for axis in (-3, -2, -1):
        volume = jnp.repeat(volume, RATIO, axis=axis)
    return volume


def detail(volume: jax.Array) -> jax.Array:
    """What the means of the cells leave of a volume."""
    return volume - repeat(coarsen(volume))


def refine(
    key: jax.Array, x: jax.Array, sigma: jax.Array, coarse: Grid, fine: Grid
) -> tuple[jax.Array, jax.Array]:
    """The noisy x of a grid for that of the next coarser one.

    Args:
      key: Of the new noise.
      x: ``[b, z, x, y]`` on the coarse grid.
      sigma: Its noise level.
      coarse, fine: The grids.

    Returns:
      x on the fine grid, and its noise level.
    """
    spread = SHRINK * sigma * coarse.unit
    noise = jax.random.normal(key, (x.shape[0], *fine.base.shape), x.dtype)
    wide = repeat(coarse.base + coarse.unit * x) + detail(fine.mean)
    noisy = wide + spread * detail(noise)
    return (noisy - fine.base) / fine.unit, spread / fine.unit


def sample(
    key: jax.Array,
    grids: list[Grid],
    solver: Callable[[algebra.Predictor], algebra.Kernel],
    count: int,
) -> jax.Array:
    """``count`` samples of the finest volume, ``[b, z, x, y]``.

    Args:
      key: Of all draws.
      grids: Coarsest first.  The first level of every grid but the coarsest is replaced
        by the one that the chain has there.
      solver: Makes a step of a guess.
      count: Samples.
    """
    key_start, key_steps, key_noise = jax.random.split(key, 3)
    first = grids[0]
    shape = (count, *first.base.shape)
    x = first.sigmas[0] * jax.random.normal(key_start, shape, first.base.dtype)
    sigmas = first.sigmas
    for index, grid in enumerate(grids):
        own = jax.random.fold_in(key_steps, index)
        x = algebra.run(solver(grid.guess), own, x, sigmas)[0].x
        if index + 1 < len(grids):
            after = grids[index + 1]
            own = jax.random.fold_in(key_noise, index)
            x, level = refine(own, x, sigmas[-1], grid, after)
            sigmas = after.sigmas.at[0].set(level)
    return grids[-1].base + grids[-1].unit * x
