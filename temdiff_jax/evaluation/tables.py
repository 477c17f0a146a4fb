"""Tables of an evaluation: rows of dicts in, Markdown and JSON out.

The unit of every mean, error and comparison is the specimen: volumes of one specimen
(blocks of it, or several noises) are averaged first, since they are not independent.
The best value of a column is bold only if the paired bootstrap interval of its
difference to the next method excludes zero. Baselines that win are printed like those
that lose, and a failed reconstruction is counted in its cell.
"""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from temdiff_jax import errors
from temdiff_jax.evaluation import metrics, protocol, quantities

# With n pairs all differences have one sign by chance with probability 2^(1 - n), and
# then every bootstrap interval excludes zero: below 6 pairs that is more than 5 %.
MIN_PAIRS = 6

T1_METRICS = ("rmse", "psnr", "ssim")
T2_METRICS = (
    *("e_in", "e_out", "ssim_xy", "ssim_xz", "ssim_yz"),
    *("depth_scale_error", "cone_ratio", "membrane_width", "membrane_depth"),
)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One method, case and metric: mean and standard error over specimens.

    ``n`` counts the specimens in the mean, ``failed`` those without a finite
    reconstruction. ``mean`` is None without any value, ``standard_error`` with fewer
    than two. ``against`` names the next method of the best one in a column and
    ``difference`` is their paired difference, best minus next (of the distance to 1
    where that is best).
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
    """Cells by method, case and metric, in the order in which the rows name them.

    ``costs`` holds, where asked for, network calls and wall seconds by method, as text.
    """

    variant: str
    methods: tuple[str, ...]
    cases: tuple[str, ...]
    metrics: tuple[str, ...]
    num_specimens: int
    num_volumes: int
    level: float
    cells: dict[tuple[str, str, str], Cell]
    costs: dict[str, tuple[str, str]] | None = None

    def markdown(
        self, title: str | None = None, *, cases_are: str = "range/step in degrees"
    ) -> str:
        """Render method x (case, metric) with a line that states the protocol."""
        lines = [f"**{title}**", ""] if title else []
        lines += [*self.lines(), "", self.caption(cases_are)]
        return "\n".join(lines) + "\n"

    def only(self, metric: str) -> "Table":
        """The columns of one metric."""
        return dataclasses.replace(self, metrics=(metric,))

    def lines(self) -> list[str]:
        """The lines of the table itself."""
        labels = [quantities.COLUMNS[metric].label for metric in self.metrics]
        heads = [f"{case} {label}" for case in self.cases for label in labels]
        if self.costs is not None:
            heads += ["network calls", "seconds"]
        lines = rule(["method", *heads])
        for method in self.methods:
            texts = [
                self._text(self.cells[method, case, metric])
                for case in self.cases
                for metric in self.metrics
            ]
            texts += () if self.costs is None else self.costs[method]
            lines.append(line([method, *texts]))
        return lines

    def caption(self, cases_are: str = "range/step in degrees") -> str:
        """What the numbers are, over what, and when one is bold."""
        arrows = ", ".join(
            f"{quantities.COLUMNS[metric].label} {quantities.better(metric)}"
            for metric in self.metrics
        )
        over = f"{self.num_volumes} volumes"
        if self.num_specimens != self.num_volumes:
            over = f"{self.num_specimens} specimens ({over})"
        text = (
            f"Protocol {protocol.PROTOCOL}, variant {self.variant}: mean ± s.e. over "
            f"{over}; columns are {cases_are}. Better "
            f"is: {arrows}. Bold: best, and the {100 * self.level:g} % paired "
            f"bootstrap interval against the next excludes zero ({MIN_PAIRS} or more "
            "shared specimens)."
        )
        if self.costs is not None:
            text += (
                " Network calls and wall seconds of one run, from which all its "
                "estimates come: median over volumes, smallest to largest over columns."
            )
        return text

    def _text(self, cell: Cell) -> str:
        digits = quantities.COLUMNS[cell.metric].digits
        notes = [f"{cell.failed} failed"] if cell.failed else []
        if 0 < cell.n and cell.n + cell.failed < self.num_specimens:
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
            "num_specimens": self.num_specimens,
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
            "costs": self.costs,
        }


