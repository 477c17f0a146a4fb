"""Options that belong together as one value: a frozen dataclass is a block of them."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, get_type_hints


def flat(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameters of a dataclass are its fields, each an option.

    Args:
      command: Its parameters are options of Typer, or dataclasses whose fields are.

    Returns:
      The command as Typer takes it.
    """
    hints = get_type_hints(command, include_extras=True)
    parameters = inspect.signature(command).parameters
    groups = {n: hints[n] for n in parameters if dataclasses.is_dataclass(hints[n])}

    @functools.wraps(command)
    def taken(**options: Any) -> None:
        made = {
            name: group(
                **{f.name: options.pop(f.name) for f in dataclasses.fields(group)}
            )
            for name, group in groups.items()
        }
        command(**made, **options)

    def spread() -> Iterator[inspect.Parameter]:
        for name, parameter in parameters.items():
            if name in groups:
                yield from _fields(groups[name])
            else:
                yield _keyword(name, hints[name], parameter.default)

    every = list(spread())
    del taken.__wrapped__
    taken.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
    taken.__annotations__ = {p.name: p.annotation for p in every}
    return taken


def _fields(group: Any) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    for field in dataclasses.fields(group):
        default = field.default
        missing = default is dataclasses.MISSING
        yield _keyword(
            field.name,
            hints[field.name],
            inspect.Parameter.empty if missing else default,
        )


def _keyword(name: str, kind: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default
    )
