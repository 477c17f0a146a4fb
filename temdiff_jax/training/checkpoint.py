"""Checkpoints by Orbax: the only place that imports it.

A checkpoint holds the train state and, as JSON, what is needed to go on or to
export: the resolved configuration and the residual scale.  It is written while
training goes on and counts from the moment its manifest is on the disk; one whose
manifest does not verify is refused, and the one before it is used.
"""

from __future__ import annotations

import concurrent.futures
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from temdiff_jax import parallel
from temdiff_jax.errors import InputError
from temdiff_jax.training import manifest
from temdiff_jax.training.step import TrainState

FORMAT_VERSION = 2
# Version 1 is the same without a manifest.
READABLE = (1, 2)
UNFINISHED = ("*.orbax-checkpoint-tmp*", "*.deleting")


class SaveError(RuntimeError):
    """A checkpoint could not be written; those before it are untouched."""


class Checkpoints:
    """A folder of numbered checkpoints; the newest valid one is resumed.

    Use it as a context manager: leaving the block waits for the last save and raises
    if it failed.

    Attributes:
      durable: The last step that this object wrote completely, or None.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        keep: int = 2,
        log: Callable[[str], None] = print,
    ):
        self.durable: int | None = None
        self._folder = Path(folder).absolute()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._keep = keep
        self._log = log
        self._sound: set[int] = set()
        self._orbax = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(
                state=ocp.StandardCheckpointHandler(), meta=ocp.JsonCheckpointHandler()
            )
        )
        self._pool = concurrent.futures.ThreadPoolExecutor(max_workers=1)
        self._pending: tuple[int, concurrent.futures.Future[None]] | None = None

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            self.close()
        except SaveError as error:
            if kind is None:
                raise
            self._log(str(error))  # the error under way says more

    def steps(self) -> list[int]:
        """All committed steps, ascending, whether valid or not."""
        self.wait()
        return self._committed()

    def latest(self) -> int | None:
        """Newest valid step, or None for an empty folder.

        Every step that is passed over is logged with its reason.

        Raises:
          InputError: There are checkpoints, and none is valid.
        """
        self.wait()
        found, tried = -1, self._committed()
        # One process looks, and all go on from the same step.
        if jax.process_index() == 0:
            found = next((s for s in reversed(tried) if self._accept(s)), -1)
            if found < 0 and tried:
                found = -2
        found = parallel.from_first_process(found)
        if found == -2:
            raise InputError(
                f"checkpoints: expected a valid one among {tried} in {self._folder}, "
                "got none; restore the folder from a copy, or choose a new --workdir"
            )
        return None if found < 0 else found

    def save(self, step: int, state: TrainState, meta: dict) -> None:
        """Starts to write one checkpoint, after the one before it is durable.

        The values are copied before this returns, so the state may be given away.

        Raises:
          SaveError: This save could not start, or the one before it failed.
        """
        self.wait()
        target = self._folder / str(step)
        meta = {"format_version": FORMAT_VERSION, **meta}
        try:
            if jax.process_index() == 0:
                self._make_way(step)
            self._orbax.save(
                target,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(_held(state)),
                    meta=ocp.args.JsonSave(meta),
                ),
            )
        except (OSError, ValueError) as error:
            raise self._failure(step, error) from error
        self._pending = (step, self._pool.submit(self._commit, step))

    def poll(self) -> None:
        """Notices the end of a save under way; call it after every step.

        Raises:
          SaveError: It failed.
        """
        if self._pending is not None and self._pending[1].done():
            self.wait()

    def wait(self) -> None:
        """Waits until the save under way is durable.

        Raises:
          SaveError: It failed.
        """
        if self._pending is None:
            return
        step, future = self._pending
        self._pending = None
        try:
            future.result()
        except Exception as error:
            raise self._failure(step, error) from error
        self.durable = step

    def meta(self, step: int) -> dict:
        """JSON part of a checkpoint.

        Raises:
          InputError: Written by another format version.
        """
        self.wait()
        meta = self._read_meta(step)
        if meta.get("format_version") not in READABLE:
            raise InputError(
                f"checkpoint: expected format version {FORMAT_VERSION}, got "
                f"{meta.get('format_version')}; train anew or use the matching release"
            )
        return meta

    def restore(self, step: int, like: TrainState) -> TrainState:
        """State of a step; trees, shapes and dtypes must be those of ``like``.

        ``like`` may be abstract (``jax.eval_shape``); its leaves without a sharding
        go to the first device, whatever devices wrote them.

        Raises:
          InputError: The checkpoint is damaged, or a leaf differs; the message names
            the file or the leaf.
        """
        self.wait()
        problem = None
        if jax.process_index() == 0 and step not in self._sound:
            problem = self._problem(step)
        if problem is not None:
            raise InputError(
                f"checkpoint {step}: {problem}; choose a valid one of the steps "
                f"{self._committed()}"
            )
        abstract = jax.tree.map(_abstract, _held(like))
        target = self._folder / str(step)
        stored = self._orbax.metadata(target).item_metadata["state"]
        _compare(abstract, stored)
        restored = self._orbax.restore(
            target, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        )
        return like._replace(**restored["state"])

    def close(self) -> None:
        """Waits for the last save and releases the folder.

        Raises:
          SaveError: That save failed.
        """
        try:
            self.wait()
        finally:
            self._pool.shutdown()
            self._orbax.close()

    def _commit(self, step: int) -> None:
        """In the saving thread: what makes a written checkpoint count."""
        first = jax.process_index() == 0
        folder = self._folder / str(step)
        try:
            self._orbax.wait_until_finished()
            if first:
                manifest.create(folder)
                manifest.check(folder)
        except Exception:
            if first:  # half a checkpoint only takes room
                for path in [folder, *self._folder.glob(f"{step}{UNFINISHED[0]}")]:
                    shutil.rmtree(path, ignore_errors=True)
            raise
        if first:
            self._sound.add(step)
            self._prune(step)

    def _committed(self) -> list[int]:
        names = (p.name for p in self._folder.iterdir() if p.is_dir())
        return sorted(int(name) for name in names if name.isdecimal())

    def _read_meta(self, step: int) -> dict:
        # Not through Orbax, whose barriers would wait for the other processes.
        path = self._folder / str(step) / "meta" / "metadata"
        return json.loads(path.read_text(encoding="utf-8"))

    def _make_way(self, step: int) -> None:
        """Removes what a killed or failed save left, and a refused step of this name.

        Raises:
          FileExistsError: A valid checkpoint has this number.
        """
        for pattern in UNFINISHED:
            for path in self._folder.glob(pattern):
                shutil.rmtree(path)
        if (self._folder / str(step)).exists():
            if self._problem(step) is None:
                raise FileExistsError(f"step {step} has a valid checkpoint")
            self._remove(step)

    def _prune(self, step: int) -> None:
        """Deletes steps before ``step``, now that it is valid, but the newest few."""
        before = [s for s in self._committed() if s < step]
        sound = [s for s in before if s in self._sound or self._problem(s) is None]
        kept = sound[max(0, len(sound) - self._keep + 1) :]
        for old in before:
            if old not in kept:
                self._remove(old)

    def _remove(self, step: int) -> None:
        """The manifest goes first, so that half a checkpoint is never valid."""
        self._sound.discard(step)
        folder = self._folder / str(step)
        (folder / manifest.NAME).unlink(missing_ok=True)
        aside = folder.with_name(f"{step}.deleting")
        folder.rename(aside)
        shutil.rmtree(aside)

    def _accept(self, step: int) -> bool:
        problem = self._problem(step)
        if problem is not None:
            self._log(f"checkpoint {step} is refused: {problem}")
        return problem is None

    def _problem(self, step: int) -> str | None:
        """Why a checkpoint must not be used, or None."""
        folder = self._folder / str(step)
        if not (folder / manifest.NAME).exists():
            try:
                version = self._read_meta(step)["format_version"]
            except (OSError, ValueError, KeyError, TypeError) as error:
                return f"no {manifest.NAME}, and meta is unreadable: {_line(error)}"
            if version != 1:
                return f"{manifest.NAME}: missing, the save did not finish"
            self._log(
                f"checkpoint {step} is of format version 1: it is used unverified"
            )
        else:
            try:
                manifest.check(folder)
            except manifest.Damaged as error:
                return str(error)
        self._sound.add(step)
        return None

    def _failure(self, step: int, error: Exception) -> SaveError:
        before = [s for s in self._committed() if s != step]
        return SaveError(
            f"checkpoint {step}: expected to write it below {self._folder}, got "
            f"{_line(error)}; the checkpoints {before} are untouched: make room and "
            "repeat the command"
        )


def _line(error: Exception) -> str:
    """The first line of an error, with its kind; a long one without its middle."""
    line = (str(error).strip() or "no message").splitlines()[0]
    if len(line) > 200:  # the array store begins with paths and ends with the cause
        line = f"{line[:60]} ... {line[-120:]}"
    return f"{type(error).__name__}: {line}"


def _held(state: TrainState) -> dict:
    """The parts of a state that hold anything.

    A part that a run does not use is left out, so that checkpoints written before
    there was such a part stay readable.
    """
    return {name: part for name, part in state._asdict().items() if _leaves(part)}


def _abstract(leaf) -> jax.ShapeDtypeStruct:
    here = getattr(leaf, "sharding", None)
    if here is None:
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here)


def _leaves(tree) -> dict[str, tuple]:
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (
            tuple(leaf.shape),
            str(leaf.dtype),
        )
        for path, leaf in flat
    }


def _compare(expected, stored) -> None:
    want, have = _leaves(expected), _leaves(stored)
    for name in sorted(want.keys() | have.keys()):
        if want.get(name) != have.get(name):
            raise InputError(
                f"checkpoint: leaf {name}: expected {want.get(name)}, got "
                f"{have.get(name)}; resume with the configuration it was trained with"
            )
