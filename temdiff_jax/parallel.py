"""Meshes, and the layout of every array on them.

In training, axis ``batch`` shares out the crops of a step and, on request, the
parameters; axis ``slab`` cuts every volume along y, the tilt axis, so that only
convolutions need their neighbours' edges.  In a reconstruction axis ``sample`` shares
out the posterior samples and axis ``y`` cuts volumes and tilts.  Every
``PartitionSpec`` is spelled at full rank, since two spellings of one layout compile
twice.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from temdiff_jax.errors import InputError

BATCH = "batch"
SLAB = "slab"
SAMPLE = "sample"
ROWS = "y"
# Smaller leaves (biases, scales, norms) are cheaper repeated than gathered.
MIN_SHARED_SIZE = 1024

Tree = TypeVar("Tree")
Made = TypeVar("Made")
Array = jax.Array | np.ndarray


def make_mesh(
    batch: int, slabs: int, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh ``(batch, slabs)`` with axes named ``BATCH`` and ``SLAB``.

    Args:
      batch: Devices along the batch.
      slabs: Devices along y.
      devices: Default the first ``batch * slabs`` of all processes.

    Raises:
      InputError: Too few devices, or some process would have none.
    """
    advice = "change --set=mesh.batch or mesh.slabs"
    return _mesh({BATCH: batch, SLAB: slabs}, "batch * slabs", advice, devices)


def sampling_mesh(
    samples: int, slabs: int, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh ``(samples, slabs)`` with axes named ``SAMPLE`` and ``ROWS``.

    Args:
      samples: Devices, or rows of them, that draw samples of their own.
      slabs: Devices that share a volume, along y.
      devices: Default the first ``samples * slabs`` of all processes.

    Raises:
      InputError: Too few devices, or some process would have none.
    """
    advice = "ask for fewer"
    return _mesh({SAMPLE: samples, ROWS: slabs}, "samples * slabs", advice, devices)


def _mesh(
    extents: dict[str, int],
    product: str,
    advice: str,
    devices: Sequence[jax.Device] | None,
) -> Mesh:
    """A mesh of two axes by name, on the first devices of all processes."""
    every = list(jax.devices() if devices is None else devices)
    one, other = extents.values()
    wanted = one * other
    if min(one, other) < 1 or wanted > len(every):
        raise InputError(
            f"mesh: expected {product} between 1 and the {len(every)} devices, got "
            f"{one} x {other}; {advice}"
        )
    chosen = every[:wanted]
    idle = {d.process_index for d in every} - {d.process_index for d in chosen}
    if idle:
        raise InputError(
            f"mesh: expected a part of it in each of {jax.process_count()} processes, "
            f"got {wanted} of {len(every)} devices, none of process {min(idle)}; take "
            "all devices, or start fewer processes"
        )
    auto = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh((one, other), tuple(extents), auto, devices=chosen)


def shared_out(devices: int, samples: int, rows: int, multiple: int) -> tuple[int, int]:
    """How many devices draw samples of their own, and how many share each volume.

    As many as can draw samples, which exchange nothing.

    Args:
      devices: To be used, all of them.
      samples: To be drawn, at least 1.
      rows: Extent along y.
      multiple: What a device's rows must be a multiple of.

    Raises:
      InputError: There is no such division.
    """
    for count in range(min(devices, samples), 0, -1):
        slabs = devices // count
        even = devices % count == 0 and samples % count == 0
        if even and (slabs == 1 or rows % (slabs * multiple) == 0):
            return count, slabs
    fits = [
        n
        for n in range(1, devices)
        if math.gcd(n, samples) == n or rows % (n * multiple) == 0
    ]
    raise InputError(
        f"devices: expected a number that divides {samples} samples, slabs of "
        f"{multiple} of the {rows} rows, or is a product of such two, got {devices}; "
        f"use {max(fits, default=1)}, or draw other samples"
    )


def row_spec(mesh: Mesh, shape: tuple[int, ...]) -> P:
    """Layout of volumes or tilts ``[..., i, j, y]``, at most one axis before them.

    Cut along y, and the batch along the samples, where the mesh divides them.
    """
    spec: list[str | None] = [None] * len(shape)
    if shape[-1] % mesh.shape[ROWS] == 0:
        spec[-1] = ROWS
    if len(shape) == 4 and shape[0] % mesh.shape[SAMPLE] == 0:
        spec[0] = SAMPLE
    return P(*spec)


def keep_layout(array: jax.Array, mesh: Mesh | None) -> jax.Array:
    """Tells the compiler the layout of ``row_spec``; without a mesh, nothing."""
    if mesh is None:
        return array
    layout = NamedSharding(mesh, row_spec(mesh, array.shape))
    return jax.lax.with_sharding_constraint(array, layout)


def on_mesh(array: Array, mesh: Mesh | None) -> jax.Array:
    """An array ``[..., y]`` that every process has whole, its rows shared out.

    Arrays of less than three axes are repeated; those that lie on the mesh stay.
    """
    if mesh is None:
        return jax.numpy.asarray(array)
    if isinstance(array, jax.Array):
        if array.sharding.device_set == set(mesh.devices.flat):
            return array
        array = np.asarray(array)
    shape = np.shape(array)
    rows = row_spec(mesh, shape[-3:]) if len(shape) > 2 else [None] * len(shape)
    layout = NamedSharding(mesh, P(*[None] * (len(shape) - 3), *rows))
    return cast(jax.Array, place(array, layout))


def to_host(array: jax.Array) -> np.ndarray:
    """A whole array on the host of every process, which must all ask for it."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def all_succeed(name: str, action: Callable[[], Made]) -> Made:
    """The result of an action that may refuse, if no process refuses it.

    Raises:
      InputError: In every process, where any of them raised one.
    """
    try:
        made, refused = action(), None
    except InputError as error:
        made, refused = None, error
    if jax.process_count() > 1:
        flags = np.asarray(multihost_utils.process_allgather(np.int32(refused is None)))
        others = np.flatnonzero(flags == 0)
        if refused is None and others.size:
            raise InputError(
                f"{name}: expected success in all {flags.size} processes, got a "
                f"refusal of process {others[0]}; its own line says why"
            )
    if refused is not None:
        raise refused
    return cast(Made, made)


def check_alike(name: str, text: str) -> None:
    """Checks that all processes were given the same; all must call it.

    Raises:
      InputError: They were not; raised in every process.
    """
    if jax.process_count() == 1:
        return
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest()[:8], np.int32)
    every = np.asarray(multihost_utils.process_allgather(digest))
    other = np.flatnonzero(np.any(every != every[0], axis=1))
    if other.size:
        raise InputError(
            f"{name}: expected the same in all {len(every)} processes, got another in "
            f"process {other[0]} than in process 0; give every process the same files "
            "and options"
        )


