"""Alignments of IMOD, AreTomo, RELION 5 and Warp, brought to this package and back.

Everything here is converted to one statement.  Content at r, in voxels from the
volume's centre (n - 1) / 2, appears at p, in pixels from the image's centre:

    p = t + m Rz(psi) ((a, 0) + [Ry(theta) Rx(chi) r] without z)

Packages differ from it in the sign of the angles, in the direction of the shift,
in its unit and in the index that they call the centre.  A converted alignment is
index for index: voxel [z, y, x] here is voxel [z, y, x] of the volume which that
package would reconstruct (IMOD's after `trimvol -rx`), so a shift of centre becomes
a shift of every tilt, different at each angle.

Sources (formulas as coded), looked up where each record names them:
https://github.com/LabShare-Archive/IMOD flib/tilt/tilt.f90,
https://github.com/czimaginginstitute/AreTomo3 GCorrPatchShift.cu, GBackProj.cu,
https://github.com/3dem/relion tomo_backproject_program.cpp,
https://github.com/warpem/warp WarpLib/TiltSeries/TiltSeries.cs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from temdiff_jax.io import align2d, gate
from temdiff_jax.io import conventions as own
from temdiff_jax.io.conventions import Alignment

ARETOMO_CENTERS = ("imod", "aretomo3")
# .xf files of some programs carry three decimals.
_SIMILAR = 2e-3
_SAME_DEG = 1e-6


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


class RelionAlignment(NamedTuple):
    """Columns rlnTomoXTilt, YTilt, ZRot and X/YShiftAngst of a RELION 5 tilt series.

    Source: `getProjectMatrices`: S(image centre) S(shift) Rz Ry Rx S(-volume centre),
    all turns right-handed, both centres n / 2 rounded down.
    """

    x_tilts_deg: ArrayLike
    y_tilts_deg: ArrayLike
    z_rotations_deg: ArrayLike
    shifts_angstrom: ArrayLike


class WarpAlignment(NamedTuple):
    """Angles, AxisAngle, AxisOffsetX/Y and level angles of a Warp or M series.

    Attributes:
      angles_deg: As stored in the XML or .tomostar.  Relative to Warp's own volumes
        they always run against theta, whether or not they were inverted on import;
        AreAnglesInverted concerns the defocus alone.
      axis_angles_deg: Direction of the tilt axis.
      axis_offsets_angstrom: [n_tilts, 2].
      level_x_deg, level_y_deg: LevelAngleX, LevelAngleY; 0 where absent.

    Source: `GetPositionInAllTilts`: Euler(0, angle + level y, -axis) RotX(level x),
    centres n / 2.  Its grids of local motion are not part of this.
    """

    angles_deg: ArrayLike
    axis_angles_deg: ArrayLike
    axis_offsets_angstrom: ArrayLike
    level_x_deg: float = 0.0
    level_y_deg: float = 0.0


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
    back, moved = align2d.inverted(matrices, shifts)
    psi, scale = _similarity(back)
    chi = -own.number("x_axis_tilt_deg", record.x_axis_tilt_deg)
    if record.x_tilts_deg is not None:
        chi += _one_x_tilt(
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
    depth, _, width = _shape3(volume_shape)
    a = alignment.axis_offset_px
    return ImodAlignment(
        matrices,
        -np.einsum("nij,nj->ni", matrices, alignment.shifts_px),
        alignment.angles_deg,
        x_axis_tilt_deg=-alignment.x_tilt_deg,
        offset_px=a,
        shift_px=(0.5 * (width % 2) - a, 0.5 * (depth % 2)),
    )


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
    _refuse_magnification(alignment, "AreTomo")
    if abs(alignment.x_tilt_deg) > _SAME_DEG:
        raise gate.bad_input(
            "AreTomo: x-tilt", "none", f"{alignment.x_tilt_deg:g} degrees", "level it"
        )
    gap = _aretomo_gap(center)
    fold = np.array([alignment.axis_offset_px - gap, 0.0])
    shifts = alignment.shifts_px - gap + own.in_plane(alignment, fold)
    return AreTomoAlignment(alignment.angles_deg, alignment.rotations_deg, shifts)


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
        shifts / _pixel(pixel_size_angstrom),
        own.per_tilt("z_rotations_deg", record.z_rotations_deg, count),
        np.ones(count),
        x_tilt_deg=_one_x_tilt(chi, "rlnTomoXTilt"),
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
    _refuse_magnification(alignment, "RELION")
    image_gap, volume_gap = _relion_gaps(image_shape, volume_shape)
    there = own.recentred(own.folded(alignment), -image_gap, -volume_gap)
    return RelionAlignment(
        np.full(len(there.angles_deg), there.x_tilt_deg),
        there.angles_deg,
        there.rotations_deg,
        there.shifts_px * _pixel(pixel_size_angstrom),
    )


def from_warp(record: WarpAlignment, *, pixel_size_angstrom: float) -> Alignment:
    """Warp's or M's global alignment here.

    Args:
      record: As in the XML.
      pixel_size_angstrom: Of the images; the volume's voxel is as large.

    Raises:
      InputError: numbers that do not fit or are not finite, a pixel size that is not
        positive.
    """
    angles = own.per_tilt("angles_deg", record.angles_deg, None)
    count = len(angles)
    offsets = own.per_tilt(
        "axis_offsets_angstrom", record.axis_offsets_angstrom, count, 2
    )
    found = Alignment(
        -(angles + own.number("level_y_deg", record.level_y_deg)),
        offsets / _pixel(pixel_size_angstrom),
        own.per_tilt("axis_angles_deg", record.axis_angles_deg, count),
        np.ones(count),
        x_tilt_deg=own.number("level_x_deg", record.level_x_deg),
    )
    return own.recentred(found, (0.5, 0.5), (-0.5, -0.5, -0.5))


def to_warp(alignment: Alignment, *, pixel_size_angstrom: float) -> WarpAlignment:
    """The same alignment for Warp, all tilt in the angles; refuses a magnification."""
    _refuse_magnification(alignment, "Warp")
    there = own.recentred(own.folded(alignment), (-0.5, -0.5), (0.5, 0.5, 0.5))
    return WarpAlignment(
        -there.angles_deg,
        there.rotations_deg,
        there.shifts_px * _pixel(pixel_size_angstrom),
        level_x_deg=there.x_tilt_deg,
    )


def _similarity(matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """psi in degrees and m of matrices m R(psi); refuses stretch, skew and mirror."""
    even = 0.5 * (matrices[:, 0, 0] + matrices[:, 1, 1])
    odd = 0.5 * (matrices[:, 1, 0] - matrices[:, 0, 1])
    nearest = np.stack([even, -odd, odd, even], axis=-1).reshape(-1, 2, 2)
    m = np.hypot(even, odd)
    rest = np.abs(matrices - nearest).max(axis=(1, 2)) / np.maximum(m, 1e-12)
    if rest.max() > _SIMILAR:
        bad = int(np.argmax(rest))
        raise gate.bad_input(
            f"transform {bad}",
            "a shift, a turn and one magnification",
            f"a stretch, skew or mirror of {rest[bad]:.2g}",
            "align the images with it first (io.align2d.apply_maps)",
        )
    return np.rad2deg(np.arctan2(odd, even)), m


def _imod_gap(
    record: ImodAlignment, volume_shape: Sequence[int]
) -> tuple[float, float, float]:
    depth, _, width = _shape3(volume_shape)
    shift = own.per_tilt("shift_px", record.shift_px, 2)
    # Rows of `tilt` run to -z: its Z shift moves the axis to smaller z.
    x = 0.5 * (width % 2) - float(record.offset_px) - shift[0]
    return (x, 0.0, shift[1] - 0.5 * (depth % 2))


def _aretomo_gap(center: str) -> float:
    if center not in ARETOMO_CENTERS:
        raise gate.bad_input(
            "AreTomo: center", " or ".join(ARETOMO_CENTERS), repr(center), "pass one"
        )
    return 0.5 if center == "aretomo3" else 0.0


def _relion_gaps(
    image_shape: Sequence[int], volume_shape: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """n // 2 - (n - 1) / 2 of the images (x, y), its negative of the volume."""
    sides = np.asarray(_extents(image_shape, "image_shape", 2))[::-1]
    volume = np.asarray(_shape3(volume_shape))[::-1]
    return sides // 2 - (sides - 1) / 2, (volume - 1) / 2 - volume // 2


