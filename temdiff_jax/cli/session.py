"""One reconstruction as a user sees it: lines, progress, four files, a summary."""

import dataclasses
import datetime
import json
import shlex
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import rich.console
import typer

from temdiff_jax.cli import (
    choices,
    environment,
    options,
    outlook,
    outputs,
    progress,
    signals,
)
from temdiff_jax.cli.outputs import Outputs
from temdiff_jax.io import axis, write
from temdiff_jax.io.tilt_series import TiltSeries

RECORD_FORMAT = "temdiff-run-1"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Parameters of a reconstruction; None leaves a choice to the library."""

    sampling: choices.Sampling = choices.Sampling()
    thickness: int | None = None
    seed: int = 0
    log: str = "auto"
    weighting: str = options.DEFAULT_WEIGHTING
    choice: Any = None
    effort: tuple[str, ...] = ()
    dry_run: bool = False
    resume: bool = False

    def checked(self) -> "Settings":
        """With the choice of the library, and lines about its effort.

        Raises:
          InputError: Anything about the method that is not known or does not fit.
        """
        environment.prepare_jax()
        choice, effort = _choose(self.sampling)
        return dataclasses.replace(self, choice=choice, effort=tuple(effort))


class Session:
    """Where a command writes its lines: standard error, results to standard output."""

    def __init__(self, arguments: Sequence[str] = (), *, as_json: bool = False) -> None:
        self.arguments = list(arguments)
        self.console = rich.console.Console(stderr=True)
        self.as_json = as_json
        self._waiting: list[str] = []

    def say(self, line: str) -> None:
        """Print one line on standard error, however long."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def say_later(self, lines: Sequence[str]) -> None:
        """Hold lines back until the work begins, so that a refusal stays one line."""
        self._waiting.extend(lines)

    def begin(self) -> None:
        """Print the lines held back."""
        waiting, self._waiting = self._waiting, []
        for line in waiting:
            self.say(line)


def reconstruct(
    session: Session,
    series: TiltSeries,
    settings: Settings,
    files: Outputs,
    *,
    command: str,
    source: dict[str, Any],
    reference: np.ndarray | None = None,
) -> dict[str, Any]:
    """Reconstructs a series, writes its files and prints the summary.

    Args:
      session: Where to print.
      series: Checked tilts, axis along y.
      settings: Parameters of the reconstruction.
      files: Checked targets.
      command: Name of the command, for the record.
      source: What the record says about the input files.
      reference: Reconstruction of the full tilt range [z, y, x], for the report.

    Returns:
      The record, as written to the JSON file.
    """
    cache = environment.prepare_jax()
    session.say_later([f"warning: {line}" for line in series.warnings])
    session.say_later([describe(series), *settings.effort])
    if cache is None:
        session.say_later(["warning: no private cache folder; every run compiles anew"])
    from temdiff_jax.reconstruction import watch

    planned = _planned(series, settings)
    run = watch.run_id(planned.identity())
    if settings.resume and outputs.complete(files, run):
        session.say(f"complete already: {files.record}, run {run}")
        record = json.loads(files.record.read_text(encoding="utf-8"))
        _print_summary(session, record, files)
        return record
    expected = outlook.Outlook.of(planned, keeps=files.state is not None)
    if settings.dry_run:
        session.begin()
        expected.show(as_json=session.as_json)
        return {}
    if settings.resume:
        outputs.prepare(files.record.parent, files.paths(), overwrite=files.overwrite)
    expected.check(files)
    hint = "" if files.state is None else "; the same command with --resume goes on"
    started = time.monotonic()
    with signals.heard(f"interrupted{hint}"):
        result = _call(session, planned, files, expected.forecast.steps())
        timings = {"reconstruct_s": time.monotonic() - started}
        outputs.begin_writing(files)
        started = time.monotonic()
        _write_volumes(series, settings, result, files)
        timings["write_volumes_s"] = time.monotonic() - started
        record = make_record(series, settings, result, command=command, source=source)
        record["arguments"] = session.arguments
        record["timings_s"] = timings
        record["forecast"] = expected.record()
        record["sha256"] = outputs.volume_digests(files)
        record["outputs"] = [path.name for path in files.paths()]
        failure = None
        try:
            _write_report(session, series, settings, result, files, reference)
        except Exception as error:  # hours of work must not depend on a font
            failure = error
        write.write_json(files.record, record, overwrite=files.overwrite)
        if files.state is not None:
            watch.remove_folder(files.state)
    if failure is not None:
        raise failure
    _print_summary(session, record, files)
    return record


