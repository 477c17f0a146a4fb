"""AreTomo alignment files (.aln), whose section numbers start at 0 or at 1."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from temdiff_jax.io import gate, text
from temdiff_jax.io.alignment import angles as tilt_angles
from temdiff_jax.io.alignment import record as own
from temdiff_jax.io.alignment.record import Alignment

ARETOMO_CENTERS = ("imod", "aretomo3")
_COLUMNS = 10
_SAME_DEG = 1e-6
_HEADER_KEYS = ("RawSize", "DarkFrame", "AlphaOffset", "BetaOffset", "Thickness")


@dataclasses.dataclass(frozen=True)
class AlnTable:
    """Global alignment by AreTomo, rows as in the file (sorted by tilt).

    Attributes:
      views: Stack index of each row, from 0, [rows] int64.
      tilts_deg: Refined tilt, [rows] float64; contains `alpha_offset_deg`.
      rotations_deg: In-plane rotation of the tilt axis, [rows].
      shifts_px: (tx, ty), [rows, 2].
      dark_views: Stack indices, from 0, that AreTomo left out.
      num_views: Views of the raw stack, or None without `# RawSize`.
      raw_shape: (x, y, n) of the raw stack, or None without `# RawSize`.
      has_local: Whether a local (patch) alignment follows, which is not read.
      base: 0 or 1, the number that the file gives to the first section.
      alpha_offset_deg: Pre-tilt that AreTomo3 found, or None.
      beta_offset_deg: Its companion about x, or None.
      thickness_px: Thickness that AreTomo3 found, or None.
      path: Where it came from.
      warnings: One line per assumption.
    """

    views: np.ndarray
    tilts_deg: np.ndarray
    rotations_deg: np.ndarray
    shifts_px: np.ndarray
    dark_views: tuple[int, ...]
    num_views: int | None
    raw_shape: tuple[int, int, int] | None
    has_local: bool
    base: int
    alpha_offset_deg: float | None
    beta_offset_deg: float | None
    thickness_px: float | None
    path: pathlib.Path
    warnings: tuple[str, ...]


def read_aln(path: str | os.PathLike[str], *, base: int | None = None) -> AlnTable:
    """Read the global part of an AreTomo .aln.

    The file does not say whether SEC counts from 0 (AreTomo2, early AreTomo3) or from
    1 (AreTomo3 since 2.0.7). Among all sections, aligned and dark, a 0 proves the
    first and the number of views the second.

    Args:
      path: File name.
      base: 0 or 1, to overrule the proof.

    Raises:
      InputError: no table, a row of another width, tilts beyond 90 degrees, sections
        out of range or twice, or a base that the numbers do not tell.

    Source: columns SEC ROT GMAG TX TY SMEAN SFIT SCALE BASE TILT as AreTomo2 and
      AreTomo3 write them (https://github.com/czimaginginstitute/AreTomo3,
      CSaveAlnFile.cpp).
    """
    path, content = text.read_text(path)
    header, dark, rows = _split(path, content)
    if not rows:
        raise gate.bad_input(
            path, "a table SEC ROT ... TILT", "no rows", "pass AreTomo's .aln file"
        )
    table = np.asarray(rows, np.float64)
    tilt_angles.check_angles(table[:, 9], path, allow_small_angles=True)
    sections = [_section(value, path) for value in table[:, 0]]
    raw = header.get("RawSize", ())
    raw_shape = (int(raw[0]), int(raw[1]), int(raw[2])) if len(raw) > 2 else None
    num_views = None if raw_shape is None else raw_shape[2]
    found = _base(path, {*sections, *dark}, num_views) if base is None else base
    views = np.asarray(sections, np.int64) - found
    dark_views = tuple(section - found for section in dark)
    _check_views(path, views.tolist(), dark_views, num_views, found)
    notes = []
    if dark_views:
        notes.append(
            f"{path.name}: views {list(dark_views)} (counted from 0) are dark; not used"
        )
    return AlnTable(
        views=views,
        tilts_deg=table[:, 9],
        rotations_deg=table[:, 1],
        shifts_px=table[:, 3:5],
        dark_views=dark_views,
        num_views=num_views,
        raw_shape=raw_shape,
        has_local="local alignment" in content.lower(),
        base=found,
        alpha_offset_deg=_first(header, "AlphaOffset"),
        beta_offset_deg=_first(header, "BetaOffset"),
        thickness_px=_first(header, "Thickness"),
        path=path,
        warnings=tuple(notes),
    )


def _split(
    path: pathlib.Path, content: str
) -> tuple[dict[str, list[float]], list[int], list[list[float]]]:
    """Header numbers, dark sections and rows; stops at the local (patch) table."""
    header: dict[str, list[float]] = {}
    dark: list[int] = []
    rows: list[list[float]] = []
    for number, line in enumerate(content.splitlines(), 1):
        what = f"{path}: line {number}"
        if line.lstrip().startswith("#"):
            key, equals, value = line.lstrip("# \t").partition("=")
            if "local alignment" in key.lower():
                break
            if not equals or key.strip() not in _HEADER_KEYS:
                continue
            numbers = [text.parse_number(word, what) for word in value.split()]
            if key.strip() != "DarkFrame":
                header[key.strip()] = numbers
            elif len(numbers) == 3:
                dark.append(_section(numbers[1], path))
            else:
                raise gate.bad_input(
                    what, "DarkFrame = frame section tilt", line.strip(), "repair it"
                )
        elif line.strip():
            row = [text.parse_number(word, what) for word in line.split()]
            if len(row) != _COLUMNS:
                raise gate.bad_input(
                    what, f"{_COLUMNS} columns (SEC ... TILT)", len(row), "repair it"
                )
            rows.append(row)
    return header, dark, rows


def _section(value: float, path: pathlib.Path) -> int:
    if value != int(value):
        raise gate.bad_input(
            f"{path}: section", "a whole number", value, "repair this line"
        )
    return int(value)


def _base(path: pathlib.Path, sections: set[int], num_views: int | None) -> int:
    """Decide what number the first section has, from all numbers in use."""
    from_zero, from_one = 0 in sections, num_views is not None and num_views in sections
    if from_zero != from_one:
        return 0 if from_zero else 1
    reason = "both 0 and" if from_zero else "neither 0 nor"
    raise gate.bad_input(
        f"{path}: section numbers",
        "a 0, or the number of views",
        f"{reason} {num_views if num_views is not None else 'a known number of views'}",
        "tell read_aln where counting starts, with base=0 or base=1",
    )


def _check_views(
    path: pathlib.Path,
    views: list[int],
    dark_views: tuple[int, ...],
    num_views: int | None,
    base: int,
) -> None:
    if base not in (0, 1):
        raise gate.bad_input("base of the .aln", "0 or 1", base, "give one of them")
    everything = [*views, *dark_views]
    outside = [
        view
        for view in everything
        if view < 0 or (num_views is not None and view >= num_views)
    ]
    if outside or len(set(everything)) != len(everything):
        problem = f"section {outside[0] + base}" if outside else "a section twice"
        raise gate.bad_input(
            f"{path}: sections counted from {base}",
            f"each of {num_views} views at most once",
            problem,
            "check the file, or pass the other base",
        )


def _first(header: dict[str, list[float]], key: str) -> float | None:
    numbers = header.get(key)
    return numbers[0] if numbers else None


class AreTomoAlignment(NamedTuple):
    """Columns TILT, ROT, TX, TY of an .aln, rows in the order of the images.

    Source: CSaveXF.cpp gives the same numbers as an .xf about (n - 1) / 2, which is
    the center "imod".  The images that AreTomo3 itself makes are off by half a pixel
    from that: GCorrPatchShift.cu turns about n / 2 of the raw image, GBackProj.cu
    reads column n / 2 at the axis; that is the center "aretomo3".
    """

    tilts_deg: ArrayLike
    rotations_deg: ArrayLike
    shifts_px: ArrayLike


def from_aretomo(record: AreTomoAlignment, *, center: str = "imod") -> Alignment:
    """AreTomo's alignment here, for volumes as written with `-FlipVol 1`.

    Args:
      record: As in the .aln.
      center: "imod" or "aretomo3", see the record.

    Raises:
      InputError: another center, numbers that do not fit or are not finite.
    """
    angles = own.per_tilt("tilts_deg", record.tilts_deg, None)
    gap = _aretomo_gap(center)
    shifts = own.per_tilt("shifts_px", record.shifts_px, len(angles), 2)
    psi = own.per_tilt("rotations_deg", record.rotations_deg, len(angles))
    return Alignment(angles, shifts + gap, psi, np.ones(len(angles)), gap)


def to_aretomo(alignment: Alignment, *, center: str = "imod") -> AreTomoAlignment:
    """The same alignment for an .aln; refuses what that cannot say."""
    own.refuse_magnification(alignment, "AreTomo")
    if abs(alignment.x_tilt_deg) > _SAME_DEG:
        raise gate.bad_input(
            "AreTomo: x-tilt", "none", f"{alignment.x_tilt_deg:g} degrees", "level it"
        )
    gap = _aretomo_gap(center)
    fold = np.array([alignment.axis_offset_px - gap, 0.0])
    shifts = alignment.shifts_px - gap + own.in_plane(alignment, fold)
    return AreTomoAlignment(alignment.angles_deg, alignment.rotations_deg, shifts)


def _aretomo_gap(center: str) -> float:
    if center not in ARETOMO_CENTERS:
        raise gate.bad_input(
            "AreTomo: center", " or ".join(ARETOMO_CENTERS), repr(center), "pass one"
        )
    return 0.5 if center == "aretomo3" else 0.0
