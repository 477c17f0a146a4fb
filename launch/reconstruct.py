"""Reconstructs every series of a list, each once; the same command again goes on.

Example:
    python -m launch.reconstruct --config=configs/many_series.py \\
        --series_list=series.txt --workdir=runs/screening --set=num_samples=4

The list has one series a line: PATH[,angles=FILE][,alignment=FILE][,thickness=N]
[,voxel_size=ANGSTROM][,name=NAME].  What became of each stands in WORKDIR/NAME: the
volumes, the page and the record of `temdiff reconstruct`.

Any number of these programs may share a list and a workdir, on one machine or many that
see the folder: each takes what no other has.  With --coordinator the processes work on
every series together, on one mesh (--set=samples=N --set=slabs=M, 0 and 0 for all
devices).  launch/README.md has examples for Slurm, GKE, TPU pods and one machine.

Exit code 0: all series are done, or with another process.  1: some failed; the table
says why, and the others are done.  2: the command, the list or the mesh is wrong.  75:
stopped by a signal or stuck; the same command goes on from the last finished steps.
"""

from __future__ import annotations

import os
import pathlib
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import jax
from absl import app, flags

from launch import processes, program, watchdog
from temdiff_jax import parallel
from temdiff_jax.errors import InputError
from temdiff_jax.io import write
from temdiff_jax.model import conv
from temdiff_jax.reconstruction import many

SUMMARY = "summary.txt"


def define_flags() -> None:
    """Defines the flags; not on import, so that programs can be imported together."""
    flags.DEFINE_string("config", None, "Python file with get_config().")
    flags.DEFINE_string("series_list", None, "Text: one series a line.")
    flags.DEFINE_string("workdir", None, "Folder of results, shared by all processes.")
    flags.DEFINE_multi_string("set", [], "Override: field=value.")
    flags.DEFINE_string("compile_cache", None, "Own folder for compiled code.")
    processes.define_flags()
    watchdog.define_flags(60.0)
    flags.mark_flags_as_required(["config", "series_list", "workdir"])


def leave(number: int, frame: FrameType | None) -> NoReturn:
    """Ends at once: the steps that are finished are on the disk."""
    del frame
    name = signal.Signals(number).name
    print(f"{name}: the same command goes on", file=sys.stderr, flush=True)
    os._exit(watchdog.RESTART)


def reconstruct(
    config: many.ManyConfig, series_list: str, workdir: str, stuck_minutes: float
) -> list[many.Row]:
    """Does what is left of a list and writes the table, which it returns.

    Raises:
      InputError: The list, the folder or the mesh is wrong.
    """

    def begin() -> list[many.Entry]:
        if config.samples and config.slabs and jax.process_count() > 1:
            parallel.sampling_mesh(config.samples, config.slabs)
        return many.read_list(series_list)

    first = jax.process_index() == 0
    entries = parallel.all_succeed("series list", begin)
    parallel.check_alike("series list", repr((config, entries)))
    folder = pathlib.Path(workdir)
    with watchdog.Watchdog(stuck_minutes, folder) as dog:
        sweep = many.Sweep(
            config, folder, say if first else lambda line: None, dog.beat
        )
        parallel.all_succeed("workdir", lambda: first and sweep.begin())
        rows = sweep.run(entries)
    if first:
        text = "".join(f"{line}\n" for line in many.table(rows))
        write.write_text(folder / SUMMARY, text, overwrite=True)
        print(text, end="", flush=True)
    return rows


def say(line: str) -> None:
    """One line of the log."""
    print(line, flush=True)


def main(argv: Sequence[str]) -> None:
    """Parses flags, resolves the configuration, reconstructs."""
    given = flags.FLAGS
    conv.prefer_own(os.environ)
    try:
        program.check_no_arguments(argv)
        if given.compile_cache:
            jax.config.update("jax_compilation_cache_dir", given.compile_cache)
        config = program.resolve(given.config, given.set)
        processes.join_as(given)
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, leave)
        rows = reconstruct(
            config, given.series_list, given.workdir, given.stuck_minutes
        )
    except InputError as error:
        processes.fail(f"reconstruct: {error}", 2)
    except Exception:
        if not jax.distributed.is_initialized():
            raise
        processes.fail(traceback.format_exc(), 1)
    failed = sum(row.state == "failed" for row in rows)
    if failed:
        processes.fail(f"reconstruct: {failed} series failed", 1)


if __name__ == "__main__":
    define_flags()
    app.run(main)
