"""The three blocks of a report page: orthoslices, tilts with residuals, chi2 bars."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from temdiff_jax.report import panels

PAGE_WIDTH_INCHES = 12.0
GREY_PERCENTILES = (0.5, 99.5)
STD_NAME = "std"
MARGIN = 0.45  # inches around the page
GAP = 0.12  # inches between neighbouring panels
LABEL = 0.32  # inches above a panel for its caption
ROW_LABEL = 0.28  # inches left of the panels, for the name of a row
MAX_PANEL = 2.7  # inches
TILT_PANEL = 2.0
BAR_BLOCK = 0.74  # inches, colour bar with ticks and label

_BAR_HEIGHT = 0.13
# The mean and the Tikhonov solution set the grey scale: FBP of a narrow range has no
# meaningful amplitude and would set the contrast of everything else.
_GREY_SOURCES = ("tikhonov", "mean")
# Percentiles of more values than this change in no visible way and cost seconds.
_MAX_SAMPLES = 2_000_000


@dataclasses.dataclass(frozen=True)
class Content:
    """Checked arrays of one page: volumes [z, y, x], tilts [n_tilts, y, x]."""

    volumes: dict[str, np.ndarray]
    std: np.ndarray | None
    tilts: np.ndarray
    reprojection: np.ndarray
    residual: np.ndarray
    angles_deg: np.ndarray
    chi2: np.ndarray


def grey_limits(volumes: Mapping[str, np.ndarray]) -> tuple[float, float]:
    """Grey scale shared by every reconstruction of a page.

    Args:
      volumes: Reconstructions by name, each [z, y, x].

    Returns:
      Black and white level: the 0.5 and 99.5 percentiles of "tikhonov" and "mean"
      pooled, or of every volume but "std" when neither is there.
    """
    named = {name: v for name, v in volumes.items() if name != STD_NAME}
    chosen = [named[name] for name in _GREY_SOURCES if name in named]
    pooled = [_thin(volume) for volume in (chosen or named.values())]
    return _percentiles(np.concatenate(pooled), *GREY_PERCENTILES)


@dataclasses.dataclass(frozen=True)
class Sheet:
    """Page measured in inches from its top left corner."""

    figure: Figure
    height: float

    def rectangle(
        self, left: float, top: float, width: float, height: float
    ) -> tuple[float, float, float, float]:
        """Matplotlib rectangle (x, y, w, h) in fractions of the page."""
        return (
            left / PAGE_WIDTH_INCHES,
            1.0 - (top + height) / self.height,
            width / PAGE_WIDTH_INCHES,
            height / self.height,
        )

    def text(self, left: float, top: float, text: str, **style) -> None:
        """Print text whose upper left corner is at (left, top)."""
        self.figure.text(
            left / PAGE_WIDTH_INCHES,
            1.0 - top / self.height,
            panels.plain(text),
            va=style.pop("va", "top"),
            parse_math=False,
            **style,
        )


@dataclasses.dataclass(frozen=True)
class Slices:
    """One row of orthoslices: how to cut a volume [z, y, x] and how to name it."""

    caption: str
    cut: Callable[[np.ndarray], np.ndarray]
    shape: tuple[int, int]


def slices(shape: tuple[int, int, int]) -> tuple[Slices, Slices, Slices]:
    """Central xz, xy and yz slices; the first letter runs right, the second up."""
    nz, ny, nx = shape
    z, y, x = nz // 2, ny // 2, nx // 2
    return (
        Slices(f"xz at y = {y}", lambda v: v[:, y, :], (nz, nx)),
        Slices(f"xy at z = {z}", lambda v: v[z], (ny, nx)),
        Slices(f"yz at x = {x}", lambda v: v[:, :, x], (nz, ny)),
    )


def panel_height(width: float, shape: tuple[int, int]) -> float:
    """Height that shows [rows, columns] undistorted, within the page's limits."""
    rows, columns = shape
    return min(max(width * rows / columns, 0.3), 1.5 * width)


