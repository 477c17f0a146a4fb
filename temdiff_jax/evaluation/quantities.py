"""What can stand in a column of a table, and how it is read from rows."""

from collections.abc import Callable, Iterable

import numpy as np

from temdiff_jax.evaluation.results import Row

HIGHER_IS_BETTER = {
    *("psnr", "ssim", "ssim_xy", "ssim_xz", "ssim_yz", "fsc_half", "cone_ratio")
}
# Ratios to the truth: the nearer to 1 the better.
_IDEAL_IS_ONE = {"membrane_width", "membrane_depth", "tau"}
# Numbers of a row that no variant changes.
_OF_THE_ROW: dict[str, Callable[[Row], float | None]] = {
    "depth_scale_error": lambda row: abs(row["depth_scale"] - 1.0),
    "depth_shift_error": lambda row: abs(row["depth_shift"]),
    "tau": lambda row: row.get("tau"),
}
LABELS = {
    "rmse": ("RMSE", 4),
    "nrmse": ("NRMSE", 4),
    "psnr": ("PSNR", 2),
    "ssim": ("SSIM", 3),
    "ssim_xy": ("SSIM xy", 3),
    "ssim_xz": ("SSIM xz", 3),
    "ssim_yz": ("SSIM yz", 3),
    "e_in": ("E_in", 3),
    "e_out": ("E_out", 3),
    "fsc_half": ("FSC 0.5", 3),
    "depth_scale_error": ("depth scale error", 3),
    "depth_shift_error": ("depth shift error", 2),
    "cone_ratio": ("cone ratio", 3),
    "membrane_width": ("membrane width", 2),
    "membrane_depth": ("membrane depth", 2),
    "tau": ("error over spread", 2),
}


def specimen(row: Row) -> str:
    """What a row's volume is a part of; itself when nothing is said."""
    return str(row.get("specimen", row["volume"]))


def value(row: Row, metric: str, variant: str) -> float | None:
    """A number of a row, None where there is none (rows of older versions too)."""
    if row["failed"] is not None:
        return None
    if metric in _OF_THE_ROW:
        return _OF_THE_ROW[metric](row)
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


def better(metric: str) -> str:
    """Which way a metric is better, in a word or two."""
    if metric in _IDEAL_IS_ONE:
        return "nearer to 1"
    return "higher" if metric in HIGHER_IS_BETTER else "lower"


def rank(metric: str, number: float) -> float:
    """Number by which methods are ranked: itself, or its distance to 1."""
    return abs(number - 1.0) if metric in _IDEAL_IS_ONE else number
