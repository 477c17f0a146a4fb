"""`temdiff inspect`: what a series and its files say, before anything is computed."""

import json
import pathlib
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from temdiff_jax.cli import options

if TYPE_CHECKING:
    from temdiff_jax.io.formats import Image
    from temdiff_jax.io.tilt_series import TiltSeries


def inspect(
    path: options.Path,
    angles: options.Angles = None,
    alignment: options.AlignmentFile = None,
    voxel_size: options.VoxelSize = None,
    tilt_range: options.Range = None,
    exclude: options.Exclude = None,
    bin_factor: options.Bin = 1,
    thickness: options.Thickness = None,
    tilt_axis: options.TiltAxis = "y",
    axis_angle: options.AxisAngle = None,
    allow_small_angles: options.SmallAngles = False,
    log: options.Log = "auto",
    verbose: options.Verbose = False,
    picture: Annotated[
        pathlib.Path | None,
        typer.Option(metavar="FILE", help="PNG of all tilts, masked pixels in red."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing picture.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything as JSON.")
    ] = False,
) -> None:
    """Print what is found at a path and what `temdiff reconstruct` will do with it.

    Takes the options of reconstruct that concern the input.
    """
    options.check_choice("--log", log, options.LOG_MODES)
    angle_range = options.parse_range(tilt_range)

    from temdiff_jax.io import projects, tilt_series, write

    if picture is not None:
        write.check_output(picture, overwrite=overwrite)

    found, image = tilt_series.look(path, need_angles=angles is None)
    try:
        series = tilt_series.series_of(
            path,
            found,
            image,
            angles,
            alignment=alignment,
            voxel_size_angstrom=voxel_size,
            tilt_axis=tilt_axis,
            axis_angle_deg=axis_angle,
            angle_range=angle_range,
            exclude=exclude,
            allow_small_angles=allow_small_angles,
        )
    except projects.NoAngles:
        # Such a stack still shows what its header says.
        lines = _header_lines(found.kind, image)
        lines += [f"warning: {line}" for line in (*image.warnings, *found.warnings)]
        lines.append("warning: no tilt angles in the file; give them with --angles")
        _print(lines)
        return
    preview, masked = _preview(series, bin_factor, thickness, log)
    if picture is not None:
        from temdiff_jax.report import montage

        montage.write_montage(
            picture, series.tilts, series.angles_deg, masked, overwrite=overwrite
        )
        preview["picture"] = str(picture)
    if as_json:
        _print([json.dumps(_record(found.kind, image, series, preview), indent=2)])
        return
    lines = _header_lines(found.kind, image) + _series_lines(series) + _table(series)
    if verbose:
        lines += [f"decision      {decision}" for decision in series.decisions]
    lines += [f"{key:<13} {value}" for key, value in preview.items()]
    _print(lines + [f"warning: {line}" for line in series.warnings])


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


def _preview(
    series: "TiltSeries", factor: int, thickness: int | None, log: str
) -> tuple[dict[str, str], np.ndarray]:
    """What a reconstruction with these options would take and decide, and the masks."""
    from temdiff_jax.cli import estimate
    from temdiff_jax.series import intensity

    masked, shares = _masked(series)
    if factor > 1:
        from temdiff_jax.cli.reconstruct import binned

        series = binned(series, factor)
    _, height, width = series.tilts.shape
    depth, why = options.depth(thickness, series.thickness_px, factor, width)
    _, record = intensity.to_dense_bright(
        series.tilts, series.angles_deg, log=log, contrast="auto"
    )
    low, high = float(series.angles_deg[0]), float(series.angles_deg[-1])
    missing = 100 * (1 - min((high - low) / 180, 1))
    preview = {
        "volume": f"{depth} x {height} x {width} (z, y, x), thickness {why}",
        "logarithm": f"{record['log']} (chosen by {record['log_chosen_by']})",
        "dense matter": f"{record['dense_is']} (chosen by {record['dense_chosen_by']})",
        "wedge": f"{estimate.wedge(low, high)}  {missing:.0f} % of the directions "
        "are not measured",
        "axis": estimate.axis_line(series.tilts, series.angles_deg, series.alignment),
        "shifts": estimate.shift_line(series.tilts, series.alignment),
        "masked": shares or "no pixel",
    }
    return preview, masked


def _masked(series: "TiltSeries") -> tuple[np.ndarray, str]:
    """Pixels that the weighting will not believe, and how many for what reason."""
    from temdiff_jax.series.weighting import masks

    # The core has x before y.
    found = masks.find_masks(np.swapaxes(series.tilts, 1, 2))
    shares = ", ".join(
        f"{name} {100 * share:.2g} %"
        for name, share in found.shares().items()
        if name not in ("outside", "all") and share
    )
    return np.swapaxes(found.keep, 1, 2) <= 0, shares


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


def _record(
    kind: str, image: "Image", series: "TiltSeries", preview: dict[str, str]
) -> dict[str, Any]:
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
        "preview": preview,
        "decisions": [str(d) for d in series.decisions],
        "warnings": list(series.warnings),
    }


def _print(lines: list[str]) -> None:
    """Text of a file without the control characters a terminal would obey."""
    for line in lines:
        kept = (c if c.isprintable() or c == "\n" else "?" for c in line)
        typer.echo("".join(kept))
