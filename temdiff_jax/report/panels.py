"""Drawing of single panels: a slice, its scale bar, a colour bar, the chi2 bars."""

import dataclasses
import io
import math
import pathlib
import unicodedata

import matplotlib.patheffects
import matplotlib.style
import matplotlib.transforms
import numpy as np
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from temdiff_jax.io import write

ANGSTROM_PER_NM = 10.0
CHI2_ALARMS = (0.8, 1.2)
_BAR_FRACTION = 0.3  # longest scale bar, as a part of the panel's width
_MAX_TICKS = 13
# The default font draws the blocks below this code point; others would warn.
_LAST_DRAWABLE = 0x2500


@dataclasses.dataclass(frozen=True)
class Scale:
    """Value range and colour map shared by every panel that uses it."""

    low: float
    high: float
    colour_map: str
    label: str

    @property
    def norm(self) -> colors.Normalize:
        """Linear map of the value range onto the colour map."""
        return colors.Normalize(self.low, self.high)


def plain(text: str) -> str:
    """Text without control characters and glyphs the default font lacks."""
    return "".join(
        c if unicodedata.category(c)[0] != "C" and ord(c) < _LAST_DRAWABLE else "?"
        for c in text
    )


def write_png(
    path: str | pathlib.Path,
    figure: Figure,
    title: str,
    *,
    dpi: int,
    overwrite: bool,
    colours: int | None = None,
) -> None:
    """Write a finished figure, complete or not at all; see `png_bytes`.

    Raises:
      InputError: the file exists and may not be replaced, or cannot be written.
    """
    content = png_bytes(figure, title, dpi=dpi, colours=colours)
    write.write_bytes(path, content, overwrite=overwrite)


def png_bytes(
    figure: Figure, title: str, *, dpi: int, colours: int | None = None
) -> bytes:
    """A finished figure as a PNG, whatever style is in force.

    With `colours` it is reduced to a palette of so many, which makes charts four times
    smaller.
    """
    buffer = io.BytesIO()
    metadata = {"Software": "temdiff_jax", "Title": plain(title)}
    with matplotlib.style.context("default"):
        figure.savefig(
            buffer,
            format="png",
            dpi=dpi,
            metadata=metadata,
            pil_kwargs={"optimize": True},
        )
    if colours is not None:
        buffer = _with_palette(buffer, colours, metadata)
    return buffer.getvalue()


def _with_palette(
    png: io.BytesIO, colours: int, metadata: dict[str, str]
) -> io.BytesIO:
    reduced = io.BytesIO()
    texts = PngInfo()
    for name, text in metadata.items():
        texts.add_text(name, text)
    with Image.open(png) as image:
        image.convert("RGB").quantize(
            colours, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE
        ).save(reduced, "PNG", optimize=True, pnginfo=texts)
    return reduced


def nice_length(longest: float) -> float:
    """Largest of 1, 2, 5 times a power of ten that is at most `longest` (> 0)."""
    power = 10.0 ** math.floor(math.log10(longest))
    for factor in (5.0, 2.0):
        if factor * power <= longest:
            return factor * power
    return power


def show_slice(axes: Axes, image: np.ndarray, scale: Scale, gid: str) -> None:
    """Draw a slice [row, column] with row 0 at the bottom, on a shared scale."""
    picture = axes.imshow(
        image, cmap=scale.colour_map, norm=scale.norm, origin="lower", aspect="equal"
    )
    picture.set_gid(gid)
    axes.set_xticks([])
    axes.set_yticks([])


def draw_scale_bar(axes: Axes, columns: int, voxel_size_angstrom: float | None) -> None:
    """Draw a scale bar at the lower right of a panel that is `columns` voxels wide.

    The length is in nm, or in voxels when the voxel size is not known.
    """
    if voxel_size_angstrom is None:
        length = max(nice_length(max(_BAR_FRACTION * columns, 1.0)), 1.0)
        voxels, label = length, f"{length:g} voxels"
    else:
        voxel_nm = voxel_size_angstrom / ANGSTROM_PER_NM
        length = nice_length(_BAR_FRACTION * columns * voxel_nm)
        voxels, label = length / voxel_nm, f"{length:g} nm"
    right = 0.95
    left = right - voxels / columns
    # Offsets in points keep bar and label apart in the flattest panel.
    above = [
        axes.transAxes
        + matplotlib.transforms.ScaledTranslation(
            0.0, points / 72.0, axes.figure.dpi_scale_trans
        )
        for points in (5.0, 8.0)
    ]
    axes.plot(
        [left, right],
        [0.0, 0.0],
        transform=above[0],
        color="white",
        linewidth=2.5,
        solid_capstyle="butt",
        path_effects=[_outline(4.0)],
        gid="scale-bar",
    )
    axes.text(
        0.5 * (left + right),
        0.0,
        label,
        transform=above[1],
        color="white",
        fontsize=8,
        ha="center",
        va="bottom",
        path_effects=[_outline(2.0)],
        gid="scale-bar-label",
    )


def _outline(width: float) -> matplotlib.patheffects.withStroke:
    """Black outline that keeps a white mark legible on any grey."""
    return matplotlib.patheffects.withStroke(linewidth=width, foreground="black")


def draw_colour_bar(
    figure: Figure, rectangle: tuple[float, float, float, float], scale: Scale
) -> None:
    """Draw a labelled horizontal colour bar in figure fractions (x, y, w, h)."""
    axes = figure.add_axes(rectangle)
    bar = figure.colorbar(
        ScalarMappable(norm=scale.norm, cmap=scale.colour_map),
        cax=axes,
        orientation="horizontal",
    )
    bar.ax.tick_params(labelsize=7)
    bar.ax.locator_params(nbins=6)
    bar.set_label(scale.label, fontsize=8)


def draw_chi2(axes: Axes, chi2: np.ndarray, angles_deg: np.ndarray) -> None:
    """Draw one bar per tilt; tilts without a value (NaN) leave a gap.

    The dashed line is the expected value 1, the band the range without an alarm.
    """
    count = len(chi2)
    axes.bar(np.arange(count), np.nan_to_num(chi2), width=0.8, color="#33608c")
    axes.axhspan(*CHI2_ALARMS, color="#8c8c8c", alpha=0.25, linewidth=0)
    axes.axhline(1.0, color="black", linestyle="--", linewidth=0.9)
    step = max(1, math.ceil(count / _MAX_TICKS))
    ticks = np.arange(0, count, step)
    axes.set_xticks(ticks, [f"{angles_deg[i]:g}" for i in ticks], fontsize=7)
    axes.set_xlim(-0.7, count - 0.3)
    finite = chi2[np.isfinite(chi2)]
    top = float(finite.max()) if finite.size else 0.0
    axes.set_ylim(0.0, 1.1 * max(top, CHI2_ALARMS[1]))
    axes.tick_params(axis="y", labelsize=7)
    axes.set_xlabel("tilt angle (degrees)", fontsize=8)
    axes.set_ylabel("chi2 / n", fontsize=8)
    axes.set_title(
        "squared residual over noise variance, per tilt; expected 1", fontsize=9
    )
