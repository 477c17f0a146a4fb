"""Reading the MRC family: .mrc .st .ali .rec .map, plain or .gz / .bz2 / .zip.

The header is checked by `mrc_header`; here stand the rules that real files need:
unsigned mode 0, odd machine stamps, permuted axes, a cell of zero, and float16
promoted before anyone sums it. Row 0 is the bottom of the picture, as in every MRC
file; the few writers that begin at the top are turned.
"""

from __future__ import annotations

import math
import os
import pathlib

import numpy as np

from temdiff_jax.io import gate
from temdiff_jax.io.formats import mrc_extended, mrc_header
from temdiff_jax.io.formats.record import Image

SUFFIXES = (".mrc", ".mrcs", ".st", ".ali", ".rec", ".map", ".preali")
"""Endings taken for MRC, each also with .gz, .bz2 or .zip behind it."""

COMPRESSED = (".gz", ".bz2", ".zip")

_IMOD_STAMP = 1146047817
_IMOD_SIGNED_BYTES = 1
_IMOD_INVERTED_ORIGIN = 4
_VOLUME_STACK = 401
_SAME_VOXEL = 1e-3
_INT16_END = 2**15
# Counts on both sides of the end of a signed type are this much closer together as
# unsigned ones.
_WRAPPED_RATIO = 2.0


def is_mrc_name(path: str | os.PathLike[str]) -> bool:
    """True for a name of the MRC family, compressed or not."""
    path = pathlib.Path(path)
    suffix = path.suffix.lower()
    if suffix in COMPRESSED:
        suffix = path.with_suffix("").suffix.lower()
    return suffix in SUFFIXES


def read_mrc(
    path: str | os.PathLike[str],
    max_input_gb: float = gate.DEFAULT_MAX_INPUT_GB,
    *,
    memory_map: bool = False,
) -> Image:
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
    with gate.reading(path, "a readable MRC file"):
        return _read(path, header, memory_map=memory_map)


def _read(
    path: pathlib.Path, header: mrc_header.MrcHeader, *, memory_map: bool
) -> Image:
    fields = header.fields
    notes = list(header.warnings)
    if fields["ispg"] >= _VOLUME_STACK and fields["mz"] != fields["nz"]:
        raise gate.bad_input(
            path,
            "one volume or one tilt stack",
            f"a stack of volumes (nz {fields['nz']}, mz {fields['mz']})",
            "split it first",
        )
    axes, from_top, axis_notes = _axes_zyx(fields, path.name)
    notes += axis_notes
    plain = axes == (0, 1, 2) and not (from_top or mrc_extended.fei_kind(header))
    data, extended = _stored_array(path, header, memory_map=memory_map and plain)
    if mrc_extended.has_fei_records(extended, header):
        from_top = True
        notes.append(
            f"{path.name}: rows of FEI1 and FEI2 files begin at the top; turned"
        )
    if header.mode == 0:
        data, byte_notes = _mode_0(data, fields, path.name)
        notes += byte_notes
    if header.mode == 1 and (wrapped := _wrapped(data, path.name)):
        data = data.astype(data.dtype.newbyteorder("=")).view(np.uint16)
        notes += wrapped
    if not isinstance(data, np.memmap):
        data = np.transpose(data, axes)
        data = data[:, ::-1] if from_top else data
        # Promotion comes before any sum: float16 overflows at 65504.
        data = np.ascontiguousarray(data, dtype=np.float32)
    voxel, voxel_notes = _voxel_size(fields, path.name)
    angles, angle_notes = mrc_extended.tilt_angles(extended, header, path.name)
    return Image(
        data=data,
        path=path,
        voxel_size_angstrom=voxel,
        angles_deg=angles,
        origin_angstrom=_origin(fields),
        labels=_labels(fields),
        header=_described(header),
        warnings=tuple(notes + voxel_notes + angle_notes),
    )


