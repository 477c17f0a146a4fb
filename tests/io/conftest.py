"""Builders of small files, written byte by byte and not by the library under test."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

MODES = {"int8": 0, "uint8": 0, "int16": 1, "float32": 2, "uint16": 6, "float16": 12}


def mrc_bytes(
    data: np.ndarray,
    *,
    order: str = "<",
    mode: int | None = None,
    cell: tuple[float, float, float] | None = None,
    grid: tuple[int, int, int] | None = None,
    axes: tuple[int, int, int] = (1, 2, 3),
    start: tuple[int, int, int] = (0, 0, 0),
    ispg: int = 1,
    extremes: tuple[float, float] | None = None,
    stamp: bytes | None = None,
    imod_flags: int | None = None,
    extended: bytes = b"",
    exttyp: bytes = b"",
    per_section: tuple[int, int] = (0, 0),
    nsymbt: int | None = None,
    shape: tuple[int, int, int] | None = None,
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0),
    mark: bytes = b"MAP ",
    labels: tuple[str, ...] = (),
) -> bytes:
    """An MRC file; triples are x, y, z as in the header, `shape` is nz, ny, nx."""
    nz, ny, nx = data.shape if shape is None else shape
    mx, my, mz = (nx, ny, nz) if grid is None else grid
    cell = (float(mx), float(my), float(mz)) if cell is None else cell
    low, high = (data.min(), data.max()) if extremes is None else extremes
    head = bytearray(1024)

    def put(offset: int, code: str, *values: object) -> None:
        struct.pack_into(order + code, head, offset, *values)

    put(0, "4i", nx, ny, nz, MODES[str(data.dtype)] if mode is None else mode)
    put(16, "3i", *start)
    put(28, "3i", mx, my, mz)
    put(40, "3f", *cell)
    put(52, "3f", 90.0, 90.0, 90.0)
    put(64, "3i", *axes)
    put(76, "3f", low, high, 0.0)
    put(88, "2i", ispg, len(extended) if nsymbt is None else nsymbt)
    head[104 : 104 + len(exttyp)] = exttyp
    put(108, "i", 20140)
    put(128, "2h", *per_section)
    if imod_flags is not None:
        put(152, "2i", 1146047817, imod_flags)
    put(196, "3f", *origin)
    head[208:212] = mark
    usual = b"\x44\x44\0\0" if order == "<" else b"\x11\x11\0\0"
    head[212:216] = usual if stamp is None else stamp
    put(220, "i", len(labels))
    for index, label in enumerate(labels):
        head[224 + 80 * index : 304 + 80 * index] = label.encode().ljust(80)
    body = data.astype(data.dtype.newbyteorder(order)).tobytes()
    return bytes(head) + extended + body


@pytest.fixture
def mrc_content() -> Callable[..., bytes]:
    """Return `mrc_bytes`."""
    return mrc_bytes


@pytest.fixture
def make_mrc(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes `mrc_bytes` of an array to a file."""

    def make(data: np.ndarray, *, name: str = "a.mrc", **options: object) -> Path:
        path = tmp_path / name
        path.write_bytes(mrc_bytes(data, **options))
        return path

    return make


@pytest.fixture
def stack() -> np.ndarray:
    """Five noisy tilts of unequal extents, [5, 6, 7] float32."""
    return np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
