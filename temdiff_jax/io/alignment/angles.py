"""Tilt angles: .tlt, .rawtlt, AreTomo's tables and other lists of numbers.

The reader is strict: a number that cannot be read, a count that cannot be explained or
an angle that cannot be one is an error with the line it stands on. What was assumed
is returned as warnings.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib

import numpy as np

from temdiff_jax.io import gate, text

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
    path, content = text.read_text(path)
    rows = text.number_rows(path, content)
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


def _count_from(first: int, length: int) -> list[int]:
    return list(range(first, first + length))
