"""RELION 5: tilt series in STAR files and their geometry.

Source: https://github.com/3dem/relion tomo_backproject_program.cpp.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from temdiff_jax.io import gate, text
from temdiff_jax.io.alignment import record as own
from temdiff_jax.io.alignment.record import Alignment

_RELION_COLUMNS = (
    "rlnTomoXTilt",
    "rlnTomoYTilt",
    "rlnTomoZRot",
    "rlnTomoXShiftAngst",
    "rlnTomoYShiftAngst",
)


class RelionAlignment(NamedTuple):
    """Columns rlnTomoXTilt, YTilt, ZRot and X/YShiftAngst of a RELION 5 tilt series.

    Source: `getProjectMatrices`: S(image centre) S(shift) Rz Ry Rx S(-volume centre),
    all turns right-handed, both centres n / 2 rounded down.
    """

    x_tilts_deg: ArrayLike
    y_tilts_deg: ArrayLike
    z_rotations_deg: ArrayLike
    shifts_angstrom: ArrayLike


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
    path, content = text.read_text(path)
    tables = {
        name: table
        for name, table in star_tables(path, content).items()
        if has_alignment(table[0])
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
            [text.parse_number(row[c], f"{path}: {labels[c]}") for c in columns]
            for row in rows
        ]
    )
    return RelionAlignment(numbers[:, 0], numbers[:, 1], numbers[:, 2], numbers[:, 3:])


def from_relion(
    record: RelionAlignment,
    *,
    pixel_size_angstrom: float,
    image_shape: Sequence[int],
    volume_shape: Sequence[int],
) -> Alignment:
    """RELION 5's alignment here.

    Args:
      record: As in the tilt-series STAR file.
      pixel_size_angstrom: Of the images; the volume's voxel is as large.
      image_shape: (y, x) of the images.
      volume_shape: (z, y, x) of the tomogram.

    Raises:
      InputError: x-tilts that differ from tilt to tilt, numbers that do not fit or are
        not finite, a pixel size that is not positive.
    """
    angles = own.per_tilt("y_tilts_deg", record.y_tilts_deg, None)
    count = len(angles)
    shifts = own.per_tilt("shifts_angstrom", record.shifts_angstrom, count, 2)
    chi = own.per_tilt("x_tilts_deg", record.x_tilts_deg, count)
    found = Alignment(
        angles,
        shifts / own.pixel(pixel_size_angstrom),
        own.per_tilt("z_rotations_deg", record.z_rotations_deg, count),
        np.ones(count),
        x_tilt_deg=own.one_x_tilt(chi, "rlnTomoXTilt"),
    )
    return own.recentred(found, *_relion_gaps(image_shape, volume_shape))


def to_relion(
    alignment: Alignment,
    *,
    pixel_size_angstrom: float,
    image_shape: Sequence[int],
    volume_shape: Sequence[int],
) -> RelionAlignment:
    """The same alignment for RELION 5; refuses a magnification."""
    own.refuse_magnification(alignment, "RELION")
    image_gap, volume_gap = _relion_gaps(image_shape, volume_shape)
    there = own.recentred(own.folded(alignment), -image_gap, -volume_gap)
    return RelionAlignment(
        np.full(len(there.angles_deg), there.x_tilt_deg),
        there.angles_deg,
        there.rotations_deg,
        there.shifts_px * own.pixel(pixel_size_angstrom),
    )


def has_alignment(labels: list[str]) -> bool:
    """Whether the columns of a loop hold an alignment."""
    return set(_RELION_COLUMNS) <= set(labels)


def star_tables(
    path: pathlib.Path, content: str
) -> dict[str, tuple[list[str], list[list[str]]]]:
    """Block name -> labels and rows of its loop; blocks without a loop are empty."""
    tables: dict[str, tuple[list[str], list[list[str]]]] = {}
    labels: list[str] = []
    rows: list[list[str]] = []
    looped = False
    for number, line in enumerate(content.splitlines(), 1):
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


def _relion_gaps(
    image_shape: Sequence[int], volume_shape: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """n // 2 - (n - 1) / 2 of the images (x, y), its negative of the volume."""
    sides = np.asarray(own.extents(image_shape, "image_shape", 2))[::-1]
    volume = np.asarray(own.volume_extents(volume_shape))[::-1]
    return sides // 2 - (sides - 1) / 2, (volume - 1) / 2 - volume // 2
