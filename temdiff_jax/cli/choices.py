"""Options that choose a method, shared by commands, and what they mean."""

import contextlib
import dataclasses
import importlib.util
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from temdiff_jax.cli import options
from temdiff_jax.errors import InputError

if TYPE_CHECKING:
    from temdiff_jax.reconstruction.plan import Choice

Method = Annotated[
    str, typer.Option(metavar="NAME", help="Method; see temdiff methods.")
]
RuleOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE.py",
        help="How guesses are pulled to the tilts: a name, or a Python file of your "
        "own that defines rule(data); it is run.",
    ),
]
SolverOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Solver of the reverse process.")
]
ScheduleOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Noise levels.")
]
Samples = Annotated[
    int | None, typer.Option(min=1, help="Number of posterior samples.")
]
Numbers = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A number of a published sampler, as temdiff methods lists them; may be "
        "repeated.",
    ),
]
Steps = Annotated[int | None, typer.Option(min=1, help="Steps of the sampler.")]


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Choices of a method as a user wrote them; None leaves one to the library."""

    method: Method = "default"
    prior: options.PriorName = "default"
    rule: RuleOption = None
    solver: SolverOption = None
    schedule: ScheduleOption = None
    samples: Samples = None
    steps: Steps = None
    numbers: Numbers = None


def parse_numbers(given: Sequence[str]) -> dict[str, Any]:
    """Reads ``NAME=VALUE``: whole numbers, numbers, else words.

    Raises:
      InputError: No equals sign, or nothing on one of its sides.
    """
    found: dict[str, Any] = {}
    for text in given:
        name, _, value = (part.strip() for part in text.partition("="))
        if not name or not value:
            raise InputError(
                f"--set: expected NAME=VALUE, got {text!r}; write for example "
                "--set scale=0.1"
            )
        found[name.replace("-", "_")] = value
        for kind in (float, int):
            with contextlib.suppress(ValueError):
                found[name.replace("-", "_")] = kind(value)
    return found


def load_rule(text: str | None) -> Any:
    """A rule's name as it is, or the function ``rule`` of a Python file.

    Raises:
      InputError: No such file, it cannot be run, or it defines no rule.
    """
    if text is None or not text.endswith(".py"):
        return text
    path = pathlib.Path(text)
    if not path.is_file():
        raise InputError(f"--rule: expected the file {path}, found none; check it")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(
            f"--rule: expected {path} to run, got {type(error).__name__} ({error}); "
            "correct the file"
        ) from error
    rule = getattr(module, "rule", None)
    if not callable(rule):
        raise InputError(
            f"--rule: expected a function rule(data) in {path}, got none; see "
            "docs/extending.md"
        )
    return rule


def choose(sampling: Sampling) -> "Choice":
    """The choice of the library, checked; the network is read here.

    Raises:
      InputError: Anything that is not known or does not fit.
    """
    from temdiff_jax.reconstruction import methods, plan

    method = methods.method_of(sampling.method)
    if sampling.numbers:
        method = method.with_numbers(**parse_numbers(sampling.numbers))
    return plan.choose(
        method,
        sampling.prior,
        rule=load_rule(sampling.rule),
        solver=sampling.solver,
        schedule=sampling.schedule,
        num_samples=sampling.samples,
        num_steps=sampling.steps,
    )


def effort(choice: "Choice", sampling: Sampling) -> list[str]:
    """A line about samples and steps, and who chose them; none without samples."""
    if "num_samples" not in choice.method.takes:
        return []
    line = f"{choice.settings.num_samples} samples of {choice.settings.num_steps} steps"
    if sampling.samples is None or sampling.steps is None:
        line += " (defaults; --samples and --steps change them)"
    return [line]
