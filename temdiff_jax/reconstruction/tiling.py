"""Windows for volumes larger than the network's, blended in every step.

Each window's guess is weighted by a taper that is 1 inside and falls to 0 across the
overlap; the weights are normalised to a partition of unity.  Noise is drawn per
voxel of the whole volume, outside this module, so that windows agree on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

OVERLAP = 16


def window_starts(extent: int, window: int, overlap: int = OVERLAP) -> list[int]:
    """First index of each window along one axis; the last one ends at the border."""
    if extent <= window:
        return [0]
    stride = window - overlap
    count = -(-(extent - overlap) // stride)
    return [round(s) for s in np.linspace(0, extent - window, count)]


def taper(window: int, extent: int, start: int, overlap: int = OVERLAP) -> np.ndarray:
    """Weights ``[window]``: linear across the overlap, 1 at the volume's borders."""
    if extent <= window:
        return np.ones(window, np.float32)
    position = np.arange(window) + 0.5
    rise = np.clip(position / overlap, 0, 1) if start > 0 else np.ones(window)
    last = start + window >= extent
    fall = np.ones(window) if last else np.clip((window - position) / overlap, 0, 1)
    return np.minimum(rise, fall).astype(np.float32)


def pad_to_multiple(volume: jax.Array, multiple: int) -> jax.Array:
    """Mirrors the far ends of ``[..., z, x, y]`` up to multiples."""
    pad = [(0, 0)] * (volume.ndim - 3)
    pad += [(0, -n % multiple) for n in volume.shape[-3:]]
    if not any(p[1] for p in pad):
        return volume
    return jnp.pad(volume, pad, mode="symmetric")


def apply_windowed(
    function: Callable[..., jax.Array],
    fields: Sequence[jax.Array],
    *,
    window: int | tuple[int, int, int],
    multiple: int,
    overlap: int = OVERLAP,
) -> jax.Array:
    """``function(*fields)`` over windows, blended.

    Args:
      function: Maps fields ``[b, z, x, y]`` of any common extent that is a multiple
        of ``multiple`` to one of the same extent.
      fields: Arrays ``[b, z, x, y]`` of one common shape.
      window: Largest extent given to ``function``, or one each for z, x and y;
        multiples of ``multiple``.
      multiple: Extents must be multiples of this; ends are mirrored.
      overlap: Voxels shared by neighbouring windows.

    Returns:
      ``[b, z, x, y]``.
    """
    extents = fields[0].shape[-3:]
    padded = [pad_to_multiple(f, multiple) for f in fields]
    shape = padded[0].shape[-3:]
    most = (window, window, window) if isinstance(window, int) else window
    size = tuple(min(n, w) for n, w in zip(shape, most, strict=True))
    grids = [window_starts(n, w, overlap) for n, w in zip(shape, size, strict=True)]
    starts = [(z, x, y) for z in grids[0] for x in grids[1] for y in grids[2]]
    if len(starts) == 1:
        return function(*padded)[..., : extents[0], : extents[1], : extents[2]]
    # Three vectors a window: their products would be constants of many megabytes.
    axes = zip(size, shape, zip(*starts, strict=True), strict=True)
    tapers = [
        jnp.asarray(np.stack([taper(w, n, start, overlap) for start in along]))
        for w, n, along in axes
    ]
    batch = padded[0].shape[0]

    def body(carry, item):
        total, norm = carry
        start, (along_z, along_x, along_y) = item
        weight = along_z[:, None, None] * along_x[:, None] * along_y
        corner = (0, start[0], start[1], start[2])
        cut = [lax.dynamic_slice(f, corner, (batch, *size)) for f in padded]
        guess = function(*cut) * weight
        old = lax.dynamic_slice(total, corner, (batch, *size))
        total = lax.dynamic_update_slice(total, old + guess, corner)
        old = lax.dynamic_slice(norm, corner[1:], size)
        norm = lax.dynamic_update_slice(norm, old + weight, corner[1:])
        return (total, norm), None

    zeros = (jnp.zeros_like(padded[0]), jnp.zeros(shape, padded[0].dtype))
    items = (jnp.asarray(starts, jnp.int32), tapers)
    (total, norm), _ = lax.scan(body, zeros, items)
    return (total / norm)[..., : extents[0], : extents[1], : extents[2]]
