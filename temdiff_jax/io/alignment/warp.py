"""Warp and M: tilt series in XML and their geometry.

Source: https://github.com/warpem/warp WarpLib/TiltSeries/TiltSeries.cs.
"""

from __future__ import annotations

import os
import pathlib
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import ArrayLike

from temdiff_jax.io import gate, text
from temdiff_jax.io.alignment import record as own
from temdiff_jax.io.alignment.record import Alignment


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


class WarpSeries(NamedTuple):
    """What the XML of a series says.

    Attributes:
      alignment: Of all its tilts, in the order of the file.
      used: [n_tilts] bool, UseTilt; all where the file does not say.
      movies: MoviePath of each tilt, () where the file does not say.
      local: Name of a grid of local motion that is not zero, "" without one.
    """

    alignment: WarpAlignment
    used: np.ndarray
    movies: tuple[str, ...] = ()
    local: str = ""


def read_warp_xml(path: str | os.PathLike[str]) -> WarpSeries:
    """Read the alignment of a Warp or M tilt series.

    Raises:
      InputError: no XML of a tilt series, lists of different lengths, a number that
        cannot be read.
    """
    path, content = text.read_text(path)
    # Entities can blow a small file up to any size; Warp declares none.
    if "<!DOCTYPE" in content.upper() or "<!ENTITY" in content.upper():
        raise gate.bad_input(
            path, "XML without a DOCTYPE", "one", "pass Warp's own file"
        )
    try:
        root = ElementTree.fromstring(content.lstrip())
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
    movies = tuple(
        line.strip() for line in (root.findtext("MoviePath") or "").splitlines() if line
    )
    for name, count in (
        *((n, v.size) for n, v in lists.items()),
        ("UseTilt", len(use)),
        ("MoviePath", len(movies) or angles.size),
    ):
        if count != angles.size:
            raise gate.bad_input(
                f"{path}: {name}",
                f"one entry per tilt, {angles.size}",
                count,
                "pass the XML of one series",
            )
    levels = [
        text.parse_number(root.get(name) or "0", f"{path}: {name}")
        for name in ("LevelAngleX", "LevelAngleY")
    ]
    offsets = np.stack([lists["AxisOffsetX"], lists["AxisOffsetY"]], axis=1)
    alignment = WarpAlignment(angles, lists["AxisAngle"], offsets, *levels)
    wrong = [word for word in use if word.lower() not in ("true", "false")]
    if wrong:
        raise gate.bad_input(f"{path}: UseTilt", "True or False", wrong[0], "repair it")
    used = np.array([word.lower() == "true" for word in use])
    if not used.any():
        raise gate.bad_input(f"{path}: UseTilt", "a tilt in use", "none", "check it")
    return WarpSeries(alignment, used, movies, _local_motion(root))


def _local_motion(root: ElementTree.Element) -> str:
    """The first grid of local motion with a value that is not zero."""
    for grid in ("GridMovementX", "GridMovementY", "GridVolumeWarpX"):
        for node in root.iterfind(f"{grid}/Node"):
            if node.get("Value", "0") not in ("0", "0.0"):
                return grid
    return ""


def _numbers(path: pathlib.Path, root: ElementTree.Element, name: str) -> np.ndarray:
    words = (root.findtext(name) or "").split()
    return np.array([text.parse_number(w, f"{path}: {name}") for w in words])


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
        offsets / own.pixel(pixel_size_angstrom),
        own.per_tilt("axis_angles_deg", record.axis_angles_deg, count),
        np.ones(count),
        x_tilt_deg=own.number("level_x_deg", record.level_x_deg),
    )
    return own.recentred(found, (0.5, 0.5), (-0.5, -0.5, -0.5))


def to_warp(alignment: Alignment, *, pixel_size_angstrom: float) -> WarpAlignment:
    """The same alignment for Warp, all tilt in the angles; refuses a magnification."""
    own.refuse_magnification(alignment, "Warp")
    there = own.recentred(own.folded(alignment), (-0.5, -0.5), (0.5, 0.5, 0.5))
    return WarpAlignment(
        -there.angles_deg,
        there.rotations_deg,
        there.shifts_px * own.pixel(pixel_size_angstrom),
        level_x_deg=there.x_tilt_deg,
    )
