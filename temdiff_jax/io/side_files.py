"""Text files beside a tilt series: .tlt, .rawtlt, .xf, .mdoc, .aln.

Readers are strict: a number that cannot be read, a count that cannot be explained or
an angle that cannot be one is an error with the line it stands on. What was assumed
is returned as warnings.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from temdiff_jax.io import gate

MAX_TEXT_BYTES = 64 * 2**20
"""No side file of a tilt series is larger; what is, is something else."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\Z")
_RADIAN_STEP = 0.2


@dataclasses.dataclass(frozen=True)
class AngleTable:
    """Tilt angles of a stack.

    Attributes:
      angles_deg: [n_tilts] float64, in stack order.
      path: Where they came from.
      warnings: One line per assumption.
    """

    angles_deg: np.ndarray
    path: pathlib.Path
    warnings: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class XfTable:
    """IMOD transforms, raw to aligned: x' = A x + d about the image centres (n-1)/2.

    Attributes:
      matrices: [n_tilts, 2, 2] float64, rows (A11, A12), (A21, A22).
      shifts_px: [n_tilts, 2] float64, (dx, dy).
      path: Where they came from.
    """

    matrices: np.ndarray
    shifts_px: np.ndarray
    path: pathlib.Path

    @property
    def identity_views(self) -> tuple[int, ...]:
        """Views (from 0) without any transform; some programs mark dark views so."""
        same = (self.matrices == np.eye(2)).all(axis=(1, 2))
        same &= (self.shifts_px == 0).all(axis=1)
        return tuple(int(view) for view in np.flatnonzero(same))


@dataclasses.dataclass(frozen=True)
class MdocTable:
    """What a SerialEM .mdoc says about a stack.

    Attributes:
      angles_deg: [sections] float64, in the order of ZValue.
      z_values: [sections] int64, as written (from 0).
      pixel_spacing_angstrom: The common PixelSpacing, or None.
      tilt_axis_deg: Rotation of the tilt axis as the title has it, or None; programs
        are known to write wrong ones.
      path: Where it came from.
      warnings: One line per assumption.
    """

    angles_deg: np.ndarray
    z_values: np.ndarray
    pixel_spacing_angstrom: float | None
    tilt_axis_deg: float | None
    path: pathlib.Path
    warnings: tuple[str, ...]


def read_angles(
    path: str | os.PathLike[str],
    *,
    expected_count: int | None = None,
    allow_small_angles: bool = False,
) -> AngleTable:
    """Read tilt angles from .tlt, .rawtlt or AreTomo's angle text.

    Several angles on one line are legal. A table (angle, order, dose) is told by its
    second column, a list of consecutive integers, or by a line count that equals
    `expected_count`; then column 1 is taken and a warning says so.

    Args:
      path: Text file; `#` starts a comment.
      expected_count: Number of tilts, if known; used to tell a table from a list.
      allow_small_angles: Do not suspect radians in a list of small angles.

    Raises:
      InputError: no numbers, a decimal comma, other text, angles beyond 90 degrees or
        angles that look like radians.
    """
    path, text = read_text(path)
    rows = _number_rows(path, text)
    if not rows:
        raise gate.bad_input(path, "tilt angles", "no numbers", "pass the .tlt file")
    values = [value for row in rows for value in row]
    notes: list[str] = []
    columns = {len(row) for row in rows}
    regular = len(columns) == 1 and len(rows) > 1 and len(rows[0]) > 1
    if regular and len(values) != expected_count:
        order = sorted(row[1] for row in rows)
        consecutive = order in (_count_from(0, len(rows)), _count_from(1, len(rows)))
        if len(rows) == expected_count or consecutive:
            notes.append(
                f"{path.name}: table of {len(rows[0])} columns; "
                "column 1 was taken as the tilt angle"
            )
            values = [row[0] for row in rows]
    angles = np.asarray(values, np.float64)
    check_angles(angles, path, allow_small_angles=allow_small_angles)
    return AngleTable(angles, path, tuple(notes))


def check_angles(
    angles_deg: np.ndarray, what: object, *, allow_small_angles: bool = False
) -> None:
    """Refuse angles that cannot be degrees of tilt.

    Raises:
      InputError: empty, NaN, beyond 90 degrees, or suspected radians.
    """
    check_range(angles_deg, what)
    if not allow_small_angles:
        suspect_radians(angles_deg, what)


def check_range(angles_deg: np.ndarray, what: object, limit: float = 90.0) -> None:
    """Refuse an empty list and the first angle that is NaN or beyond the limit."""
    if angles_deg.ndim != 1 or angles_deg.size == 0:
        raise gate.bad_input(
            what,
            "a list of angles",
            f"shape {list(angles_deg.shape)}",
            "give one a tilt",
        )
    wrong = np.flatnonzero(~(np.abs(angles_deg) <= limit))
    if wrong.size:
        raise gate.bad_input(
            f"{what}: angle {int(wrong[0])} (counted from 0)",
            f"degrees from {-limit:g} to {limit:g}",
            f"{angles_deg[wrong[0]]:g}",
            "check that these are tilt angles; drop views beyond with their angles",
        )


