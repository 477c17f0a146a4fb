"""Checkpoints by Orbax: the only place that imports it.

A checkpoint holds the train state and, as JSON, what is needed to go on or to
export: the resolved configuration and the residual scale.
"""

from __future__ import annotations

from pathlib import Path

import jax
import orbax.checkpoint as ocp

from temdiff_jax.training.step import TrainState
from temdiff_jax.types import InputError

FORMAT_VERSION = 1


class Checkpoints:
    """A folder of numbered checkpoints; the newest is resumed."""

    def __init__(self, folder: str | Path, *, keep: int = 2):
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=False
        )
        # Named here, since a fresh process must read what it has not written.
        self._manager = ocp.CheckpointManager(
            Path(folder).absolute(),
            options=options,
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "meta": ocp.JsonCheckpointHandler(),
            },
        )

    def latest(self) -> int | None:
        """Newest step, or None for an empty folder."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """All steps, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: TrainState, meta: dict) -> None:
        """Writes one checkpoint and waits until it is durable."""
        meta = {"format_version": FORMAT_VERSION, **meta}
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state._asdict()),
                meta=ocp.args.JsonSave(meta),
            ),
        )
        self._manager.wait_until_finished()

    def meta(self, step: int) -> dict:
        """JSON part of a checkpoint.

        Raises:
          InputError: Written by another format version.
        """
        restored = self._manager.restore(
            step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())
        )
        meta = restored["meta"]
        if meta.get("format_version") != FORMAT_VERSION:
            raise InputError(
                f"checkpoint: expected format version {FORMAT_VERSION}, got "
                f"{meta.get('format_version')}; train anew or use the matching release"
            )
        return meta

    def restore(self, step: int, like: TrainState) -> TrainState:
        """State of a step; trees, shapes and dtypes must be those of ``like``.

        ``like`` may be abstract (``jax.eval_shape``); its leaves without a sharding
        go to the first device, whatever device wrote them.

        Raises:
          InputError: A leaf differs; the message names it.
        """
        abstract = jax.tree.map(_abstract, like._asdict())
        stored = self._manager.item_metadata(step)["state"]
        _compare(abstract, stored)
        restored = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        )
        return TrainState(**restored["state"])

    def close(self) -> None:
        """Waits for writers and releases the folder."""
        self._manager.close()


def _abstract(leaf) -> jax.ShapeDtypeStruct:
    here = getattr(leaf, "sharding", None)
    if here is None:
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
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