def accuracy_table(
    rows: Iterable[protocol.Row],
    columns: Sequence[str] = T1_METRICS,
    *,
    variant: str = "matched",
    level: float = 0.95,
    seed: int = 0,
    costs: bool = False,
) -> Table:
    """Aggregate rows of `protocol.evaluate` to mean, standard error and bold marks.

    Args:
        rows: from `protocol.evaluate` or `results.read_rows`; one per volume, case
            and method.
        columns: metrics of the table, by default those of T1.
        variant: ``"raw"``, ``"matched"`` or ``"gauge"``.
        level: coverage of the interval that decides what is bold.
        seed: seed of the bootstrap.
        costs: whether network calls and wall seconds make the last two columns.

    Returns:
        A table; `Table.markdown` and `Table.to_dict` render it.

    Raises:
        errors.InputError: no rows, a repeated one, another protocol, an unknown metric
            or variant.
    """
    rows = checked(rows, columns, variant)
    methods = tuple(dict.fromkeys(row["method"] for row in rows))
    cases = tuple(dict.fromkeys(row["case"] for row in rows))
    values: dict[tuple[str, str], list[protocol.Row]] = {}
    for row in rows:
        values.setdefault((row["method"], row["case"]), []).append(row)
    cells = {}
    for case in cases:
        for metric in columns:
            column = [
                _cell(method, case, metric, variant, values.get((method, case), []))
                for method in methods
            ]
            for cell in _marked(column, level, seed):
                cells[cell.method, case, metric] = cell
    return Table(
        variant,
        methods,
        cases,
        tuple(columns),
        len({quantities.specimen(row) for row in rows}),
        len({row["volume"] for row in rows}),
        level,
        cells,
        _costs(rows, methods) if costs else None,
    )


def t1(
    rows: Iterable[protocol.Row], *, variant: str = "matched", costs: bool = False
) -> Table:
    """Table T1, accuracy: RMSE, PSNR and SSIM of every method and case."""
    return accuracy_table(rows, T1_METRICS, variant=variant, costs=costs)


def t2(rows: Iterable[protocol.Row], *, variant: str = "matched") -> Table:
    """Table T2, where it hurts: wedge-split errors, SSIM per plane, depth, cones."""
    return accuracy_table(rows, T2_METRICS, variant=variant)


def _costs(
    rows: Iterable[protocol.Row], methods: Sequence[str]
) -> dict[str, tuple[str, str]]:
    """Calls and seconds by method: medians over volumes, as a range over cases."""
    found: dict[str, tuple[str, str]] = {}
    rows = list(rows)
    for method in methods:
        texts = []
        for field in ("calls", "seconds"):
            by_case: dict[str, list[float]] = {}
            for row in rows:
                if row["method"] == method and row.get(field) is not None:
                    by_case.setdefault(row["case"], []).append(float(row[field]))
            medians = [float(np.median(numbers)) for numbers in by_case.values()]
            ends = (min(medians), max(medians)) if medians else ()
            texts.append("–".join(dict.fromkeys(f"{end:.3g}" for end in ends)) or "–")
        found[method] = (texts[0], texts[1])
    return found


def seconds_table(rows: Iterable[protocol.Row]) -> tuple[str, dict[str, Any]]:
    """Wall seconds of every run, as Markdown and as a plain dict.

    The median over volumes leaves compilation out as soon as there are three; the
    longest run beside it usually holds it. Estimates of one run share its time.
    """
    rows = checked(rows, (), "raw")
    times: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        per_volume = times.setdefault((row["run"], row["case"]), {})
        per_volume[row["volume"]] = float(row["seconds"])
    runs = list(dict.fromkeys(run for run, _ in times))
    cases = list(dict.fromkeys(case for _, case in times))
    lines = rule(["method", *(f"{case} s" for case in cases)])
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
        lines.append(line([run, *texts]))
    lines += ["", "Wall seconds a volume: median (longest, compilation included)."]
    return "\n".join(lines) + "\n", {"methods": runs, "cases": cases, "cells": cells}