def describe(series: TiltSeries) -> str:
    """One line about a series: tilts, angles, pixels, pixel size."""
    _, height, width = series.tilts.shape
    size = series.voxel_size_angstrom
    pitch = "pixel size unknown" if size is None else f"{size:g} Angstrom a pixel"
    return (
        f"{series.name}: {series.num_tilts} tilts from {series.angles_deg[0]:g} to "
        f"{series.angles_deg[-1]:g} degrees, {height} x {width} pixels (y, x), {pitch}"
    )


def make_record(
    series: TiltSeries,
    settings: Settings,
    result: Any,
    *,
    command: str,
    source: dict[str, Any],
) -> dict[str, Any]:
    """Everything needed to judge and repeat a run, ready for JSON."""
    from temdiff_jax import geometry

    return {
        "format": RECORD_FORMAT,
        "run": result.provenance["run"],
        "command": command,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "convention": geometry.CONVENTION,
        "config": source.get("config", {}),
        "input": {
            **{key: value for key, value in source.items() if key != "config"},
            "sha256": series.sha256,
            "tilt_axis": series.tilt_axis,
            "tilts_shape": list(series.tilts.shape),
        },
        "parameters": {
            **dataclasses.asdict(settings.sampling),
            "samples": result.provenance["num_samples"],
            "steps": result.provenance["num_steps"],
            "thickness": int(result.mean.shape[0]),
            "seed": settings.seed,
            "log": settings.log,
            "weighting": settings.weighting,
        },
        "voxel_size_angstrom": series.voxel_size_angstrom,
        "volume_shape": list(result.mean.shape),
        "angles_deg": series.angles_deg,
        "chi2": np.asarray(result.chi2),
        "weights": np.asarray(result.weights),
        "library": dict(result.provenance),
        "warnings": [
            *series.warnings,
            *(line.removeprefix("warning: ") for line in _doubts(result.provenance)),
        ],
        "device": environment.device_kind(),
        "versions": environment.versions(),
    }


def _choose(sampling: choices.Sampling) -> tuple[Any, list[str]]:
    """The choice of the library, and a line about its effort if it draws samples."""
    from temdiff_jax.reconstruction.methods import method_of

    row = method_of(sampling.method)
    if "num_samples" not in row.takes:
        return choices.choose(sampling), []
    if row.sampling is not None:
        choice = choices.choose(sampling)
        own = choice.settings
        return choice, [f"{own.num_samples} samples of {own.num_steps} steps"]
    samples, steps, line = options.effort(
        sampling.samples, sampling.steps, on_cpu=environment.on_cpu()
    )
    chosen = dataclasses.replace(sampling, samples=samples, steps=steps)
    return choices.choose(chosen), [line]


def _planned(series: TiltSeries, settings: Settings) -> Any:
    """What the library will do, checked."""
    from temdiff_jax.reconstruction import plan
    from temdiff_jax.series.preparation import SeriesOptions

    options = SeriesOptions(
        thickness=settings.thickness,
        voxel_size_angstrom=series.voxel_size_angstrom,
        log=settings.log,
        weighting=settings.weighting,
    )
    return plan.make_plan(
        series.tilts, series.angles_deg, settings.choice, options, key=settings.seed
    )


def _call(
    session: Session, planned: Any, files: Outputs, expected: Sequence[float]
) -> Any:
    """Runs the library under a progress display."""
    from temdiff_jax.reconstruction import api

    reporter = progress.reporter(session.console, expected=expected)

    def on_progress(done: int, total: int, message: str) -> None:
        session.begin()
        reporter(done, total, message)

    with reporter:
        result = api.run(planned, state=files.state, on_progress=on_progress)
    session.begin()
    return result


