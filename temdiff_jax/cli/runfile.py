"""Options of a command from a file: TOML, or the record of an earlier run.

The names are those of the options.  What stands on the command line wins; relative
paths start from the file.
"""

import difflib
import json
import pathlib
import tomllib
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperOption

from temdiff_jax.errors import InputError

# Options that are about a file of options, or about one run of it.
_NOT_KEPT = ("config", "write_config", "help", "as_json", "dry_run", "resume")
_FILES = ("path", "angles", "alignment", "out")
# Their values may be names or files.
_PERHAPS_FILES = {"prior": ".safetensors", "rule": ".py"}

Config = Annotated[
    pathlib.Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Options from a TOML file, or from the record of an earlier run; those of "
        "the command line win.",
    ),
]
WriteConfig = Annotated[
    pathlib.Path | None,
    typer.Option(
        "--write-config", metavar="FILE", help="Write the options as a TOML file."
    ),
]


class Command(TyperCommand):
    """A command that takes options from a file, its PATH argument among them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads the file that --config or a PATH of .toml names, then the words."""
        args, file = self._file_of(list(args))
        if file is not None:
            path, words = read(file, self)
            ctx.default_map = path
            args = [*words, *args]  # of two values the last one counts
        return super().parse_args(ctx, args)

    def _file_of(self, args: list[str]) -> tuple[list[str], pathlib.Path | None]:
        """The words without the file, and the file."""
        flags = {
            name
            for param in self.params
            if isinstance(param, TyperOption) and param.is_flag
            for name in param.opts
        }
        for at, word in enumerate(args):
            if word == "--":
                break
            if word == "--config" and at + 1 < len(args):
                return args[:at] + args[at + 2 :], pathlib.Path(args[at + 1])
            if word.startswith("--config="):
                return args[:at] + args[at + 1 :], pathlib.Path(word.partition("=")[2])
            before = args[at - 1] if at else ""
            value = before.startswith("-") and "=" not in before and before not in flags
            if word.endswith(".toml") and not word.startswith("-") and not value:
                return args[:at] + args[at + 1 :], pathlib.Path(word)
        return args, None


def read(file: pathlib.Path, command: TyperCommand) -> tuple[dict[str, str], list[str]]:
    """The PATH argument of a file, if it has one, and its options as words.

    Raises:
      InputError: No such file, not TOML, or a key or value that is no option's.
    """
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".json":
            given = json.loads(text)["config"]
        else:
            given = tomllib.loads(text)
    except (OSError, ValueError, KeyError, TypeError) as error:
        kind = "the record of a run" if file.suffix == ".json" else "a TOML file"
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"--config: expected {kind}, got {file} ({reason}); correct it"
        ) from None
    known = {key_of(param): param for param in command.params}
    known = {key: p for key, p in known.items() if p.name not in _NOT_KEPT}
    arguments: dict[str, str] = {}
    words: list[str] = []
    for written, value in given.items():
        key = written.replace("_", "-")
        if key not in known:
            near = difflib.get_close_matches(key, known, 1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else "see --help for the names"
            raise InputError(
                f"--config: expected options of {command.name} in {file}, got "
                f"{written!r}; {hint}"
            )
        texts = _texts(file, key, value, known[key])
        if isinstance(known[key], TyperArgument):
            arguments[key] = texts[0]
        else:
            words += [f"--{key}" + (f"={text}" if text else "") for text in texts]
    return arguments, words


def key_of(param: Any) -> str:
    """Name of an option in a file: its longest, without dashes."""
    if isinstance(param, TyperArgument):
        return str(param.name)
    return max(param.opts, key=len).lstrip("-")


def _texts(file: pathlib.Path, key: str, value: Any, param: Any) -> list[str]:
    """A value as the command line would have it: one word, none, or several."""
    flag = getattr(param, "is_flag", False)
    if flag != isinstance(value, bool) or isinstance(value, Mapping):
        expected = "true or false" if flag else "text or a number"
        raise InputError(
            f"--config: expected {expected} for {key} in {file}, got "
            f"{json.dumps(value, default=str)[:60]}; correct it"
        )
    if flag:
        return [""] if value else []
    if isinstance(value, list):
        items = [str(item) for item in value]
        return items if getattr(param, "multiple", False) else [",".join(items)]
    text, name = str(value), str(param.name)
    if name in _FILES or text.endswith(_PERHAPS_FILES.get(name, "\0")):
        text = str(file.absolute().parent / text)
    return [text]


def given(ctx: typer.Context) -> dict[str, Any]:
    """What a user chose, by the names of a file, ready for JSON and TOML."""
    found = {}
    for param in ctx.command.params:
        name = str(param.name)
        source = ctx.get_parameter_source(name)
        if name in _NOT_KEPT or source is None or source.name == "DEFAULT":
            continue
        value = ctx.params.get(name)
        if value is None or value == ():
            continue
        is_file = str(value).endswith(_PERHAPS_FILES.get(name, "\0"))
        if is_file or name in _FILES:
            value = str(pathlib.Path(value).absolute())
        found[key_of(param)] = list(value) if isinstance(value, tuple) else value
    return found


def text_of(options: Mapping[str, Any]) -> str:
    """Options as TOML, which writes texts, numbers and lists of them as JSON does."""
    lines = (f"{key} = {json.dumps(value)}\n" for key, value in options.items())
    return "".join(lines)
