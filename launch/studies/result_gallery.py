"""Pictures beside the numbers of a table: one xz slice of a specimen by each method.

    python -m launch.studies.result_gallery --config=configs/tables/t1.py \\
        --data_dir=DATA --volume=crop2 --cases=10/1,60/3 --out=runs/gallery

The series, the settings and the seeds are those of the table's rows. Every volume is
shown after its best gain and offset, as it is scored, and all methods of a case on one
grey scale. PSNR is printed, so that a picture can be found in the table.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np
from absl import app, flags

from launch import evaluate, program
from temdiff_jax.errors import InputError
from temdiff_jax.evaluation import methods, metrics, plan, protocol, runner
from temdiff_jax.evaluation.plan import TablePlan
from temdiff_jax.io import write
from temdiff_jax.model import conv
from temdiff_jax.report import gallery


def define_flags() -> None:
    """Defines the flags; not on import, so that programs can be imported together."""
    flags.DEFINE_string("config", None, "Python file with get_config(): a TablePlan.")
    flags.DEFINE_string("data_dir", None, "Folder of the volumes.")
    flags.DEFINE_string("out", None, "Folder for result_gallery.png.")
    flags.DEFINE_string("volume", None, "Specimen, by name; the first if not given.")
    flags.DEFINE_list("cases", [], "Of the table; all if empty.")
    flags.DEFINE_list("only", [], "Runs to show, by name; all if empty.")
    flags.DEFINE_integer("slice_y", None, "Row of the slice; the middle if not given.")
    flags.DEFINE_multi_string(
        "prior", [], "FILE for the default, or NAME=FILE for the method of that name."
    )
    flags.DEFINE_multi_string("set", [], "Override of the configuration: field=value.")
    flags.DEFINE_string("compile_cache", None, "Own folder for compiled code.")
    flags.DEFINE_bool("overwrite", False, "Replace existing files.")
    flags.mark_flags_as_required(["config", "data_dir", "out"])


def choose(config: TablePlan, volume: str | None, cases: Sequence[str]) -> TablePlan:
    """The part of a table that is about one specimen and some cases.

    Raises:
      InputError: A name that the table does not have.
    """
    names = [each.name for each in config.volumes]
    if volume is not None and volume not in names:
        raise InputError(
            f"--volume: expected one of {names}, got {volume}; choose one of the table"
        )
    unknown = [case for case in cases if case not in config.cases]
    if unknown:
        raise InputError(
            f"--cases: expected some of {list(config.cases)}, got {unknown}; choose "
            "from the table"
        )
    chosen = config.volumes[names.index(volume) if volume else 0]
    return dataclasses.replace(
        config, volumes=(chosen,), cases=tuple(cases) or config.cases, blocks=1
    )


def estimates(
    config: TablePlan,
    truth: np.ndarray,
    name: str,
    case: str,
    made: Mapping[str, runner.Method],
) -> Iterator[tuple[str, np.ndarray]]:
    """Every estimate of one series after its best gain and offset, ``[z, y, x]``.

    Args:
      config: Seed and alignment of the series.
      truth: ``[z, y, x]``.
      name: Of the block, which seeds its noise.
      case: ``range/step``.
      made: Methods by name.

    Yields:
      Name of the row and volume.
    """
    angles = protocol.Case.from_name(case).angles_deg
    tilts = runner.make_simulate(errors=config.regimes[0].errors)(
        truth, angles, protocol.seed_for(config.seed, name, case)
    )
    seen = metrics.seen_by_all_views(truth.shape, angles)
    for label, method in made.items():
        found = method(tilts, angles, truth.shape[0])
        several = found if isinstance(found, dict) else {"": found}
        for more, estimate in several.items():
            if isinstance(estimate, protocol.Estimate):
                estimate = estimate.volume
            match = metrics.affine_match(estimate, truth, seen)
            row = f"{label}, {more}" if more else label
            print(
                f"{case} {row}: PSNR {metrics.psnr(match.volume, truth, seen):.2f} dB",
                flush=True,
            )
            yield row, match.volume


def run(given: flags.FlagValues) -> None:
    """Reconstructs, and writes the picture."""
    if given.compile_cache:
        jax.config.update("jax_compilation_cache_dir", given.compile_cache)
    table = program.resolve(given.config, given.set)
    plan.check(table)
    out = pathlib.Path(given.out)
    out.mkdir(parents=True, exist_ok=True)
    target = out / "result_gallery.png"
    write.check_output(target, overwrite=given.overwrite)
    config = choose(table, given.volume, given.cases)
    priors = evaluate.parse_priors(given.prior)
    runs, left_out = evaluate.choose_runs(config, given.only, priors)
    for line in left_out:
        print(line, flush=True)
    made = {run.name: methods.make_method(run, config.seed, priors) for run in runs}
    ((name, truth),) = evaluate.load_truths(config, given.data_dir).items()
    row = truth.shape[1] // 2 if given.slice_y is None else given.slice_y
    if not 0 <= row < truth.shape[1]:
        raise InputError(
            f"--slice_y: expected a row from 0 to {truth.shape[1] - 1}, got {row}; "
            "choose one of the block"
        )
    pictures = {}
    for case in config.cases:
        shown = {"truth": truth, **dict(estimates(config, truth, name, case, made))}
        pictures[case] = {label: volume[:, row, :] for label, volume in shown.items()}
    columns = list(pictures[config.cases[0]])
    gallery.write_gallery(
        target,
        {f"{case} degrees": list(row.values()) for case, row in pictures.items()},
        title=f"{name}, {config.regimes[0].name} series, xz at y = {row}, z upwards",
        columns=columns,
        overwrite=given.overwrite,
    )


def main(argv: Sequence[str]) -> None:
    """Runs, and exits with 2 on bad input."""
    conv.prefer_own(os.environ)
    with program.refusals("result_gallery", argv):
        run(flags.FLAGS)


if __name__ == "__main__":
    define_flags()
    app.run(main)
