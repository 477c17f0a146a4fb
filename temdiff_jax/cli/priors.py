"""`temdiff priors`: what the shipped and given denoisers are, and whether intact."""

import json
import os
import pathlib
from typing import Annotated, Any

import typer

from temdiff_jax.cli import options

app = typer.Typer(
    help="List the priors of this installation, or verify one.",
    rich_markup_mode=None,
    no_args_is_help=False,
)


@app.command("list")
def list_priors(
    as_json: options.Json = False,
) -> None:
    """Print the card of every prior that ships with this installation."""
    from temdiff_jax.priors import load

    cards = {name: dict(load.load_prior(name).card) for name in load.prior_names()}
    if as_json:
        typer.echo(json.dumps(cards, indent=2))
        return
    for name, card in cards.items():
        _print_card(name, card)


@app.command("verify")
def verify(
    prior: Annotated[
        str, typer.Argument(metavar="NAME|FILE", help="Prior to check.")
    ] = "default",
) -> None:
    """Read a prior, compare its sha256 with the pinned one, print its card."""
    from temdiff_jax.priors import load

    given = pathlib.Path(prior)
    loaded = load.load_prior(given if os.path.isfile(given) else prior)
    _print_card(prior, dict(loaded.card))
    typer.echo(f"{prior}: intact")


def _print_card(name: str, card: dict[str, Any]) -> None:
    """One line per entry of a card."""
    typer.echo(name)
    for key, value in card.items():
        text = value if isinstance(value, str) else json.dumps(value)
        typer.echo(f"  {key}: {' '.join(text.split())}")