def suspect_radians(angles_deg: np.ndarray, what: object) -> None:
    """Refuse what looks like radians.

    That is: more than two angles, none as large as pi/2, typical step below 0.2.
    """
    if angles_deg.size <= 2:
        return
    largest = float(np.abs(angles_deg).max())
    step = float(np.median(np.abs(np.diff(np.sort(angles_deg)))))
    # The tolerance lets a full +-90 degrees, rounded up in its last digit, count.
    if 0 < largest < math.pi / 2 + 1e-3 and step < _RADIAN_STEP:
        raise gate.bad_input(
            f"{what}: tilt angles",
            "degrees",
            f"at most {largest:.4g} in steps of {step:.3g}, which looks like radians",
            "convert them (x 180/pi), or pass allow_small_angles=True "
            "(--allow-small-angles) if they are degrees",
        )


def read_xf(path: str | os.PathLike[str]) -> XfTable:
    """Read IMOD linear transforms, one line of six numbers per view.

    Raises:
      InputError: not six numbers on a line, or no line.

    Source: IMOD manual, xfproduct and newstack: X' = A11 X + A12 Y + DX.
    """
    path, text = read_text(path)
    rows = _number_rows(path, text)
    for index, row in enumerate(rows):
        if len(row) != 6:
            raise gate.bad_input(
                f"{path}: transform {index}",
                "6 numbers (A11 A12 A21 A22 DX DY)",
                len(row),
                "pass the .xf file of this series",
            )
    if not rows:
        raise gate.bad_input(path, "transforms", "no numbers", "pass the .xf file")
    table = np.asarray(rows, np.float64)
    return XfTable(table[:, :4].reshape(-1, 2, 2), table[:, 4:], path)


def read_mdoc(path: str | os.PathLike[str]) -> MdocTable:
    """Read TiltAngle and PixelSpacing of a SerialEM .mdoc.

    Sections are ordered by ZValue. They are in the order of acquisition; a stack that
    was sorted later needs its .tlt instead, which a warning says when angles are not
    sorted.

    Raises:
      InputError: no [ZValue = n] section, a section without TiltAngle, the same
        ZValue twice, or a number that cannot be read.

    Source: SerialEM manual, "About mdoc metadata files".
    """
    path, text = read_text(path)
    titles, header, sections = _mdoc_sections(path, text)
    if not sections:
        raise gate.bad_input(
            path, "[ZValue = n] sections", "none", "pass the .mdoc of the stack"
        )
    z_values = np.asarray(sorted(sections), np.int64)
    angles, spacings = [], []
    for z in z_values.tolist():
        if "TiltAngle" not in sections[z]:
            raise gate.bad_input(
                f"{path}: section ZValue = {z}",
                "a TiltAngle",
                "none",
                "pass the .tlt file instead",
            )
        angles.append(parse_number(sections[z]["TiltAngle"], f"{path}: ZValue = {z}"))
        spacings.append(sections[z].get("PixelSpacing", header.get("PixelSpacing")))
    notes = []
    table = np.asarray(angles, np.float64)
    check_angles(table, path, allow_small_angles=True)
    if not (np.diff(table) >= 0).all() and not (np.diff(table) <= 0).all():
        notes.append(
            f"{path.name}: angles are in the order of acquisition; if the stack was "
            "sorted afterwards, pass its .tlt instead"
        )
    numbers = {
        parse_number(s, f"{path}: PixelSpacing") for s in spacings if s is not None
    }
    spacing = numbers.pop() if len(numbers) == 1 else None
    if numbers:
        notes.append(f"{path.name}: PixelSpacing differs between sections; ignored")
    if spacing is not None and not spacing > 0:
        notes.append(f"{path.name}: PixelSpacing {spacing:g} is not positive; ignored")
        spacing = None
    return MdocTable(table, z_values, spacing, _title_axis(titles), path, tuple(notes))


def _mdoc_sections(
    path: pathlib.Path, text: str
) -> tuple[list[str], dict[str, str], dict[int, dict[str, str]]]:
    """Titles, global entries and entries per ZValue."""
    titles: list[str] = []
    header: dict[str, str] = {}
    sections: dict[int, dict[str, str]] = {}
    entries: dict[str, str] | None = header
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if line.startswith("[") and line.endswith("]"):
            key, _, value = (part.strip() for part in line[1:-1].partition("="))
            # Unknown sections (montages) are stepped over, not misread as views.
            entries = None
            if key == "T":
                titles.append(value)
                entries = header
            elif key == "ZValue":
                if not value.isdecimal() or int(value) in sections:
                    raise gate.bad_input(
                        f"{path}: line {number}",
                        "a new ZValue, counted from 0",
                        value or "nothing",
                        "repair the file",
                    )
                entries = sections.setdefault(int(value), {})
        elif "=" in line and entries is not None:
            key, _, value = (part.strip() for part in line.partition("="))
            entries[key] = value
    return titles, header, sections


def _title_axis(titles: Sequence[str]) -> float | None:
    for title in titles:
        found = re.search(r"[Tt]ilt axis angle\s*=\s*([+-]?\d+(\.\d+)?)", title)
        if found:
            return float(found.group(1))
    return None


def _count_from(first: int, length: int) -> list[int]:
    return list(range(first, first + length))


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


def _number_rows(path: pathlib.Path, text: str) -> list[list[float]]:
    """Numbers per line, without empty lines and comments."""
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if words:
            rows.append(
                [parse_number(word, f"{path}: line {number}") for word in words]
            )
    return rows


def parse_number(word: str, what: str) -> float:
    """Read a number with a decimal point; anything else is an InputError."""
    if _NUMBER.match(word):
        return float(word)
    if "," in word:
        raise gate.bad_input(
            what,
            "numbers with a decimal point, separated by spaces",
            repr(word),
            "replace the commas: a decimal comma by a point, a separator by a space",
        )
    raise gate.bad_input(what, "a number", repr(word), "repair this line")
