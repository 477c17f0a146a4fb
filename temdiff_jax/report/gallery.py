"""One PNG of rows of pictures, and curves below them.

Made to hold like beside like: measured tilts above simulated ones, samples of a prior
above real blocks, with the spectra of both in one plot.
"""

import pathlib
from collections.abc import Mapping, Sequence

import matplotlib.style
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from temdiff_jax.report import panels

DOTS_PER_INCH = 130
_WIDTH = 12.0  # inches
_TITLE = 0.5
_NAME = 0.28
_CURVES = 3.6
_POINTS = 10.0  # of names
_EM = 0.6  # width of a letter over its height
_GREY_PERCENTILES = (0.5, 99.5)

Curve = tuple[np.ndarray, np.ndarray]


def draw_gallery(
    rows: Mapping[str, Sequence[np.ndarray]],
    *,
    title: str,
    columns: Sequence[str] = (),
    curves: Mapping[str, Curve] | None = None,
    curve_labels: tuple[str, str] = ("frequency, cycles per pixel", "power"),
) -> Figure:
    """Draw the gallery; arguments as for `write_gallery`.

    Raises:
      ValueError: no row, a row without pictures, one that is no finite image, or names
        for another number of columns.
    """
    checked = {name: _images(name, row) for name, row in rows.items()}
    if not checked:
        raise ValueError(
            "gallery: expected at least one row, got none; pass rows by name"
        )
    count = max(len(row) for row in checked.values())
    if columns and len(columns) != count:
        raise ValueError(
            f"gallery: expected {count} names of columns, got {len(columns)}; name "
            "each one or none"
        )
    cell = _WIDTH / count
    head = _TITLE + (_NAME if columns else 0.0)
    tallest = {
        name: max(cell * i.shape[0] / i.shape[1] for i in row)
        for name, row in checked.items()
    }
    height = head + sum(tallest.values()) + _NAME * len(checked)
    height += _CURVES if curves else 0.0
    with matplotlib.style.context("default"):
        figure = Figure(figsize=(_WIDTH, height))
        FigureCanvasAgg(figure)
        figure.text(
            0.01, 1 - 0.3 / height, panels.plain(title), fontsize=13, va="center"
        )
        longest = max((len(name) for name in columns), default=1)
        size = min(_POINTS, 72 * cell / (_EM * longest))
        for column, name in enumerate(columns):
            figure.text(
                (column + 0.49) / count,
                1 - (_TITLE + 0.4 * _NAME) / height,
                panels.plain(name),
                fontsize=size,
                ha="center",
            )
        top = head
        for name, row in checked.items():
            figure.text(
                0.01,
                1 - (top + 0.6 * _NAME) / height,
                panels.plain(name),
                fontsize=_POINTS,
            )
            top += _NAME
            scale = _scale(row)
            for column, image in enumerate(row):
                tall = cell * image.shape[0] / image.shape[1]
                box = (column / count, 1 - (top + tall) / height)
                axes = figure.add_axes((*box, 0.98 / count, 0.98 * tall / height))
                panels.show_slice(axes, image, scale, "grey")
                axes.set_axis_off()
            top += tallest[name]
        if curves:
            _draw_curves(figure, height, curves, curve_labels)
    return figure


def write_gallery(
    path: str | pathlib.Path,
    rows: Mapping[str, Sequence[np.ndarray]],
    *,
    title: str,
    columns: Sequence[str] = (),
    curves: Mapping[str, Curve] | None = None,
    curve_labels: tuple[str, str] = ("frequency, cycles per pixel", "power"),
    overwrite: bool = False,
) -> None:
    """Write rows of pictures as a PNG, complete or not at all.

    Args:
      path: Target file.
      rows: By name, top first, each a sequence of images [row, column]; every row has
        one grey scale, the 0.5 and 99.5 percentiles of its pictures.
      title: First line.
      columns: Names above the pictures of the first row, one each; none if empty.
      curves: By name, (x, y) of a line drawn below the pictures on logarithmic axes.
      curve_labels: Of the two axes.
      overwrite: Whether an existing file may be replaced.

    Raises:
      InputError: the file exists and may not be replaced, or cannot be written.
      ValueError: as `draw_gallery`.
    """
    figure = draw_gallery(
        rows, title=title, columns=columns, curves=curves, curve_labels=curve_labels
    )
    panels.write_png(path, figure, title, dpi=DOTS_PER_INCH, overwrite=overwrite)


def _images(name: str, row: Sequence[np.ndarray]) -> list[np.ndarray]:
    images = [np.asarray(image, np.float64) for image in row]
    if not images or any(i.ndim != 2 or not np.isfinite(i).all() for i in images):
        raise ValueError(
            f"gallery: expected finite images [row, column] for {name!r}, got shapes "
            f"{[i.shape for i in images]}; cut volumes into slices first"
        )
    return images


def _scale(row: Sequence[np.ndarray]) -> panels.Scale:
    values = np.concatenate([image.ravel() for image in row])
    low, high = np.percentile(values, _GREY_PERCENTILES)
    return panels.Scale(float(low), float(max(high, low + 1e-12)), "gray", "intensity")


def _draw_curves(
    figure: Figure,
    height: float,
    curves: Mapping[str, Curve],
    labels: tuple[str, str],
) -> None:
    axes = figure.add_axes((0.08, 0.6 / height, 0.6, (_CURVES - 0.9) / height))
    for name, (x, y) in curves.items():
        axes.loglog(x, y, label=panels.plain(name), gid="curve")
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=9)
    axes.grid(alpha=0.3)
