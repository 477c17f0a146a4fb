"""Rows of a plan -> its table as Markdown, as numbers for JSON, and as plots."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from temdiff_jax.evaluation import comparisons, costs, protocol, quantities, tables
from temdiff_jax.evaluation.plan import Regime, TablePlan

Rows = Sequence[protocol.Row]


@dataclasses.dataclass(frozen=True)
class Panel:
    """One plot: lines over named places, or bars.

    Attributes:
      title: Above it.
      label: Of the values.
      places: Names along the axis.
      lines: By name, a value and an error (or None) for every place.
      bars: Whether to draw bars with the places as their names.
      logarithmic: Axis of the values.
    """

    title: str
    label: str
    places: tuple[str, ...]
    lines: Mapping[str, Sequence[tuple[float | None, float | None]]]
    bars: bool = False
    logarithmic: bool = False


@dataclasses.dataclass(frozen=True)
class Published:
    """A table in three forms."""

    markdown: str
    content: dict[str, Any]
    panels: tuple[Panel, ...]


_Part = tuple[str, dict[str, Any], list[Panel]]


def publish(plan: TablePlan, rows: Mapping[str, Rows]) -> Published:
    """Build the table of a plan.

    Args:
      plan: The table.
      rows: By name of the regime, see `plan.select`; a "cost" table has its measured
        runs under "cost". A regime without rows is left out.

    Raises:
      InputError: There is no row at all, or rows that form no table.
    """
    makers = {
        "accuracy": _accuracy,
        "hard": _hard,
        "misalignment": _misalignment,
        "cost": _cost,
        "ablation": _ablation,
    }
    parts = list(makers[plan.kind](plan, rows))
    if not parts:
        tables.checked((), (), plan.variant)  # says that there are no rows
    text = f"# {plan.title}\n\n" + "\n".join(part[0] for part in parts)
    content = {
        "name": plan.name,
        "title": plan.title,
        "kind": plan.kind,
        "parts": [part[1] for part in parts],
        "provenance": _provenance(rows),
    }
    panels = tuple(panel for part in parts for panel in part[2])
    return Published(text, content, panels)


def _regimes(
    plan: TablePlan, rows: Mapping[str, Rows]
) -> Iterator[tuple[Regime, Rows]]:
    for regime in plan.regimes:
        if rows.get(regime.name):
            yield regime, rows[regime.name]


def _tissues(rows: Rows) -> dict[str, list[protocol.Row]]:
    found: dict[str, list[protocol.Row]] = {}
    for row in rows:
        found.setdefault(row.get("tissue", ""), []).append(row)
    return found


def _accuracy(plan: TablePlan, rows: Mapping[str, Rows]) -> Iterator[_Part]:
    """Per regime and tissue one table a score, then ours against each other method."""
    for regime, here in _regimes(plan, rows):
        for number, (tissue, of_tissue) in enumerate(_tissues(here).items()):
            table = tables.accuracy_table(
                of_tissue, plan.columns, variant=plan.variant, costs=True
            )
            where = f"{tissue or 'all'}, {regime.name} series"
            lines, panels = [], []
            for metric in plan.columns:
                title = f"{quantities.COLUMNS[metric].label}, {where}"
                lines += [f"**{title}**", "", *table.only(metric).lines(), ""]
                panels.append(_lines(table, metric, title))
            text = "\n".join([*lines, table.caption()]) + "\n"
            content = {"regime": regime.name, "tissue": tissue, **table.to_dict()}
            yield text, content, [] if number else panels
        found = {row["method"] for row in here}
        for ours in (name for name in plan.ours if name in found):
            text = f"**{ours} against each, all tissues, {regime.name} series**\n"
            parts = {}
            for metric in plan.columns:
                table_text, parts[metric] = comparisons.pair_table(
                    here, ours, metric, variant=plan.variant
                )
                text += "\n" + table_text
            text += f"\n{comparisons.PAIR_CAPTION}\n"
            yield text, {"regime": regime.name, "ours": ours, "pairs": parts}, []


def _hard(plan: TablePlan, rows: Mapping[str, Rows]) -> Iterator[_Part]:
    """Per regime, tissue and case one table of all scores."""
    for regime, here in _regimes(plan, rows):
        for number, (tissue, of_tissue) in enumerate(_tissues(here).items()):
            where = f"{tissue or 'all'}, {regime.name} series"
            whole = tables.accuracy_table(of_tissue, plan.columns, variant=plan.variant)
            lines = []
            for case in whole.cases:
                part = dataclasses.replace(whole, cases=(case,))
                lines += [f"**{case}, {where}**", "", *part.lines(), ""]
            panels = [
                _lines(whole, metric, f"{quantities.COLUMNS[metric].label}, {where}")
                for metric in plan.columns
            ]
            text = "\n".join([*lines, whole.caption()]) + "\n"
            content = {"regime": regime.name, "tissue": tissue, **whole.to_dict()}
            yield text, content, [] if number else panels


def _misalignment(plan: TablePlan, rows: Mapping[str, Rows]) -> Iterator[_Part]:
    """Per case one table of method x residual shift."""
    by_case: dict[str, list[protocol.Row]] = {}
    for regime, here in _regimes(plan, rows):
        for row in here:
            moved = {**row, "case": f"{regime.level:g} px"}
            by_case.setdefault(row["case"], []).append(moved)
    for case, of_case in by_case.items():
        table = tables.accuracy_table(of_case, plan.columns, variant=plan.variant)
        title = f"{case}: residual shift of the series"
        panels = [
            _lines(table, metric, f"{case}, {quantities.COLUMNS[metric].label}")
            for metric in plan.columns
        ]
        text = table.markdown(
            title, cases_are="residual shift, other errors in proportion"
        )
        yield text, {"series": case, **table.to_dict()}, panels


def _cost(plan: TablePlan, rows: Mapping[str, Rows]) -> Iterator[_Part]:
    measured = rows.get("cost", ())
    if not measured:
        return
    text, content = costs.cost_table(measured)
    for case in dict.fromkeys(row["case"] for row in measured):
        cells = [cell for cell in content["cells"] if cell["case"] == case]
        places = tuple(cell["method"] for cell in cells)
        values = [(cell["median_seconds"], None) for cell in cells]
        panel = Panel(f"{case}, wall time", "seconds", places, {"": values}, True, True)
        yield text, {**content, "series": case}, [panel]
        text = ""


def _ablation(plan: TablePlan, rows: Mapping[str, Rows]) -> Iterator[_Part]:
    against = {run.name: run.against or run.name for run in plan.runs}
    for regime, here in _regimes(plan, rows):
        text, content = comparisons.ablation_table(
            here, against, plan.columns, variant=plan.variant
        )
        panels = []
        metric = plan.columns[0]
        for case in dict.fromkeys(row["case"] for row in here):
            cells = [
                cell
                for cell in content["cells"]
                if cell["case"] == case
                and cell["metric"] == metric
                and cell["against"] != cell["run"]
            ]
            places = tuple(f"{c['run']} {c['estimate']}".strip() for c in cells)
            values = [(c["mean"], c.get("standard_error")) for c in cells]
            label = f"difference in {quantities.COLUMNS[metric].label}"
            title = f"{case}, {regime.name} series"
            if cells:
                panels.append(Panel(title, label, places, {"": values}, bars=True))
        head = f"**{regime.name} series**\n\n"
        yield head + text, {"regime": regime.name, **content}, panels


def _lines(table: tables.Table, metric: str, title: str) -> Panel:
    lines = {
        method: [
            (cell.mean, cell.standard_error)
            for cell in (table.cells[method, case, metric] for case in table.cases)
        ]
        for method in table.methods
    }
    return Panel(title, quantities.COLUMNS[metric].label, table.cases, lines)


def _provenance(rows: Mapping[str, Rows]) -> dict[str, Any]:
    """What the rows say of where they were made: settings, devices, versions."""
    found: dict[str, Any] = {"devices": [], "versions": [], "settings": {}}
    for row in (row for here in rows.values() for row in here):
        for field, name in (("devices", "device"), ("versions", "version")):
            entry = row.get(name)
            if entry is not None and entry not in found[field]:
                found[field].append(entry)
        if "settings" in row:
            found["settings"][row.get("run", row["method"])] = row["settings"]
    return found
