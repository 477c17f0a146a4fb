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

from temdiff_jax.cli import choices, environment, outlook, outputs, progress, signals
from temdiff_jax.cli.outputs import Outputs
from temdiff_jax.cli.request import Model
from temdiff_jax.io import write
from temdiff_jax.io.tilt_series import TiltSeries


@dataclasses.dataclass(frozen=True)
class Settings:
    """Parameters of a reconstruction, as a user wrote them and as they are meant."""

    sampling: choices.Sampling = choices.Sampling()
    model: Model = Model()
    choice: Any = None
    devices: int = 1
    dry_run: bool = False
    resume: bool = False

    @property
    def draws(self) -> bool:
        """Whether samples are drawn that have a standard deviation."""
        takes = "num_samples" in self.choice.method.takes
        return takes and self.choice.settings.num_samples > 1

    def checked(self) -> "Settings":
        """With the choice of the library.

        Raises:
          InputError: Anything about the method that is not known or does not fit.
        """
        environment.prepare_jax()
        return dataclasses.replace(self, choice=choices.choose(self.sampling))

    def of(self, series: TiltSeries) -> "Settings":
        """With what the files of a series say of the slab, see `Model.of`."""
        return dataclasses.replace(self, model=self.model.of(series))

    def planned(self, series: TiltSeries) -> Any:
        """What the library will do, checked; nothing is computed."""
        from temdiff_jax import parallel
        from temdiff_jax.reconstruction import plan

        mesh = None
        if self.devices > 1:
            rows = series.tilts.shape[1]
            shares = plan.division(self.choice, rows, self.devices)
            mesh = parallel.sampling_mesh(*shares)
        return plan.make_plan(
            series.tilts,
            series.angles_deg,
            self.choice,
            self.model.series_options(series),
            key=self.model.seed,
            mesh=mesh,
        )


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
    session.say_later([describe(series)])
    session.say_later(choices.effort(settings.choice, settings.sampling))
    if series.alignment is not None:
        session.say_later([lying(series)])
    if cache is None:
        session.say_later(["warning: no private cache folder; every run compiles anew"])
    from temdiff_jax.reconstruction import save, watch

    planned = settings.planned(series)
    session.say_later([f"warning: {line}" for line in planned.doubts])
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
            words = "temdiff " + shlex.join(session.arguments)
            footer = save.footer(result, origin, words)
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


def consistent(record: dict[str, Any]) -> bool:
    """Whether the verdict of a run is that its tilts agree with each other."""
    from temdiff_jax.trust import verdict

    return bool((record.get("trust") or {}).get("verdict") == verdict.CONSISTENT)


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

    return save.record(result) | {
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
            "numbers": list(settings.sampling.numbers or ()),
            "samples": result.provenance["num_samples"],
            "steps": result.provenance["num_steps"],
            "thickness": int(result.mean.shape[0]),
            "seed": settings.model.seed,
            "log": settings.model.log,
            "contrast": settings.model.contrast,
            "weighting": settings.model.weighting,
        },
        "device": environment.device_kind(),
        "versions": environment.versions(),
    }


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


def _print_summary(session: Session, record: dict[str, Any], files: Outputs) -> None:
    """Prints the record for machines, or what was made and how well it fits."""
    from temdiff_jax.reconstruction import notes

    if session.as_json:
        typer.echo(files.record.read_text(encoding="utf-8"), nl=False)
        return
    chi2 = np.asarray(record["chi2"], np.float64)
    worst = int(np.nanargmax(chi2))
    nz, ny, nx = record["volume_shape"]
    for line in notes.verdict(record):
        typer.echo(line)
    typer.echo(f"volume {nz} x {ny} x {nx} (z, y, x)")
    typer.echo(
        f"chi2/n median {np.nanmedian(chi2):.2f}, highest {chi2[worst]:.2f} at "
        f"{record['angles_deg'][worst]:g} degrees, over the variance that was assumed"
    )
    for line in notes.decisions(record["library"]):
        typer.echo(line)
    for line in notes.warnings(record["library"]):
        typer.echo(f"warning: {line}")
    for path in files.paths():
        typer.echo(f"wrote {path}")
