"""`temdiff methods`: what can reconstruct, where it comes from, what it costs."""

from typing import Any

import typer

from temdiff_jax.cli import options

HALF_RANGE_DEG = 20.0


def methods(
    as_json: options.Json = False,
) -> None:
    """List the methods: what each is, its paper, its cost, what it needs.

    Network calls, back-propagations through it and projector pairs are those of the
    default settings; pairs for tilts over 40 degrees, "-" where nobody counted them.
    """
    import json

    rows = [describe(row) for row in _table().values()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        pairs = "-" if row["pairs"] is None else row["pairs"]
        needs = "" if row["needs"] in ("", "prior") else f"; weights {row['needs']}"
        back = f" + {row['backward']} back" if row["backward"] else ""
        cost = f"{row['calls']} calls{back}, {pairs} pairs{needs}"
        numbers = " ".join(f"{n}={_short(v)}" for n, v in row["numbers"].items())
        cost += f"; --set {numbers}" if numbers else ""
        paper = f" [{row['paper']}]" if row["paper"] else ""
        typer.echo(f"{row['name']}: {row['summary']}{paper} ({cost})")


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def describe(row: Any) -> dict[str, Any]:
    """One method, JSON-ready."""
    import numpy as np

    angles = np.array([-HALF_RANGE_DEG, HALF_RANGE_DEG])
    return {
        "name": row.name,
        "summary": row.summary,
        "paper": row.paper,
        "calls": row.calls(row.settings),
        "backward": row.backward(row.settings),
        "pairs": row.pairs(row.settings, angles),
        "needs": row.needs,
        "takes": list(row.takes),
        "numbers": {
            name: value
            for name, value in row.numbers.items()
            if isinstance(value, int | float | str)
        },
    }


def _table() -> dict[str, Any]:
    from temdiff_jax.cli import environment

    environment.prepare_jax()

    from temdiff_jax.reconstruction import methods as library

    return library.table()
