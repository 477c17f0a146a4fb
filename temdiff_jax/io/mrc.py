"""Reading the MRC family: .mrc .st .ali .rec .map, plain or .gz / .bz2.

The bytes are interpreted by mrcfile; around it stand the rules that real files
need: unsigned mode 0, odd machine stamps, permuted axes, a cell of zero, and
float16 promoted before anyone sums it. Arrays are [z, y, x]; row 0 is the bottom
of the picture, as in every MRC file, and is never flipped here.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib

import numpy as np
from mrcfile import mrcinterpreter

from temdiff_jax import errors
from temdiff_jax.io import gate, mrc_extended, mrc_header

SUFFIXES = (".mrc", ".mrcs", ".st", ".ali", ".rec", ".map", ".preali")
"""Endings taken for MRC, each also with .gz or .bz2 behind it."""

_IMOD_STAMP = 1146047817
_IMOD_SIGNED_BYTES = 1
_IMOD_INVERTED_ORIGIN = 4
_VOLUME_STACK = 401
_SAME_VOXEL = 1e-3


@dataclasses.dataclass(frozen=True)
class MrcImage:
    """A volume or a tilt stack as found in an MRC file.

    Attributes:
      data: Grey values, [z, y, x] (or [n_tilts, y, x]), float32, C-contiguous.
      voxel_size_angstrom: (z, y, x), or None when the header does not know.
      origin_angstrom: (z, y, x), position of the coordinate origin relative to the
        first voxel (IMOD's sense; its inverted-sign flag is applied).
      nstart: First index per axis, (z, y, x).
      mode: MRC mode of the file.
      byte_order: "<" or ">".
      is_stack: True when the header says image stack (space group 0).
      labels: Text labels, without padding.
      header_min_max: Minimum and maximum as the header has them.
      tilt_angles_deg: Angles of the extended header, [n_tilts] float64, or None.
      path: Where it came from.
      warnings: One line per assumption or repair.
    """

    data: np.ndarray
    voxel_size_angstrom: tuple[float, float, float] | None
    origin_angstrom: tuple[float, float, float]
    nstart: tuple[int, int, int]
    mode: int
    byte_order: str
    is_stack: bool
    labels: tuple[str, ...]
    header_min_max: tuple[float, float]
    tilt_angles_deg: np.ndarray | None
    path: pathlib.Path
    warnings: tuple[str, ...]


def is_mrc_name(path: str | os.PathLike[str]) -> bool:
    """True for a name of the MRC family, compressed or not."""
    return _base_suffix(pathlib.Path(path)) in SUFFIXES


def read_mrc(
    path: str | os.PathLike[str],
    *,
    max_input_gb: float = gate.DEFAULT_MAX_INPUT_GB,
    memory_map: bool = False,
) -> MrcImage:
    """Read an MRC file as float32 [z, y, x].

    Args:
      path: File of the MRC family.
      max_input_gb: Largest float32 array to build, GiB.
      memory_map: Map the data read-only instead of reading them where the file
        allows it (mode 2, native byte order, standard axes, not compressed).

    Returns:
      The image with everything of its header that matters to a reconstruction.

    Raises:
      InputError: see `mrc_header.read_header`; also a stack of several volumes.

    Source: MRC2014 (doi:10.1016/j.jsb.2015.04.002) with IMOD's extensions
      (https://bio3d.colorado.edu/imod/doc/mrc_format.txt).
    """
    path, header = mrc_header.read_header(
        path, max_input_gb=max_input_gb, in_memory=not memory_map
    )
    fields = header.fields
    notes = list(header.warnings)
    if fields["ispg"] >= _VOLUME_STACK and fields["mz"] != fields["nz"]:
        raise gate.bad_input(
            path,
            "one volume or one tilt stack",
            f"a stack of volumes (nz {fields['nz']}, mz {fields['mz']})",
            "split it first",
        )
    axes, axis_notes = _axes_zyx(fields, path.name)
    notes += axis_notes
    data, extended = _stored_array(path, header, axes, memory_map=memory_map)
    if header.mode == 0:
        data, byte_notes = _mode_0(data, fields, path.name)
        notes += byte_notes
    if not isinstance(data, np.memmap):
        # Promotion comes before any sum: float16 overflows at 65504.
        data = np.ascontiguousarray(np.transpose(data, axes), dtype=np.float32)
    voxel, voxel_notes = _voxel_size(fields, path.name)
    angles, angle_notes = mrc_extended.tilt_angles(extended, header, path.name)
    return MrcImage(
        data=data,
        voxel_size_angstrom=voxel,
        origin_angstrom=_origin(fields),
        nstart=_nstart(fields, axes),
        mode=header.mode,
        byte_order=header.byte_order,
        is_stack=int(fields["ispg"]) == 0,
        labels=_labels(fields),
        header_min_max=(float(fields["dmin"]), float(fields["dmax"])),
        tilt_angles_deg=angles,
        path=path,
        warnings=tuple(notes + voxel_notes + angle_notes),
    )


def _base_suffix(path: pathlib.Path) -> str:
    suffix = path.suffix.lower()
    if suffix in (".gz", ".bz2"):
        suffix = path.with_suffix("").suffix.lower()
    return suffix


def _stored_array(
    path: pathlib.Path,
    header: mrc_header.MrcHeader,
    axes: tuple[int, int, int],
    *,
    memory_map: bool,
) -> tuple[np.ndarray, bytes]:
    """Data in stored axis order and type, and the bytes of the extended header."""
    mappable = (
        memory_map
        and header.compression is None
        and axes == (0, 1, 2)
        and header.dtype == np.dtype(np.float32)
    )
    if mappable:
        data = np.memmap(
            path, np.float32, "r", offset=header.data_offset, shape=header.shape
        )
        limit = header.data_offset
        with gate.BoundedStream(path, None, limit) as stream:
            return data, stream.read(limit)[mrc_header.HEADER_BYTES :]
    limit = header.declared_bytes + gate.TRAILING_SLACK_BYTES + 1
    with gate.BoundedStream(
        path, header.compression, limit, replace=_repaired(header)
    ) as stream:
        image = _interpret(stream, path)
        behind = len(stream.read(gate.TRAILING_SLACK_BYTES + 1))
    data, extended = image.data, image.extended_header.tobytes()
    image.close()
    if behind > gate.TRAILING_SLACK_BYTES:
        raise gate.bad_input(
            path,
            f"{header.declared_bytes} bytes after decompression",
            "more",
            "the header does not describe this file; it was not read further",
        )
    return data, extended


def _interpret(
    stream: gate.BoundedStream, path: pathlib.Path
) -> mrcinterpreter.MrcInterpreter:
    try:
        return mrcinterpreter.MrcInterpreter(iostream=stream)
    except errors.InputError:
        raise
    except ValueError as error:
        raise gate.bad_input(
            path,
            "as many bytes as the header declares",
            error,
            "the file is cut off; copy it again",
        ) from None


def _repaired(header: mrc_header.MrcHeader) -> bytes:
    """The header with mark, stamp and space group in the form mrcfile insists on.

    Byte order is already decided and volume stacks are refused; space group 1
    makes mrcfile return three axes always.
    """
    fixed = bytearray(header.raw)
    little = header.byte_order == "<"
    fixed[88:92] = (1).to_bytes(4, "little" if little else "big")
    fixed[208:212] = b"MAP "
    fixed[212:216] = b"\x44\x44\0\0" if little else b"\x11\x11\0\0"
    return bytes(fixed)


def _axes_zyx(fields: np.void, name: str) -> tuple[tuple[int, int, int], list[str]]:
    """Positions of z, y, x among the stored (sections, rows, columns)."""
    stored = [int(fields[key]) for key in ("maps", "mapr", "mapc")]
    if sorted(stored) != [1, 2, 3]:
        note = (
            f"{name}: axis numbers mapc, mapr, maps = {stored[::-1]} are not a "
            "permutation of 1, 2, 3; taken as 1, 2, 3"
        )
        return (0, 1, 2), [note]
    axes = (stored.index(3), stored.index(2), stored.index(1))
    if axes == (0, 1, 2):
        return axes, []
    return axes, [f"{name}: axes stored as {stored[::-1]} were put in x, y, z order"]


def _mode_0(
    data: np.ndarray, fields: np.void, name: str
) -> tuple[np.ndarray, list[str]]:
    """Decide whether bytes are signed: IMOD's flag first, header extremes second.

    mrcfile always gives int8, so that 200 would come back as -56.
    """
    stamp, flags = _imod(fields)
    low, high = float(fields["dmin"]), float(fields["dmax"])
    if stamp:
        signed = bool(flags & _IMOD_SIGNED_BYTES)
    elif low < 0 and high < 128:
        signed = True
    elif low >= 0 and high >= 128:
        signed = False
    else:
        notes = []
        if (data < 0).any():
            notes.append(
                f"{name}: mode 0 bytes may be signed or unsigned (header minimum "
                f"{low:g}, maximum {high:g}); taken as unsigned"
            )
        return data.view(np.uint8), notes
    return (data if signed else data.view(np.uint8)), []


def _imod(fields: np.void) -> tuple[bool, int]:
    """IMOD's stamp (bytes 152-155) and flag word (156-159)."""
    order = fields.dtype["mode"].byteorder
    words = np.frombuffer(
        fields["extra2"].tobytes(), np.dtype("i4").newbyteorder(order)
    )
    # extra2 starts at byte 112 of the header.
    return int(words[10]) == _IMOD_STAMP, int(words[11])


def _voxel_size(
    fields: np.void, name: str
) -> tuple[tuple[float, float, float] | None, list[str]]:
    """Cell divided by grid (not by extents) per axis; None when it says nothing."""
    size = {}
    for axis in "xyz":
        cell, grid = float(fields["cella"][axis]), int(fields["m" + axis])
        size[axis] = cell / grid if grid > 0 and math.isfinite(cell) else 0.0
    if size["x"] <= 0 and size["y"] <= 0:
        return None, [f"{name}: the header has no voxel size (cell of zero)"]
    if size["x"] <= 0 or size["y"] <= 0:
        return None, [f"{name}: the header has a voxel size for one axis only; ignored"]
    # In a stack (mz = 1) the z cell is a convention, not a length.
    lone_section_grid = int(fields["mz"]) <= 1 < int(fields["nz"])
    if size["z"] <= 0 or lone_section_grid:
        size["z"] = size["x"]
    voxel = (size["z"], size["y"], size["x"])
    if max(voxel) - min(voxel) > _SAME_VOXEL * max(voxel):
        text = " x ".join(f"{value:g}" for value in voxel)
        return voxel, [f"{name}: voxels are not cubes ({text} Angstrom, z y x)"]
    return voxel, []


def _nstart(fields: np.void, axes: tuple[int, int, int]) -> tuple[int, int, int]:
    """First indices as z, y, x; unlike cell and origin they follow stored axes."""
    starts = [int(fields[key]) for key in ("nzstart", "nystart", "nxstart")]
    return starts[axes[0]], starts[axes[1]], starts[axes[2]]


def _origin(fields: np.void) -> tuple[float, float, float]:
    stamp, flags = _imod(fields)
    sign = -1.0 if stamp and flags & _IMOD_INVERTED_ORIGIN else 1.0
    z, y, x = (sign * float(fields["origin"][axis]) for axis in "zyx")
    return z, y, x


def _labels(fields: np.void) -> tuple[str, ...]:
    count = min(max(int(fields["nlabl"]), 0), 10)
    texts = (bytes(label).decode("ascii", "replace") for label in fields["label"])
    return tuple(text.rstrip(" \0") for text in list(texts)[:count])
