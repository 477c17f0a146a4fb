"""The two loops of the projector, as XLA programs over gathered rows of y.

Each iteration handles up to ``UNROLL`` planes (or tilts), so that the accumulator is
read and written once for all of them.  ``order`` selects the weights
themselves (0) or their derivative with respect to the tilt angle (1).  With
``oversample`` a detector pixel is the mean of that many rays, spread evenly over its
width: every plane (or tilt) is then handled once per ray.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from temdiff_jax.projector import taps

UNROLL = 8
# Each run of tilts of one kind is a loop of its own; a series that changes kind more
# often is sorted first, which costs a copy of its tilts.
MAX_RUNS = 6
# In how many parts an output is filled that cannot be summed up as one.
SHARES = 4


def accumulator_dtype(dtype) -> jnp.dtype:
    """At least float32: sums over planes lose too much in half precision."""
    return jnp.promote_types(dtype, jnp.float32)


def zeros_like_data(shape, dtype, *like: jax.Array) -> jax.Array:
    """Zeros to start a loop from, of the type its sums will have.

    Inside ``jax.shard_map`` a type says along which axes of the mesh an array may
    differ; a loop must start from what it ends with.
    """
    axes = frozenset().union(*(jax.typeof(a).manual_axis_type.varying for a in like))
    zeros = jnp.zeros(shape, dtype)
    return lax.pcast(zeros, tuple(sorted(axes)), to="varying") if axes else zeros


def with_order(tap_function, angle: jax.Array, order: int):
    """Taps at ``angle``; for order 1 the weights' derivative in the angle."""
    if order == 0:
        return tap_function(angle)

    def weights_only(a):
        index0, index1, weight0, weight1 = tap_function(a)
        return (weight0, weight1), (index0, index1)

    _, derivative, indices = jax.jvp(
        weights_only, (angle,), (jnp.ones_like(angle),), has_aux=True
    )
    return (*indices, *derivative)


