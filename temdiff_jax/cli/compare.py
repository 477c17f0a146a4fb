"""`temdiff compare`: several methods on one series, one page and one table."""

import dataclasses
import json
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from temdiff_jax.cli import choices, groups, options, request
from temdiff_jax.errors import InputError

if TYPE_CHECKING:
    from temdiff_jax.io.tilt_series import TiltSeries

DEFAULT = "fbp,sart,tikhonov,default"
# Columns of the table: key of a row, heading.
COLUMNS = (
    ("method", "method"),
    ("chi2_median", "chi2/n median"),
    ("chi2_highest", "chi2/n highest"),
    ("spread", "mean std"),
    ("calls", "network calls"),
    ("seconds", "seconds"),
)


@groups.flat
def compare(
    context: typer.Context,
    tilts: request.Source,
    model: request.Model,
    *,
    methods: Annotated[
        str, typer.Option(metavar="NAME,...", help="Methods; see temdiff methods.")
    ] = DEFAULT,
    samples: choices.Samples = None,
    steps: choices.Steps = None,
    numbers: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="[METHOD.]NAME=VALUE",
            help="A number of one published sampler, or of all that have it, as "
            "temdiff methods lists them; may be repeated.",
        ),
    ] = None,
    prior: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE|NAME=FILE",
            help="Prior, or the weights of one method or of those that share them; "
            "may be repeated.",
        ),
    ] = None,
    out: options.Out = pathlib.Path(),
    volumes: Annotated[
        bool, typer.Option("--volumes", help="Write the volume of each method too.")
    ] = False,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Reconstruct a series by several methods; writes one page and one table.

    Writes NAME_compare.html, which needs no other file, and NAME_compare.json.
    """
    names = tuple(dict.fromkeys(n.strip() for n in methods.split(",") if n.strip()))

    from temdiff_jax.cli import environment, outputs, session
    from temdiff_jax.io import write

    environment.prepare_jax()
    own = _numbers(names, numbers or ())
    shared = choices.Sampling(samples=samples, steps=steps)
    chosen = _choose(names, _weights(prior or ()), own, shared)
    series = tilts.load()
    model = model.of(series)
    page = out / f"{series.name}_compare.html"
    record = out / f"{series.name}_compare.json"
    written = [out / f"{series.name}_{n}.mrc" for n in names] if volumes else []
    outputs.prepare(
        out, [page, record, *written], overwrite=overwrite, inputs=tilts.files()
    )
    ui = session.Session(context.obj or (), as_json=as_json)
    results = _run(ui, series, chosen, model)
    rows = [_row(name, results[name], chosen[name]) for name in names]
    write.write_json(record, {"methods": rows}, overwrite=overwrite)
    _write_page(page, ui, series, results, rows, overwrite=overwrite)
    typer.echo(json.dumps(rows, indent=2) if as_json else table(rows))
    for path, name in zip(written, names):
        _write_volume(path, series, results[name].mean, name, overwrite=overwrite)
    for path in () if as_json else (*written, record, page):
        typer.echo(f"wrote {path}")


def _weights(given: Sequence[str]) -> dict[str, str]:
    """Files by the name of the method or of its weights; "prior" for the prior."""
    found = {}
    for text in given:
        name, equals, path = text.partition("=")
        found[name.replace("-", "_") if equals else "prior"] = path if equals else text
    return found


def _numbers(names: Sequence[str], given: Sequence[str]) -> dict[str, list[str]]:
    """Numbers by the name of the method that takes them.

    Raises:
      InputError: A number that none of the methods takes.
    """
    from temdiff_jax.reconstruction import methods as library

    known = {name: library.method_of(name).numbers for name in names}
    found: dict[str, list[str]] = {name: [] for name in names}
    for text in given:
        method, dot, number = text.partition("=")[0].strip().rpartition(".")
        taking = [n for n in names if number.replace("-", "_") in known[n]]
        if dot:
            taking = [name for name in names if name == method]
            text = text.strip()[len(method) + 1 :]
        if not taking:
            raise InputError(
                f"--set: expected a number of one of {', '.join(names)}, got "
                f"{text[:80]!r}; see temdiff methods"
            )
        for name in taking:
            found[name].append(text)
    return found


def _choose(
    names: Sequence[str],
    weights: Mapping[str, str],
    numbers: Mapping[str, list[str]],
    shared: choices.Sampling,
) -> dict[str, Any]:
    """Every method with its network, all of them checked before any work."""
    from temdiff_jax.reconstruction import methods as library

    if not names:
        raise InputError("--methods: expected names, got none; see temdiff methods")
    chosen = {}
    for name in names:
        keys = (name.replace("-", "_"), library.method_of(name).needs)
        prior = next((weights[key] for key in keys if key in weights), "default")
        chosen[name] = choices.choose(
            dataclasses.replace(shared, method=name, prior=prior, numbers=numbers[name])
        )
    return chosen


def _run(
    ui: Any, series: "TiltSeries", chosen: Mapping[str, Any], model: request.Model
) -> dict[str, Any]:
    """Runs the library under a progress display."""
    from temdiff_jax.cli import progress, session
    from temdiff_jax.reconstruction import api

    for line in (*(f"warning: {w}" for w in series.warnings), session.describe(series)):
        ui.say(line)
    reporter = progress.reporter(ui.console)
    with reporter:
        return api.compare(
            series.tilts,
            series.angles_deg,
            chosen,
            options=model.series_options(series),
            key=model.seed,
            on_progress=reporter,
        )


def _row(name: str, result: Any, choice: Any) -> dict[str, Any]:
    """What the table says of one method."""
    import numpy as np

    chi2 = np.asarray(result.chi2, np.float64)
    return {
        "method": name,
        "what": choice.method.summary,
        "chi2_median": float(np.nanmedian(chi2)),
        "chi2_highest": float(np.nanmax(chi2)),
        "spread": None if result.std is None else float(np.mean(result.std)),
        "calls": choice.method.calls(choice.settings),
        "seconds": float(result.provenance["seconds"]),
        "settings": result.provenance["settings"],
        "numbers": result.provenance.get("numbers", {}),
        "prior": result.provenance["prior"],
    }


def _write_page(
    path: pathlib.Path,
    ui: Any,
    series: "TiltSeries",
    results: Mapping[str, Any],
    rows: list[dict[str, Any]],
    *,
    overwrite: bool,
) -> None:
    """Table, volumes and, where samples were drawn, their standard deviations."""
    from temdiff_jax.cli import environment, session
    from temdiff_jax.report import compare as report

    drawn = {n: found.std for n, found in results.items() if found.std is not None}
    pictures = {"Reconstructions": {n: found.mean for n, found in results.items()}}
    if drawn:
        pictures["Standard deviation of the samples, uncalibrated"] = drawn
    page = report.Page(
        title=session.describe(series),
        table=[
            [*cells, note]
            for cells, note in zip(_cells(rows), ["what", *(r["what"] for r in rows)])
        ],
        volumes=pictures,
        notes=[
            *_verdict(results),
            "chi2/n: squared residual over noise variance, per tilt; expected 1. Data "
            "consistency cannot validate content the tilts do not measure.",
            f"temdiff_jax {environment.own_version()}: temdiff "
            + shlex.join(ui.arguments),
            *(f"warning: {line}" for line in series.warnings),
        ],
    )
    report.write_comparison_page(
        path,
        page,
        voxel_size_angstrom=series.voxel_size_angstrom,
        overwrite=overwrite,
    )


def _verdict(results: Mapping[str, Any]) -> list[str]:
    """What the first result says of the series, which is the same for all."""
    from temdiff_jax.reconstruction import notes

    return notes.verdict(next(iter(results.values())).provenance)[:1]


def _cells(rows: list[dict[str, Any]]) -> list[list[str]]:
    """The rows as text below the headings."""

    def cell(value: Any) -> str:
        if value is None:
            return "-"
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    body = [[cell(row[key]) for key, _ in COLUMNS] for row in rows]
    return [[head for _, head in COLUMNS], *body]


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text, columns of one width."""
    lines = _cells(rows)
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip()
        for line in lines
    )


def _write_volume(
    path: pathlib.Path,
    series: "TiltSeries",
    volume: Any,
    name: str,
    *,
    overwrite: bool,
) -> None:
    from temdiff_jax.cli import environment
    from temdiff_jax.io import axis, write

    write.write_mrc(
        path,
        axis.volume_to_file(volume, series.tilt_axis),
        series.voxel_size_angstrom,
        labels=[f"temdiff_jax {environment.own_version()}: {name}"],
        overwrite=overwrite,
    )
