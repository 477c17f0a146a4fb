"""`temdiff inspect`: what a series and its files say, before anything is computed."""

import contextlib
import json
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import typer

from temdiff_jax.cli import choices, groups, options, request, runfile
from temdiff_jax.errors import InputError

if TYPE_CHECKING:
    from temdiff_jax.cli.outlook import Outlook
    from temdiff_jax.cli.session import Settings
    from temdiff_jax.io.formats import Image
    from temdiff_jax.io.tilt_series import TiltSeries


@groups.flat
def inspect(
    tilts: request.Source,
    model: request.Model,
    sampling: choices.Sampling,
    results: request.Results,
    *,
    verbose: options.Verbose = False,
    dry_run: options.DryRun = False,
    picture: Annotated[
        pathlib.Path | None,
        typer.Option(
            metavar="FILE",
            help="PNG of all tilts, masked pixels in red, with axis, shifts and wedge.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything as JSON.")
    ] = False,
    config: runfile.Config = None,
) -> None:
    """Print what is found at a path and what `temdiff reconstruct` will do with it.

    Takes the options of reconstruct and goes its way up to the work; no file is written
    but the picture. --dry-run prints the stages of the forecast as well.
    """
    del config  # read before the other options

    from temdiff_jax.cli import session
    from temdiff_jax.io import projects, write

    if picture is not None:
        write.check_output(picture, overwrite=results.overwrite)
    found, image = tilts.look()
    settings = session.Settings(sampling, model).checked()
    try:
        whole = tilts.series_of(found, image)
    except projects.NoAngles:
        # Such a stack still shows what its header says.
        lines = _header_lines(found.kind, image)
        lines += [f"warning: {line}" for line in (*image.warnings, *found.warnings)]
        lines.append("warning: no tilt angles in the file; give them with --angles")
        _print(lines)
        return
    series = request.binned(whole, tilts.bin_factor)
    seen = _looked(series)
    preview, expected, warnings = _preview(series, settings, seen, results)
    if picture is not None:
        _draw(picture, series, seen, preview, overwrite=results.overwrite)
        preview["picture"] = str(picture)
    if as_json:
        record = _record(found.kind, image, whole) | {"preview": preview}
        record["warnings"] = [*whole.warnings, *warnings]
        record["forecast"] = None if expected is None else expected.record()
        _print([json.dumps(record, indent=2)])
        return
    lines = _header_lines(found.kind, image) + _series_lines(whole) + _table(whole)
    if verbose:
        lines += [f"decision      {decision}" for decision in whole.decisions]
    lines += [f"{key:<13} {value}" for key, value in preview.items()]
    _print(lines + [f"warning: {line}" for line in (*whole.warnings, *warnings)])
    if dry_run and expected is not None:
        expected.show(as_json=False)


def _header_lines(kind: str, image: "Image") -> list[str]:
    """What the file says about itself."""
    sections, rows, columns = image.data.shape
    lines = [
        f"found         {kind}",
        f"stored        {sections} sections of {rows} x {columns} (y, x)",
        *(f"{name:<13} {value}" for name, value in image.header),
    ]
    return lines + [f"label         {label}" for label in image.labels]


def _series_lines(series: "TiltSeries") -> list[str]:
    """Extents, angles and digest of the series as it will be used."""
    _, height, width = series.tilts.shape
    steps = np.diff(series.angles_deg)
    spacing = f", median step {np.median(steps):g}" if steps.size else ""
    size = series.voxel_size_angstrom
    return [
        f"series        {series.name}",
        f"images        {series.num_tilts} of {height} x {width} (y, x), "
        f"tilt axis {series.tilt_axis} in the file, y here",
        f"pixel size    {'unknown' if size is None else f'{size:g} Angstrom'}",
        f"tilts         {series.angles_deg[0]:g} to {series.angles_deg[-1]:g} degrees"
        f"{spacing}",
        f"sha256        {series.sha256}",
    ]


class Seen(NamedTuple):
    """What the images themselves show.

    Attributes:
      masked: Pixels that will be left out, [n_tilts, y, x] bool.
      shares: How many, and why.
      axis: Degrees from where the axis is taken to be, and how clearly; None if the
        tilts are too few.
      shifts: Of neighbours, (x, y) pixels, [n_tilts - 1, 2].
    """

    masked: np.ndarray
    shares: str
    axis: tuple[float, float] | None
    shifts: np.ndarray


def _looked(series: "TiltSeries") -> Seen:
    """Masks, axis and shifts of the tilts."""
    from temdiff_jax.cli import estimate
    from temdiff_jax.series.weighting import masks

    # The core has x before y.
    found = masks.find_masks(np.swapaxes(series.tilts, 1, 2))
    shares = ", ".join(
        f"{name} {100 * share:.2g} %"
        for name, share in found.shares().items()
        if name not in ("outside", "all") and share
    )
    lying = series.alignment
    return Seen(
        np.swapaxes(found.keep, 1, 2) <= 0,
        shares,
        estimate.axis_angle(series.tilts, lying),
        estimate.neighbour_shifts(series.tilts, lying),
    )