def repeated(mesh: Mesh, ndim: int) -> NamedSharding:
    """Layout of an array that every device holds whole."""
    return NamedSharding(mesh, P(*[None] * ndim))


def batch_sharding(mesh: Mesh, ndim: int) -> NamedSharding:
    """Layout of volumes ``[b, z, x, y]`` or scalars ``[b, ...]`` of a batch."""
    inner: list[str | None] = [None] * (ndim - 1)
    if ndim == 4:
        inner[-1] = SLAB
    return NamedSharding(mesh, P(BATCH, *inner))


def slab_sharding(mesh: Mesh, shape: tuple[int, ...], multiple: int) -> NamedSharding:
    """Layout of a single volume ``[1, z, x, y]``: slabs where y allows, else repeated.

    ``multiple`` divides the extent that a device must hold (see ``check_batch``).
    """
    fits = len(shape) == 4 and shape[-1] % (mesh.shape[SLAB] * multiple) == 0
    spec: list[str | None] = [None] * len(shape)
    if fits:
        spec[-1] = SLAB
    return NamedSharding(mesh, P(*spec))


def parameter_spec(
    shape: tuple[int, ...], count: int, min_size: int = MIN_SHARED_SIZE
) -> P:
    """Layout of a parameter, or of its moment, shared out over ``count`` devices.

    The largest axis that ``count`` divides is cut, the last of equals; leaves below
    ``min_size`` elements and those without such an axis are repeated.
    """
    axes: list[str | None] = [None] * len(shape)
    fitting = [i for i, n in enumerate(shape) if n % count == 0]
    if fitting and np.prod(shape) >= min_size:
        axes[max(fitting, key=lambda i: (shape[i], i))] = BATCH
    return P(*axes)


def repeated_like(tree: Tree, mesh: Mesh) -> Tree:
    """A tree of layouts: every device holds every leaf whole."""
    return jax.tree.map(lambda leaf: repeated(mesh, np.ndim(leaf)), tree)


def state_shardings(abstract: Tree, mesh: Mesh, *, fsdp: bool) -> Tree:
    """A tree of layouts for a tree of shaped leaves: repeated, or shared out."""

    def rule(leaf) -> NamedSharding:
        if not fsdp:
            return repeated(mesh, len(leaf.shape))
        return NamedSharding(mesh, parameter_spec(leaf.shape, mesh.shape[BATCH]))

    return jax.tree.map(rule, abstract)


def check_batch(mesh: Mesh, batch: int, extent_y: int, multiple: int) -> None:
    """Checks that a batch of crops can be cut for a mesh.

    Args:
      mesh: From ``make_mesh``.
      batch: Crops of one pass through the network.
      extent_y: Their extent along y.
      multiple: What the network divides an extent by, on each device.

    Raises:
      InputError: It cannot; the message proposes the next size that can.
    """
    rows, slabs = mesh.shape[BATCH], mesh.shape[SLAB]
    if batch % rows:
        raise InputError(
            f"optim.batch: expected a multiple of mesh.batch = {rows}, got {batch}; "
            f"use {-(-batch // rows) * rows}"
        )
    unit = slabs * multiple
    if extent_y % unit:
        raise InputError(
            f"data.crop: expected an extent along y that is a multiple of {unit} "
            f"({slabs} slabs of {multiple} voxels), got {extent_y}; use "
            f"{-(-extent_y // unit) * unit}"
        )


def place(tree: Tree, shardings: Tree) -> Tree:
    """Arrays that every process has whole, laid out over the devices of all.

    Each process copies only the parts of its own devices.
    """

    def put(leaf, sharding: NamedSharding) -> jax.Array:
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(
            whole.shape, sharding, lambda index: whole[index]
        )

    return jax.tree.map(put, tree, shardings)


def from_first_process(value: int) -> int:
    """The number that process 0 passed, in every process; all must call it."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))
