"""Paired comparisons of methods over specimens, honest about how few there are.

Two methods are compared by their difference on the same tilts. Blocks cut from one
specimen, and noises drawn for one block, are not independent: they are averaged first,
and specimens alone are resampled. More blocks make the average of a specimen surer, but
they are no more specimens.

With n specimens all differences have one sign by chance with probability 2^(1 - n), and
then every bootstrap interval excludes zero. A difference is therefore *decided* only
with `tables.MIN_PAIRS` specimens or more, and the exact probability of the sign-flip
test stands beside the interval, so that fewer specimens show what they can show.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from temdiff_jax.errors import InputError
from temdiff_jax.evaluation import metrics, protocol, quantities, tables

PAIR_CAPTION = (
    "Paired differences: mean [95 % bootstrap interval over "
    "specimens], p of the exact sign-flip test. Bold: the interval excludes zero, "
    f"{tables.MIN_PAIRS} or more specimens."
)

# Up to here all 2^n signs are tried.
_MOST_EXACT = 14
_NUM_DRAWN = 20_000


class Comparison(NamedTuple):
    """Difference of two methods over ``n`` specimens.

    Attributes:
      mean: Of the differences, one per specimen.
      standard_error: Of that mean; None for a single specimen.
      low, high: Bootstrap interval; None for a single specimen.
      p: Two-sided probability of the sign-flip test.
      n: Specimens.
      decided: The interval excludes zero and there are enough specimens.
    """

    mean: float
    standard_error: float | None
    low: float | None
    high: float | None
    p: float
    n: int
    decided: bool


def sign_flip_p(differences: ArrayLike, seed: int = 0) -> float:
    """Two-sided probability of so large a mean if every sign were as likely.

    All 2^n signs up to n = 14, beyond that 20 000 drawn ones and the observed. With n
    numbers it cannot be smaller than 2^(1 - n) (Fisher 1935, The Design of
    Experiments, section 21).
    """
    values = np.asarray(differences, np.float64)
    if values.size <= _MOST_EXACT:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=values.size)))
    else:
        drawn = np.random.default_rng(seed).integers(0, 2, (_NUM_DRAWN, values.size))
        signs = np.concatenate([np.ones((1, values.size)), 2.0 * drawn - 1.0])
    means = np.abs(signs @ values)
    return float(np.mean(means >= np.abs(values.sum()) * (1 - 1e-12)))


def compare(
    ours: Mapping[str, float],
    other: Mapping[str, float],
    *,
    seed: int = 0,
    level: float = 0.95,
) -> Comparison | None:
    """Compare two methods on the specimens that both have; None if there are none.

    Args:
        ours, other: number by specimen, see `quantities.by_specimen`.
        seed: of the bootstrap.
        level: of the interval.
    """
    shared = [name for name in ours if name in other]
    if not shared:
        return None
    values = np.array([ours[name] - other[name] for name in shared])
    p = sign_flip_p(values, seed)
    if values.size == 1:
        return Comparison(float(values[0]), None, None, None, p, 1, False)
    found = metrics.paired_bootstrap(values, seed, level=level)
    error = float(values.std(ddof=1) / np.sqrt(values.size))
    decided = found.excludes_zero and values.size >= tables.MIN_PAIRS
    return Comparison(found.mean, error, found.low, found.high, p, found.n, decided)


def pair_table(
    rows: Iterable[protocol.Row],
    ours: str,
    metric: str,
    *,
    variant: str = "matched",
    level: float = 0.95,
) -> tuple[str, dict[str, Any]]:
    """One method against each other one: difference, interval and probability by case.

    Returns:
        Markdown, to stand above `PAIR_CAPTION`, and the same numbers as a plain dict.

    Raises:
        InputError: no row of ``ours``, or rows that form no table.
    """
    groups, methods, cases = _grouped(rows, (metric,), variant)
    if ours not in methods:
        raise InputError(
            f"comparison: expected one of {methods}, got {ours!r}; name a method that "
            "was run"
        )
    label, digits = quantities.COLUMNS[metric][:2]
    head = f"{ours} minus, {quantities.better(metric)} is better"
    lines = tables.rule([head, *(f"{case} {label}" for case in cases)])
    cells = []
    for method in methods:
        if method == ours:
            continue
        texts = []
        for case in cases:
            pair = [
                _numbers(groups.get((name, case), []), metric, variant)
                for name in (ours, method)
            ]
            found = compare(*pair, level=level)
            texts.append(_interval_text(found, digits))
            if found is not None:
                cells.append({"against": method, "case": case, **found._asdict()})
        lines.append(tables.line([method, *texts]))
    content = {
        "ours": ours,
        "metric": metric,
        "variant": variant,
        "level": level,
        "cells": cells,
    }
    return "\n".join(lines) + "\n", content


def ablation_table(
    rows: Iterable[protocol.Row],
    against: Mapping[str, str],
    columns: Sequence[str],
    *,
    variant: str = "matched",
) -> tuple[str, dict[str, Any]]:
    """One line per run and estimate: its difference to the run that it varies.

    Args:
        rows: of all runs.
        against: run -> the run that it is compared with; itself, or nothing, for those
            whose own values are printed.
        columns: metrics.
        variant: of the scores.

    Returns:
        Markdown and the same numbers as a plain dict.
    """
    kept = tables.checked(rows, columns, variant)
    cases = list(dict.fromkeys(row["case"] for row in kept))
    groups: dict[tuple[str, str, str], list[protocol.Row]] = {}
    for row in kept:
        groups.setdefault((row["run"], estimate(row), row["case"]), []).append(row)
    heads = [f"{case} {quantities.COLUMNS[m].label}" for case in cases for m in columns]
    lines = tables.rule(["setting", "estimate", *heads])
    cells = []
    for run, kind in dict.fromkeys((run, kind) for run, kind, _ in groups):
        base = against.get(run, run)
        texts = []
        for case in cases:
            for metric in columns:
                own = quantities.by_specimen(
                    groups.get((run, kind, case), []), metric, variant
                )
                digits = quantities.COLUMNS[metric].digits
                if base == run:
                    mean = float(np.mean(list(own.values()))) if own else None
                    texts.append("–" if mean is None else f"{mean:.{digits}f}")
                    found = None
                else:
                    other = groups.get((base, kind, case), [])
                    found = compare(own, quantities.by_specimen(other, metric, variant))
                    mean = None if found is None else found.mean
                    texts.append(_error_text(found, digits))
                cell = {"run": run, "estimate": kind, "case": case, "metric": metric}
                more = {} if found is None else found._asdict()
                cells.append({**cell, "against": base, "mean": mean, **more})
        lines.append(tables.line([run, kind or "–", *texts]))
    lines += [
        "",
        "First the values of a default, then differences to it, setting minus default: "
        f"mean ± paired s.e. over {len({quantities.specimen(row) for row in kept})} "
        "specimens. Bold: the 95 % bootstrap interval excludes zero, "
        f"{tables.MIN_PAIRS} or more specimens.",
    ]
    return "\n".join(lines) + "\n", {"variant": variant, "cells": cells}


def estimate(row: protocol.Row) -> str:
    """Which estimate of its run a row is; "mean of 8" and "mean of 4" are "mean"."""
    name = row["method"].removeprefix(row["run"]).lstrip(", ")
    return "mean" if name.startswith("mean of ") else name


def _grouped(
    rows: Iterable[protocol.Row], columns: Sequence[str], variant: str
) -> tuple[dict[tuple[str, str], list[protocol.Row]], list[str], list[str]]:
    kept = tables.checked(rows, columns, variant)
    groups: dict[tuple[str, str], list[protocol.Row]] = {}
    for row in kept:
        groups.setdefault((row["method"], row["case"]), []).append(row)
    methods = list(dict.fromkeys(row["method"] for row in kept))
    return groups, methods, list(dict.fromkeys(row["case"] for row in kept))


def _numbers(
    rows: Sequence[protocol.Row], metric: str, variant: str
) -> dict[str, float]:
    found = quantities.by_specimen(rows, metric, variant)
    return {name: quantities.rank(metric, number) for name, number in found.items()}


def _interval_text(found: Comparison | None, digits: int) -> str:
    if found is None:
        return "–"
    text = f"{found.mean:+.{digits}f}"
    if found.low is not None and found.high is not None:
        text += f" [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"
    text += f" p={found.p:.2g}"
    return f"**{text}**" if found.decided else text


def _error_text(found: Comparison | None, digits: int) -> str:
    if found is None:
        return "–"
    text = f"{found.mean:+.{digits}f}"
    if found.standard_error is not None:
        text += f" ± {found.standard_error:.{digits}f}"
    return f"**{text}**" if found.decided else text
