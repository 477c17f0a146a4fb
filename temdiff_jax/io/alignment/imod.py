"""IMOD: transforms (.xf), tilt.com and its relatives, and their geometry.

Voxel [z, y, x] of a converted alignment is voxel [z, y, x] of IMOD's volume after
`trimvol -rx`; differences of the centres become shifts of the tilts.

Sources: https://github.com/LabShare-Archive/IMOD flib/tilt/tilt.f90; the manual pages
of tilt, newstack, xfproduct and etomo.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from temdiff_jax.io import gate, text
from temdiff_jax.io.alignment import inplane
from temdiff_jax.io.alignment import record as own
from temdiff_jax.io.alignment.record import Alignment

# .xf files of some programs carry three decimals.
_SIMILAR = 2e-3


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


class ImodAlignment(NamedTuple):
    """What IMOD's `tilt` and `newstack` are given; all in pixels of these images.

    Values of tilt.com are unbinned: divide OFFSET's pixels and SHIFT by IMAGEBINNED.

    Attributes:
      matrices, shifts_px: The .xf: raw to aligned, x' = A x + d about (n - 1) / 2.
      angles_deg: The .tlt.
      x_axis_tilt_deg: XAXISTILT.
      x_tilts_deg: The .xtilt, [n_tilts]; chi is .xtilt minus XAXISTILT.
      offset_deg, offset_px: OFFSET, the second one the tilt axis' offset dX.
      shift_px: SHIFT as (x, z).

    Source: tilt.f90, `xcenOut`, `ycenOut`, `sinAlpha`: with an odd width or thickness
    an integer division moves the volume's centre by half a voxel, which is kept.
    """

    matrices: ArrayLike
    shifts_px: ArrayLike
    angles_deg: ArrayLike
    x_axis_tilt_deg: float = 0.0
    x_tilts_deg: ArrayLike | None = None
    offset_deg: float = 0.0
    offset_px: float = 0.0
    shift_px: tuple[float, float] = (0.0, 0.0)


def read_xf(path: str | os.PathLike[str]) -> XfTable:
    """Read IMOD linear transforms, one line of six numbers per view.

    Raises:
      InputError: not six numbers on a line, or no line.

    Source: IMOD manual, xfproduct and newstack: X' = A11 X + A12 Y + DX.
    """
    path, content = text.read_text(path)
    rows = text.number_rows(path, content)
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


def from_imod(record: ImodAlignment, *, volume_shape: Sequence[int]) -> Alignment:
    """IMOD's alignment here, for a volume (z, y, x) after `trimvol -rx`.

    Raises:
      InputError: a transform that is more than shift, turn and magnification, x-tilts
        that differ from tilt to tilt, numbers that do not fit or are not finite.
    """
    angles = own.per_tilt("angles_deg", record.angles_deg, None)
    count = len(angles)
    matrices = own.per_tilt("matrices", record.matrices, count, 2, 2)
    shifts = own.per_tilt("shifts_px", record.shifts_px, count, 2)
    back, moved = inplane.inverted(matrices, shifts)
    psi, scale = _similarity(back)
    chi = -own.number("x_axis_tilt_deg", record.x_axis_tilt_deg)
    if record.x_tilts_deg is not None:
        chi += own.one_x_tilt(
            own.per_tilt("x_tilts_deg", record.x_tilts_deg, count), ".xtilt"
        )
    offset = own.number("offset_deg", record.offset_deg)
    found = Alignment(
        angles + offset,
        moved,
        psi,
        scale,
        own.number("offset_px", record.offset_px),
        chi,
    )
    return own.recentred(found, (0, 0), _imod_gap(record, volume_shape))


def to_imod(alignment: Alignment, *, volume_shape: Sequence[int]) -> ImodAlignment:
    """The same alignment for IMOD; an odd volume needs its SHIFT, returned too."""
    cos, sin = own.cos_sin(alignment.rotations_deg)
    m = alignment.magnifications
    matrices = np.stack([cos, sin, -sin, cos], -1).reshape(-1, 2, 2) / m[:, None, None]
    depth, _, width = own.volume_extents(volume_shape)
    a = alignment.axis_offset_px
    return ImodAlignment(
        matrices,
        -np.einsum("nij,nj->ni", matrices, alignment.shifts_px),
        alignment.angles_deg,
        x_axis_tilt_deg=-alignment.x_tilt_deg,
        offset_px=a,
        shift_px=(0.5 * (width % 2) - a, 0.5 * (depth % 2)),
    )


def is_similar(matrices: np.ndarray) -> bool:
    """Whether matrices [n, 2, 2] are a turn and one magnification each."""
    return bool(_departure(matrices).max() <= _SIMILAR)


def untouched(table: XfTable) -> list[str]:
    """A line about views without a transform, where others have one."""
    views = table.identity_views
    if not 0 < len(views) < len(table.matrices):
        return []
    return [
        f"{table.path.name}: no transform for views {list(views)} (from 0); "
        "some programs mark views so that they left out"
    ]


def _departure(matrices: np.ndarray) -> np.ndarray:
    """How far each matrix is from the nearest turn and magnification."""
    even = 0.5 * (matrices[:, 0, 0] + matrices[:, 1, 1])
    odd = 0.5 * (matrices[:, 1, 0] - matrices[:, 0, 1])
    nearest = np.stack([even, -odd, odd, even], axis=-1).reshape(-1, 2, 2)
    rest = np.abs(matrices - nearest).max(axis=(1, 2))
    return rest / np.maximum(np.hypot(even, odd), 1e-12)


def _similarity(matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """psi in degrees and m of matrices m R(psi); refuses stretch, skew and mirror."""
    even = 0.5 * (matrices[:, 0, 0] + matrices[:, 1, 1])
    odd = 0.5 * (matrices[:, 1, 0] - matrices[:, 0, 1])
    m = np.hypot(even, odd)
    rest = _departure(matrices)
    if rest.max() > _SIMILAR:
        bad = int(np.argmax(rest))
        raise gate.bad_input(
            f"transform {bad}",
            "a shift, a turn and one magnification",
            f"a stretch, skew or mirror of {rest[bad]:.2g}",
            "align the images with it first (io.alignment.inplane.apply_maps)",
        )
    return np.rad2deg(np.arctan2(odd, even)), m


def _imod_gap(
    record: ImodAlignment, volume_shape: Sequence[int]
) -> tuple[float, float, float]:
    depth, _, width = own.volume_extents(volume_shape)
    shift = own.per_tilt("shift_px", record.shift_px, 2)
    # Rows of `tilt` run to -z: its Z shift moves the axis to smaller z.
    x = 0.5 * (width % 2) - float(record.offset_px) - shift[0]
    return (x, 0.0, shift[1] - 0.5 * (depth % 2))