def _blocks(num_steps: int) -> tuple[int, int]:
    """Iterations, and steps in each: at most ``UNROLL``, and few in vain."""
    blocks = -(-num_steps // UNROLL)
    return blocks, -(-num_steps // blocks)


def _rows(table: jax.Array, index: jax.Array) -> jax.Array:
    if table.dtype.itemsize != 2:
        return table.at[index].get(mode="promise_in_bounds")
    # As whole numbers: a host gathers no half precision, and would hold the whole
    # table in single precision instead.
    bits = lax.bitcast_convert_type(table, jnp.uint16)
    rows = bits.at[index].get(mode="promise_in_bounds")
    return lax.bitcast_convert_type(rows, table.dtype)


def _item_and_offset(step, oversample, dtype):
    """The plane (or tilt) of a step of a loop, and the place of its ray in a pixel."""
    if oversample == 1:
        return step, 0.0
    ray = (step % oversample).astype(dtype)
    return step // oversample, (ray + 0.5) / oversample - 0.5


def _project_tilts(volume, angles, *, num_u, steep, num_planes, order, oversample):
    """Sums over the planes for tilts that share a bound on their planes."""
    nz, nx, ny = volume.shape
    table = volume.reshape(nz * nx, ny)
    dtype = accumulator_dtype(volume.dtype)

    def at_step(step):
        plane, offset = _item_and_offset(step, oversample, angles.dtype)
        tap_function = partial(
            taps.plane_taps,
            plane=plane,
            extents=(nz, nx),
            num_u=num_u,
            steep=steep,
            offset=offset,
        )
        return with_order(tap_function, angles, order)

    def body(block, total):
        for unrolled in range(unroll):
            row0, row1, weight0, weight1 = at_step(block * unroll + unrolled)
            if oversample > 1:
                weight0, weight1 = weight0 / oversample, weight1 / oversample
            total = (
                total
                + weight0[..., None].astype(dtype) * _rows(table, row0)
                + weight1[..., None].astype(dtype) * _rows(table, row1)
            )
        return total

    blocks, unroll = _blocks(num_planes * oversample)
    start = zeros_like_data((angles.shape[0], num_u, ny), dtype, volume, angles)
    total = lax.fori_loop(0, blocks, body, start)
    return total.astype(volume.dtype)


def _fill(out, first, last, share, compute):
    """Writes ``compute(start, count)`` into rows ``first`` to ``last`` of ``out``.

    A share of the rows at a time, in place: what one share sums up is all that is
    held beside the output.  The last share may repeat rows of the one before.
    """
    length = last - first
    # The size not much below the share that repeats the fewest rows.
    sizes = range(min(share, length), min(share, length) // 2, -1)
    count = min(sizes, key=lambda size: -length % size)
    blocks = -(-length // count)

    def body(block, out):
        start = jnp.minimum(first + block * count, last - count)
        return lax.dynamic_update_slice_in_dim(out, compute(start, count), start, 0)

    if blocks == 1:
        part = compute(first, count)
        return lax.dynamic_update_slice_in_dim(out, part, first, 0)
    return lax.fori_loop(0, blocks, body, out)


def _runs_of(flags: np.ndarray) -> list[tuple[int, int]]:
    """Where neighbouring tilts of one kind start and stop."""
    edges = [0, *(np.flatnonzero(np.diff(flags)) + 1).tolist(), len(flags)]
    return list(zip(edges[:-1], edges[1:]))


def project_kernel(
    volume: jax.Array,
    angles: jax.Array,
    *,
    num_u: int,
    steep: Sequence[bool] | None,
    order: int = 0,
    oversample: int = 1,
) -> jax.Array:
    """``[z, x, y]`` to ``[n_tilts, u, y]``; see ``taps`` for the weights.

    Args:
      volume: ``[z, x, y]``, float; sums are of float32 at least.
      angles: ``[n_tilts]`` radians.
      num_u: Detector columns.
      steep: Per tilt, whether planes of constant x are used; ``None`` lets the
        angles decide inside the program.
      order: 0, or 1 for the derivative in the angles.
      oversample: Rays per detector pixel.
    """
    nz, nx, ny = volume.shape
    num_tilts = angles.shape[0]
    static = {"num_u": num_u, "order": order, "oversample": oversample}
    runs, restore = [(0, num_tilts)], None
    if steep is not None:
        flags = np.asarray(steep, bool)
        runs = _runs_of(flags)
        if len(runs) > MAX_RUNS:
            places = np.argsort(flags, kind="stable")
            flags, angles, restore = flags[places], angles[places], np.argsort(places)
            runs = _runs_of(flags)

    def tilts(start, count, flag):
        some = lax.dynamic_slice_in_dim(angles, start, count)
        planes = nx if flag else nz
        if flag is None:
            flag = jnp.abs(jnp.sin(some)) > jnp.abs(jnp.cos(some))
            planes = max(nz, nx)
        return _project_tilts(volume, some, steep=flag, num_planes=planes, **static)

    kinds = [None if steep is None else bool(flags[first]) for first, _ in runs]
    if len(runs) == 1 and accumulator_dtype(volume.dtype) == volume.dtype:
        return tilts(0, num_tilts, kinds[0])
    out = zeros_like_data((num_tilts, num_u, ny), volume.dtype, volume, angles)
    share = max(4, -(-num_tilts // SHARES))
    for (first, last), flag in zip(runs, kinds):
        out = _fill(out, first, last, share, partial(tilts, flag=flag))
    return out if restore is None else out[restore]


def backproject_kernel(
    tilts: jax.Array,
    angles: jax.Array,
    *,
    extents: tuple[int, int],
    order: int = 0,
    steep: Sequence[bool] | None = None,
    oversample: int = 1,
) -> jax.Array:
    """``[n_tilts, u, y]`` to ``[z, x, y]``, the exact transpose.

    Args:
      tilts: ``[n_tilts, u, y]``, float; sums are of float32 at least.
      angles: ``[n_tilts]`` radians.
      extents: ``(nz, nx)`` voxels.
      order, steep, oversample: As for ``project_kernel``.
    """
    nz, nx = extents
    smear = partial(
        _backproject_planes,
        tilts,
        angles,
        extents=extents,
        order=order,
        flags=None if steep is None else np.asarray(steep, bool),
        oversample=oversample,
    )
    if accumulator_dtype(tilts.dtype) == tilts.dtype:
        return smear((0, nz))
    out = zeros_like_data((nz, nx, tilts.shape[2]), tilts.dtype, tilts, angles)
    share = max(4, -(-nz // SHARES))
    return _fill(out, 0, nz, share, lambda first, count: smear((first, count)))


def _backproject_planes(tilts, angles, planes, *, extents, order, flags, oversample):
    """Sums over the tilts for some planes of z: the first one and how many."""
    num_tilts, num_u, ny = tilts.shape
    table = tilts.reshape(num_tilts * num_u, ny)
    dtype = accumulator_dtype(tilts.dtype)
    num_steps = num_tilts * oversample
    blocks, unroll = _blocks(num_steps)

    def at_step(step):
        tilt, offset = _item_and_offset(step, oversample, angles.dtype)
        tap_function = partial(
            taps.ray_taps,
            extents=extents,
            num_u=num_u,
            steep=None if flags is None else jnp.asarray(flags)[tilt],
            offset=offset,
            planes=planes,
        )
        ray0, ray1, weight0, weight1 = with_order(tap_function, angles[tilt], order)
        return tilt * num_u + ray0, tilt * num_u + ray1, weight0, weight1

    def body(block, total):
        for unrolled in range(unroll):
            step = block * unroll + unrolled
            share = (step < num_steps).astype(dtype) / oversample
            row0, row1, weight0, weight1 = at_step(jnp.minimum(step, num_steps - 1))
            total = (
                total
                + (weight0.astype(dtype) * share)[..., None] * _rows(table, row0)
                + (weight1.astype(dtype) * share)[..., None] * _rows(table, row1)
            )
        return total

    start = zeros_like_data((planes[1], extents[1], ny), dtype, tilts, angles)
    total = lax.fori_loop(0, blocks, body, start)
    return total.astype(tilts.dtype)
