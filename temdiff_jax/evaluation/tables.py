"""Tables of an evaluation: rows of dicts in, Markdown and JSON out.

The best value of a column is bold only if the paired bootstrap interval of its
difference to the next method excludes zero. Baselines that win are printed like those
that lose, and a failed reconstruction is counted in its cell.
"""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from temdiff_jax import types
from temdiff_jax.evaluation import metrics, protocol

# With n pairs all differences have one sign by chance with probability 2^(1 - n), and
# then every bootstrap interval excludes zero: below 6 pairs that is more than 5 %.
MIN_PAIRS = 6

T1_METRICS = ("rmse", "psnr", "ssim")
T2_METRICS = ("e_in", "e_out", "ssim_xy", "ssim_xz", "ssim_yz")
_HIGHER_IS_BETTER = {"psnr", "ssim", "ssim_xy", "ssim_xz", "ssim_yz", "fsc_half"}
_LABELS = {
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
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One method, case and metric: mean and standard error over volumes.

    ``n`` counts the volumes in the mean, ``failed`` those without a finite
    reconstruction. ``mean`` is None without any value, ``standard_error`` with fewer
    than two. ``against`` names the next method of the best one in a column and
    ``difference`` is their paired difference, best minus next.
    """

    method: str
    case: str
    metric: str
    mean: float | None
    standard_error: float | None
    n: int
    failed: int
    bold: bool = False
    against: str | None = None
    difference: metrics.BootstrapInterval | None = None


@dataclasses.dataclass(frozen=True)
class Table:
    """Cells by method, case and metric, in the order in which the rows name them."""

    variant: str
    methods: tuple[str, ...]
    cases: tuple[str, ...]
    metrics: tuple[str, ...]
    num_volumes: int
    level: float
    cells: dict[tuple[str, str, str], Cell]

    def markdown(self, title: str | None = None) -> str:
        """Render method x (case, metric) with a line that states the protocol."""
        labels = [_LABELS[metric][0] for metric in self.metrics]
        heads = [f"{case} {label}" for case in self.cases for label in labels]
        lines = [f"**{title}**", ""] if title else []
        lines += _rule(["method", *heads])
        for method in self.methods:
            texts = [
                self._text(self.cells[method, case, metric])
                for case in self.cases
                for metric in self.metrics
            ]
            lines.append(_line([method, *texts]))
        arrows = ", ".join(
            f"{label} {'higher' if metric in _HIGHER_IS_BETTER else 'lower'}"
            for label, metric in zip(labels, self.metrics, strict=True)
        )
        lines += [
            "",
            f"Protocol {protocol.PROTOCOL}, variant {self.variant}: mean ± s.e. over "
            f"{self.num_volumes} volumes; columns are range/step in degrees. Better "
            f"is: {arrows}. Bold: best, and the {100 * self.level:g} % paired "
            f"bootstrap interval against the next excludes zero ({MIN_PAIRS} or more "
            "shared volumes).",
        ]
        return "\n".join(lines) + "\n"

    def _text(self, cell: Cell) -> str:
        digits = _LABELS[cell.metric][1]
        notes = [f"{cell.failed} failed"] if cell.failed else []
        if 0 < cell.n and cell.n + cell.failed < self.num_volumes:
            notes.append(f"n={cell.n}")
        text = "–" if cell.mean is None else f"{cell.mean:.{digits}f}"
        if cell.standard_error is not None:
            text += f" ± {cell.standard_error:.{digits}f}"
        if cell.bold:
            text = f"**{text}**"
        return f"{text} ({', '.join(notes)})" if notes else text

    def to_dict(self) -> dict[str, Any]:
        """Return the same content as plain values, ready for ``json.dump``."""
        return {
            "protocol": protocol.PROTOCOL,
            "variant": self.variant,
            "level": self.level,
            "min_pairs": MIN_PAIRS,
            "num_volumes": self.num_volumes,
            "methods": list(self.methods),
            "cases": list(self.cases),
            "metrics": list(self.metrics),
            "cells": [
                {
                    **dataclasses.asdict(dataclasses.replace(cell, difference=None)),
                    "difference": cell.difference and cell.difference._asdict(),
                }
                for cell in self.cells.values()
            ],
        }


def accuracy_table(
    rows: Iterable[protocol.Row],
    columns: Sequence[str] = T1_METRICS,
    *,
    variant: str = "matched",
    level: float = 0.95,
    seed: int = 0,
) -> Table:
    """Aggregate rows of `protocol.evaluate` to mean, standard error and bold marks.

    Args:
        rows: from `protocol.evaluate` or `results.read_rows`; one per volume, case
            and method.
        columns: metrics of the table, by default those of T1.
        variant: ``"raw"``, ``"matched"`` or ``"gauge"``.
        level: coverage of the interval that decides what is bold.
        seed: seed of the bootstrap.

    Returns:
        A table; `Table.markdown` and `Table.to_dict` render it.

    Raises:
        types.InputError: no rows, a repeated one, another protocol, an unknown metric
            or variant.
    """
    rows = _checked(rows, columns, variant)
    methods = tuple(dict.fromkeys(row["method"] for row in rows))
    cases = tuple(dict.fromkeys(row["case"] for row in rows))
    values: dict[tuple[str, str], dict[str, protocol.Row]] = {}
    for row in rows:
        values.setdefault((row["method"], row["case"]), {})[row["volume"]] = row
    cells = {}
    for case in cases:
        for metric in columns:
            column = [
                _cell(method, case, metric, variant, values.get((method, case), {}))
                for method in methods
            ]
            for cell in _marked(column, level, seed):
                cells[cell.method, case, metric] = cell
    volumes = len({row["volume"] for row in rows})
    return Table(variant, methods, cases, tuple(columns), volumes, level, cells)


def t1(rows: Iterable[protocol.Row], *, variant: str = "matched") -> Table:
    """Table T1, accuracy: RMSE, PSNR and SSIM of every method and case."""
    return accuracy_table(rows, T1_METRICS, variant=variant)


def t2(rows: Iterable[protocol.Row], *, variant: str = "matched") -> Table:
    """Table T2, where it hurts: wedge-split errors and SSIM per plane."""
    return accuracy_table(rows, T2_METRICS, variant=variant)


def seconds_table(rows: Iterable[protocol.Row]) -> tuple[str, dict[str, Any]]:
    """Wall seconds of every run, as Markdown and as a plain dict.

    The median over volumes leaves compilation out as soon as there are three; the
    longest run beside it usually holds it. Estimates of one run share its time.
    """
    rows = _checked(rows, (), "raw")
    times: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        per_volume = times.setdefault((row["run"], row["case"]), {})
        per_volume[row["volume"]] = float(row["seconds"])
    runs = list(dict.fromkeys(run for run, _ in times))
    cases = list(dict.fromkeys(case for _, case in times))
    lines = _rule(["method", *(f"{case} s" for case in cases)])
    cells = []
    for run in runs:
        texts = []
        for case in cases:
            seconds = list(times.get((run, case), {}).values())
            if not seconds:
                texts.append("–")
                continue
            median, longest = float(np.median(seconds)), max(seconds)
            texts.append(f"{median:.3g} ({longest:.3g})")
            cells.append(
                {
                    "method": run,
                    "case": case,
                    "median": median,
                    "max": longest,
                    "n": len(seconds),
                }
            )
        lines.append(_line([run, *texts]))
    lines += ["", "Wall seconds a volume: median (longest, compilation included)."]
    return "\n".join(lines) + "\n", {"methods": runs, "cases": cases, "cells": cells}


def _checked(
    rows: Iterable[protocol.Row], columns: Sequence[str], variant: str
) -> list[protocol.Row]:
    kept = list(rows)
    unknown = [name for name in columns if name not in _LABELS]
    if unknown or variant not in protocol.VARIANTS:
        raise types.InputError(
            f"table is undefined: expected metrics among {sorted(_LABELS)} and a "
            f"variant among {list(protocol.VARIANTS)}, got {unknown or variant!r}; "
            "correct the name"
        )
    if not kept:
        raise types.InputError(
            "table is empty: expected at least one row, got 0; run the evaluation first"
        )
    seen = set()
    for row in kept:
        key = (row["volume"], row["case"], row["method"])
        if row["protocol"] != protocol.PROTOCOL or key in seen:
            raise types.InputError(
                f"rows do not form one table: expected protocol {protocol.PROTOCOL} "
                f"and one row per volume, case and method, got protocol "
                f"{row['protocol']} and {' / '.join(key)} "
                f"{'again' if key in seen else 'once'}; tabulate one results file"
            )
        seen.add(key)
    return kept


def _cell(
    method: str,
    case: str,
    metric: str,
    variant: str,
    by_volume: dict[str, protocol.Row],
) -> tuple[Cell, dict[str, float]]:
    """Mean and error of one cell, with the values by volume for the pairing."""
    failed = sum(row["failed"] is not None for row in by_volume.values())
    found = {
        volume: float(row[variant][metric])
        for volume, row in by_volume.items()
        if row["failed"] is None and row[variant][metric] is not None
    }
    data = np.array(list(found.values()))
    mean = float(data.mean()) if data.size else None
    error = float(data.std(ddof=1) / np.sqrt(data.size)) if data.size > 1 else None
    return Cell(method, case, metric, mean, error, data.size, failed), found


def _marked(
    column: list[tuple[Cell, dict[str, float]]], level: float, seed: int
) -> list[Cell]:
    """Compare the best of a column with the next and mark it if they differ.

    A method that failed on a volume, or was not run on all of them, cannot be best
    or next: its mean is over easier volumes than the others'.
    """
    cells = [cell for cell, _ in column]
    full = max(cell.n for cell in cells)
    ranked = [
        (cell.mean, cell, found)
        for cell, found in column
        if cell.mean is not None and cell.n == full and not cell.failed
    ]
    higher = cells[0].metric in _HIGHER_IS_BETTER
    ranked.sort(key=lambda item: item[0], reverse=higher)
    if len(ranked) < 2:
        return cells
    (_, best, a), (_, following, b) = ranked[:2]
    shared = [volume for volume in a if volume in b]
    if len(shared) < 2:
        return cells
    interval = metrics.paired_bootstrap(
        [a[volume] - b[volume] for volume in shared], seed, level=level
    )
    right_side = interval.low > 0.0 if higher else interval.high < 0.0
    marked = dataclasses.replace(
        best,
        bold=right_side and len(shared) >= MIN_PAIRS,
        against=following.method,
        difference=interval,
    )
    return [marked if cell is best else cell for cell in cells]


def _line(texts: Sequence[str]) -> str:
    # A bar inside a name would open a new column.
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"


def _rule(heads: Sequence[str]) -> list[str]:
    return [_line(heads), "|" + "---|" * len(heads)]


def to_json(table: Table) -> str:
    """Serialise a table as indented JSON."""
    return json.dumps(table.to_dict(), indent=2, allow_nan=False) + "\n"
