"""Several reconstructions of the same specimen, side by side: a picture, a page.

One column for each volume and two rows of slices: xz, where a missing wedge shows as
elongation along z, and xy.  Every panel is on one grey scale, and row 0 is at the
bottom, as in `temdiff_jax.report.page`.
"""

import base64
import html
import pathlib
import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.style
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from temdiff_jax.io import write
from temdiff_jax.report import blocks, panels

DOTS_PER_INCH = 150
STYLE = """body{font:15px/1.5 sans-serif;max-width:1200px;margin:2em auto;padding:0 1em}
img{width:100%}table{border-collapse:collapse}caption{text-align:left}
td,th{border-bottom:1px solid #bbb;padding:.2em .9em .2em 0;text-align:right}
td:first-child,th:first-child,td:last-child,th:last-child{text-align:left}"""

_TITLE = 0.5  # inches
_NAME_LINE = 0.17
_CHARACTER = 0.085  # inches, widest average of the font of the names


class Cut(NamedTuple):
    """Which slices are shown, and on which grey scale.

    Attributes:
      y: Row at which the xz slices are cut; default the middle.
      z: Section of the xy slices; default the middle.
      grey_from: Name of the volume whose slices set black and white, by their 0.5
        and 99.5 percentiles; default see `blocks.grey_limits`.
      z_range: First section and one past the last to show in the xz slices; default
        all.
    """

    y: int | None = None
    z: int | None = None
    grey_from: str | None = None
    z_range: tuple[int, int] | None = None


MIDDLE = Cut()


def draw_comparison(
    volumes: Mapping[str, np.ndarray],
    cut: Cut = MIDDLE,
    *,
    title: str,
    voxel_size_angstrom: float | None,
) -> Figure:
    """Draw the comparison; arguments as for `write_comparison`.

    Returns:
      The finished figure with an Agg canvas, 1800 pixels wide at its own resolution.

    Raises:
      ValueError: no volume, shapes that differ, a value that is not finite, or a
        slice, a range or a name that is not there.
    """
    y, z, grey_from, z_range = cut
    checked = _check(volumes)
    shape = next(iter(checked.values())).shape
    y = _index("y", y, shape[1])
    z = _index("z", z, shape[0])
    low, high = (0, shape[0]) if z_range is None else z_range
    if not 0 <= low < high <= shape[0]:
        raise ValueError(
            f"comparison: expected z_range inside 0 to {shape[0]}, got {low} to "
            f"{high}; correct it"
        )
    if grey_from is not None and grey_from not in checked:
        raise ValueError(
            f"comparison: expected grey_from among {list(checked)}, got {grey_from!r}; "
            "name one of the volumes"
        )
    rows = (
        blocks.Slices(
            f"xz at y = {y}", lambda v: v[low:high, y], (high - low, shape[2])
        ),
        blocks.Slices(f"xy at z = {z}", lambda v: v[z], shape[1:]),
    )
    source = checked if grey_from is None else {grey_from: checked[grey_from]}
    # Of what is shown, not of whole volumes: an empty one would saturate its specimen.
    shown = {
        name: np.concatenate([row.cut(volume).ravel() for row in rows])
        for name, volume in source.items()
    }
    scale = panels.Scale(
        *blocks.grey_limits(shown), "gray", "intensity, one scale for all"
    )
    with matplotlib.style.context("default"):
        return _compose(checked, rows, scale, title, voxel_size_angstrom)


def write_comparison(
    path: str | pathlib.Path,
    volumes: Mapping[str, np.ndarray],
    cut: Cut = MIDDLE,
    *,
    title: str,
    voxel_size_angstrom: float | None,
    overwrite: bool = False,
) -> None:
    """Write xz and xy slices of several volumes as a PNG, complete or not at all.

    Args:
      path: Target file.
      volumes: By name, in the order of the columns, each [z, y, x] of one shape and
        unit.
      cut: Slices and grey scale.
      title: First line of the figure.
      voxel_size_angstrom: Edge of a voxel; None when unknown, which draws the scale
        bar in voxels.
      overwrite: Whether an existing file may be replaced.

    Raises:
      InputError: the file exists and may not be replaced, or cannot be written.
      ValueError: as `draw_comparison`.
    """
    figure = draw_comparison(
        volumes, cut, title=title, voxel_size_angstrom=voxel_size_angstrom
    )
    panels.write_png(path, figure, title, dpi=DOTS_PER_INCH, overwrite=overwrite)


class Page(NamedTuple):
    """What a page of a comparison says.

    Attributes:
      title: Its heading, one line about the series.
      table: Cells of text, the first row is the head.
      volumes: Heading of a picture to volumes by name, each [z, y, x]; every picture
        is on a grey scale of its own.
      notes: Lines below.
    """

    title: str
    table: Sequence[Sequence[str]]
    volumes: Mapping[str, Mapping[str, np.ndarray]]
    notes: Sequence[str] = ()


