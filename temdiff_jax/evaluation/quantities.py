"""The one table of what can stand in a column, and how it is read from rows."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from temdiff_jax.evaluation import metrics
from temdiff_jax.evaluation.results import Row

Volume = NDArray[np.float64]


class Column(NamedTuple):
    """A score.

    Attributes:
      label: Heading.
      digits: After the point.
      better: "lower", "higher", or "nearer to 1" of ratios to the truth.
      score: ``(volume, truth, keep) -> number`` of each variant, ``[z, y, x]``, keep
        the voxels that count; None for those that `protocol` finds together.
      of_row: Reads a number of a row that no variant changes.
    """

    label: str
    digits: int
    better: str = "lower"
    score: Callable[[Volume, Volume, NDArray[np.bool_]], float] | None = None
    of_row: Callable[[Row], float | None] | None = None


def _ssim(plane: str) -> Callable[..., float]:
    return lambda volume, truth, keep: metrics.ssim_slices(volume, truth, plane, keep)


COLUMNS = {
    "rmse": Column("RMSE", 4, score=metrics.rmse),
    "nrmse": Column("NRMSE", 4, score=metrics.nrmse),
    "psnr": Column("PSNR", 2, "higher", metrics.psnr),
    "ssim": Column("SSIM", 3, "higher", metrics.ssim3d),
    "ssim_xy": Column("SSIM xy", 3, "higher", _ssim("xy")),
    "ssim_xz": Column("SSIM xz", 3, "higher", _ssim("xz")),
    "ssim_yz": Column("SSIM yz", 3, "higher", _ssim("yz")),
    "e_in": Column("E_in", 3),
    "e_out": Column("E_out", 3),
    "fsc_half": Column("FSC 0.5", 3, "higher"),
    "depth_scale_error": Column(
        "depth scale error", 3, of_row=lambda row: abs(row["depth_scale"] - 1.0)
    ),
    "depth_shift_error": Column(
        "depth shift error", 2, of_row=lambda row: abs(row["depth_shift"])
    ),
    "cone_ratio": Column("cone ratio", 3, "higher"),
    "membrane_width": Column("membrane width", 2, "nearer to 1"),
    "membrane_depth": Column("membrane depth", 2, "nearer to 1"),
    "tau": Column(
        "error over spread", 2, "nearer to 1", of_row=lambda row: row.get("tau")
    ),
}


def specimen(row: Row) -> str:
    """What a row's volume is a part of; itself when nothing is said."""
    return str(row.get("specimen", row["volume"]))


def value(row: Row, metric: str, variant: str) -> float | None:
    """A number of a row, None where there is none (rows of older versions too)."""
    if row["failed"] is not None:
        return None
    column = COLUMNS.get(metric)
    if column is not None and column.of_row is not None:
        return column.of_row(row)
    return row[variant].get(metric)


def by_specimen(rows: Iterable[Row], metric: str, variant: str) -> dict[str, float]:
    """Mean of a number over the volumes of each specimen.

    A specimen of which one volume failed has no number: the rest would be easier.
    """
    found: dict[str, list[float]] = {}
    failed = set()
    for row in rows:
        number = value(row, metric, variant)
        if row["failed"] is not None:
            failed.add(specimen(row))
        elif number is not None:
            found.setdefault(specimen(row), []).append(number)
    return {s: float(np.mean(v)) for s, v in found.items() if s not in failed}


def scores(volume: Volume, truth: Volume, keep: NDArray[np.bool_]) -> dict[str, float]:
    """The scores of the table that know how to be found, by name."""
    return {
        name: column.score(volume, truth, keep)
        for name, column in COLUMNS.items()
        if column.score is not None
    }


def better(metric: str) -> str:
    """Which way a metric is better, in a word or two."""
    column = COLUMNS.get(metric)
    return "lower" if column is None else column.better


def rank(metric: str, number: float) -> float:
    """Number by which methods are ranked: itself, or its distance to 1."""
    return abs(number - 1.0) if better(metric) == "nearer to 1" else number
