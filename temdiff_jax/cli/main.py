"""Entry point of the command `temdiff`: commands, exit codes, error lines.

Exit codes: 0 done, 1 failed, 2 bad input or not enough memory or disk, 3 a verdict that
--strict does not accept, 130 interrupted by Ctrl-C, 143 by SIGTERM.  Every failure is
one line on standard error.
"""

import errno
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from temdiff_jax.cli import (
    compare,
    convert,
    demo,
    doctor,
    environment,
    evaluate,
    holdout,
    inspect,
    methods,
    priors,
    reconstruct,
    runfile,
    signals,
    simulate,
    view,
)
from temdiff_jax.errors import InputError

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

# Typer exports only the leaf of its usage errors; their common base is what
# `standalone_mode=False` lets through.
_UsageError: type[Exception] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)

app = typer.Typer(
    name="temdiff",
    help="3-D reconstruction from limited-angle electron tilt series.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("reconstruct", cls=runfile.Command)(reconstruct.reconstruct)
app.command("compare")(compare.compare)
app.command("holdout")(holdout.holdout)
app.command("methods")(methods.methods)
app.command("inspect", cls=runfile.Command)(inspect.inspect)
app.command("evaluate")(evaluate.evaluate)
app.command("demo")(demo.demo)
app.command("convert")(convert.convert)
app.command("doctor")(doctor.doctor)
app.command("view")(view.view)
app.command("simulate")(simulate.simulate)
app.add_typer(priors.app, name="priors")


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"temdiff {environment.own_version()}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _start(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the version and stop.",
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Print the traceback of a failure.")
    ] = False,
) -> None:
    """3-D reconstruction from limited-angle electron tilt series."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code.

    Args:
      arguments: Words after `temdiff`; None takes those of the process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        # Commands find the words of the user in `context.obj`, for the record.
        with signals.heard("interrupted"):
            code = app(words, prog_name="temdiff", standalone_mode=False, obj=words)
    except signals.Interrupted as error:
        return _fail(str(error), error.code)
    except InputError as error:
        return _fail(str(error), EXIT_BAD_INPUT)
    except _UsageError as error:
        return _fail(_usage_line(error), EXIT_BAD_INPUT)
    except (typer.Abort, KeyboardInterrupt):
        return _fail("interrupted", EXIT_INTERRUPTED)
    except Exception as error:
        if line := _exhausted(error):
            return _fail(line, EXIT_BAD_INPUT)
        if "--debug" in words:
            traceback.print_exc()
        text = str(error) or "no message"
        hint = "" if isinstance(error, OSError) else "; temdiff --debug shows where"
        return _fail(f"{type(error).__name__}: {text}{hint}", EXIT_FAILED)
    if code == EXIT_INTERRUPTED:  # Typer's own answer to Ctrl-C
        return _fail("interrupted", EXIT_INTERRUPTED)
    return code if isinstance(code, int) else 0


def _exhausted(error: Exception) -> str | None:
    """What to do where memory or disk did not suffice; None for other failures."""
    text = str(error)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
        return (
            f"memory: expected enough for this run, got {text[:200] or 'too little'}; "
            "pass --bin 2 or a smaller --thickness, or ask --dry-run"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"disk: expected room for the results, got {text[:200]}; free some, or "
            "pass another folder with --out"
        )
    return None


def _usage_line(error: Exception) -> str:
    """Message of a usage error, with the help to ask for."""
    message = str(getattr(error, "format_message", lambda: str(error))())[:200]
    context = getattr(error, "ctx", None)
    if "unexpected extra argument" in message:
        message += "; of several images give the folder that holds them"
    command = context.command_path if context is not None else "temdiff"
    return f"{message.rstrip('.')}; see {command} --help"


def _fail(message: str, code: int) -> int:
    """Prints one line on standard error, whatever the message contains."""
    line = " ".join(message.split())
    printable = "".join(c if c.isprintable() else "?" for c in line)
    print(f"temdiff: {printable}", file=sys.stderr)
    return code
