"""Simulated blocks kept on disk, so that several runs share one simulation."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np

from temdiff_jax.io import write
from temdiff_jax.training.data import FIRST_RESERVED, Block, BlockSource

# Fields that decide how blocks are used, not what they hold.
OF_USE = (
    "crop",
    "mirror",
    "steps_per_phase",
    "phases_kept",
    "pool",
    "validation",
    "validation_blocks",
)


class StoredBlocks:
    """A ``BlockSource`` whose phases are read from a folder, where they are there.

    A phase is simulated once and kept under a name that holds everything it depends
    on: the seed, the voxels of the sources and the configuration.  What is read is
    what was simulated, bit for bit.
    """

    def __init__(self, source: BlockSource, folder: str | Path):
        self.source = source
        self.data = source.data
        self.seed = source.seed
        self.folder = Path(folder) / identity(source)

    def phase(self, phase: int) -> list[Block]:
        """As ``BlockSource.phase``."""
        if self.data.pool and phase < FIRST_RESERVED:
            phase %= self.data.pool
        path = self.folder / f"phase_{phase:05d}.npz"
        if path.exists():
            return _read(path)
        blocks = self.source.phase(phase)
        self.folder.mkdir(parents=True, exist_ok=True)
        _write(path, blocks)
        return blocks


def identity(source: BlockSource) -> str:
    """Name of the folder of everything that a source can simulate."""
    fields = dataclasses.asdict(source.data)
    for name in OF_USE:
        del fields[name]
    text = json.dumps([source.seed, fields], sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode())
    if source.regression is not None:
        digest.update(source.regression.sha256.encode())
    digest.update(np.asarray(source.bank.values).tobytes())
    return digest.hexdigest()[:16]


def _write(path: Path, blocks: list[Block]) -> None:
    arrays = {
        f"{index}/{name}": value
        for index, block in enumerate(blocks)
        for name, value in block._asdict().items()
        if value is not None
    }
    # Whoever else simulates the phase writes the same bytes.
    with write.atomic_path(path, overwrite=True) as temporary:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)


def _read(path: Path) -> list[Block]:
    with np.load(path, allow_pickle=False) as archive:
        count = 1 + max(int(name.split("/")[0]) for name in archive.files)
        held = set(archive.files)
        return [
            Block(
                **{
                    name: archive[f"{index}/{name}"]
                    for name in Block._fields
                    if f"{index}/{name}" in held
                }
            )
            for index in range(count)
        ]
