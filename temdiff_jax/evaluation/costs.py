"""What methods cost: network calls and projector pairs by arithmetic, time by clock.

A network call is one evaluation of the network on one whole volume; a projector pair is
one projection and one back projection of all tilts.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from temdiff_jax.baselines import _door
from temdiff_jax.baselines.sart import TUNED as SART_TUNED
from temdiff_jax.baselines.sirt import TUNED as SIRT_TUNED
from temdiff_jax.baselines.tv import NUM_ITERS as TV_ITERS
from temdiff_jax.evaluation import tables
from temdiff_jax.inverse.tikhonov import settings_for

# Mirror images over which the one-call estimate is averaged.
MIRRORS = 8
# "regression" is the one-call estimate of a network trained for nothing else.
_ONE_CALL = ("mean", "regression")

PairCount = Callable[[ArrayLike], int]


def tikhonov_pairs(angles_deg: ArrayLike) -> int:
    """Projector pairs of the quadratic estimate; the right-hand side is one more."""
    return settings_for(angles_deg).num_iters + 1


BASELINE_PAIRS: dict[str, PairCount] = {
    "fbp": lambda angles: 1,
    "sirt": lambda angles: int(_door.tuned_row(SIRT_TUNED, angles)[0]),
    "sart": lambda angles: int(_door.tuned_row(SART_TUNED, angles)[1]),
    "tv": lambda angles: TV_ITERS,
    "tikhonov": tikhonov_pairs,
}


def network_calls(
    kind: str, *, samples: int = 1, steps: int = 1, mirrors: bool = True
) -> int | None:
    """Network calls of one run; None for a kind that is not known here."""
    if kind in BASELINE_PAIRS:
        return 0
    if kind in _ONE_CALL:
        return MIRRORS if mirrors else 1
    return samples * steps if kind == "posterior" else None


def projector_pairs(
    kind: str,
    *,
    samples: int = 1,
    steps: int = 1,
    cg_iters: int = 8,
    mean_cg_iters: int = 20,
) -> PairCount | None:
    """Projector pairs of one run as a function of the angles in degrees.

    Those of the network's condition are counted; those that estimate an operator norm
    are not.
    """
    updates = {
        **dict.fromkeys(_ONE_CALL, mean_cg_iters + 1),
        "posterior": samples * steps * (cg_iters + 1),
    }
    if kind in BASELINE_PAIRS:
        return BASELINE_PAIRS[kind]
    if kind in updates:
        return lambda angles: tikhonov_pairs(angles) + updates[kind]
    return None


def cost_table(rows: Iterable[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """Table T6 from rows of measured runs, one per method and case.

    Args:
        rows: dicts with ``method``, ``case``, ``shape`` (z, y, x), ``first_seconds``,
            ``seconds`` (list, later runs), ``calls``, ``pairs``, ``peak_bytes`` (above
            what the process held before), ``device_peak_bytes`` and ``device``; None
            where something could not be measured.

    Returns:
        Markdown and the rows with the median of their seconds.
    """
    heads = ["method", "case", "volume", "seconds", "first run, s", "network calls"]
    heads += ["projector pairs", "memory, MB", "device memory, MB", "device"]
    lines = tables.rule(heads)
    cells = []
    for row in rows:
        seconds = [float(s) for s in row["seconds"]]
        median = float(np.median(seconds)) if seconds else None
        cells.append({**row, "median_seconds": median})
        texts = [
            row["method"],
            row["case"],
            " x ".join(str(n) for n in row["shape"]),
            _number(median),
            _number(row["first_seconds"]),
            _number(row["calls"]),
            _number(row["pairs"]),
            _number(row["peak_bytes"], 2**20),
            _number(row["device_peak_bytes"], 2**20),
            str(row["device"]),
        ]
        lines.append(tables.line(texts))
    lines += [
        "",
        "Each line is a process of its own. Seconds: median wall time of later runs; "
        "the first run holds compilation. Memory: what the process held at most beyond "
        "what it held before the first run, compilation included.",
    ]
    return "\n".join(lines) + "\n", {"cells": cells}


def _number(value: float | None, unit: float = 1.0) -> str:
    if value is None:
        return "–"
    scaled = value / unit
    return (
        f"{scaled:.0f}" if scaled >= 100 or scaled == int(scaled) else f"{scaled:.3g}"
    )
