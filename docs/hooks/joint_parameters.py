"""Docstrings that describe several parameters in one line, for the API reference.

An extension of griffe: ``a, b: Text.`` under ``Args:`` becomes a line for each name, so
that every name is compared with the signature.
"""

import re
from typing import Any

import griffe

_JOINT = re.compile(
    r"^(?P<indent> +)(?P<names>\*{0,2}\w+(?:, \*{0,2}\w+)+): (?P<text>.*)"
)


def split(text: str) -> str:
    """The docstring with one block for each name."""
    lines, found = text.split("\n"), []
    while lines:
        line = lines.pop(0)
        match = _JOINT.match(line)
        if match is None:
            found.append(line)
            continue
        more, indent = [], match["indent"]
        while lines and lines[0].startswith(indent + " "):
            more.append(lines.pop(0))
        for name in match["names"].split(", "):
            found += [f"{indent}{name}: {match['text']}", *more]
    return "\n".join(found)


class JointParameters(griffe.Extension):
    """Splits the docstring of everything that is loaded."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called once for each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = split(obj.docstring.value)
