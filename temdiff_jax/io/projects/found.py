"""What a path leads to: images, angles, alignment, and where each of them stands."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from temdiff_jax.io.alignment import inplane
from temdiff_jax.io.alignment.record import Alignment


class Decision(NamedTuple):
    """One thing that was taken, and the file and line it came from."""

    text: str
    path: pathlib.Path | None = None
    line: int | None = None

    def __str__(self) -> str:
        if self.path is None:
            return self.text
        place = f"{self.path}" + ("" if self.line is None else f":{self.line}")
        return f"{self.text} ({place})"


class Frame(NamedTuple):
    """What turns the numbers of a package into pixels here.

    Attributes:
      image_shape: (y, x) of the raw images.
      pixel_angstrom: Of the raw images, or None.
      thickness: Of the volume in these pixels; IMOD and RELION place the centre of an
        odd one half a voxel elsewhere.
    """

    image_shape: tuple[int, int]
    pixel_angstrom: float | None
    thickness: int


class Placement(NamedTuple):
    """Where the raw images lie.

    Attributes:
      alignment: In the convention of this package; None where an image is stretched or
        skewed, which the projector does not do.
      angles_deg: theta, [n].
      matrices, shifts_px: raw(p) with p = M q + s, [n, 2, 2] and [n, 2].
    """

    alignment: Alignment | None
    angles_deg: np.ndarray
    matrices: np.ndarray
    shifts_px: np.ndarray


def placed(alignment: Alignment) -> Placement:
    """The placement of an alignment, its axis offset in the shifts of the maps."""
    matrices, _ = inplane.rotations(
        alignment.rotations_deg, alignment.shifts_px, len(alignment.angles_deg)
    )
    matrices = matrices * alignment.magnifications[:, None, None]
    offset = matrices @ np.array([alignment.axis_offset_px, 0.0])
    return Placement(
        alignment, alignment.angles_deg, matrices, alignment.shifts_px + offset
    )


@dataclasses.dataclass(frozen=True)
class Found:
    """A series on disk, understood but not read.

    Attributes:
      kind: What it is, for the reader: "stack", "IMOD", "AreTomo", ...
      images: One stack, or one file a tilt.
      sections: Section of each single file, None for its only one; () for a stack.
      angles_deg: One a row, or None: those of the stack itself.
      views: Image of the stack that each row belongs to, from 0; None: row by row.
      place: Gives the alignment of the rows; None for images that are aligned.
      excluded: Images of the stack that the project leaves out, from 0.
      pixel_angstrom: What side files say.
      axis_deg: Direction of the tilt axis by the metadata, from +y towards -x.
      thickness_px: Of the project's volume in pixels of these images.
      raw_shape: (x, y, n) of the images that the alignment was made from.
      name: Of the series.
      decisions: What was taken from where.
      warnings: What is not carried over, and doubts.
    """

    kind: str
    images: tuple[pathlib.Path, ...]
    sections: tuple[int | None, ...] = ()
    angles_deg: np.ndarray | None = None
    views: np.ndarray | None = None
    place: Callable[[Frame], Placement] | None = None
    excluded: tuple[int, ...] = ()
    pixel_angstrom: float | None = None
    axis_deg: float | None = None
    thickness_px: int | None = None
    raw_shape: tuple[int, int, int] | None = None
    name: str = ""
    decisions: tuple[Decision, ...] = ()
    warnings: tuple[str, ...] = ()