def _described(header: mrc_header.MrcHeader) -> tuple[tuple[str, str], ...]:
    fields = header.fields
    order = "little" if header.byte_order == "<" else "big"
    axes = " ".join(str(int(fields[key])) for key in ("mapc", "mapr", "maps"))
    starts = " ".join(str(int(fields[f"n{axis}start"])) for axis in "xyz")
    return (
        ("mode", f"{header.mode} ({header.dtype.name}, {order} endian)"),
        ("axes", f"{axes} (mapc, mapr, maps), first index {starts} (x y z)"),
        (
            "space group",
            f"{int(fields['ispg'])}, extended header {header.nsymbt} bytes",
        ),
        ("range", f"{float(fields['dmin']):g} to {float(fields['dmax']):g}"),
    )


def _stored_array(
    path: pathlib.Path, header: mrc_header.MrcHeader, *, memory_map: bool
) -> tuple[np.ndarray, bytes]:
    """Data in stored axis order and type, and the bytes of the extended header."""
    if memory_map and header.compression is None and header.dtype == np.float32:
        data: np.ndarray = np.memmap(
            path, np.float32, "r", offset=header.data_offset, shape=header.shape
        )
        with gate.BoundedStream(path, None, header.data_offset) as stream:
            return data, stream.read()[mrc_header.HEADER_BYTES :]
    limit = header.declared_bytes + gate.TRAILING_SLACK_BYTES + 1
    with gate.BoundedStream(path, header.compression, limit) as stream:
        stream.read(mrc_header.HEADER_BYTES)
        extended = stream.read(header.nsymbt)
        data = np.empty(header.shape, header.dtype)
        got = stream.readinto(data.reshape(-1).view(np.uint8))
        behind = len(stream.read(gate.TRAILING_SLACK_BYTES + 1))
    if len(extended) < header.nsymbt or got < header.data_bytes:
        found = mrc_header.HEADER_BYTES + len(extended) + got
        raise gate.bad_input(
            path,
            f"{header.declared_bytes} bytes, as its header declares",
            found,
            "the file is cut off; copy it again",
        )
    if behind > gate.TRAILING_SLACK_BYTES:
        raise gate.bad_input(
            path,
            f"{header.declared_bytes} bytes after decompression",
            "more",
            "the header does not describe this file; it was not read further",
        )
    return data, extended


def _axes_zyx(
    fields: np.void, name: str
) -> tuple[tuple[int, int, int], bool, list[str]]:
    """Positions of z, y, x among the stored axes, and whether rows begin at the top."""
    stored = [int(fields[key]) for key in ("maps", "mapr", "mapc")]
    notes, from_top = [], False
    if stored[1] == -2:  # IMOD's mark of rows from the top
        stored[1], from_top = 2, True
        notes.append(f"{name}: mapr = -2, rows begin at the top; turned")
    if sorted(stored) != [1, 2, 3]:
        notes.append(
            f"{name}: axis numbers mapc, mapr, maps = {stored[::-1]} are not a "
            "permutation of 1, 2, 3; taken as 1, 2, 3"
        )
        return (0, 1, 2), from_top, notes
    axes = (stored.index(3), stored.index(2), stored.index(1))
    if axes != (0, 1, 2):
        notes.append(f"{name}: axes stored as {stored[::-1]} were put in x, y, z order")
    return axes, from_top, notes


def _wrapped(data: np.ndarray, name: str) -> list[str]:
    """Tell counts beyond 32767 that a signed type has turned negative."""
    low, high = int(data.min()), int(data.max())
    if low > -_INT16_END // 2 or high < _INT16_END // 2:
        return []
    native = data.astype(np.int16)
    apart = [float(np.std(v.astype(np.float32))) for v in (native, native.view("u2"))]
    if apart[0] < _WRAPPED_RATIO * apart[1]:
        return []
    return [
        f"{name}: values at both ends of signed 16 bits: unsigned counts stored as "
        "signed; 65536 was added to the negative ones"
    ]


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


def _origin(fields: np.void) -> tuple[float, float, float]:
    stamp, flags = _imod(fields)
    sign = -1.0 if stamp and flags & _IMOD_INVERTED_ORIGIN else 1.0
    z, y, x = (sign * float(fields["origin"][axis]) for axis in "zyx")
    return z, y, x


def _labels(fields: np.void) -> tuple[str, ...]:
    count = min(max(int(fields["nlabl"]), 0), 10)
    texts = (bytes(label).decode("ascii", "replace") for label in fields["label"])
    return tuple(text.rstrip(" \0") for text in list(texts)[:count])
