"""Makes a result table: computes what is missing, then writes Markdown, JSON, plots.

    python -m launch.evaluate --config=configs/tables/t1.py --data_dir=DATA \\
        --out=runs/tables
    python -m launch.evaluate --config=configs/tables/t1.py --out=runs/tables --rebuild

Every finished run is a line in OUT/rows_REGIME.jsonl, so that the same command again
goes on where it was stopped, and tables of the same methods share their rows. --rebuild
makes the table of the rows that are there and computes nothing.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from absl import app, flags

import temdiff_jax
from launch import program
from temdiff_jax.errors import InputError
from temdiff_jax.evaluation import (
    methods,
    plan,
    protocol,
    publish,
    results,
    runner,
)
from temdiff_jax.evaluation.plan import Run, TablePlan
from temdiff_jax.io import write
from temdiff_jax.model import conv
from temdiff_jax.report import charts
from temdiff_jax.simulator import grey_to_stain
from temdiff_jax.training.volumes import load_sources

_COST_ROWS = "rows_cost.jsonl"
_PROCESS = pathlib.Path("/proc/self")


def define_flags() -> None:
    """Defines the flags; not on import, so that programs can be imported together."""
    flags.DEFINE_string("config", None, "Python file with get_config(): a TablePlan.")
    flags.DEFINE_string("data_dir", None, "Folder of the volumes; not for --rebuild.")
    flags.DEFINE_string("out", None, "Folder for rows and tables.")
    flags.DEFINE_list("only", [], "Runs to compute, by name; all if empty.")
    flags.DEFINE_bool("rebuild", False, "Tables from the rows, nothing computed.")
    flags.DEFINE_multi_string(
        "prior", [], "FILE for the default, or NAME=FILE for the method of that name."
    )
    flags.DEFINE_multi_string("set", [], "Override of the configuration: field=value.")
    flags.DEFINE_string("compile_cache", None, "Own folder for compiled code.")
    flags.DEFINE_string("measure", None, "RUN@CASE of a cost table, in this process.")
    flags.mark_flags_as_required(["config", "out"])


def load_truths(config: TablePlan, data_dir: str) -> dict[str, np.ndarray]:
    """Cubes ``[z, y, x]`` of stain density by name, see `plan.volume_names`."""
    truths = {}
    for volume in config.volumes:
        (grey,) = load_sources(data_dir, (volume.file,))
        stain = grey_to_stain(grey, stain_is_dark=volume.stain_is_dark)
        cubes = plan.cut(stain.shape, config.crop, config.blocks, config.height)
        for name, block in plan.volume_names(config, volume):
            truths[name] = np.ascontiguousarray(stain[cubes[block]])
    return truths


def compute(
    config: TablePlan,
    data_dir: str,
    out: pathlib.Path,
    runs: Sequence[Run],
    priors: methods.Priors,
) -> None:
    """Runs what is missing in the files of rows."""
    truths = load_truths(config, data_dir)
    made = {run.name: methods.make_method(run, config.seed, priors) for run in runs}
    made_by = {
        "device": jax.devices()[0].device_kind,
        "version": temdiff_jax.__version__,
        "jax": jax.__version__,
    }
    about = {name: {**more, **made_by} for name, more in plan.about(config).items()}
    cases = [protocol.Case.from_name(name) for name in config.cases]
    for regime in config.regimes:
        protocol.evaluate(
            truths,
            cases,
            made,
            runner.make_simulate(errors=regime.errors),
            seed=config.seed,
            store=results.ResultStore(out / f"rows_{regime.name}.jsonl", about),
            on_row=lambda row, regime=regime: print(
                f"{regime.name} {describe(row)}", flush=True
            ),
        )


def describe(row: protocol.Row) -> str:
    """One line about a new row."""
    score = row["failed"] or f"RMSE {row['matched']['rmse']:.4f}"
    name = f"{row['volume']} {row['case']} {row['method']}"
    return f"{name}: {score}, {row['seconds']:.1f} s"


def measure(
    config: TablePlan, run: Run, case_name: str, data_dir: str, priors: methods.Priors
) -> dict[str, Any]:
    """Time and memory of one method on the first specimen, in this process.

    Its memory is the most that the process held meanwhile beyond what it held before:
    only the first method of a fresh process tells it.
    """
    first = dataclasses.replace(config, volumes=config.volumes[:1], replicates=1)
    truths = load_truths(first, data_dir)
    name, truth = next(iter(truths.items()))
    case = protocol.Case.from_name(case_name)
    angles = case.angles_deg
    tilts = runner.make_simulate(errors=config.regimes[0].errors)(
        truth, angles, protocol.seed_for(config.seed, name, case.name)
    )
    method = methods.make_method(run, config.seed, priors)
    before = _forget_peak()
    seconds = [
        _seconds(method, tilts, angles, truth.shape[0])
        for _ in range(1 + config.repeats)
    ]
    statistics = jax.devices()[0].memory_stats() or {}
    return {
        "method": run.name,
        "case": case.name,
        "volume": name,
        "shape": list(truth.shape),
        "first_seconds": seconds[0],
        "seconds": seconds[1:],
        "calls": _count(method.calls, angles),
        "pairs": _count(method.pairs, angles),
        "peak_bytes": None if before is None else _status("VmHWM") - before,
        "device_peak_bytes": statistics.get("peak_bytes_in_use"),
        "device": jax.devices()[0].device_kind,
        "version": temdiff_jax.__version__,
        "settings": method.settings,
    }


def _seconds(method: methods.Method, tilts, angles, thickness: int) -> float:
    start = time.perf_counter()
    method(tilts, angles, thickness)  # arrays of the host: the device is done
    return time.perf_counter() - start


def _count(count: Any, angles: np.ndarray) -> float | None:
    return count(angles) if callable(count) else count


def _forget_peak() -> int | None:
    """Starts the record of the largest memory anew; bytes held now.

    None where the system keeps no such record (Linux does, see proc(5)).
    """
    try:
        (_PROCESS / "clear_refs").write_text("5")
    except OSError:
        return None
    return _status("VmRSS")


def _status(field: str) -> int:
    lines = (_PROCESS / "status").read_text(encoding="ascii").splitlines()
    (line,) = [line for line in lines if line.startswith(f"{field}:")]
    return 1024 * int(line.split()[1])


def cost_rows(config: TablePlan, out: pathlib.Path) -> list[dict[str, Any]]:
    """Measured runs of a cost table, in its order; the last of a kind counts."""
    path = out / _COST_ROWS
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    volume, _ = plan.volume_names(config, config.volumes[0])[0]
    found = {}
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue  # cut short; measured again
        if row["volume"] == volume:
            found[row["case"], row["method"]] = row
    order = [(case, run.name) for case in config.cases for run in config.runs]
    return [found[key] for key in order if key in found]


def measure_all(
    config: TablePlan,
    out: pathlib.Path,
    runs: Sequence[Run],
    command: Sequence[str],
    call: Callable[..., Any] = subprocess.run,
) -> None:
    """Each method and case that is missing, in a process of its own."""
    done = {(row["case"], row["method"]) for row in cost_rows(config, out)}
    for case in config.cases:
        for run in runs:
            if (case, run.name) in done:
                continue
            ended = call([*command, f"--measure={run.name}@{case}"], check=False)
            if ended.returncode:
                raise InputError(
                    f"{run.name} at {case}: expected a process that ends with code 0, "
                    f"got {ended.returncode}; see what it printed"
                )


def write_table(config: TablePlan, out: pathlib.Path) -> str:
    """Table of the rows that are there: OUT/NAME.md, .json and .png; the Markdown."""
    rows: dict[str, Sequence[protocol.Row]] = {}
    if config.kind == "cost":
        rows["cost"] = cost_rows(config, out)
    else:
        for regime in config.regimes:
            path = out / f"rows_{regime.name}.jsonl"
            if path.is_file():
                rows[regime.name] = plan.select(results.read_rows(path), config)
    table = publish.publish(config, rows)
    stem = out / config.name
    write.write_text(stem.with_suffix(".md"), table.markdown, overwrite=True)
    write.write_json(
        stem.with_suffix(".json"), table.content, overwrite=True, indent=None
    )
    charts.write_charts(
        stem.with_suffix(".png"), table.panels, title=config.title, overwrite=True
    )
    return table.markdown


def parse_priors(given: Sequence[str]) -> dict[str, str]:
    """``FILE`` or ``NAME=FILE`` by name."""
    found = {}
    for text in given:
        name, sep, path = text.partition("=")
        found[name if sep else "default"] = path if sep else text
    return found


def choose_runs(
    config: TablePlan, only: Sequence[str], priors: methods.Priors
) -> tuple[list[Run], list[str]]:
    """Runs to compute, and a line about each that is left out for want of weights.

    Raises:
      InputError: A name that the table does not have.
    """
    unknown = [name for name in only if name not in [run.name for run in config.runs]]
    if unknown:
        raise InputError(
            f"--only: expected some of {[run.name for run in config.runs]}, got "
            f"{unknown}; correct the list"
        )
    asked = [run for run in config.runs if not only or run.name in only]
    ready = [
        run
        for run in asked
        if not run.weights or run.weights in priors or run.kind in priors
    ]
    return ready, [
        f"{run.name}: left out, it needs --prior={run.weights}=FILE"
        for run in asked
        if run not in ready
    ]


def run(given: flags.FlagValues) -> None:
    """Computes what is missing and writes the table."""
    if given.compile_cache:
        jax.config.update("jax_compilation_cache_dir", given.compile_cache)
    config = program.resolve(given.config, given.set)
    plan.check(config)
    out = pathlib.Path(given.out)
    out.mkdir(parents=True, exist_ok=True)
    priors = parse_priors(given.prior)
    if not given.rebuild and given.data_dir is None:
        raise InputError(
            "--data_dir: expected the folder of the volumes, got none; give it, or "
            "--rebuild to tabulate what was computed"
        )
    if given.measure:
        name, _, case = given.measure.partition("@")
        (chosen,), _ = choose_runs(config, [name], priors)
        row = measure(config, chosen, case, given.data_dir, priors)
        with (out / _COST_ROWS).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row, allow_nan=False) + "\n")
        print(f"{name} at {case}: {row['seconds']} s", flush=True)
        return
    if not given.rebuild:
        runs, left_out = choose_runs(config, given.only, priors)
        for line in left_out:
            print(line, flush=True)
        if config.kind == "cost":
            measure_all(config, out, runs, child_command(given))
        else:
            compute(config, given.data_dir, out, runs, priors)
    print(write_table(config, out), flush=True)


def child_command(given: flags.FlagValues) -> list[str]:
    """This program again, without a cache, which would hide compilation."""
    command = [sys.executable, "-m", "launch.evaluate", f"--config={given.config}"]
    command += [f"--data_dir={given.data_dir}", f"--out={given.out}"]
    command += [f"--set={text}" for text in given.set]
    return command + [f"--prior={text}" for text in given.prior]


def main(argv: Sequence[str]) -> None:
    """Runs, and exits with 2 on bad input."""
    conv.prefer_own(os.environ)
    with program.refusals("evaluate", argv):
        run(flags.FLAGS)


if __name__ == "__main__":
    define_flags()
    app.run(main)
