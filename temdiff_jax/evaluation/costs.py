"""What methods cost, as a table: counts of the methods, time by clock.

A network call is one evaluation of the network on one whole volume; a projector pair is
one projection and one back projection of all tilts.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from temdiff_jax.evaluation import tables


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
