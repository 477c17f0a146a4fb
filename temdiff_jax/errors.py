"""The error of bad input, importable without JAX."""

from __future__ import annotations


class InputError(ValueError):
    """What a user gave cannot be used: says what was expected, got and to do.

    Command-line programs turn it into one line and exit code 2.
    """
