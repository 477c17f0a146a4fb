"""Tilt angles from the extended header of an MRC file, where it carries them."""

from __future__ import annotations

import numpy as np
from mrcfile import dtypes as mrc_dtypes

from temdiff_jax.io.formats import mrc_header

_SERI_TILT = 1
# Bit of nreal -> bytes per section, in the order they are stored.
_SERI_FIELDS = {1: 2, 2: 6, 4: 4, 8: 2, 16: 2, 32: 4, 64: 2, 128: 4, 256: 2, 512: 4}
_SERI_FIELDS[1024] = 2
_AGARD_RECORD_BYTES = 128
_AGARD_RECORDS = 1024


def tilt_angles(
    extended: bytes, header: mrc_header.MrcHeader, name: str
) -> tuple[np.ndarray | None, list[str]]:
    """Find one stage angle per section.

    Args:
      extended: Bytes of the extended header.
      header: The checked main header.
      name: File name for notes.

    Returns:
      Angles in degrees, [sections] float64, or None when there are none that
      can be believed; notes, one line each.

    Source: IMOD's mrc_format.txt (SERI flags, Agard records), mrcfile.dtypes
      (FEI1, FEI2).
    """
    if not extended:
        return None, []
    kind = bytes(header.fields["exttyp"]).rstrip(b" \0")
    sections = header.shape[0]
    if fei_kind(header):
        found = _fei(extended, header)
    else:
        found = _seri(extended, header, sections)
        if found is None and kind in (b"", b"AGAR", b"FEI", b"SERI"):
            found = _agard(extended, header, sections)
    if found is None:
        return None, []
    label = kind.decode("ascii", "replace") or "unnamed"
    if not np.isfinite(found).all() or np.abs(found).max() > 90:
        return None, [
            f"{name}: tilt angles of the {label} extended header make no sense"
        ]
    if sections > 1 and np.ptp(found) == 0:
        return None, []
    return found, []


def _numbers_per_section(header: mrc_header.MrcHeader) -> tuple[int, int]:
    """Words nint and nreal, int16 at bytes 128 and 130 (extra2 starts at 112)."""
    extra = header.fields["extra2"].tobytes()
    pair = np.frombuffer(extra[16:20], np.dtype("i2").newbyteorder(header.byte_order))
    return int(pair[0]), int(pair[1])


def _seri(
    extended: bytes, header: mrc_header.MrcHeader, sections: int
) -> np.ndarray | None:
    step, flags = _numbers_per_section(header)
    if step <= 0 or flags <= 0 or not flags & _SERI_TILT:
        return None
    # Flags are only flags if they explain the number of bytes per section.
    if sum(size for bit, size in _SERI_FIELDS.items() if flags & bit) != step:
        return None
    if len(extended) < step * sections:
        return None
    words = np.ndarray(
        (sections,),
        np.dtype("i2").newbyteorder(header.byte_order),
        extended,
        strides=(step,),
    )
    return words.astype(np.float64) / 100.0


def _agard(
    extended: bytes, header: mrc_header.MrcHeader, sections: int
) -> np.ndarray | None:
    ints, reals = _numbers_per_section(header)
    step = 4 * (ints + reals)
    # Some FEI writers put 128 (bytes) where the count of integers belongs.
    fei_style = len(extended) >= _AGARD_RECORDS * _AGARD_RECORD_BYTES
    if fei_style and (step == 0 or ints == _AGARD_RECORD_BYTES):
        ints, step = 0, _AGARD_RECORD_BYTES
    if ints < 0 or reals < 0 or step <= 4 * ints or len(extended) < step * sections:
        return None
    tilts = np.ndarray(
        (sections,),
        np.dtype("f4").newbyteorder(header.byte_order),
        extended,
        offset=4 * ints,
        strides=(step,),
    )
    return tilts.astype(np.float64)


def fei_kind(header: mrc_header.MrcHeader) -> bytes | None:
    """b"FEI1" or b"FEI2" where the header announces such records."""
    kind = bytes(header.fields["exttyp"])
    return kind if kind in (b"FEI1", b"FEI2") and header.nsymbt else None


def has_fei_records(extended: bytes, header: mrc_header.MrcHeader) -> bool:
    """Whether the extended header holds FEI records, one a section."""
    kind = fei_kind(header)
    if kind is None:
        return False
    size = mrc_dtypes.get_ext_header_dtype(kind, header.byte_order).itemsize
    if len(extended) < size * header.shape[0]:
        return False
    order = np.dtype("i4").newbyteorder(header.byte_order)
    return int(np.frombuffer(extended[:4], order)[0]) == size


def _fei(extended: bytes, header: mrc_header.MrcHeader) -> np.ndarray | None:
    kind = fei_kind(header)
    if kind is None or not has_fei_records(extended, header):
        return None
    dtype = mrc_dtypes.get_ext_header_dtype(kind, header.byte_order)
    records = np.frombuffer(extended, dtype, count=header.shape[0])
    return records["Alpha tilt"].astype(np.float64)