def _preview(
    series: "TiltSeries", settings: "Settings", seen: Seen, results: request.Results
) -> tuple[dict[str, str], "Outlook | None", list[str]]:
    """What a reconstruction would take and decide, its forecast, and its doubts.

    A refusal that awaits it is one of the lines; there is no forecast where the series
    itself is refused.
    """
    from temdiff_jax.cli import estimate, outlook, outputs, session

    low, high = float(series.angles_deg[0]), float(series.angles_deg[-1])
    missing = 100 * (1 - min((high - low) / 180, 1))
    row = settings.choice.method
    method = f"{row.name}: {row.summary}"
    if settings.choice.prior is not None:
        method += f"; prior {settings.sampling.prior}"
    lines = [method, *choices.effort(settings.choice, settings.sampling)]
    own = settings.model
    preview = {
        "wedge": f"{estimate.wedge(low, high)}  {missing:.0f} % of the directions "
        "are not measured",
        "axis": estimate.axis_line(seen.axis, high - low),
        "shifts": estimate.shift_line(seen.shifts),
        "masked": seen.shares or "no pixel",
        "method": "; ".join(lines),
        "weighting": f"{own.weighting}, seed {own.seed}",
    }
    if series.alignment is not None:
        preview["alignment"] = session.lying(series)
    files = outputs.named(results, series.name, spread=settings.draws)
    present = (f"{p}{' (exists)' if p.exists() else ''}" for p in files.paths())
    preview["writes"] = ", ".join(present)
    refused: list[str] = []
    expected, doubts = None, []
    try:
        settings = settings.of(series)
        with _noting(refused):
            outputs.check_free(results, files, series.name)
        planned = settings.planned(series)
        preview |= _decided(series, planned, settings.model.thickness)
        doubts = list(planned.doubts)
        expected = outlook.Outlook.of(planned, keeps=True)
        preview["needs"] = expected.line()
        expected.check(files)
    except InputError as error:
        refused.append(str(error))
    if refused:
        preview["refused"] = refused[0]
    doubts += estimate.axis_doubt(seen.axis, series.num_tilts)
    return preview, expected, doubts


@contextlib.contextmanager
def _noting(refused: list[str]) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        refused.append(str(error))


def _decided(
    series: "TiltSeries", planned: Any, thickness: int | None
) -> dict[str, str]:
    """What was decided about slab and intensities."""
    _, height, width = series.tilts.shape
    depth = planned.job.geometry.volume_shape[0]
    why = "as the width, since none was given (--thickness)"
    if thickness is not None:
        why = "by the project" if thickness == series.thickness_px else "as given"
    record = planned.job.intensity
    decided = {
        "volume": f"{depth} x {height} x {width} (z, y, x), thickness {why}",
        "logarithm": f"{record['log']} (chosen by {record['log_chosen_by']})",
        "dense matter": f"{record['dense_is']} (chosen by {record['dense_chosen_by']})",
    }
    if record["constant"]:
        decided["constant"] = f"{record['constant']:.4g} under all tilts, taken off"
    return decided


def _draw(
    picture: pathlib.Path,
    series: "TiltSeries",
    seen: Seen,
    preview: dict[str, str],
    *,
    overwrite: bool,
) -> None:
    """The picture of all tilts and of what was found in them."""
    from temdiff_jax.report import montage

    lying = series.alignment
    given = 0.0 if lying is None else float(np.median(lying.rotations_deg))
    facts = montage.Facts(
        lines=[f"{key}: {value}" for key, value in preview.items()],
        axis_deg=given,
        axis_found_deg=None if seen.axis is None else given + seen.axis[0],
        shifts=seen.shifts,
    )
    montage.write_montage(
        picture,
        series.tilts,
        series.angles_deg,
        seen.masked,
        facts,
        overwrite=overwrite,
    )


def _table(series: "TiltSeries") -> list[str]:
    """One line per tilt, sorted by angle, with the grey values found."""
    lines = [
        "",
        "tilt   degrees          mean           std       minimum       maximum",
    ]
    views = np.arange(series.num_tilts) if series.views is None else series.views
    for number, angle, image in zip(
        views, series.angles_deg, series.tilts, strict=True
    ):
        mean, std = image.mean(dtype=np.float64), image.std(dtype=np.float64)
        lines.append(
            f"{int(number):4d}  {angle:8.2f}  {mean:12.6g}  {std:12.6g}"
            f"  {image.min():12.6g}  {image.max():12.6g}"
        )
    return [*lines, ""]


def _record(kind: str, image: "Image", series: "TiltSeries") -> dict[str, Any]:
    """The same for machines."""
    views = np.arange(series.num_tilts) if series.views is None else series.views
    return {
        "format": "temdiff-inspect-1",
        "kind": kind,
        "path": str(series.path),
        "name": series.name,
        "header": dict(image.header),
        "shape": list(series.tilts.shape),
        "voxel_size_angstrom": series.voxel_size_angstrom,
        "angles_deg": series.angles_deg.tolist(),
        "views": [int(v) for v in views],
        "sha256": series.sha256,
        "decisions": [str(d) for d in series.decisions],
    }


def _print(lines: list[str]) -> None:
    """Text of a file without the control characters a terminal would obey."""
    for line in lines:
        kept = (c if c.isprintable() or c == "\n" else "?" for c in line)
        typer.echo("".join(kept))