def _write_volumes(
    series: TiltSeries, settings: Settings, result: Any, files: Outputs
) -> None:
    """Writes mean and standard deviation in the axes of the input file."""
    labels = _labels(series, settings, result)
    for path, volume, kind in (
        (files.mean, result.mean, f"mean, method {settings.sampling.method}"),
        (files.std, result.std, "standard deviation of the samples, uncalibrated"),
    ):
        write.write_mrc(
            path,
            axis.volume_to_file(np.asarray(volume), series.tilt_axis),
            series.voxel_size_angstrom,
            labels=[f"temdiff_jax {environment.own_version()}: {kind}", *labels],
            overwrite=files.overwrite,
        )


def _labels(series: TiltSeries, settings: Settings, result: Any) -> list[str]:
    """MRC labels that still tell a lost file's origin."""
    low, high = series.angles_deg[0], series.angles_deg[-1]
    used, made = settings.sampling, result.provenance
    return [
        f"prior {used.prior}, seed {settings.seed}, method {used.method}",
        f"{made['num_samples']} samples of {made['num_steps']} steps",
        f"run {made['run']}, input sha256 {series.sha256[:16]}",
        f"{series.num_tilts} tilts from {low:g} to {high:g} degrees",
    ]


def _write_report(
    session: Session,
    series: TiltSeries,
    settings: Settings,
    result: Any,
    files: Outputs,
    reference: np.ndarray | None,
) -> None:
    """Draws the page; its data are what the reconstruction was compared with."""
    from temdiff_jax import baselines, report

    reprojection, residual = (
        np.asarray(result.reprojection),
        np.asarray(result.residual),
    )
    # The residual is projected minus measured, so this is the measured series after
    # whatever linearisation the library chose.
    measured = reprojection - residual
    thickness = int(result.mean.shape[0])
    fbp = baselines.fbp(measured, series.angles_deg, thickness=thickness)
    page = report.Page(
        volumes={
            "fbp": np.asarray(fbp),
            "tikhonov": np.asarray(result.tikhonov),
            "mean": np.asarray(result.mean),
            "std": np.asarray(result.std),
        },
        tilts=measured,
        reprojection=reprojection,
        residual=residual,
        angles_deg=series.angles_deg,
        chi2=np.asarray(result.chi2),
        title=describe(series),
        voxel_size_angstrom=series.voxel_size_angstrom,
        reference=reference,
        footer=[
            f"temdiff_jax {environment.own_version()}; "
            + "; ".join(_labels(series, settings, result)),
            "temdiff " + shlex.join(session.arguments),
            *(f"warning: {line}" for line in series.warnings),
            *_doubts(result.provenance),
            "data consistency cannot validate content the tilts do not measure",
        ],
    )
    report.write_page(files.report, page, overwrite=files.overwrite)


def _doubts(provenance: dict[str, Any]) -> list[str]:
    """Misalignment, and tilts that hardly count, a line each."""
    record = provenance.get("weighting", {})
    lines = [
        f"warning: tilt at {tilt['angle_deg']:g} degrees disagrees with the others, "
        f"weight factor {tilt['factor']:.2f}"
        for tilt in record.get("unreliable", ())
    ]
    shift = record.get("misalignment_px", 0.0)
    if shift:
        lines.insert(
            0,
            f"warning: tilts are off by some {shift:.1f} pixels and were trusted "
            "accordingly; align them better for a better volume",
        )
    return lines


def _print_summary(session: Session, record: dict[str, Any], files: Outputs) -> None:
    """Prints the record for machines, or what was made and how well it fits."""
    if session.as_json:
        typer.echo(files.record.read_text(encoding="utf-8"), nl=False)
        return
    chi2 = np.asarray(record["chi2"], np.float64)
    worst = int(np.nanargmax(chi2))
    nz, ny, nx = record["volume_shape"]
    typer.echo(f"volume {nz} x {ny} x {nx} (z, y, x)")
    typer.echo(
        f"chi2/n median {np.nanmedian(chi2):.2f}, highest {chi2[worst]:.2f} at "
        f"{record['angles_deg'][worst]:g} degrees (expected 1)"
    )
    for line in _doubts(record["library"]):
        typer.echo(line)
    for path in files.paths():
        typer.echo(f"wrote {path}")
