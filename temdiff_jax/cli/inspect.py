"""`temdiff inspect`: what a stack and its angles say, before anything is computed."""

import pathlib
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from temdiff_jax.cli import options

if TYPE_CHECKING:
    from temdiff_jax.cli.files import Image
    from temdiff_jax.io.tilt_series import TiltSeries


def inspect(
    stack: Annotated[
        pathlib.Path,
        typer.Argument(metavar="STACK", help="MRC family, TIFF, .npz, .npy."),
    ],
    angles: Annotated[
        pathlib.Path | None,
        typer.Option(metavar="FILE", help="Tilt angles: .tlt, .rawtlt, .mdoc, .aln."),
    ] = None,
    voxel_size: Annotated[
        float | None,
        typer.Option(metavar="ANGSTROM", help="Pixel size; overrules the file."),
    ] = None,
    tilt_range: Annotated[
        str | None,
        typer.Option("--range", metavar="LO:HI|WIDTH", help="Only these tilts."),
    ] = None,
    tilt_axis: Annotated[
        str, typer.Option(metavar="y|x", help="Direction of the tilt axis.")
    ] = "y",
    allow_small_angles: Annotated[
        bool,
        typer.Option(
            "--allow-small-angles", help="Small angles are degrees, not radians."
        ),
    ] = False,
) -> None:
    """Print header, tilt table and warnings of a series."""
    from temdiff_jax.cli import files
    from temdiff_jax.io import tilt_series

    angle_range = options.parse_range(tilt_range)
    image = files.read_image(stack)
    lines = _header_lines(stack, image)
    if angles is None and not files.carries_angles(image):
        lines += [f"warning: {line}" for line in image.warnings]
        lines.append("warning: no tilt angles in the file; give them with --angles")
    else:
        series = tilt_series.load_tilt_series(
            stack,
            angles,
            voxel_size_angstrom=voxel_size,
            tilt_axis=tilt_axis,
            angle_range=angle_range,
            allow_small_angles=allow_small_angles,
        )
        lines += _series_lines(series) + _table(series)
        lines += [f"warning: {line}" for line in series.warnings]
    typer.echo("\n".join(_printable(line) for line in lines))


def _header_lines(stack: pathlib.Path, image: "Image") -> list[str]:
    """What the file says about itself."""
    from temdiff_jax.io import mrc, mrc_header

    sections, rows, columns = image.data.shape
    lines = [f"stored        {sections} sections of {rows} x {columns} (y, x)"]
    if not isinstance(image, mrc.MrcImage):
        return lines
    _, header = mrc_header.read_header(stack)
    fields = header.fields
    order = "little" if header.byte_order == "<" else "big"
    lines += [
        f"mode          {header.mode} ({header.dtype.name}, {order} endian)",
        f"axes          {int(fields['mapc'])} {int(fields['mapr'])} "
        f"{int(fields['maps'])} (mapc, mapr, maps)",
        f"space group   {int(fields['ispg'])}, extended header {header.nsymbt} bytes",
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


def _table(series: "TiltSeries") -> list[str]:
    """One line per tilt, sorted by angle, with the grey values found."""
    lines = [
        "",
        "tilt   degrees          mean           std       minimum       maximum",
    ]
    for number, (angle, image) in enumerate(
        zip(series.angles_deg, series.tilts, strict=True)
    ):
        mean, std = image.mean(dtype=np.float64), image.std(dtype=np.float64)
        lines.append(
            f"{number:4d}  {angle:8.2f}  {mean:12.6g}  {std:12.6g}"
            f"  {image.min():12.6g}  {image.max():12.6g}"
        )
    return [*lines, ""]


def _printable(line: str) -> str:
    """Text of a file without the control characters a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in line)
