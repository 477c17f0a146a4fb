"""Trains a prior, or goes on training one: repeat the same command to resume.

Example:
    python -m launch.train --config=configs/default_prior.py \\
        --data_dir=/data/fibsem --workdir=runs/default \\
        --set=optim.num_steps=6000 --set=data.steps_per_phase=64
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib.util
import sys
import types
import typing
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import app, flags

from temdiff_jax.priors import load_prior
from temdiff_jax.training import loop
from temdiff_jax.types import InputError


def define_flags() -> None:
    """Defines the flags; not on import, so that programs can be imported together."""
    flags.DEFINE_string("config", None, "Python file with get_config().")
    flags.DEFINE_string("data_dir", None, "Folder of the source volumes.")
    flags.DEFINE_string("workdir", None, "Folder for checkpoints.")
    flags.DEFINE_multi_string("set", [], "Override: section.field=value.")
    flags.DEFINE_string("initial_prior", None, "Prior that a new run starts from.")
    flags.DEFINE_string("compile_cache", None, "Own folder for compiled code.")
    flags.DEFINE_float("max_minutes", None, "Save and stop after this.")
    flags.mark_flags_as_required(["config", "data_dir", "workdir"])


def load_config(path: str):
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


def override(config, assignment: str):
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


def main(argv: Sequence[str]) -> None:
    """Parses flags, resolves the configuration, trains."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    given = flags.FLAGS
    try:
        if given.compile_cache:
            jax.config.update("jax_compilation_cache_dir", given.compile_cache)
        config = load_config(given.config)
        for assignment in given.set:
            config = override(config, assignment)
        print(config, flush=True)
        initial = load_prior(given.initial_prior) if given.initial_prior else None
        loop.train(
            config,
            data_dir=given.data_dir,
            workdir=given.workdir,
            log=lambda line: print(line, flush=True),
            max_minutes=given.max_minutes,
            initial=initial,
        )
    except InputError as error:
        print(f"train: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    define_flags()
    app.run(main)
