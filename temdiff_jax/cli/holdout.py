"""`temdiff holdout`: tilts left out and predicted from the rest."""

import json
from typing import Any

import typer

from temdiff_jax.cli import choices, groups, options, request


@groups.flat
def holdout(
    tilts: request.Source,
    model: request.Model,
    sampling: choices.Sampling,
    *,
    as_json: options.Json = False,
) -> None:
    """Predict both outermost tilts and a middle one from the others.

    Prints how far each prediction is off, in units of the expected error, beside the
    prediction of the quadratic estimate, and the power of the test: below 1 it could
    not see what the other tilts do not measure.  Writes no file.
    """
    from temdiff_jax.cli import session
    from temdiff_jax.reconstruction import examine

    settings = session.Settings(sampling, model).checked()
    series = tilts.load()
    found = examine.holdout(settings.of(series).planned(series))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for line in [session.describe(series), *table(found)]:
        typer.echo(line)


def table(found: dict[str, Any]) -> list[str]:
    """The record of held-out tilts as lines."""
    held = found["held_out"]
    if held is None:
        return [f"{found['tilts']} tilts are too few to leave some out"]
    lines = [
        f"predicted by {found['method']} from the other tilts:",
        " degrees  error/expected  skill  agrees to  (linear)  power",
    ]
    columns = ("angles_deg", "z", "skill", "frequency", "linear", "power")
    for angle, z, skill, agrees, linear, power in zip(*map(held.get, columns)):
        lines.append(
            f"{angle:8.2f}  {z:14.2f}  {skill:5.2f}  {agrees:9.3f}  {linear:8.3f}  "
            f"{power:5.1f}"
        )
    return [
        *lines,
        "skill: 1 - squared error over that of the quadratic estimate; agrees to: "
        "cycles per pixel at which the Fourier ring correlation falls below 0.5",
        "power: what the others do not measure of the prediction, over the noise; "
        "below 1 this test cannot see what a volume invents",
    ]
