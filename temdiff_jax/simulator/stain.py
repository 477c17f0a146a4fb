"""Real FIB-SEM blocks as stain density: crops in any orientation and scale.

A ``SourceBank`` holds the blocks on the device as one flat uint8 buffer, so that a
random crop of a random block in a random orientation is one gather and a pure
function of its key.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

CLIP_PERCENTILES = (0.5, 99.5)
# Half the taps of a blur; its deviation is at most a third of this.
BLUR_TAPS = 4
# Voxels between the independent displacements of a warp.
WARP_SPACING = 24
# Root mean square of a field by Keys's cubic interpolation between independent draws of
# unit variance, over all places; 0.8143 is the mean square along one axis.
_INTERPOLATED_RMS = 0.8143**1.5


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StainConfig:
    """How crops of real blocks are varied.

    Attributes:
      exact_fraction: Share of crops that are turned by one of the 48 symmetries of the
        cube and keep every voxel; the others get a uniform random rotation, zoom and
        warp by trilinear interpolation.
      zoom: Source voxels per output voxel, log-uniform between the two.
      warp: Root mean square of a smooth random displacement along each axis, source
        voxels; 0 for none.
      gamma: Exponent of the stain, log-uniform: staining differs.
      grain: Standard deviation of added grain, uniform between the two.
      blur: Standard deviation of a Gaussian blur, voxels, uniform between the two.
      jitter: Share of specimens whose sections were cut out of register: every plane of
        a random axis is moved by up to one voxel along the two others.
    """

    exact_fraction: float = 0.5
    zoom: tuple[float, float] = (0.8, 1.3)
    warp: float = 0.0
    gamma: tuple[float, float] = (0.7, 1.5)
    grain: tuple[float, float] = (0.0, 0.04)
    blur: tuple[float, float] = (0.0, 0.0)
    jitter: float = 0.0


class SourceBank(NamedTuple):
    """FIB-SEM blocks on the device.

    Attributes:
      values: Grey levels of all blocks, flat, uint8.
      offsets: First index of each block, ``[n]`` int32.
      shapes: Extents ``[n, 3]`` int32.
      dark, bright: Grey levels mapped to stain 1 and 0, ``[n]`` float32 (swapped
        where heavy stain is bright).
      cumulative: Cumulative probabilities by voxel count, ``[n]``.
    """

    values: jax.Array
    offsets: jax.Array
    shapes: jax.Array
    dark: jax.Array
    bright: jax.Array
    cumulative: jax.Array


def make_bank(
    volumes: Sequence[np.ndarray], *, stain_is_dark: Sequence[bool] | None = None
) -> SourceBank:
    """Packs uint8 blocks ``[z, y, x]`` for random access.

    Args:
      volumes: Blocks, uint8, any extents.
      stain_is_dark: Per block, whether heavy stain has low grey levels (the usual
        inverted back-scatter contrast); default all true.

    Returns:
      The bank.
    """
    if stain_is_dark is None:
        stain_is_dark = [True] * len(volumes)
    sizes = np.array([v.size for v in volumes])
    limits = np.array([np.percentile(v, CLIP_PERCENTILES) for v in volumes])
    # A constant block has no contrast to stretch; it becomes stain 0 or 1, not NaN.
    limits[:, 1] = np.maximum(limits[:, 1], limits[:, 0] + 1.0)
    flags = np.asarray(stain_is_dark)
    return SourceBank(
        jnp.asarray(np.concatenate([v.ravel() for v in volumes])),
        jnp.asarray(np.concatenate([[0], np.cumsum(sizes)[:-1]]), jnp.int32),
        jnp.asarray([v.shape for v in volumes], jnp.int32),
        jnp.asarray(np.where(flags, limits[:, 0], limits[:, 1]), jnp.float32),
        jnp.asarray(np.where(flags, limits[:, 1], limits[:, 0]), jnp.float32),
        jnp.asarray(np.cumsum(sizes) / sizes.sum(), jnp.float32),
    )


def binned_bank(bank: SourceBank, factor: int) -> SourceBank:
    """The same specimens on voxels ``factor`` times as large: means of grey levels.

    Limits and how often a block is drawn stay; a rest that fills no voxel is left out.
    """
    values, shapes = np.asarray(bank.values), np.asarray(bank.shapes)
    blocks = []
    for offset, shape in zip(np.asarray(bank.offsets), shapes):
        count = shape // factor
        block = values[offset : offset + np.prod(shape)].reshape(shape)
        block = block[tuple(slice(0, n * factor) for n in count)]
        cells = block.reshape([m for n in count for m in (n, factor)])
        blocks.append(np.rint(cells.mean(axis=(1, 3, 5))).astype(np.uint8))
    coarse = make_bank(blocks)
    return coarse._replace(
        dark=bank.dark, bright=bank.bright, cumulative=bank.cumulative
    )


def grey_to_stain(volume: np.ndarray, *, stain_is_dark: bool = True) -> np.ndarray:
    """Whole block as stain density in [0, 1], the map used for every crop.

    Args:
      volume: Grey levels, any order of axes.
      stain_is_dark: Whether heavy stain has low grey levels.

    Returns:
      float32, same shape, 0.5-99.5 % of the grey levels mapped to [0, 1].
    """
    low, high = np.percentile(volume, CLIP_PERCENTILES)
    scaled = (np.asarray(volume, np.float32) - low) / max(high - low, 1e-6)
    return np.clip(1 - scaled if stain_is_dark else scaled, 0, 1).astype(np.float32)


def octahedral_rotation(key: jax.Array) -> jax.Array:
    """One of the 48 axis permutations with signs, ``[3, 3]``: no interpolation."""
    key_order, key_sign = jax.random.split(key)
    order = jax.random.permutation(key_order, 3)
    signs = jax.random.rademacher(key_sign, (3,), jnp.float32)
    return jnp.eye(3)[order] * signs[:, None]


def random_rotation(key: jax.Array) -> jax.Array:
    """Uniform random rotation ``[3, 3]`` from a unit quaternion (Shoemake 1992)."""
    w, x, y, z = jnp.moveaxis(_unit(jax.random.normal(key, (4,))), -1, 0)
    return jnp.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def _unit(vector: jax.Array) -> jax.Array:
    return vector / jnp.linalg.norm(vector)


def _reflect(index: jax.Array, size: jax.Array) -> jax.Array:
    """Folds indices into [0, size) by mirroring at the faces."""
    period = 2 * size
    folded = jnp.mod(index, period)
    return jnp.where(folded >= size, period - 1 - folded, folded)


def sample_stain(
    key: jax.Array,
    bank: SourceBank,
    shape: tuple[int, int, int],
    config: StainConfig = StainConfig(),
    zoom: jax.Array | float = 1.0,
) -> jax.Array:
    """Random crop of a random block as stain density in [0, 1].

    Crops that reach past a block are mirrored.

    Args:
      key: Typed PRNG key.
      bank: Blocks.
      shape: Core extents ``(nz, nx, ny)``.
      config: How the crops are varied.
      zoom: Source voxels per output voxel; ``config.zoom`` is a factor on it.

    Returns:
      ``[z, x, y]`` float32.
    """
    keys = jax.random.split(key, 9)
    source = jnp.searchsorted(bank.cumulative, jax.random.uniform(keys[0]))
    source = jnp.minimum(source, bank.offsets.shape[0] - 1)
    extent = bank.shapes[source]
    exact = jax.random.bernoulli(keys[1], config.exact_fraction)
    varied = _log_uniform(keys[3], config.zoom)
    turn = zoom * jnp.where(
        exact,
        octahedral_rotation(keys[2]),
        random_rotation(keys[2]) * varied,
    )
    centre = jax.random.uniform(keys[4], (3,)) * extent
    centre = jnp.where(exact, jnp.floor(centre), centre)
    axes = [jnp.arange(n, dtype=jnp.float32) - n // 2 for n in shape]
    grid = jnp.stack(jnp.meshgrid(*axes, indexing="ij"))
    where = (
        jnp.einsum("ij,jabc->iabc", turn, grid, precision="highest")
        + centre[:, None, None, None]
    )
    if config.jitter:
        where = where + _out_of_register(jax.random.fold_in(key, 1), shape, config)
    if config.warp:
        where = where + jnp.where(exact, 0.0, _warp(keys[7], shape, config.warp))
    grey = _trilinear(bank, source, extent, where)
    dark, bright = bank.dark[source], bank.bright[source]
    stain = jnp.clip((bright - grey) / (bright - dark), 0.0, 1.0)
    stain = stain ** _log_uniform(keys[5], config.gamma)
    if config.blur[1] > 0:
        stain = _blurred(keys[8], stain, config.blur)
    return stain + _grain(keys[6], shape, config.grain)


def _log_uniform(key, limits):
    low, high = jnp.log(limits[0]), jnp.log(limits[1])
    return jnp.exp(jax.random.uniform(key, minval=low, maxval=high))


def _warp(key: jax.Array, shape: tuple[int, int, int], size: float) -> jax.Array:
    """Smooth random displacements ``[3, nz, nx, ny]`` of root mean square ``size``."""
    coarse = tuple(-(-n // WARP_SPACING) + 2 for n in shape)
    fine = tuple(WARP_SPACING * n for n in coarse)
    draws = jax.random.normal(key, (3, *coarse))
    smooth = jax.image.resize(draws, (3, *fine), "cubic")
    start = [(f - n) // 2 for f, n in zip(fine, shape, strict=True)]
    smooth = jax.lax.dynamic_slice(smooth, (0, *start), (3, *shape))
    # Between its points an interpolated field is smaller than at them.
    return smooth * (size / _INTERPOLATED_RMS)


def _out_of_register(key, shape, config):
    """Displacements ``[3, nz, nx, ny]`` of the planes of a random axis."""
    key_whether, key_axis, key_size, key_planes = jax.random.split(key, 4)
    size = jax.random.uniform(key_size) * jax.random.bernoulli(
        key_whether, config.jitter
    )
    drawn = size * jax.random.uniform(key_planes, (3, max(shape)), minval=-1.0)
    axis = jax.random.randint(key_axis, (), 0, 3)

    def moved(a):
        own = drawn[:, : shape[a]] * (jnp.arange(3) != a)[:, None]
        wide = [1, 1, 1]
        wide[a] = shape[a]
        return jnp.broadcast_to(own.reshape(3, *wide), (3, *shape))

    return jnp.select([axis == 0, axis == 1], [moved(0), moved(1)], moved(2))


def _blurred(key, stain, limits):
    """Blurred by a Gaussian of random width, edges repeated."""
    width = jax.random.uniform(key, minval=limits[0], maxval=limits[1])
    taps = jnp.arange(-BLUR_TAPS, BLUR_TAPS + 1)
    kernel = jnp.exp(-0.5 * (taps / jnp.maximum(width, 1e-3)) ** 2)
    kernel = kernel / jnp.sum(kernel)
    for axis in range(3):
        size = stain.shape[axis]
        pad = [(0, 0)] * 3
        pad[axis] = (BLUR_TAPS, BLUR_TAPS)
        padded = jnp.pad(stain, pad, mode="edge")
        stain = sum(
            kernel[i] * jax.lax.slice_in_dim(padded, i, i + size, axis=axis)
            for i in range(2 * BLUR_TAPS + 1)
        )
    return stain


def _grain(key, shape, limits):
    """Grain correlated over about 1-2 voxels (a 2-voxel box along each axis)."""
    key_noise, key_level = jax.random.split(key)
    noise = jax.random.normal(key_noise, shape)
    for axis in range(3):
        noise = noise + jnp.roll(noise, 1, axis)
    level = jax.random.uniform(key_level, minval=limits[0], maxval=limits[1])
    return noise * (level / np.sqrt(8.0))


def _trilinear(bank, source, extent, where):
    base = jnp.floor(where)
    fraction = where - base
    base = base.astype(jnp.int32)
    total = 0.0
    low = [_reflect(base[a], extent[a]) for a in range(3)]
    high = [_reflect(base[a] + 1, extent[a]) for a in range(3)]
    for corner in range(8):
        bits = [(corner >> a) & 1 for a in range(3)]
        index = [high[a] if bits[a] else low[a] for a in range(3)]
        weight = 1.0
        for a in range(3):
            weight = weight * (fraction[a] if bits[a] else 1 - fraction[a])
        flat = (index[0] * extent[1] + index[1]) * extent[2] + index[2]
        grey = bank.values.at[bank.offsets[source] + flat].get(mode="promise_in_bounds")
        total = total + weight * grey.astype(jnp.float32)
    return total
