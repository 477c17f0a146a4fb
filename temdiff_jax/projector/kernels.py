"""The two loops of the projector, as XLA programs over gathered rows of y.

Each iteration handles ``UNROLL`` planes (or tilts), so that the accumulator is
read and written once per ``UNROLL`` gathers.  ``order`` selects the weights
themselves (0) or their derivative with respect to the tilt angle (1).
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from temdiff_jax.projector import taps

UNROLL = 8


def _accumulator_dtype(dtype) -> jnp.dtype:
    return jnp.promote_types(dtype, jnp.float32)


def _with_order(tap_function, angle: jax.Array, order: int):
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


def _rows(table: jax.Array, index: jax.Array) -> jax.Array:
    return table.at[index].get(mode="promise_in_bounds")


def _project_group(volume, angles, num_u, steep, num_planes, order):
    """Forward loop over planes for tilts that share a bound on their planes."""
    nz, nx, ny = volume.shape
    table = volume.reshape(nz * nx, ny)
    dtype = _accumulator_dtype(volume.dtype)

    def at_plane(plane):
        return _with_order(
            partial(
                taps.plane_taps,
                plane=plane,
                extents=(nz, nx),
                num_u=num_u,
                steep=steep,
            ),
            angles,
            order,
        )

    def body(block, total):
        for offset in range(UNROLL):
            row0, row1, weight0, weight1 = at_plane(block * UNROLL + offset)
            total = (
                total
                + weight0[..., None].astype(dtype) * _rows(table, row0)
                + weight1[..., None].astype(dtype) * _rows(table, row1)
            )
        return total

    start = jnp.zeros((angles.shape[0], num_u, ny), dtype)
    return lax.fori_loop(0, -(-num_planes // UNROLL), body, start)


def project_kernel(volume, angles, *, num_u, steep, order=0):
    """``[z, x, y]`` to ``[n_tilts, u, y]``; see ``taps`` for the weights."""
    nz, nx, _ = volume.shape
    if steep is None:
        is_steep = jnp.abs(jnp.sin(angles)) > jnp.abs(jnp.cos(angles))
        planes = max(nz, nx)
        return _project_group(volume, angles, num_u, is_steep, planes, order).astype(
            volume.dtype
        )
    flags = np.asarray(steep, bool)
    parts, places = [], []
    for flag, planes in ((False, nz), (True, nx)):
        chosen = np.flatnonzero(flags == flag)
        if chosen.size:
            parts.append(
                _project_group(volume, angles[chosen], num_u, flag, planes, order)
            )
            places.append(chosen)
    out = parts[0] if len(parts) == 1 else jnp.concatenate(parts)
    if len(parts) > 1:
        out = out[np.argsort(np.concatenate(places))]
    return out.astype(volume.dtype)


def backproject_kernel(tilts, angles, *, extents, order=0):
    """``[n_tilts, u, y]`` to ``[z, x, y]``, the exact transpose."""
    num_tilts, num_u, ny = tilts.shape
    table = tilts.reshape(num_tilts * num_u, ny)
    dtype = _accumulator_dtype(tilts.dtype)
    unroll = min(UNROLL, num_tilts)

    def body(block, total):
        for offset in range(unroll):
            tilt = block * unroll + offset
            exists = (tilt < num_tilts).astype(dtype)
            tilt = jnp.minimum(tilt, num_tilts - 1)
            ray0, ray1, weight0, weight1 = _with_order(
                partial(taps.ray_taps, extents=extents, num_u=num_u),
                angles[tilt],
                order,
            )
            total = (
                total
                + (weight0.astype(dtype) * exists)[..., None]
                * _rows(table, tilt * num_u + ray0)
                + (weight1.astype(dtype) * exists)[..., None]
                * _rows(table, tilt * num_u + ray1)
            )
        return total

    start = jnp.zeros((*extents, ny), dtype)
    blocks = -(-num_tilts // unroll)
    return lax.fori_loop(0, blocks, body, start).astype(tilts.dtype)
