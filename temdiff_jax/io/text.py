"""Small text files, read strictly: encoding, size, numbers with a decimal point."""

from __future__ import annotations

import math
import os
import pathlib
import re

from temdiff_jax.io import gate

MAX_TEXT_BYTES = 64 * 2**20
"""No side file of a tilt series is larger; what is, is something else."""
MAX_NUMBERS = 60_000
"""Six numbers a view of the longest series there is, many times over."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\Z")


def read_text(path: str | os.PathLike[str]) -> tuple[pathlib.Path, str]:
    """Path and content of a small text file; refuses binary and oversized ones."""
    path, size = gate.regular_file(path)
    if size > MAX_TEXT_BYTES:
        raise gate.bad_input(
            path, "a text file of tilt data", f"{size} bytes", "check the file name"
        )
    content = path.read_bytes()
    if b"\0" in content:
        raise gate.bad_input(path, "text", "binary data", "check the file name")
    return path, content.decode("utf-8-sig", "replace")


def number_rows(path: pathlib.Path, text: str) -> list[list[float]]:
    """Numbers per line, without empty lines and comments that `#` begins."""
    rows, count = [], 0
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        count += len(words)
        if count > MAX_NUMBERS:
            raise gate.bad_input(
                path, f"at most {MAX_NUMBERS} numbers", "more", "check the file name"
            )
        if words:
            rows.append(
                [parse_number(word, f"{path}: line {number}") for word in words]
            )
    return rows


def parse_number(word: str, what: str) -> float:
    """Read a number with a decimal point; anything else is an InputError."""
    if _NUMBER.match(word):
        number = float(word)
        if math.isfinite(number):
            return number
        raise gate.bad_input(what, "a finite number", repr(word), "repair this line")
    if "," in word:
        raise gate.bad_input(
            what,
            "numbers with a decimal point, separated by spaces",
            repr(word),
            "replace the commas: a decimal comma by a point, a separator by a space",
        )
    raise gate.bad_input(what, "a number", repr(word), "repair this line")
