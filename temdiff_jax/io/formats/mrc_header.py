"""The header of an MRC file, parsed and compared with the file before any reading."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from typing import Literal

import numpy as np
from mrcfile import dtypes as mrc_dtypes
from mrcfile import utils as mrc_utils

from temdiff_jax.io import gate

HEADER_BYTES = 1024
MAX_EXTENDED_BYTES = 2**26
"""A record of a section is at most some kilobytes long."""

_LARGEST_SANE_EXTENT = 2**24
_READABLE_MODES = (0, 1, 2, 6, 12)
_ORDERS: tuple[Literal["<", ">"], ...] = ("<", ">")
_STAMPS: dict[bytes, Literal["<", ">"]] = {
    b"\x44\x44": "<",
    b"\x44\x41": "<",
    b"\x11\x11": ">",
}
_REFUSED_MODES = {
    3: ("complex int16", "transform it back to real space first"),
    4: ("complex float32", "transform it back to real space first"),
    16: ("RGB bytes", "convert it to grey, for example with `clip fromrgb`"),
    101: ("4-bit packed", "unpack it, for example with `newstack -mode 0`"),
}


@dataclasses.dataclass(frozen=True)
class MrcHeader:
    """A checked MRC header; sizes are known to agree with the file.

    Attributes:
      raw: The 1024 header bytes as found.
      fields: The same bytes as a numpy record (mrcfile's field names).
      byte_order: "<" or ">", decided from the stamp and from the values.
      shape: Extents as stored, (sections, rows, columns).
      mode: MRC mode number, one of 0, 1, 2, 6, 12.
      dtype: Stored type in file byte order (mode 0 as int8, as mrcfile has it).
      nsymbt: Bytes of the extended header.
      data_bytes: Bytes of the data block.
      compression: None, "gzip", "bz2" or "zip".
      warnings: One line per repaired oddity.
    """

    raw: bytes
    fields: np.void
    byte_order: Literal["<", ">"]
    shape: tuple[int, int, int]
    mode: int
    dtype: np.dtype
    nsymbt: int
    data_bytes: int
    compression: str | None
    warnings: tuple[str, ...]

    @property
    def data_offset(self) -> int:
        """Byte position of the first voxel."""
        return HEADER_BYTES + self.nsymbt

    @property
    def declared_bytes(self) -> int:
        """Size the whole (uncompressed) file should have."""
        return self.data_offset + self.data_bytes


def read_header(
    path: str | os.PathLike[str],
    *,
    max_input_gb: float = gate.DEFAULT_MAX_INPUT_GB,
    in_memory: bool = True,
) -> tuple[pathlib.Path, MrcHeader]:
    """Parse and check an MRC header against the file before anything is allocated.

    Args:
      path: File of the MRC family, plain or compressed with gzip, bzip2 or zip.
      max_input_gb: Limit for the float32 array, GiB.
      in_memory: False when the data will be memory-mapped.

    Raises:
      InputError: not MRC, impossible extents, a mode that is not a real scalar,
        or a size that does not equal 1024 + nsymbt + data.

    Source: MRC2014, doi:10.1016/j.jsb.2015.04.002; byte order by values as in
      IMOD's mrcfiles.c.
    """
    path, size = gate.regular_file(path)
    compression = gate.compression_of(path)
    with gate.BoundedStream(path, compression, HEADER_BYTES) as stream:
        raw = stream.read(HEADER_BYTES)
    if len(raw) < HEADER_BYTES:
        raise gate.bad_input(
            path, "an MRC header of 1024 bytes", f"{len(raw)} bytes", "copy it again"
        )
    order, notes = _byte_order(raw, path)
    fields = np.frombuffer(raw, mrc_dtypes.HEADER_DTYPE.newbyteorder(order))[0]
    mode = _checked_mode(int(fields["mode"]), path)
    dtype = mrc_utils.dtype_from_mode(mode).newbyteorder(order)
    shape, nsymbt = _checked_extents(fields, path)
    header = MrcHeader(
        raw=raw,
        fields=fields,
        byte_order=order,
        shape=shape,
        mode=mode,
        dtype=dtype,
        nsymbt=nsymbt,
        data_bytes=math.prod(shape) * dtype.itemsize,
        compression=compression,
        warnings=tuple(notes),
    )
    _check_mrc_size(path, size, header)
    gate.check_budget(path, shape, dtype.itemsize, max_input_gb, in_memory=in_memory)
    if nsymbt > MAX_EXTENDED_BYTES:
        raise gate.bad_input(
            f"{path}: extended header (nsymbt)",
            f"at most {MAX_EXTENDED_BYTES} bytes",
            nsymbt,
            "the header is damaged; copy the file again",
        )
    return path, header


def _byte_order(raw: bytes, path: pathlib.Path) -> tuple[Literal["<", ">"], list[str]]:
    """Decide the byte order from the stamp, checked against the values."""
    stamp = raw[212:214]
    stamped = _STAMPS.get(stamp)
    sane = [order for order in _ORDERS if _plausible(raw, order)]
    if raw[208:211] != b"MAP" and not sane:
        raise gate.bad_input(
            path, "an MRC file ('MAP ' at byte 208)", raw[208:212], "check the format"
        )
    notes = []
    if raw[208:211] != b"MAP":
        notes.append(f"{path.name}: no 'MAP ' mark in the header; read as old MRC")
    if stamped is not None and (stamped in sane or not sane):
        return stamped, notes
    if not sane:
        raise gate.bad_input(
            f"{path}: machine stamp",
            "44 44, 44 41 or 11 11",
            raw[212:216].hex(" "),
            "neither byte order gives a sensible header; the file is damaged",
        )
    notes.append(
        f"{path.name}: machine stamp {raw[212:216].hex(' ')} is odd or wrong; "
        f"byte order {'little' if sane[0] == '<' else 'big'}-endian by the values"
    )
    return sane[0], notes


def _plausible(raw: bytes, order: str) -> bool:
    words = np.frombuffer(raw[:76], order + "i4")
    extents_fit = all(0 < n <= _LARGEST_SANE_EXTENT for n in words[:3])
    mode_known = int(words[3]) in (*_READABLE_MODES, *_REFUSED_MODES)
    return extents_fit and mode_known and all(abs(int(n)) <= 3 for n in words[16:19])


def _checked_mode(mode: int, path: pathlib.Path) -> int:
    if mode in _REFUSED_MODES:
        name, fix = _REFUSED_MODES[mode]
        raise gate.bad_input(
            path, "real grey values (mode 0, 1, 2, 6, 12)", f"mode {mode}, {name}", fix
        )
    if mode not in _READABLE_MODES:
        raise gate.bad_input(
            path, "mode 0, 1, 2, 6 or 12", f"mode {mode}", "convert it to mode 2"
        )
    return mode


def _checked_extents(
    fields: np.void, path: pathlib.Path
) -> tuple[tuple[int, int, int], int]:
    """(nz, ny, nx) and nsymbt, with the field named that cannot be."""
    values = {name: int(fields[name]) for name in ("nz", "ny", "nx", "nsymbt")}
    for name, value in values.items():
        least = 0 if name == "nsymbt" else 1
        if value < least:
            raise gate.bad_input(
                f"{path}: header field {name}",
                f"{least} or more",
                value,
                "the header is damaged; copy the file again",
            )
    return (values["nz"], values["ny"], values["nx"]), values["nsymbt"]


def _check_mrc_size(path: pathlib.Path, size: int, header: MrcHeader) -> None:
    """Compare 1024 + nsymbt + data with the file; bound what compression may hide."""
    need = header.declared_bytes
    if header.compression is not None:
        if (
            header.compression in ("gzip", "zip")
            and need > size * gate.MAX_DEFLATE_RATIO
        ):
            raise gate.bad_input(
                f"{path}: header",
                f"{need} bytes ({header.shape} voxels, mode {header.mode})",
                f"{size} compressed bytes, too few for that",
                "the header is wrong or the file is cut off",
            )
        return
    parts = (
        f"{need} bytes (1024 + nsymbt {header.nsymbt} + data {header.data_bytes} "
        f"for {header.shape} voxels of mode {header.mode})"
    )
    if (
        header.nsymbt
        and abs(size - (need - header.nsymbt)) <= gate.TRAILING_SLACK_BYTES
    ):
        if size < need:
            fix = "nsymbt was copied without its bytes; set nsymbt to 0 and try again"
            raise gate.bad_input(path, parts, f"{size} bytes", fix)
    if size < need:
        fix = "the file is cut off or its header is wrong; copy it again"
        raise gate.bad_input(path, parts, f"{size} bytes", fix)
    if size > need + gate.TRAILING_SLACK_BYTES:
        fix = "the header does not describe this file; repair nx, ny, nz or mode"
        raise gate.bad_input(path, parts, f"{size} bytes", fix)
