"""One reconstruction as a user sees it: lines, progress, files, a summary."""

import dataclasses
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
from temdiff_jax.io import write
from temdiff_jax.io.tilt_series import TiltSeries


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

    @property
    def draws(self) -> bool:
        """Whether the method that was chosen draws samples."""
        return "num_samples" in self.choice.method.takes

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
    if series.alignment is not None:
        session.say_later([lying(series)])
    if cache is None:
        session.say_later(["warning: no private cache folder; every run compiles anew"])
    from temdiff_jax.reconstruction import save, watch

    planned = _planned(series, settings)
    session.say_later([f"warning: {line}" for line in planned.doubts])
    series = dataclasses.replace(series, warnings=(*series.warnings, *planned.doubts))
    run = watch.run_id(planned.identity())
    if settings.resume and outputs.complete(files, run):
        session.say(f"complete already: {files.record}, run {run}")
        record = json.loads(files.record.read_text(encoding="utf-8"))
        _print_summary(session, record, files)
        return record
    expected = outlook.Outlook.of(
        planned, keeps=settings.dry_run or files.state is not None
    )
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
        origin = save.labels(result, series.sha256)
        turned: dict[str, Any] = {
            "tilt_axis": series.tilt_axis,
            "overwrite": files.overwrite,
        }
        save.write_volumes(result, files.volumes(), origin, **turned)
        timings["write_volumes_s"] = time.monotonic() - started
        record = make_record(series, settings, result, command=command, source=source)
        record["arguments"] = session.arguments
        record["timings_s"] = timings
        record["forecast"] = expected.record()
        record["sha256"] = outputs.volume_digests(files)
        record["outputs"] = [path.name for path in files.paths()]
        failure = None
        try:
            footer = _footer(session, series, result, origin)
            page = save.page_of(
                result,
                describe(series),
                footer,
                reference=reference,
                tilt_axis=series.tilt_axis,
            )
            both = (files.cover, files.report)
            save.write_reports(result, both, page, record, **turned)
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


def lying(series: TiltSeries) -> str:
    """One line about shifts and turns of a series that is used as it was recorded."""
    own = series.alignment
    assert own is not None
    shift = float(np.hypot(*own.shifts_px.T).max())
    turn = own.rotations_deg[np.argmax(np.abs(own.rotations_deg))]
    line = (
        f"images as recorded; their alignment has shifts of up to {shift:.1f} pixels "
        f"and turns of up to {turn:.2f} degrees"
    )
    if np.ptp(own.magnifications) or own.magnifications[0] != 1:
        line += f", magnifications of {own.magnifications.min():.4f} to "
        line += f"{own.magnifications.max():.4f}"
    if own.x_tilt_deg:
        line += f", x-tilt {own.x_tilt_deg:g} degrees"
    return line


def make_record(
    series: TiltSeries,
    settings: Settings,
    result: Any,
    *,
    command: str,
    source: dict[str, Any],
) -> dict[str, Any]:
    """Everything needed to judge and repeat a run, ready for JSON."""
    from temdiff_jax.reconstruction import save

    return save.record(result, series.warnings) | {
        "command": command,
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
        alignment=series.alignment,
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


def _footer(
    session: Session, series: TiltSeries, result: Any, origin: list[str]
) -> list[str]:
    """What stands below the page: origin, command, decisions and doubts."""
    from temdiff_jax.reconstruction import notes

    warned = (*series.warnings, *notes.warnings(result.provenance))
    return [
        f"temdiff_jax {environment.own_version()}; " + "; ".join(origin),
        "temdiff " + shlex.join(session.arguments),
        *notes.decisions(result.provenance),
        *(f"warning: {line}" for line in warned),
    ]


def _print_summary(session: Session, record: dict[str, Any], files: Outputs) -> None:
    """Prints the record for machines, or what was made and how well it fits."""
    from temdiff_jax.reconstruction import notes

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
    for line in notes.decisions(record["library"]):
        typer.echo(line)
    for line in notes.warnings(record["library"]):
        typer.echo(f"warning: {line}")
    for path in files.paths():
        typer.echo(f"wrote {path}")
