"""Plots of result tables: lines with error bars over named places, and bars."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Protocol

import matplotlib.style
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from temdiff_jax.report import panels

DOTS_PER_INCH = 90
_COLOURS = 256
_COLUMNS = 3
_WIDTH, _HEIGHT = 5.6, 3.8  # inches, of one panel
_BAR = 0.24  # inches
_MARKERS = "osD^v<>pPX*h"
# Neighbouring errors stay apart: share of a place over which the lines are spread.
_SPREAD = 0.3

Value = tuple[float | None, float | None]


class Panel(Protocol):
    """What is drawn: `temdiff_jax.evaluation.publish.Panel` is one."""

    @property
    def title(self) -> str:
        """Above the plot."""

    @property
    def label(self) -> str:
        """Of the values."""

    @property
    def places(self) -> Sequence[str]:
        """Names along the other axis."""

    @property
    def lines(self) -> Mapping[str, Sequence[Value]]:
        """Value and error (None without) of every place, by name."""

    @property
    def bars(self) -> bool:
        """Bars with the places as their names, instead of lines."""

    @property
    def logarithmic(self) -> bool:
        """Axis of the values."""


def draw_charts(charts: Sequence[Panel], *, title: str) -> Figure:
    """Draw panels in rows of three.

    Args:
      charts: At least one. A value of None leaves a gap; lines of one name have one
        colour in all panels.
      title: First line.

    Raises:
      ValueError: No panel, or a line without a value for every place.
    """
    for chart in charts:
        wrong = [n for n, v in chart.lines.items() if len(v) != len(chart.places)]
        if wrong:
            raise ValueError(
                f"chart {chart.title!r}: expected {len(chart.places)} values a line, "
                f"got another number in {wrong}; give one per place"
            )
    if not charts:
        raise ValueError("charts: expected at least one panel, got none; pass some")
    names = list(dict.fromkeys(name for chart in charts for name in chart.lines))
    columns = min(_COLUMNS, len(charts))
    rows = math.ceil(len(charts) / columns)
    tall = max(_HEIGHT, *(_BAR * len(c.places) + 1.2 for c in charts if c.bars), 0.0)
    with matplotlib.style.context("default"):
        figure = Figure(
            figsize=(_WIDTH * columns, tall * rows + 0.4), layout="constrained"
        )
        FigureCanvasAgg(figure)
        figure.suptitle(panels.plain(title), fontsize=12)
        for number, chart in enumerate(charts):
            axes = figure.add_subplot(rows, columns, number + 1)
            axes.set_title(panels.plain(chart.title), fontsize=10)
            (_draw_bars if chart.bars else _draw_lines)(axes, chart, names)
        handles = {
            label: handle
            for axes in figure.axes
            for handle, label in zip(*axes.get_legend_handles_labels())
        }
        if handles:
            figure.legend(
                handles.values(),
                handles.keys(),
                loc="outside lower center",
                ncols=min(len(handles), 3 * columns),
                fontsize=8,
            )
    return figure


def write_charts(
    path: str | pathlib.Path,
    charts: Sequence[Panel],
    *,
    title: str,
    overwrite: bool = False,
) -> None:
    """Write panels as a PNG, complete or not at all; arguments as `draw_charts`.

    Raises:
      InputError: The file exists and may not be replaced, or cannot be written.
      ValueError: As `draw_charts`.
    """
    figure = draw_charts(charts, title=title)
    panels.write_png(
        path,
        figure,
        title,
        dpi=DOTS_PER_INCH,
        overwrite=overwrite,
        colours=_COLOURS,
    )


def _numbers(values: Sequence[Value]) -> tuple[np.ndarray, np.ndarray]:
    middle = np.array([np.nan if v is None else v for v, _ in values], np.float64)
    error = np.array([0.0 if e is None else e for _, e in values], np.float64)
    return middle, error


def _draw_lines(axes: Axes, chart: Panel, names: Sequence[str]) -> None:
    colours = colormaps["tab10" if len(names) <= 10 else "tab20"]
    for number, name in enumerate(names):
        if name not in chart.lines:
            continue
        middle, error = _numbers(chart.lines[name])
        shift = _SPREAD * ((number + 0.5) / len(names) - 0.5)
        axes.errorbar(
            np.arange(len(middle)) + shift,
            middle,
            yerr=error,
            label=panels.plain(name),
            gid=f"line {name}",
            color=colours(number % colours.N),
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=4,
            linewidth=1.1,
            capsize=2,
        )
    axes.set_xticks(range(len(chart.places)), [panels.plain(p) for p in chart.places])
    axes.set_ylabel(panels.plain(chart.label))
    if chart.logarithmic:
        axes.set_yscale("log")
    axes.set_xlim(-0.5, len(chart.places) - 0.5)
    axes.grid(alpha=0.3)


def _draw_bars(axes: Axes, chart: Panel, names: Sequence[str]) -> None:
    (values,) = chart.lines.values()
    middle, error = _numbers(values)
    places = np.arange(len(middle))
    axes.barh(
        places, np.nan_to_num(middle), xerr=error, color="#4878a8", ecolor="#333333"
    )
    axes.set_yticks(places, [panels.plain(p) for p in chart.places], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel(panels.plain(chart.label))
    if chart.logarithmic:
        axes.set_xscale("log")
    else:
        axes.axvline(0.0, color="black", linewidth=0.8)
    axes.grid(axis="x", alpha=0.3)