def _shape3(shape: Sequence[int]) -> tuple[int, ...]:
    return _extents(shape, "volume_shape", 3)


def _extents(shape: Sequence[int], name: str, count: int) -> tuple[int, ...]:
    extents = tuple(int(n) for n in shape)
    if len(extents) != count or min(extents) < 1:
        raise gate.bad_input(
            name, f"{count} positive extents", list(extents), "pass the array's shape"
        )
    return extents


def _pixel(value: float) -> float:
    if not (np.isfinite(value) and value > 0):
        raise gate.bad_input(
            "pixel_size_angstrom", "a positive length", value, "pass the images' pixel"
        )
    return float(value)


def _one_x_tilt(values: np.ndarray, name: str) -> float:
    if np.ptp(values) > _SAME_DEG:
        raise gate.bad_input(
            name,
            "one x-tilt for the series",
            f"{values.min():g} to {values.max():g} degrees",
            "solve the alignment again with a single x-tilt",
        )
    return float(values.mean())


def _refuse_magnification(alignment: Alignment, package: str) -> None:
    if np.abs(alignment.magnifications - 1).max() > _SAME_DEG:
        raise gate.bad_input(
            f"{package}: magnifications",
            "1 in every tilt",
            f"{alignment.magnifications.min():g} to {alignment.magnifications.max():g}",
            "rescale the images first",
        )


class Package(NamedTuple):
    """What is known of a package: its record and the two conversions."""

    record: type
    to_own: Callable[..., Alignment]
    from_own: Callable[..., NamedTuple]


PACKAGES = {
    "imod": Package(ImodAlignment, from_imod, to_imod),
    "aretomo": Package(AreTomoAlignment, from_aretomo, to_aretomo),
    "relion": Package(RelionAlignment, from_relion, to_relion),
    "warp": Package(WarpAlignment, from_warp, to_warp),
}


def find(name: str) -> Package:
    """The package of this name; refuses those whose signs nobody has checked."""
    if name.lower() not in PACKAGES:
        raise gate.bad_input(
            "package",
            f"one of {', '.join(PACKAGES)}",
            repr(name),
            "its signs are not known here; find them with a reprojection and fill an "
            "io.conventions.Alignment",
        )
    return PACKAGES[name.lower()]
