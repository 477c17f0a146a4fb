"""The two loops of the projector as small dense contractions.

For devices that gather rows slowly and multiply matrices fast.  The taps are those of
``taps``, so the numbers are those of ``kernels`` up to the order of the sums, for the
weights and for their derivative in the angle.  They are written into small matrices by
comparing their indices with running ones, and multiplied into boxes cut from the data:

* forward, per tilt: ``BLOCK`` rays meet ``PLANES`` planes in a window of each plane;
* adjoint: a box of ``LAYERS`` by ``BLOCK`` voxels meets, in each of ``TILTS`` tilts, a
  window of rays.

Windows start at the lowest index among the taps themselves.  Neither gather nor
scatter is left, and several rays to a pixel cost no further multiplications, since
they are added into one matrix.  A matrix multiplies all of its window: an infinite or
NaN value spreads over the block, which a gather would keep to its rays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from temdiff_jax.projector import kernels, taps

# The side of a matrix unit: fewer would leave part of it idle.
BLOCK = 128
# More make a contraction longer, and the windows that all of its planes share wider.
PLANES = 16
LAYERS = 8
TILTS = 8


def project_kernel(
    volume: jax.Array,
    angles: jax.Array,
    *,
    num_u: int,
    steep: Sequence[bool] | None,
    order: int = 0,
    oversample: int = 1,
) -> jax.Array:
    """``[z, x, y]`` to ``[n_tilts, u, y]``; arguments of ``kernels.project_kernel``."""
    if steep is None:
        flags = jnp.abs(jnp.sin(angles)) > jnp.abs(jnp.cos(angles))
        kinds = [False, True]
    else:
        flags = jnp.asarray(np.asarray(steep, bool))
        kinds = sorted({bool(flag) for flag in steep})
    branches = [
        partial(
            _project_tilt,
            volume,
            num_u=num_u,
            steep=kind,
            order=order,
            oversample=oversample,
        )
        for kind in kinds
    ]

    def project_one(tilt):
        angle, flag = tilt
        if len(branches) == 1:
            return branches[0](angle).astype(volume.dtype)
        return lax.cond(flag, branches[1], branches[0], angle).astype(volume.dtype)

    return lax.map(project_one, (angles, flags))


def backproject_kernel(
    tilts: jax.Array,
    angles: jax.Array,
    *,
    extents: tuple[int, int],
    order: int = 0,
    steep: Sequence[bool] | None = None,
    oversample: int = 1,
) -> jax.Array:
    """``[n_tilts, u, y]`` to ``[z, x, y]``; see ``kernels.backproject_kernel``."""
    num_tilts, num_u, ny = tilts.shape
    count = min(TILTS, num_tilts)
    flags = None if steep is None else jnp.asarray(np.asarray(steep, bool))

    def body(group, total):
        first, fresh = _block(group, count, num_tilts)
        some_flags = flags
        if flags is not None:
            some_flags = lax.dynamic_slice_in_dim(flags, first, count)
        rays, weights = _voxel_taps(
            lax.dynamic_slice_in_dim(angles, first, count),
            some_flags,
            extents=extents,
            num_u=num_u,
            order=order,
            oversample=oversample,
        )
        weights = jnp.where(fresh[:, None, None], weights, 0).astype(total.dtype)
        return _add_boxes(
            total, tilts, first, rays, weights, ray_window(oversample, num_u)
        )

    dtype = kernels.accumulator_dtype(tilts.dtype)
    start = kernels.zeros_like_data((*extents, ny), dtype, tilts, angles)
    groups = -(-num_tilts // count)
    return lax.fori_loop(0, groups, body, start).astype(tilts.dtype)


def voxel_window(oversample: int, num_rays: int, num_planes: int, across: int) -> int:
    """Voxels of a plane that ``BLOCK`` rays read in any of ``PLANES`` planes.

    Rays meet a plane at most sqrt(2) apart, and move by at most one voxel from a plane
    to the next.  A tilt whose flag is wrong needs more, and takes several windows.
    """
    rays, planes = min(BLOCK, num_rays), min(PLANES, num_planes)
    spread = (rays - 1 / oversample) * math.sqrt(2) + planes - 1
    # One for the second tap, one for each end, and whole registers of 8 rows.
    return min(across, -(-(math.ceil(spread) + 3) // 8) * 8)


def ray_window(oversample: int, num_u: int) -> int:
    """Rays that read a box of ``LAYERS`` by ``BLOCK`` voxels, at any angle."""
    spread = math.hypot(LAYERS - 1, BLOCK - 1) + 1 - 1 / oversample
    return min(num_u, -(-(math.ceil(spread) + 3) // 8) * 8)


def _block(index, size: int, extent: int) -> tuple[jax.Array, jax.Array]:
    """Where a block starts, and which of its entries no earlier block holds.

    The last one of an extent that ``size`` does not divide overlaps its neighbour
    instead of reaching outside.
    """
    start = jnp.minimum(index * size, extent - size).astype(jnp.int32)
    return start, start + jnp.arange(size, dtype=jnp.int32) >= index * size


def _offsets(oversample: int, dtype) -> jax.Array:
    """Places of the rays of a pixel, as in ``kernels``."""
    return (jnp.arange(oversample, dtype=dtype) + 0.5) / oversample - 0.5


def _spread(indices: jax.Array, weights: jax.Array, places: jax.Array) -> jax.Array:
    """Sums over taps (the first axis) each weight at the place that it belongs to."""
    parts = (
        jnp.where(
            lax.index_in_dim(indices, tap, keepdims=False) == places,
            lax.index_in_dim(weights, tap, keepdims=False),
            0,
        )
        for tap in range(indices.shape[0])
    )
    return sum(parts, start=jnp.zeros((), weights.dtype))


def _contract(matrix: jax.Array, data: jax.Array) -> jax.Array:
    """Multiplies out the last two axes of a matrix with the first two of the data.

    In full precision: by default a matrix unit would round both to bfloat16.
    """
    axes = (matrix.ndim - 2, matrix.ndim - 1), (0, 1)
    return lax.dot_general(
        matrix,
        data.astype(matrix.dtype),
        (axes, ((), ())),
        precision=lax.Precision.HIGHEST,
    )


def _project_tilt(volume, angle, *, num_u, steep, order, oversample):
    """One tilt, ``[u, y]``, of the kind ``steep`` (static)."""
    nz, nx, ny = volume.shape
    num_planes = nx if steep else nz
    count = min(PLANES, num_planes)
    size = min(BLOCK, num_u)
    dtype = kernels.accumulator_dtype(volume.dtype)

    def body(group, total):
        first, fresh = _block(group, count, num_planes)
        planes = first + jnp.arange(count, dtype=jnp.int32)
        rows, weights = _plane_taps(
            angle,
            planes,
            extents=(nz, nx),
            num_u=num_u,
            steep=steep,
            order=order,
            oversample=oversample,
        )
        weights = jnp.where(fresh, weights, 0).astype(dtype)

        def add_block(index, total):
            ray, fresh_rays = _block(index, size, num_u)
            some_rows = lax.dynamic_slice_in_dim(rows, ray, size, 1)
            some_weights = lax.dynamic_slice_in_dim(weights, ray, size, 1)
            some_weights = jnp.where(fresh_rays[:, None], some_weights, 0)
            part = lax.dynamic_slice_in_dim(total, ray, size)
            width = voxel_window(oversample, num_u, num_planes, nz if steep else nx)
            part = _add_windows(
                part, volume, planes, some_rows, some_weights, width, steep
            )
            return lax.dynamic_update_slice_in_dim(total, part, ray, 0)

        return lax.fori_loop(0, -(-num_u // size), add_block, total)

    start = kernels.zeros_like_data((num_u, ny), dtype, volume, angle)
    return lax.fori_loop(0, -(-num_planes // count), body, start)


def _plane_taps(angle, planes, *, extents, num_u, steep, order, oversample):
    """Rows of ``[z * x]`` and weights, ``[tap, u, plane]``, for a few planes."""

    def at_plane(plane, offset):
        tap_function = partial(
            taps.plane_taps,
            plane=plane,
            extents=extents,
            num_u=num_u,
            steep=steep,
            offset=offset,
        )
        found = kernels.with_order(tap_function, angle[None], order)
        return [lax.index_in_dim(part, 0, keepdims=False) for part in found]

    over_planes = jax.vmap(at_plane, (0, None), 1)
    found = jax.vmap(over_planes, (None, 0))(planes, _offsets(oversample, angle.dtype))
    row0, row1, weight0, weight1 = found
    weights = jnp.concatenate([weight0, weight1])
    return jnp.concatenate([row0, row1]), weights / oversample


def _add_windows(part, volume, planes, rows, weights, width, steep):
    """Adds a block of rays ``[u, y]`` through a few planes, ``[tap, u, plane]``.

    One window of ``width`` voxels serves, unless the flag ``steep`` is wrong.
    """
    _, nx, ny = volume.shape
    count = planes.shape[0]
    origin, stride = (planes, nx) if steep else (planes * nx, 1)
    num_across = volume.shape[0] if steep else nx
    across = (rows - origin) // stride
    lowest, highest = jnp.min(across), jnp.max(across)

    def add_window(index, part):
        low = lowest + index.astype(jnp.int32) * width
        start = jnp.minimum(low, num_across - width)
        place = start + jnp.arange(width, dtype=jnp.int32)
        # What an earlier window held belongs to no tap.
        place = jnp.where(place >= low, place, -1)
        none = jnp.int32(0)
        if steep:
            corner, shape = (start, planes[0], none), (width, count, ny)
            matrix = _spread(across[:, :, None], weights[:, :, None], place[:, None])
        else:
            corner, shape = (planes[0], start, none), (count, width, ny)
            matrix = _spread(across[..., None], weights[..., None], place)
        return part + _contract(matrix, lax.dynamic_slice(volume, corner, shape))

    return lax.fori_loop(0, (highest - lowest) // width + 1, add_window, part)


def _voxel_taps(angles, flags, *, extents, num_u, order, oversample):
    """Rays and weights, ``[tap, tilt, z, x]``, of a few tilts."""

    def at_tilt(angle, flag, offset):
        return taps.ray_taps(
            angle, extents=extents, num_u=num_u, steep=flag, offset=offset
        )

    def at_angles(angles):
        over_tilts = jax.vmap(at_tilt, (0, None if flags is None else 0, None))
        return jax.vmap(over_tilts, (None, None, 0))(
            angles, flags, _offsets(oversample, angles.dtype)
        )

    ray0, ray1, weight0, weight1 = kernels.with_order(at_angles, angles, order)
    weights = jnp.concatenate([weight0, weight1])
    return jnp.concatenate([ray0, ray1]), weights / oversample


def _add_boxes(total, tilts, first, rays, weights, width):
    """Adds to ``[z, x, y]`` a few tilts from ``first`` on, ``[tap, tilt, z, x]``."""
    nz, nx, ny = total.shape
    num_taps, count = rays.shape[:2]
    layers, columns = min(LAYERS, nz), min(BLOCK, nx)
    boxes_across = -(-nx // columns)
    none = jnp.int32(0)

    def add_box(index, total):
        z, fresh_z = _block(index // boxes_across, layers, nz)
        x, fresh_x = _block(index % boxes_across, columns, nx)
        shape = (num_taps, count, layers, columns)
        own = lax.dynamic_slice(rays, (none, none, z, x), shape)
        own_weights = lax.dynamic_slice(weights, (none, none, z, x), shape)
        own_weights = jnp.where(fresh_z[:, None] & fresh_x, own_weights, 0)
        starts = jnp.minimum(jnp.min(own, axis=(0, 2, 3)), tilts.shape[1] - width)
        places = starts[:, None] + jnp.arange(width, dtype=jnp.int32)
        windows = [
            lax.dynamic_slice(tilts, (first + tilt, starts[tilt], none), (1, width, ny))
            for tilt in range(count)
        ]
        own, own_weights = (
            jnp.moveaxis(table, 1, -1)[..., None] for table in (own, own_weights)
        )
        part = _contract(_spread(own, own_weights, places), jnp.concatenate(windows))
        box = lax.dynamic_slice(total, (z, x, none), part.shape)
        return lax.dynamic_update_slice(total, box + part, (z, x, none))

    return lax.fori_loop(0, -(-nz // layers) * boxes_across, add_box, total)
