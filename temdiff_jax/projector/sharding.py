"""Slabs of y on several devices: what has to hold, and how to make it hold.

Every slice of y is projected by itself, so volumes and tilts are split along y and no
device needs another's rows.  Each device gets the same number of them.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from temdiff_jax.errors import InputError
from temdiff_jax.geometry import TiltGeometry

SlabFunction = Callable[[jax.Array, TiltGeometry], jax.Array]


def padded_rows(num_rows: int, num_devices: int) -> int:
    """The next number of rows that divides evenly over the devices."""
    return -(-num_rows // num_devices) * num_devices


def pad_rows(array: jax.Array, num_devices: int) -> jax.Array:
    """Appends rows of zeros at the end of y until the devices share them evenly.

    Args:
      array: Volume ``[z, x, y]`` or tilts ``[n_tilts, u, y]``.
      num_devices: Devices along y.

    Returns:
      The array with ``padded_rows`` rows.  Slices do not mix: cut to
      ``[..., :num_rows]``, a result is what it would be without them.
    """
    extra = padded_rows(array.shape[-1], num_devices) - array.shape[-1]
    return jnp.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, extra)])


def check_rows(num_rows: int, num_devices: int) -> None:
    """Checks that rows of y can be split evenly.

    Raises:
      InputError: They cannot; the message offers the padding.
    """
    if num_rows % num_devices:
        target = padded_rows(num_rows, num_devices)
        raise InputError(
            f"slabs: expected a number of rows that {num_devices} devices share "
            f"evenly, got {num_rows}; pad to {target} with "
            f"sharding.pad_rows(array, {num_devices}) and cut the result to "
            f"[..., :{num_rows}]"
        )


def over_slabs(function: SlabFunction, mesh: Mesh, *, axis: str = "y") -> SlabFunction:
    """Runs a function of rows on every device's slab of y.

    Args:
      function: ``(array, geometry) -> array`` whose rows y depend on the same rows
        of its input alone: ``project``, ``backproject``, ``normal_op``, a gradient.
      mesh: Devices; other axes than ``axis`` repeat the work.
      axis: The axis of the mesh along which y is split.

    Returns:
      A function of the whole ``array [a, b, y]`` and the geometry, to be jitted; its
      program sends nothing between devices.

    Raises:
      InputError: The mesh has no such axis; on a call, rows that do not divide.
    """
    if axis not in mesh.shape:
        raise InputError(
            f"slabs: expected an axis of the mesh {list(mesh.shape)}, got {axis!r}; "
            "name the one along which y is split"
        )
    rows = P(None, None, axis)
    sharded = jax.shard_map(function, mesh=mesh, in_specs=(rows, P()), out_specs=rows)

    def over_all(array: jax.Array, geometry: TiltGeometry) -> jax.Array:
        check_rows(array.shape[-1], mesh.shape[axis])
        return sharded(array, geometry)

    return over_all
