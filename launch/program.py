"""What the programs share: configurations of files and flags, and how to refuse."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import difflib
import functools
import importlib.util
import sys
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from temdiff_jax.errors import InputError


def check_no_arguments(argv: Sequence[str]) -> None:
    """Refuses words on the command line that belong to no flag.

    Raises:
      InputError: There are some.
    """
    if len(argv) > 1:
        raise InputError(f"expected flags only, got {argv[1]}; write --flag=value")


@contextlib.contextmanager
def refusals(name: str, argv: Sequence[str] = ()) -> Iterator[None]:
    """Input that cannot be used ends the program in one line, with exit code 2.

    Args:
      name: Of the program, which begins the line.
      argv: The command line without its flags, of a program that takes flags only.
    """
    try:
        check_no_arguments(argv)
        yield
    except InputError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(2)


def resolve(path: str, assignments: Sequence[str]) -> Any:
    """The configuration of a file with the overrides of ``--set`` in their order.

    Raises:
      InputError: See ``load_config`` and ``override``.
    """
    return functools.reduce(override, assignments, load_config(path))


def load_config(path: str) -> Any:
    """Runs ``get_config()`` of a configuration file."""
    file = Path(path)
    if not file.is_file():
        raise InputError(
            f"--config: expected a Python file, found none at {path}; see configs/"
        )
    spec = importlib.util.spec_from_file_location("temdiff_config", file)
    if spec is None or spec.loader is None:
        raise InputError(
            f"--config: expected a file name ending in .py, got {path}; rename it"
        )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(getattr(module, "get_config", None)):
        raise InputError(
            f"--config: expected a function get_config() in {path}, found none; see "
            "configs/"
        )
    return module.get_config()


def override(config: Any, assignment: str) -> Any:
    """Applies ``a.b=value`` to nested frozen dataclasses.

    The value is a Python literal, else text; lists become tuples.

    Raises:
      InputError: No such field, or a value of another kind than the present one.
    """
    path, sep, text = assignment.partition("=")
    if not sep:
        raise InputError(
            f"--set: expected field=value, got {assignment!r}; write for example "
            "--set=optim.num_steps=100"
        )
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    return _replace(config, path.split("."), _tuples(value))


def _tuples(value):
    """Lists as tuples at any depth: a configuration is hashable."""
    if isinstance(value, list | tuple):
        return tuple(_tuples(item) for item in value)
    return value


def _replace(config, names: list[str], value):
    name = names[0]
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise InputError(
            f"--set: expected a section before {name!r}, got a plain "
            f"{type(config).__name__}; shorten the name"
        )
    fields = [f.name for f in dataclasses.fields(config)]
    if name not in fields:
        near = difflib.get_close_matches(name, fields, 1)
        hint = f"did you mean {near[0]}?" if near else "choose one"
        raise InputError(
            f"--set: expected one of {fields} in {type(config).__name__}, got "
            f"{name!r}; {hint}"
        )
    old = getattr(config, name)
    if len(names) > 1:
        value = _replace(old, names[1:], value)
    else:
        kinds = _kinds(config, name)
        if float in kinds and type(value) is int:
            value = float(value)
        if type(value) not in kinds:
            known = " or ".join(kind.__name__ for kind in kinds)
            raise InputError(
                f"--set: expected {name} of type {known} like {old!r:.60}, got "
                f"{value!r}; correct the value"
            )
    return dataclasses.replace(config, **{name: value})


def _kinds(config, name: str) -> list[type]:
    """Types that the annotation of a field allows."""
    hint = typing.get_type_hints(type(config))[name]
    union = isinstance(hint, types.UnionType)
    kinds = typing.get_args(hint) if union else (hint,)
    return [typing.get_origin(kind) or kind for kind in kinds]
