"""One PNG page per run: orthoslices, three tilts with their residuals, chi2 bars.

Three rules keep the page honest.  Every reconstruction is drawn on one grey scale, so
a washed-out panel is a washed-out reconstruction; the standard deviation and the
residual have their own scales, each shared by all of its panels and labelled; and row
0 of a picture is at the bottom, as the MRC format defines it.
"""

import dataclasses
import pathlib
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.style
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from temdiff_jax.report import blocks, panels

DOTS_PER_INCH = 150
REFERENCE_NAME = "reference (full range)"

_TITLE = 0.55  # inches
_FOOTER_LINE = 0.17
_FOOTER_WIDTH = 160  # characters


@dataclasses.dataclass(frozen=True, kw_only=True)
class Page:
    """What a page shows.

    Attributes:
      volumes: Panels by name, each [z, y, x], one unit for all; "std" is drawn on its
        own scale, the others in the order given on one grey scale (see `grey_limits`).
      tilts: Measured tilts, [n_tilts, y, x], any unit.
      reprojection: Projected mean, [n_tilts, y, x], unit of `tilts`.
      residual: Projected minus measured, [n_tilts, y, x], unit of `tilts`.
      angles_deg: Tilt angles, [n_tilts], degrees.
      chi2: Mean squared residual over noise variance, one per tilt: 1 is expected.
      title: First line of the page.
      voxel_size_angstrom: Edge of a voxel; None when unknown, which draws the scale
        bars in voxels.
      reference: Reconstruction of the full tilt range, [z, y, x], same unit; adds a
        column.
      footer: Lines printed at the bottom: seed, prior, command, warnings.
      verdict: Lines below the title: how far the result can be relied on.
    """

    volumes: Mapping[str, np.ndarray]
    tilts: np.ndarray
    reprojection: np.ndarray
    residual: np.ndarray
    angles_deg: Sequence[float] | np.ndarray
    chi2: Sequence[float] | np.ndarray
    title: str
    voxel_size_angstrom: float | None
    reference: np.ndarray | None = None
    footer: Sequence[str] = ()
    verdict: Sequence[str] = ()


def draw_page(page: Page) -> Figure:
    """Draw the page of one reconstruction.

    Returns:
      The finished figure with an Agg canvas, 1800 pixels wide at its own resolution.

    Raises:
      ValueError: If shapes disagree or an array holds a value that is not finite.
    """
    content = checked(page)
    with matplotlib.style.context("default"):
        return _compose(content, page)


def write_page(
    path: str | pathlib.Path, page: Page, *, overwrite: bool = False
) -> None:
    """Write the page of one reconstruction as a PNG, complete or not at all.

    Args:
      path: Target file.
      page: What it shows.
      overwrite: Whether an existing file may be replaced.

    Raises:
      InputError: If the file exists and may not be replaced, or cannot be written.
      ValueError: If shapes disagree or an array holds a value that is not finite.
    """
    figure = draw_page(page)
    panels.write_png(path, figure, page.title, dpi=DOTS_PER_INCH, overwrite=overwrite)


def checked(page: Page) -> blocks.Content:
    """The arrays of a page; raises as `draw_page`."""
    return _check(
        page.volumes,
        page.tilts,
        page.reprojection,
        page.residual,
        page.angles_deg,
        page.chi2,
        page.reference,
    )


