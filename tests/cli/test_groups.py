"""A dataclass among the parameters of a command is a block of options."""

import dataclasses
import inspect

from temdiff_jax.cli import groups


@dataclasses.dataclass(frozen=True)
class Block:
    path: str
    factor: int = 2


def test_fields_become_options_in_their_place_and_come_back_as_one_value():
    got = []

    @groups.flat
    def command(first: Block, *, last: bool = False) -> None:
        got.append((first, last))

    parameters = inspect.signature(command).parameters
    assert list(parameters) == ["path", "factor", "last"]
    empty = inspect.Parameter.empty
    assert [p.default for p in parameters.values()] == [empty, 2, False]
    assert [p.annotation for p in parameters.values()] == [str, int, bool]
    command(path="a", factor=3, last=True)
    assert got == [(Block("a", 3), True)]