def write_comparison_page(
    path: str | pathlib.Path,
    page: Page,
    *,
    voxel_size_angstrom: float | None,
    overwrite: bool = False,
) -> None:
    """Write a comparison as one HTML file that needs nothing else, or not at all.

    The pictures are inside the file; it runs no script and loads nothing.

    Args:
      path: Target file.
      page: What it says.
      voxel_size_angstrom: As for `write_comparison`.
      overwrite: Whether an existing file may be replaced.

    Raises:
      InputError, ValueError: as `write_comparison`.
    """
    pictures = []
    for heading, volumes in page.volumes.items():
        figure = draw_comparison(
            volumes, title=heading, voxel_size_angstrom=voxel_size_angstrom
        )
        content = panels.png_bytes(figure, page.title, dpi=DOTS_PER_INCH)
        text = html.escape(f"{heading}: {', '.join(volumes)}", quote=True)
        data = base64.b64encode(content).decode("ascii")
        pictures.append(f'<p><img alt="{text}" src="data:image/png;base64,{data}"></p>')
    head, *rows = (
        "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)
        for tag, row in zip(["th"] + ["td"] * len(page.table), page.table)
    )
    title = html.escape(page.title)
    parts = [
        "<!DOCTYPE html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        f"<style>{STYLE}</style></head><body>",
        f"<h1>{title}</h1>",
        f"<table><tr>{head}</tr>",
        *(f"<tr>{row}</tr>" for row in rows),
        "</table>",
        *pictures,
        *(f"<p>{html.escape(note)}</p>" for note in page.notes),
        "</body></html>",
    ]
    write.write_text(path, "\n".join(parts) + "\n", overwrite=overwrite)


def _compose(
    volumes: Mapping[str, np.ndarray],
    rows: tuple[blocks.Slices, ...],
    scale: panels.Scale,
    title: str,
    voxel_size_angstrom: float | None,
) -> Figure:
    """Measure the figure, then draw title, names, panels and the colour bar."""
    usable = blocks.PAGE_WIDTH_INCHES - 2 * blocks.MARGIN - blocks.ROW_LABEL
    width = min((usable + blocks.GAP) / len(volumes) - blocks.GAP, blocks.MAX_PANEL)
    heights = [blocks.panel_height(width, row.shape) for row in rows]
    names = [_wrapped(name, width) for name in volumes]
    lines = max(len(name) for name in names)
    top = blocks.MARGIN + _TITLE + _NAME_LINE * lines + 0.06
    bottom = top + sum(heights) + blocks.GAP * len(rows) + 0.1
    total = bottom + blocks.BAR_BLOCK + blocks.MARGIN

    figure = Figure(figsize=(blocks.PAGE_WIDTH_INCHES, total), dpi=DOTS_PER_INCH)
    FigureCanvasAgg(figure)
    sheet = blocks.Sheet(figure, total)
    sheet.text(blocks.MARGIN, blocks.MARGIN, title, fontsize=13, weight="bold")
    left = blocks.MARGIN + blocks.ROW_LABEL
    for column, name in enumerate(names):
        for number, line in enumerate(name):
            x = left + column * (width + blocks.GAP)
            offset = top - 0.06 - _NAME_LINE * (len(name) - number)
            sheet.text(x, offset, line, fontsize=9)
    for row, height in zip(rows, heights):
        sheet.text(
            blocks.MARGIN,
            top + 0.5 * height,
            row.caption,
            fontsize=9,
            rotation=90,
            va="center",
        )
        for column, volume in enumerate(volumes.values()):
            x = left + column * (width + blocks.GAP)
            axes = figure.add_axes(sheet.rectangle(x, top, width, height))
            panels.show_slice(axes, row.cut(volume), scale, "grey")
            if column == 0:
                panels.draw_scale_bar(axes, row.shape[1], voxel_size_angstrom)
        top += height + blocks.GAP
    panels.draw_colour_bar(figure, sheet.rectangle(left, bottom, 5.0, 0.13), scale)
    return figure


def _wrapped(name: str, width: float) -> list[str]:
    return textwrap.wrap(name, max(int(width / _CHARACTER), 8)) or [""]


def _index(axis: str, given: int | None, extent: int) -> int:
    index = extent // 2 if given is None else given
    if not 0 <= index < extent:
        raise ValueError(
            f"comparison: expected {axis} from 0 to {extent - 1}, got {index}; choose "
            "a slice of the volume"
        )
    return index


def _check(volumes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Volumes as arrays of one shape [z, y, x], finite."""
    checked = {name: np.asarray(volume) for name, volume in volumes.items()}
    shapes = {volume.shape for volume in checked.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 3:
        raise ValueError(
            "comparison: expected volumes [z, y, x] of one shape, got "
            f"{ {n: list(v.shape) for n, v in checked.items()} }; crop them alike"
        )
    for name, volume in checked.items():
        if not np.isfinite(volume).all():
            raise ValueError(
                f"comparison: expected finite values, got NaN or Inf in {name!r}; "
                "repair the volume"
            )
    return checked
