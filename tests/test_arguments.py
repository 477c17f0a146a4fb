"""No function takes more than seven arguments: what belongs together is one value."""

import ast
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
MOST = 7
# The call of the library that users see, and functions still to be shortened.
LONGER = {
    "temdiff_jax.reconstruction.api.reconstruct": 24,
    "temdiff_jax.io.tilt_series.tilt_series_from_arrays": 10,
    "temdiff_jax.training.loop.train": 9,
    "temdiff_jax.training.step.advance": 8,
}


def counts(source: str) -> Iterator[tuple[str, int]]:
    """Names of functions and how many arguments each takes, ``self`` apart."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = node.args
            names = [a.arg for a in (*arguments.posonlyargs, *arguments.args)]
            count = len(names) - (names[:1] in (["self"], ["cls"]))
            count += len(arguments.kwonlyargs)
            count += (arguments.vararg is not None) + (arguments.kwarg is not None)
            yield node.name, count


def is_command(path: Path, name: str) -> bool:
    """Whether a function is a command: its arguments are the options."""
    return path.parent.name == "cli" and path.stem == name


def test_no_function_takes_more_than_seven_arguments():
    found = {}
    for room in ("temdiff_jax", "launch", "configs"):
        for path in sorted((REPOSITORY / room).rglob("*.py")):
            module = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
            for name, count in counts(path.read_text(encoding="utf-8")):
                if count > MOST and not is_command(path, name):
                    found[f"{module}.{name}"] = count
    long = {name: n for name, n in found.items() if n > LONGER.get(name, MOST)}
    assert not long, f"group what belongs together: {long}"
    assert set(LONGER) <= set(found), "take out the names that have become short"


def test_the_check_counts_every_kind_of_argument():
    source = "def f(a, /, b, *c, d, e=1, **g): ...\nclass A:\n    def m(self, x): ...\n"
    assert dict(counts(source)) == {"f": 6, "m": 1}
