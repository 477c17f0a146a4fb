"""Intervals from the spread of samples, with factors that were fitted to hold.

    low, high = mean -+ factor * std

The factor is split-conformal: on specimens of its own, with known truth, it is the
quantile of ``|truth - mean| / std`` that the level names, for each range of tilts and
for means over cells of several voxels.  It stands in the card of the prior; without it,
or where a series is not one of those, Student's t of the number of samples is taken
and the interval is called uncalibrated.

Sources: Vovk et al., Algorithmic Learning in a Random World, 2005 (split conformal);
Angelopoulos et al., ICML 2022, arXiv 2202.05265 (intervals of images).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.stats

from temdiff_jax.errors import InputError

LEVELS = (0.5, 0.8, 0.9)
CELLS = (1, 4)  # voxels, edges of the cells
# Ranges are taken as known up to this factor beyond those of the fit.
BEYOND = 1.25


class Interval(NamedTuple):
    """Where the truth is expected.

    Attributes:
      low, high: ``[z, y, x]``, or the means over cells, units of the input.
      calibrated: Whether the level was found to hold on specimens of known truth.
      note: What is known of it, one sentence.
    """

    low: np.ndarray
    high: np.ndarray
    calibrated: bool
    note: str


def student(level: float, num_samples: int) -> float:
    """Factor of exact samples: Student's quantile, for one more draw and their mean."""
    quantile = scipy.stats.t.ppf(0.5 + 0.5 * level, num_samples - 1)
    return float(quantile * np.sqrt(1.0 + 1.0 / num_samples))


def describe(
    card: dict[str, Any] | None, half_range_deg: float, doubts: Sequence[str]
) -> dict[str, Any]:
    """Factors of a series, for the record.

    Args:
      card: Of the prior; None without one.
      half_range_deg: Half the range of the tilts.
      doubts: Why the training of the prior does not cover the series, if it does not.

    Returns:
      ``num_samples`` of the fit and, for each cell, factors by level; or
      ``uncalibrated`` with the reason.
    """
    known = (card or {}).get("interval_factors")
    if not known:
        return {"uncalibrated": "no factors were fitted for this prior"}
    if doubts:
        return {"uncalibrated": doubts[0]}
    rows = known["rows"]
    ranges = [row["half_range_deg"] for row in rows]
    low, high = min(ranges) / BEYOND, max(ranges) * BEYOND
    if not low <= half_range_deg <= high:
        return {
            "uncalibrated": f"the factors hold for half-ranges of {low:.3g} to "
            f"{high:.3g} degrees, this series has {half_range_deg:.3g}"
        }
    found: dict[str, Any] = {"num_samples": known["num_samples"]}
    for cell in sorted({row["cell"] for row in rows}):
        mine = sorted(
            (row for row in rows if row["cell"] == cell),
            key=lambda row: row["half_range_deg"],
        )
        points = np.log([row["half_range_deg"] for row in mine])
        found[f"cell_{cell}"] = {
            level: float(
                np.interp(
                    np.log(half_range_deg), points, [r["factors"][level] for r in mine]
                )
            )
            for level in mine[0]["factors"]
        }
    return found


def cells_of(volume: np.ndarray, cell: int) -> np.ndarray:
    """Means over cubes ``[..., z, y, x]``; what is left over at the far ends is cut."""
    counts = [n // cell for n in volume.shape[-3:]]
    index: tuple[Any, ...] = (..., *(slice(n * cell) for n in counts))
    cut = volume[index]
    split = [m for n in counts for m in (n, cell)]
    return cut.reshape(*volume.shape[:-3], *split).mean(axis=(-5, -3, -1))


def factor(
    record: dict[str, Any], level: float, cell: int, num_samples: int
) -> tuple[float, str]:
    """Half the width of an interval over the spread, and why it is uncalibrated.

    Args:
      record: Of ``describe``.
      level: Share of the truth within.
      cell: Edge of the cells, voxels.
      num_samples: Samples whose standard deviation is the spread.

    Returns:
      The factor, and a reason, empty if it is calibrated.
    """
    plain = student(level, num_samples)
    if "uncalibrated" in record:
        return plain, record["uncalibrated"]
    fitted = record.get(f"cell_{cell}", {}).get(f"{level:g}")
    if fitted is None:
        return plain, f"no factor was fitted for level {level:g} and cells of {cell}"
    return fitted * plain / student(level, record["num_samples"]), ""


def interval(
    mean: np.ndarray,
    std: np.ndarray | None,
    samples: np.ndarray | None,
    provenance: dict[str, Any],
    level: float,
    cell: int,
) -> Interval:
    """The interval of a result; see ``Result.interval``."""
    count = provenance["num_samples"] if provenance["draws"] else 0
    if count < 2:
        raise InputError(
            f"interval: expected a result with a spread, got {count} samples of "
            f"{provenance['method']}; take method='default' and num_samples=8"
        )
    if not 0.0 < level < 1.0:
        raise InputError(f"interval: expected a level between 0 and 1, got {level}")
    if not 1 <= cell <= min(mean.shape):
        raise InputError(
            f"interval: expected a cell of 1 to {min(mean.shape)} voxels, got {cell}"
        )
    assert std is not None
    if cell > 1:
        if samples is None:
            raise InputError(
                "interval: expected samples for the spread of cells, got none; call "
                "reconstruct(..., keep_samples=True)"
            )
        mean = cells_of(mean, cell)
        std = cells_of(samples, cell).std(axis=0, ddof=1)
    half, reason = factor(provenance["intervals"], level, cell, count)
    said = f"{100 * level:g} % of the truth"
    note = f"uncalibrated: {reason}" if reason else f"fitted to hold {said}"
    return Interval(mean - half * std, mean + half * std, not reason, note)


def label(provenance: dict[str, Any]) -> str:
    """What a file of the standard deviation says of itself, at most 60 characters."""
    if not provenance["draws"]:
        return "no samples were drawn: zeros"
    if provenance["num_samples"] < 2:
        return "one sample has no standard deviation"
    half, reason = factor(provenance["intervals"], 0.9, 1, provenance["num_samples"])
    if reason:
        return "standard deviation of the samples, uncalibrated"
    return f"std of the samples; 90 % lies within mean +- {half:.2f} std"
