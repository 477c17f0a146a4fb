"""Alignments in files of RELION 5 (STAR) and of Warp and M (XML).

Like `side_files`, these readers are strict, and take the global alignment alone.
"""

from __future__ import annotations

import os
import pathlib
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from temdiff_jax.io import gate, side_files
from temdiff_jax.io.packages import RelionAlignment, WarpAlignment

_RELION_COLUMNS = (
    "rlnTomoXTilt",
    "rlnTomoYTilt",
    "rlnTomoZRot",
    "rlnTomoXShiftAngst",
    "rlnTomoYShiftAngst",
)


class WarpSeries(NamedTuple):
    """What the XML of a series says.

    Attributes:
      alignment: Of all its tilts, in the order of the file.
      used: [n_tilts] bool, UseTilt; all where the file does not say.
    """

    alignment: WarpAlignment
    used: np.ndarray


def read_relion_star(
    path: str | os.PathLike[str], *, tomogram: str | None = None
) -> RelionAlignment:
    """Read the alignment of a RELION 5 tilt series.

    Args:
      path: The STAR file of the tilt series.
      tomogram: Name of its block, without "data_"; needed where several blocks of the
        file hold an alignment.

    Raises:
      InputError: no or several blocks with the five columns, a row of another width, a
        number that cannot be read.
    """
    path, text = side_files.read_text(path)
    tables = {
        name: table
        for name, table in _star_tables(path, text).items()
        if set(_RELION_COLUMNS) <= set(table[0])
    }
    if tomogram is not None:
        tables = {name: t for name, t in tables.items() if name == tomogram}
    if len(tables) != 1:
        raise gate.bad_input(
            path,
            f"one block with {' '.join(_RELION_COLUMNS)}",
            f"{len(tables)} ({', '.join(list(tables)[:5]) or 'none'})",
            "pass the file of an aligned tilt series, or name its tomogram",
        )
    labels, rows = next(iter(tables.values()))
    if not rows:
        raise gate.bad_input(
            path, "rows, one a tilt", "none", "pass the aligned series"
        )
    columns = [labels.index(name) for name in _RELION_COLUMNS]
    numbers = np.array(
        [
            [side_files.parse_number(row[c], f"{path}: {labels[c]}") for c in columns]
            for row in rows
        ]
    )
    return RelionAlignment(numbers[:, 0], numbers[:, 1], numbers[:, 2], numbers[:, 3:])


def read_warp_xml(path: str | os.PathLike[str]) -> WarpSeries:
    """Read the alignment of a Warp or M tilt series.

    Raises:
      InputError: no XML of a tilt series, lists of different lengths, a number that
        cannot be read.
    """
    path, text = side_files.read_text(path)
    # Entities can blow a small file up to any size; Warp declares none.
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise gate.bad_input(
            path, "XML without a DOCTYPE", "one", "pass Warp's own file"
        )
    try:
        root = ElementTree.fromstring(text.lstrip())
    except ElementTree.ParseError as error:
        raise gate.bad_input(
            path, "the XML of a tilt series", error, "check it"
        ) from None
    angles = _numbers(path, root, "Angles")
    if not angles.size:
        raise gate.bad_input(
            path, "a list of Angles", "none", "pass the XML of a tilt series"
        )
    lists = {
        name: _numbers(path, root, name)
        for name in ("AxisAngle", "AxisOffsetX", "AxisOffsetY")
    }
    use = (root.findtext("UseTilt") or "True\n" * angles.size).split()
    for name, count in (
        *((n, v.size) for n, v in lists.items()),
        ("UseTilt", len(use)),
    ):
        if count != angles.size:
            raise gate.bad_input(
                f"{path}: {name}",
                f"one entry per tilt, {angles.size}",
                count,
                "pass the XML of one series",
            )
    levels = [
        side_files.parse_number(root.get(name) or "0", f"{path}: {name}")
        for name in ("LevelAngleX", "LevelAngleY")
    ]
    offsets = np.stack([lists["AxisOffsetX"], lists["AxisOffsetY"]], axis=1)
    alignment = WarpAlignment(angles, lists["AxisAngle"], offsets, *levels)
    return WarpSeries(alignment, np.array([word.lower() == "true" for word in use]))


def _numbers(path: pathlib.Path, root: ElementTree.Element, name: str) -> np.ndarray:
    words = (root.findtext(name) or "").split()
    return np.array([side_files.parse_number(w, f"{path}: {name}") for w in words])


def _star_tables(
    path: pathlib.Path, text: str
) -> dict[str, tuple[list[str], list[list[str]]]]:
    """Block name -> labels and rows of its loop; blocks without a loop are empty."""
    tables: dict[str, tuple[list[str], list[list[str]]]] = {}
    labels: list[str] = []
    rows: list[list[str]] = []
    looped = False
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition(" #")[0].split()
        if not words or words[0].startswith("#"):
            continue
        if words[0].startswith("data_"):
            labels, rows, looped = [], [], False
            tables[words[0].removeprefix("data_")] = labels, rows
        elif words[0] == "loop_":
            looped = True
        elif words[0].startswith("_"):
            labels.append(words[0][1:])
        elif looped:
            if len(words) != len(labels):
                raise gate.bad_input(
                    f"{path}: line {number}",
                    f"{len(labels)} columns",
                    len(words),
                    "repair this row",
                )
            rows.append(words)
    return tables
