"""A long sampling in chunks: reported, saved, continued, with the bits of one run."""

from __future__ import annotations

import functools
import hashlib
import pathlib
import zipfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from temdiff_jax.diffusion.algebra import Info, Kernel, State, run_steps
from temdiff_jax.errors import InputError
from temdiff_jax.io import write

Make = Kernel | Callable[..., Kernel]
Progress = Callable[[int, int, Info], None]


def run_chunked(
    kernel: Kernel | Partial,
    key: jax.Array,
    x_init: jax.Array,
    sigmas: jax.Array,
    *,
    chunk: int = 10,
    on_progress: Progress | None = None,
    path: str | pathlib.Path | None = None,
) -> tuple[State, Info]:
    """The bits of `algebra.run`, a few steps at a time: watched, stopped, continued.

    Each chunk is one compiled ``lax.scan`` that is given the memory of the state
    before it, so that one state exists at a time.

    Args:
      kernel: A kernel, or ``jax.tree_util.Partial(make, *args)`` of a function that
        makes one of pytrees of arrays. Other numbers in args compile nothing as long
        as the function is the same object; those that a kernel was closed over are
        constants of its program.
      key, x_init, sigmas: As for `algebra.run`; ``x_init`` stays valid.
      chunk: Steps between two reports; a rest of the steps is a second program.
      on_progress: Called after each chunk with the steps done, those of all chunks,
        and the chunk's info.
      path: File that holds the state after each chunk, replaced in one piece, without
        pickle. A run that finds one goes on from it; it stays when the run is over.

    Returns:
      The last state, and the info of every step.

    Raises:
      InputError: No step; or the file is damaged or was left by another key, start,
        grid or args. Whether the kernel is the same cannot be seen.
    """
    make: Make = kernel
    args: tuple[Any, ...] = ()
    if isinstance(kernel, Partial):
        make, args = kernel.func, kernel.args
    total = sigmas.shape[0] - 1
    _check(chunk, total)
    state = _begin(x_init, args, make=make)
    infos: list[Info] = []
    done = 0
    mark = "" if path is None else _identity(key, x_init, sigmas, args)
    if path is not None and pathlib.Path(path).exists():
        done, state, infos = _restore(pathlib.Path(path), mark, state, total)
    while done < total:
        count = min(chunk, total - done)
        state, info = _chunk(
            key, state, args, sigmas, jnp.int32(done), make=make, count=count
        )
        jax.block_until_ready(state)
        infos.append(info)
        done += count
        if path is not None:
            _save(pathlib.Path(path), mark, done, state, infos)
        if on_progress is not None:
            on_progress(done, total, info)
    return state, Info(*(jnp.concatenate(parts) for parts in zip(*infos)))


def _check(chunk: int, total: int) -> None:
    if chunk < 1 or total < 1:
        raise InputError(
            f"run_chunked: expected chunk and steps of at least 1, got {chunk} and "
            f"{total}; pass two or more levels and a positive chunk"
        )


def _made(make: Make, args: tuple[Any, ...]) -> Kernel:
    return make if isinstance(make, Kernel) else make(*args)


@functools.partial(jax.jit, static_argnames=("make",))
def _begin(x: jax.Array, args: tuple[Any, ...], *, make: Make) -> State:
    """First state in memory of its own, so that donating it leaves x alone."""
    return jax.tree.map(jnp.copy, _made(make, args).init(x))


@functools.partial(
    jax.jit, static_argnames=("make", "count"), donate_argnames=("state",)
)
def _chunk(
    key: jax.Array,
    state: State,
    args: tuple[Any, ...],
    sigmas: jax.Array,
    start: jax.Array,
    *,
    make: Make,
    count: int,
) -> tuple[State, Info]:
    return run_steps(_made(make, args), key, state, sigmas, start, count)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _host(leaf: Any) -> np.ndarray:
    """Numbers of an array or of typed keys."""
    leaf = jnp.asarray(leaf)
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _identity(*inputs: Any) -> str:
    """Digest of all that decides a run but its kernel.

    Leaves are named by their paths: a structure may hold functions, whose text is
    another in every process.
    """
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(inputs)[0]:
        array = _host(leaf)
        name = jax.tree_util.keystr(path)
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _save(
    path: pathlib.Path, mark: str, done: int, state: State, infos: list[Info]
) -> None:
    """Writes the state as bytes, since .npz knows no bfloat16."""
    arrays = {"identity": np.array(mark), "done": np.array(done)}
    for number, leaf in enumerate(jax.tree.leaves(state)):
        arrays[f"state_{number}"] = np.frombuffer(_host(leaf).tobytes(), np.uint8)
    for name, parts in zip(Info._fields, zip(*infos)):
        arrays[name] = np.concatenate([np.asarray(part) for part in parts])
    with write.atomic_path(path, overwrite=True) as temporary:
        with temporary.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **arrays)


def _restore(
    path: pathlib.Path, mark: str, like: State, total: int
) -> tuple[int, State, list[Info]]:
    """Reads what `_save` wrote into the shapes and dtypes of ``like``."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            stored = {name: archive[name] for name in archive.files}
        found, done = str(stored["identity"]), int(stored["done"])
        infos = [Info(*(jnp.asarray(stored[name]) for name in Info._fields))]
        leaves, structure = jax.tree.flatten(like)
        state = jax.tree.unflatten(
            structure,
            [_as(leaf, stored[f"state_{i}"]) for i, leaf in enumerate(leaves)],
        )
    except (KeyError, OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(
            f"saved sampling: expected the state of this sampler in {path}, got "
            f"{type(error).__name__} ({error}); remove the file to start anew"
        ) from None
    if found != mark or not 0 < done <= total:
        raise InputError(
            "saved sampling: expected key, start, levels and arguments of this run in "
            f"{path}, got those of another; remove the file or name another"
        )
    return done, state, infos


def _as(like: jax.Array, content: np.ndarray) -> jax.Array:
    """Bytes as an array of the shape, dtype and kind of another."""
    form = _host(like)
    array = np.frombuffer(content.tobytes(), form.dtype).reshape(form.shape)
    if _is_key(like):
        numbers = jnp.asarray(array)
        return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(like))
    return jax.device_put(array, like.sharding)