def checked(
    rows: Iterable[protocol.Row], columns: Sequence[str], variant: str
) -> list[protocol.Row]:
    """Rows of one table.

    Raises:
        errors.InputError: as `accuracy_table`.
    """
    kept = list(rows)
    unknown = [name for name in columns if name not in quantities.COLUMNS]
    if unknown or variant not in protocol.VARIANTS:
        raise errors.InputError(
            "table is undefined: expected metrics among "
            f"{sorted(quantities.COLUMNS)} and a variant among "
            f"{list(protocol.VARIANTS)}, got {unknown or variant!r}; "
            "correct the name"
        )
    if not kept:
        raise errors.InputError(
            "table is empty: expected at least one row, got 0; run the evaluation first"
        )
    seen = set()
    for row in kept:
        key = (row["volume"], row["case"], row["method"])
        if row["protocol"] != protocol.PROTOCOL or key in seen:
            raise errors.InputError(
                f"rows do not form one table: expected protocol {protocol.PROTOCOL} "
                f"and one row per volume, case and method, got protocol "
                f"{row['protocol']} and {' / '.join(key)} "
                f"{'again' if key in seen else 'once'}; tabulate one results file"
            )
        seen.add(key)
    return kept


def _cell(
    method: str, case: str, metric: str, variant: str, rows: Sequence[protocol.Row]
) -> tuple[Cell, dict[str, float]]:
    """Mean and error of one cell, with the values by specimen for the pairing."""
    failed = len(
        {quantities.specimen(row) for row in rows if row["failed"] is not None}
    )
    found = quantities.by_specimen(rows, metric, variant)
    data = np.array(list(found.values()))
    mean = float(data.mean()) if data.size else None
    error = float(data.std(ddof=1) / np.sqrt(data.size)) if data.size > 1 else None
    ranks = {name: quantities.rank(metric, number) for name, number in found.items()}
    return Cell(method, case, metric, mean, error, data.size, failed), ranks


def _marked(
    column: list[tuple[Cell, dict[str, float]]], level: float, seed: int
) -> list[Cell]:
    """Compare the best of a column with the next and mark it if they differ.

    A method that failed on a specimen, or was not run on all of them, cannot be best
    or next: its mean is over easier ones than the others'.
    """
    cells = [cell for cell, _ in column]
    full = max(cell.n for cell in cells)
    ranked = [
        (float(np.mean(list(found.values()))), cell, found)
        for cell, found in column
        if cell.mean is not None and cell.n == full and not cell.failed
    ]
    higher = quantities.better(cells[0].metric) == "higher"
    ranked.sort(key=lambda item: item[0], reverse=higher)
    if len(ranked) < 2:
        return cells
    (_, best, a), (_, following, b) = ranked[:2]
    shared = [name for name in a if name in b]
    if len(shared) < 2:
        return cells
    interval = metrics.paired_bootstrap(
        [a[name] - b[name] for name in shared], seed, level=level
    )
    right_side = interval.low > 0.0 if higher else interval.high < 0.0
    marked = dataclasses.replace(
        best,
        bold=right_side and len(shared) >= MIN_PAIRS,
        against=following.method,
        difference=interval,
    )
    return [marked if cell is best else cell for cell in cells]


def line(texts: Sequence[str]) -> str:
    """One row of a Markdown table."""
    # A bar inside a name would open a new column.
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"


def rule(heads: Sequence[str]) -> list[str]:
    """Head of a Markdown table and the rule below it."""
    return [line(heads), "|" + "---|" * len(heads)]


def to_json(table: Table) -> str:
    """Serialise a table as indented JSON."""
    return json.dumps(table.to_dict(), indent=2, allow_nan=False) + "\n"
