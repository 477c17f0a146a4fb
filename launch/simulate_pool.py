"""Simulates the blocks of a training run ahead of it, or beside it.

    python -m launch.simulate_pool --config=configs/default_prior.py --data_dir=DATA \\
        --blocks=runs/blocks --part=0 --parts=2

Several of these may run at once, each with a part of the phases of ``data.pool``;
``launch.train --blocks`` reads what they wrote and simulates what is missing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from absl import app, flags

from launch import program
from temdiff_jax.errors import InputError
from temdiff_jax.model import conv
from temdiff_jax.training.config import TrainConfig
from temdiff_jax.training.data import BlockSource
from temdiff_jax.training.pool import StoredBlocks


def define_flags() -> None:
    """Defines the flags; not on import, so that programs can be imported together."""
    flags.DEFINE_string("config", None, "With get_config(); data.pool says how many.")
    flags.DEFINE_string("data_dir", None, "Folder of the source volumes.")
    flags.DEFINE_string("blocks", None, "Folder that keeps the blocks.")
    flags.DEFINE_multi_string("set", [], "Override: section.field=value.")
    flags.DEFINE_integer("part", 0, "Which share of the phases, from 0.", 0)
    flags.DEFINE_integer("parts", 1, "Of how many.", 1)
    flags.mark_flags_as_required(["config", "data_dir", "blocks"])


def simulate(
    config: TrainConfig, data_dir: str, blocks: str, *, part: int = 0, parts: int = 1
) -> None:
    """Simulates every phase of a part that is not there yet, and says how long it took.

    Raises:
      InputError: A pool without end, or sources that cannot be read.
    """
    data = config.data
    if not data.pool:
        raise InputError(
            "data.pool: expected the number of phases to simulate, got 0; set it, "
            "for instance with --set=data.pool=48"
        )
    source = BlockSource.from_files(data_dir, data.sources, data, config.seed)
    stored = StoredBlocks(source, blocks)
    for phase in range(part, data.pool, parts):
        began = time.monotonic()
        stored.phase(phase)
        print(f"phase {phase}: {time.monotonic() - began:.1f} s", flush=True)


def main(argv: Sequence[str]) -> None:
    """Parses flags, resolves the configuration, simulates."""
    given = flags.FLAGS
    conv.prefer_own(os.environ)
    with program.refusals("simulate_pool", argv):
        config = program.resolve(given.config, given.set)
        simulate(
            config, given.data_dir, given.blocks, part=given.part, parts=given.parts
        )


if __name__ == "__main__":
    define_flags()
    app.run(main)
