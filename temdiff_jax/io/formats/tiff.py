"""TIFF stacks and their voxel sizes as OME, ImageJ and microscopes write them.

The first row of a TIFF is the top of the picture, that of an MRC file the bottom:
rows are turned here, in and out, so that all formats show one and the same picture.
"""

from __future__ import annotations

import contextlib
import logging
import lzma
import math
import os
import pathlib
import zlib
from collections.abc import Iterator, Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile

from temdiff_jax.io import gate, write
from temdiff_jax.io.formats.record import ANGSTROM_PER_UNIT, Image

# LZW codes of 12 bits stand for at most 4096 bytes each.
_MAX_TIFF_RATIO = 4096
_NONE, _LZW, _DEFLATE, _PACKBITS, _LZMA = 1, 5, (8, 32946), 32773, 34925
_INCH, _CENTIMETRE = 2, 3
_LARGEST_PIXEL_ANGSTROM = 1e5
"""A resolution in inches that gives a larger pixel is one for printing."""
_LZMA_MEMORY = 2**28


def read_tiff(
    path: str | os.PathLike[str], max_input_gb: float = gate.DEFAULT_MAX_INPUT_GB
) -> Image:
    """Read a TIFF stack as float32 [z, y, x], row 0 at the bottom of the picture.

    Args:
      path: File name.
      max_input_gb: Largest float32 array to build, GiB.

    Raises:
      InputError: not TIFF, colour or complex data, pages of several sizes, more than
        one axis besides y and x, pages in other files, a compression or a declared
        size that the strips do not bear out.
    """
    path, size = gate.regular_file(path)
    with (
        gate.reading(path, "a readable TIFF stack"),
        _complaints_raised(),
        tifffile.TiffFile(path, _multifile=False) as tiff,
    ):
        _refuse_entities(tiff, path)
        if len(tiff.series) != 1:
            raise gate.bad_input(
                path,
                "one stack of equal pages",
                f"{len(tiff.series)} image series",
                "save the stack alone",
            )
        series = tiff.series[0]
        shape = _stack_shape(path, series)
        _check_size(path, size, series, shape, max_input_gb)
        _check_pages(path, series)
        data = series.asarray(maxworkers=1).reshape(shape)
        voxel, notes = _voxel_size(tiff, path.name)
        if series.keyframe.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
            notes.append(
                f"{path.name}: photometric MINISWHITE: viewers show small values "
                "bright; the values are taken as stored"
            )
        header = (
            ("pages", f"{len(series.pages)}, axes {series.axes}, {series.dtype}"),
            ("compression", str(getattr(series.keyframe.compression, "name", "?"))),
            ("rows", "from the top in the file, turned"),
        )
    return Image(
        data=np.ascontiguousarray(data[:, ::-1], dtype=np.float32),
        path=path,
        voxel_size_angstrom=voxel,
        header=header,
        warnings=tuple(notes),
    )


def write_tiff(
    path: str | os.PathLike[str],
    volume: np.ndarray,
    voxel_size_angstrom: float | Sequence[float] | None,
    *,
    overwrite: bool = False,
) -> None:
    """Write an ImageJ hyperstack with spacing and unit, atomically.

    Args:
      path: Target name.
      volume: [z, y, x] or [n_tilts, y, x], row 0 at the bottom; written as float32.
      voxel_size_angstrom: One length, or (z, y, x); None writes no size.
      overwrite: Replace an existing file.

    Raises:
      InputError: as `write.check_output`; a voxel size that is not positive.
      ValueError: not three axes.
    """
    volume = np.asarray(volume, np.float32)
    if volume.ndim != 3 or volume.size == 0:
        raise ValueError(
            f"volume: expected [z, y, x] with no empty axis, got {volume.shape}; "
            "add or remove axes"
        )
    voxel = write.voxel_zyx(voxel_size_angstrom)
    metadata: dict[str, object] = {"axes": "ZYX"}
    resolution = None
    if voxel is not None:
        metadata |= {"spacing": voxel[0], "unit": "angstrom"}
        resolution = (1 / voxel[2], 1 / voxel[1])
    with write.atomic_path(path, overwrite=overwrite) as temporary:
        tifffile.imwrite(
            temporary,
            volume[:, ::-1],
            imagej=True,
            # Said, since an extent of 3 or 4 would otherwise be taken for colours.
            photometric="minisblack",
            metadata=metadata,
            resolution=resolution,
        )


