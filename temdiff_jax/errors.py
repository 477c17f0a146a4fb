"""The error of bad input, importable without JAX."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """What a user gave cannot be used: says what was expected, got and to do.

    Command-line programs turn it into one line and exit code 2.
    """


def check_known(option: str, value: object, known: Iterable[str]) -> None:
    """Refuses a name that is not among the known ones.

    Raises:
      InputError: Lists the known names, and the nearest.
    """
    names = list(known)
    if value in names:
        return
    near = difflib.get_close_matches(str(value), names, 1, cutoff=0.5)
    advice = f"did you mean {near[0]!r}?" if near else "choose one"
    raise InputError(
        f"{option}: expected one of {', '.join(names)}, got {value!r}; {advice}"
    )