def draw_slices(
    sheet: Sheet,
    top: float,
    content: Content,
    rows: Sequence[Slices],
    width: float,
    heights: Sequence[float],
    voxel_size_angstrom: float | None,
) -> None:
    """Draw the orthoslices, one column per volume, and the two colour bars."""
    grey = panels.Scale(
        *grey_limits(content.volumes),
        "gray",
        "intensity, one scale for all (input units)",
    )
    columns = [(name, v, grey, "grey") for name, v in content.volumes.items()]
    if content.std is not None:
        high = _percentiles(_thin(content.std), 0.0, GREY_PERCENTILES[1])[1]
        spread = panels.Scale(
            0.0, high, "magma", "standard deviation of the samples (input units)"
        )
        columns.append((STD_NAME, content.std, spread, "spread"))
    left = MARGIN + ROW_LABEL
    for row, height, offset in zip(
        rows, heights, _offsets(heights, top + LABEL), strict=True
    ):
        sheet.text(
            MARGIN,
            offset + 0.5 * height,
            row.caption,
            fontsize=9,
            rotation=90,
            va="center",
        )
        for number, (_, volume, scale, gid) in enumerate(columns):
            axes = sheet.figure.add_axes(
                sheet.rectangle(left + number * (width + GAP), offset, width, height)
            )
            panels.show_slice(axes, row.cut(volume), scale, gid)
            if number == 0:
                panels.draw_scale_bar(axes, row.shape[1], voxel_size_angstrom)
    for number, (name, _, _, _) in enumerate(columns):
        sheet.text(left + number * (width + GAP), top + 0.08, name, fontsize=10)
    bars = top + LABEL + sum(heights) + 2 * GAP + 0.1
    for number, scale in enumerate(dict.fromkeys(c[2] for c in columns)):
        panels.draw_colour_bar(
            sheet.figure,
            sheet.rectangle(left + 5.6 * number, bars, 5.0, _BAR_HEIGHT),
            scale,
        )


def draw_tilts(
    sheet: Sheet,
    top: float,
    content: Content,
    height: float,
    voxel_size_angstrom: float | None,
) -> None:
    """Draw data, reprojection and residual of the first, middle and last tilt."""
    count = len(content.tilts)
    chosen = list(dict.fromkeys((0, count // 2, count - 1)))
    data = panels.Scale(
        *_percentiles(_thin(content.tilts), *GREY_PERCENTILES),
        "gray",
        "data and reprojection",
    )
    far = _percentiles(np.abs(_thin(content.residual)), 0.0, GREY_PERCENTILES[1])[1]
    misfit = panels.Scale(-far, far, "RdBu_r", "residual (projected - measured)")
    rows = (
        ("data", content.tilts, data, "data"),
        ("reprojection", content.reprojection, data, "data"),
        ("residual", content.residual, misfit, "residual"),
    )
    left = MARGIN + ROW_LABEL
    offsets = _offsets([height] * len(rows), top + LABEL)
    for (caption, stack, scale, gid), offset in zip(rows, offsets, strict=True):
        sheet.text(
            MARGIN,
            offset + 0.5 * height,
            caption,
            fontsize=9,
            rotation=90,
            va="center",
        )
        for column, tilt in enumerate(chosen):
            x = left + column * (TILT_PANEL + GAP)
            axes = sheet.figure.add_axes(sheet.rectangle(x, offset, TILT_PANEL, height))
            panels.show_slice(axes, stack[tilt], scale, gid)
            if offset == offsets[0]:
                angle = content.angles_deg[tilt]
                sheet.text(
                    x, top + 0.08, f"tilt {tilt}, {angle:+.1f} degrees", fontsize=10
                )
                if column == 0:
                    panels.draw_scale_bar(axes, stack.shape[2], voxel_size_angstrom)
    bars = top + LABEL + 3 * height + 2 * GAP + 0.1
    for number, scale in enumerate((data, misfit)):
        panels.draw_colour_bar(
            sheet.figure,
            sheet.rectangle(left + 3.4 * number, bars, 2.9, _BAR_HEIGHT),
            scale,
        )


def draw_bars(sheet: Sheet, top: float, content: Content, room: float) -> None:
    """Draw the chi2 bars to the right of the tilts."""
    left = MARGIN + ROW_LABEL + 3 * (TILT_PANEL + GAP) + 0.7
    width = PAGE_WIDTH_INCHES - MARGIN - left
    axes = sheet.figure.add_axes(
        sheet.rectangle(left, top + LABEL, width, min(room, 2.8))
    )
    panels.draw_chi2(axes, content.chi2, content.angles_deg)


def _offsets(heights: Sequence[float], top: float) -> list[float]:
    """Tops of panels stacked below `top` with a gap between them."""
    steps = [height + GAP for height in heights[:-1]]
    return [top + sum(steps[:number]) for number in range(len(heights))]


def _thin(volume: np.ndarray) -> np.ndarray:
    """Flat, evenly strided sample of a volume, at most `_MAX_SAMPLES` values."""
    flat = np.asarray(volume).ravel()
    return flat[:: max(1, math.ceil(flat.size / _MAX_SAMPLES))].astype(np.float64)


def _percentiles(values: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """Two percentiles, kept apart so that a constant array still has a scale."""
    bottom, top = (float(v) for v in np.percentile(values, [low, high]))
    if top <= bottom:
        half = 0.5 * max(abs(bottom), 1.0) * 1e-3
        bottom, top = bottom - half, top + half
    return bottom, top