class _Complaints(logging.Handler):
    """Collects what tifffile reports as an error of the file."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextlib.contextmanager
def _complaints_raised() -> Iterator[None]:
    """Turn logged errors into an exception.

    tifffile reads a file that is cut off as a shorter stack and only logs it; fewer
    tilts than were recorded must not pass silently.
    """
    handler, logger = _Complaints(), logging.getLogger("tifffile")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
    if handler.messages:
        raise ValueError(handler.messages[0])


def _stack_shape(
    path: pathlib.Path, series: tifffile.TiffPageSeries
) -> tuple[int, int, int]:
    axes, extents = series.axes.upper(), tuple(int(n) for n in series.shape)
    colour = axes.endswith("S") and extents[-1] > 1 or axes.count("S") > 1
    if colour or any(a == "S" and n > 1 for a, n in zip(axes, extents, strict=True)):
        raise gate.bad_input(
            path, "grey values", "colour (RGB) pages", "convert it to grey first"
        )
    if series.dtype is None or series.dtype.kind not in "biuf":
        raise gate.bad_input(
            path, "real numbers", f"{series.dtype} pixels", "convert it to float32"
        )
    kept = [(a, n) for a, n in zip(axes, extents, strict=True) if n > 1 or a in "YX"]
    names = "".join(a for a, _ in kept)
    if not names.endswith("YX") or len(kept) not in (2, 3):
        raise gate.bad_input(
            path,
            "one stack axis and y, x",
            f"axes {axes} of extents {list(extents)}",
            "save one channel and one time point",
        )
    stack = kept[0][1] if len(kept) == 3 else 1
    return stack, kept[-2][1], kept[-1][1]


def _check_size(
    path: pathlib.Path,
    size: int,
    series: tifffile.TiffPageSeries,
    shape: tuple[int, int, int],
    max_input_gb: float,
) -> None:
    declared = gate.check_budget(path, shape, series.dtype.itemsize, max_input_gb)
    plain = series.keyframe.compression == _NONE
    packed = max(1, 8 * series.dtype.itemsize // max(series.keyframe.bitspersample, 1))
    room = size * (packed if plain else _MAX_TIFF_RATIO)
    if declared > room:
        raise gate.bad_input(
            f"{path}: pixels {list(shape)} of {series.dtype}",
            f"{declared} bytes",
            f"a file of {size} bytes",
            "the file is cut off or its header is wrong; copy it again",
        )


def _check_pages(path: pathlib.Path, series: tifffile.TiffPageSeries) -> None:
    """Compare every strip or tile with what the page says of its size.

    A strip that unpacks to more is stopped there, before the library unpacks it.
    """
    for number, page in enumerate(series.pages):
        if page is None:
            raise gate.bad_input(
                f"{path}: page {number}",
                "all pages in this file",
                "one in another file, as its OME-XML has it",
                "save the series as one file",
            )
        frame: Any = page.keyframe
        kind = int(frame.compression)
        known = (_NONE, _LZW, *_DEFLATE, _PACKBITS, _LZMA)
        if kind not in known:
            raise gate.bad_input(
                f"{path}: compression",
                "none, LZW, Deflate, PackBits or LZMA",
                getattr(frame.compression, "name", kind),
                "save it again, uncompressed or deflated",
            )
        offsets, counts = page.dataoffsets, page.databytecounts
        sizes = _segment_bytes(frame)
        if not len(sizes) == len(offsets) == len(counts):
            raise ValueError(f"{len(offsets)} strips of page {number}")
        found = list(counts)
        if kind != _NONE:
            stream: Any = series.parent.filehandle  # type: ignore[union-attr]
            found = []
            for offset, count, wanted in zip(offsets, counts, sizes, strict=True):
                stream.seek(offset)
                found.append(_unpacked(stream.read(count), kind, wanted))
        # One that is plain and alone may carry padding of a word at its end.
        if any(a != b for a, b in zip(found, sizes, strict=True)):
            raise gate.bad_input(
                f"{path}: page {number}",
                f"strips of {sizes[0]} bytes (rows x width x bytes)",
                f"{list(found)[:3]}",
                "the file is damaged; save it again",
            )


def _segment_bytes(frame: tifffile.TiffPage) -> list[int]:
    """Bytes of every strip or tile of a page, unpacked."""
    bits = frame.bitspersample * frame.samplesperpixel
    if frame.is_tiled:
        row = -(-frame.tilewidth * bits // 8)
        return [row * frame.tilelength] * math.prod(frame.chunked)
    row, rows = -(-frame.imagewidth * bits // 8), frame.imagelength
    step = min(frame.rowsperstrip, rows) or rows
    return [row * min(step, rows - start) for start in range(0, rows, step)]


def _unpacked(data: bytes, kind: int, wanted: int) -> int:
    """Bytes that a compressed strip holds, counted up to one more than wanted."""
    if kind in _DEFLATE:
        return len(zlib.decompressobj().decompress(data, wanted + 1))
    if kind == _LZMA:
        unpacker = lzma.LZMADecompressor(memlimit=_LZMA_MEMORY)
        return len(unpacker.decompress(data, wanted + 1))
    if kind == _PACKBITS:
        return _packbits(data, wanted)
    try:
        import imagecodecs
    except ImportError:
        raise gate.bad_input(
            "TIFF with LZW compression",
            "the package imagecodecs",
            "none",
            "pip install imagecodecs, or save the file uncompressed",
        ) from None
    return len(imagecodecs.lzw_decode(data, out=wanted + 1))


def _packbits(data: bytes, wanted: int) -> int:
    """Length of PackBits data: n + 1 literal bytes, or one byte 257 - n times."""
    at = total = 0
    while at < len(data) and total <= wanted:
        code = data[at]
        if code < 128:
            total += min(code + 1, len(data) - at - 1)
            at += code + 2
        else:
            total += 257 - code if code > 128 else 0
            at += 2 if code > 128 else 1
    return total


def _refuse_entities(tiff: tifffile.TiffFile, path: pathlib.Path) -> None:
    text = tiff.pages.first.description[:4096].lstrip()
    if text.startswith("<") and ("<!DOCTYPE" in text or "<!ENTITY" in text):
        raise gate.bad_input(path, "OME-XML without a DOCTYPE", "one", "export again")


def _voxel_size(
    tiff: tifffile.TiffFile, name: str
) -> tuple[tuple[float, float, float] | None, list[str]]:
    """(z, y, x) from OME-XML, from ImageJ's description or from the resolution."""
    found = _ome_size(tiff.ome_metadata) if tiff.is_ome else None
    if found is not None:
        return found, []
    metadata = tiff.imagej_metadata or {}
    unit = str(metadata.get("unit", "")).strip()
    if "\\u" in unit:  # ImageJ escapes the letters of micrometre and Angstrom
        unit = unit.encode("ascii", "replace").decode("unicode_escape")
    scale = ANGSTROM_PER_UNIT.get(unit.lower())
    tags = tiff.pages.first.tags
    y, x = (_pitch(tags, tag) for tag in ("YResolution", "XResolution"))
    notes = []
    if scale is None and not unit and x is not None:
        # Without ImageJ's word the unit stands in a tag, of print or of a microscope.
        code = int(tags["ResolutionUnit"].value) if "ResolutionUnit" in tags else 0
        scale = {_INCH: 2.54e8, _CENTIMETRE: 1e8}.get(code)
        if scale is not None and x * scale > _LARGEST_PIXEL_ANGSTROM:
            scale = None
        elif scale is not None:
            notes.append(f"{name}: pixel size from the resolution tags of the TIFF")
    if scale is None or y is None or x is None:
        return None, [f"{name}: the TIFF has no voxel size in a known unit"]
    z, spacing = x, metadata.get("spacing")
    if isinstance(spacing, int | float) and math.isfinite(spacing) and spacing > 0:
        z = float(spacing)
    return (z * scale, y * scale, x * scale), notes


def _ome_size(text: str | None) -> tuple[float, float, float] | None:
    """PhysicalSizeZ, Y, X of the first image; the default unit is the micrometre."""
    if not text:
        return None
    for node in ElementTree.fromstring(text).iter():
        if node.tag.rpartition("}")[2] != "Pixels":
            continue
        sizes = []
        for axis in "ZYX":
            unit = node.get(f"PhysicalSize{axis}Unit", "µm").lower()
            value = float(node.get(f"PhysicalSize{axis}", "0"))
            sizes.append(value * ANGSTROM_PER_UNIT.get(unit, 0.0))
        z, y, x = sizes
        usable = all(math.isfinite(v) for v in sizes) and y > 0 and x > 0
        return (z if z > 0 else x, y, x) if usable else None
    return None


def _pitch(tags: tifffile.TiffTags, name: str) -> float | None:
    """Length of a pixel in the file's unit, from pixels per unit as a ratio."""
    tag = tags.get(name)
    if tag is None or not isinstance(tag.value, tuple):
        return None
    numerator, denominator = tag.value
    return denominator / numerator if numerator > 0 and denominator > 0 else None
