"""Trains a prior, or goes on training one: repeat the same command to resume.

Example:
    python -m launch.train --config=configs/default_prior.py \\
        --data_dir=/data/fibsem --workdir=runs/default \\
        --set=optim.num_steps=6000 --set=data.steps_per_phase=64

SIGTERM or SIGUSR1: the step under way ends, the state is saved, exit code 0.  Exit
code 1: training failed and says why; 2: the command or its data are wrong; 75: it came
no further for --stuck_minutes.  Several
processes, Slurm, GKE and TPU pods: launch/README.md.

Every validation draws slices of held-out blocks into WORKDIR/previews; --tensorboard
writes the numbers of the log, and the slices, to WORKDIR/tensorboard.
"""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from absl import app, flags, logging

from launch import processes, program, watchdog
from temdiff_jax.errors import InputError
from temdiff_jax.io import lock
from temdiff_jax.model import conv
from temdiff_jax.priors import load_prior
from temdiff_jax.report import gallery
from temdiff_jax.training import checkpoint, loop, meter, signals, telemetry
from temdiff_jax.training.config import TrainConfig
from temdiff_jax.training.preview import Preview


def define_flags() -> None:
    """Defines the flags; not on import, so that programs can be imported together."""
    flags.DEFINE_string("config", None, "Python file with get_config().")
    flags.DEFINE_string("data_dir", None, "Folder of the source volumes.")
    flags.DEFINE_string("workdir", None, "Folder for checkpoints.")
    flags.DEFINE_multi_string("set", [], "Override: section.field=value.")
    flags.DEFINE_string("initial_prior", None, "Prior that a new run starts from.")
    flags.DEFINE_string("compile_cache", None, "Own folder for compiled code.")
    flags.DEFINE_string(
        "blocks", None, "Folder that keeps simulated blocks for this and other runs."
    )
    flags.DEFINE_float("max_minutes", None, "Save and stop after this.")
    flags.DEFINE_bool(
        "previews", True, "Draw held-out slices into WORKDIR/previews at validations."
    )
    flags.DEFINE_bool(
        "tensorboard", False, "Curves in WORKDIR/tensorboard; needs tensorboardX."
    )
    processes.define_flags()
    watchdog.define_flags(240.0)
    flags.mark_flags_as_required(["config", "data_dir", "workdir"])


def measure_peak(config: TrainConfig, log: Callable[[str], None]) -> float:
    """Operations a second of a matrix product on all devices of the run."""
    devices = config.mesh.batch * config.mesh.slabs
    peak = meter.product_peak(config.network.dtype)
    log(
        f"matrix product, {config.network.dtype}: {peak / meter.GB:.0f} GFLOP/s on one "
        f"device, {devices} used"
    )
    return devices * peak


class Observers:
    """What is written besides the log; only the first process writes.

    Args:
      workdir: Folder of the run.
      previews: Whether slices are drawn.
      tensorboard: Whether event files are written.

    Attributes:
      record, show: For ``loop.train``; None where nothing is wanted.

    Raises:
      InputError: Event files are wanted, and tensorboardX is not installed.
    """

    def __init__(self, workdir: str, *, previews: bool, tensorboard: bool):
        first = jax.process_index() == 0
        self._folder = Path(workdir) / "previews" if previews and first else None
        self._events = None
        if tensorboard and first:
            self._events = telemetry.EventFiles(Path(workdir) / "tensorboard")
        self.record = self._events.scalars if self._events is not None else None
        # The slices are computed by all processes together.
        self.show = self._show if previews or tensorboard else None

    def __enter__(self) -> Observers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._events is not None:
            self._events.close()

    def _show(self, step: int, previews: Sequence[Preview]) -> None:
        rows = {
            f"{index}: {preview.name}: truth, condition, estimate": preview[1:]
            for index, preview in enumerate(previews)
        }
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            gallery.write_gallery(
                self._folder / f"step_{step:06d}.png",
                rows,
                title=f"slices (z upwards, x) at step {step}",
                overwrite=True,
            )
        if self._events is not None:
            sides = {
                f"preview/{index}": np.concatenate(preview[1:], axis=1)
                for index, preview in enumerate(previews)
            }
            self._events.pictures(step, sides)


def main(argv: Sequence[str]) -> None:
    """Parses flags, resolves the configuration, trains."""
    given = flags.FLAGS
    conv.prefer_own(os.environ)
    # Orbax tells every write; what a run has to say is printed.
    logging.set_verbosity(logging.WARNING)
    try:
        program.check_no_arguments(argv)
        if given.compile_cache:
            jax.config.update("jax_compilation_cache_dir", given.compile_cache)
        config = program.resolve(given.config, given.set)
        processes.join_as(given)
        log = say if jax.process_index() == 0 else _say_nothing
        log(str(config))
        initial = load_prior(given.initial_prior) if given.initial_prior else None
        alone = jax.process_count() == 1
        first = jax.process_index() == 0
        with (
            lock.exclusive(given.workdir) if first else contextlib.nullcontext(),
            signals.SignalWatch() if alone else signals.PreemptionWatch() as watch,
            Observers(
                given.workdir, previews=given.previews, tensorboard=given.tensorboard
            ) as observers,
            watchdog.Watchdog(given.stuck_minutes, given.workdir) as dog,
        ):
            loop.train(
                config,
                data_dir=given.data_dir,
                workdir=given.workdir,
                log=log,
                max_minutes=given.max_minutes,
                blocks=given.blocks,
                initial=initial,
                should_stop=dog.watched(watch),
                watch=loop.Watch(
                    observers.record, observers.show, measure_peak(config, log)
                ),
            )
    except InputError as error:
        processes.fail(f"train: {error}", 2)
    except (checkpoint.SaveError, loop.Diverged) as error:
        processes.fail(f"train: {error}", 1)
    except Exception:
        if not jax.distributed.is_initialized():
            raise
        processes.fail(traceback.format_exc(), 1)
    if watch.reason is not None:
        processes.leave_at_once()


def say(line: str) -> None:
    """One line of the log."""
    print(line, flush=True)


def _say_nothing(line: str) -> None:
    """The log of all processes but the first, which speaks for them."""


if __name__ == "__main__":
    define_flags()
    app.run(main)