def _compose(content: blocks.Content, page: Page) -> Figure:
    """Measure the page, then draw the title, the verdict and the three blocks."""
    voxel_size_angstrom = page.voxel_size_angstrom
    names = list(content.volumes) + (
        [blocks.STD_NAME] if content.std is not None else []
    )
    usable = blocks.PAGE_WIDTH_INCHES - 2 * blocks.MARGIN - blocks.ROW_LABEL
    width = min((usable + blocks.GAP) / len(names) - blocks.GAP, blocks.MAX_PANEL)
    rows = blocks.slices(next(iter(content.volumes.values())).shape)
    heights = [blocks.panel_height(width, row.shape) for row in rows]
    slices_height = blocks.LABEL + sum(heights) + 2 * blocks.GAP + blocks.BAR_BLOCK
    tilt_height = blocks.panel_height(blocks.TILT_PANEL, content.tilts.shape[1:])
    tilts_height = blocks.LABEL + 3 * tilt_height + 2 * blocks.GAP + blocks.BAR_BLOCK
    head, lines = _wrapped(page.verdict), _wrapped(page.footer)
    head_height, footer_height = _FOOTER_LINE * len(head), _FOOTER_LINE * len(lines)
    total = 2 * blocks.MARGIN + _TITLE + head_height
    total += slices_height + tilts_height + footer_height

    figure = Figure(figsize=(blocks.PAGE_WIDTH_INCHES, total), dpi=DOTS_PER_INCH)
    FigureCanvasAgg(figure)
    sheet = blocks.Sheet(figure, total)
    sheet.text(blocks.MARGIN, blocks.MARGIN, page.title, fontsize=14, weight="bold")
    top = blocks.MARGIN + _TITLE
    for number, line in enumerate(head):
        sheet.text(blocks.MARGIN, top - 0.2 + number * _FOOTER_LINE, line, fontsize=9)
    top += head_height
    blocks.draw_slices(sheet, top, content, rows, width, heights, voxel_size_angstrom)
    top += slices_height
    blocks.draw_tilts(sheet, top, content, tilt_height, voxel_size_angstrom)
    blocks.draw_bars(sheet, top, content, 3 * tilt_height + 2 * blocks.GAP)
    top += tilts_height
    for number, line in enumerate(lines):
        sheet.text(
            blocks.MARGIN,
            top + number * _FOOTER_LINE,
            line,
            fontsize=8,
            family="monospace",
        )
    return figure


def _wrapped(lines: Sequence[str]) -> list[str]:
    """Lines no longer than the page is wide."""
    return [piece for line in lines for piece in textwrap.wrap(line, _FOOTER_WIDTH)]


def _check(
    volumes: Mapping[str, np.ndarray],
    tilts: np.ndarray,
    reprojection: np.ndarray,
    residual: np.ndarray,
    angles_deg: Sequence[float] | np.ndarray,
    chi2: Sequence[float] | np.ndarray,
    reference: np.ndarray | None,
) -> blocks.Content:
    """Arrays of the page, after comparing their shapes and refusing NaN."""
    arrays = {name: np.asarray(volume) for name, volume in volumes.items()}
    if reference is not None:
        arrays[REFERENCE_NAME] = np.asarray(reference)
    std = arrays.pop(blocks.STD_NAME, None)
    if not arrays:
        raise ValueError(
            "report page: expected at least one volume besides 'std', got "
            f"{sorted(volumes)}; pass the reconstruction as 'mean'"
        )
    shape = next(iter(arrays.values())).shape
    everything = arrays if std is None else {**arrays, blocks.STD_NAME: std}
    for name, volume in everything.items():
        if volume.ndim != 3 or volume.shape != shape:
            raise ValueError(
                f"report page: expected every volume as [z, y, x] {list(shape)}, got "
                f"{name!r} {list(volume.shape)}; pass volumes of one grid"
            )
    stacks = {"tilts": tilts, "reprojection": reprojection, "residual": residual}
    stacks = {name: np.asarray(stack) for name, stack in stacks.items()}
    for name, stack in stacks.items():
        if stack.ndim != 3 or stack.shape != stacks["tilts"].shape:
            raise ValueError(
                f"report page: expected {name} as [n_tilts, y, x] "
                f"{list(stacks['tilts'].shape)}, got {list(stack.shape)}; "
                "pass the arrays of one series"
            )
    for name, array in {**everything, **stacks}.items():
        if not np.all(np.isfinite(array)):
            raise ValueError(
                f"report page: expected finite values, got NaN or infinity in {name!r}"
                "; look at the run that made it"
            )
    angles = np.asarray(angles_deg, np.float64)
    bars = np.asarray(chi2, np.float64)
    count = len(stacks["tilts"])
    if angles.shape != (count,) or bars.shape != (count,):
        raise ValueError(
            f"report page: expected {count} angles and chi2 values, got "
            f"{list(angles.shape)} and {list(bars.shape)}; pass one per tilt"
        )
    return blocks.Content(arrays, std, angles_deg=angles, chi2=bars, **stacks)
