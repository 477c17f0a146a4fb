"""TIFF stacks, with voxel sizes as ImageJ writes them."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
import tifffile

from temdiff_jax import errors
from temdiff_jax.io import gate, write

_ANGSTROM_PER_UNIT = {
    "angstrom": 1.0,
    "å": 1.0,
    "a": 1.0,
    "nm": 10.0,
    "nanometer": 10.0,
    "nanometre": 10.0,
    "um": 1e4,
    "µm": 1e4,
    "μm": 1e4,
    "micron": 1e4,
    "micrometer": 1e4,
    "mm": 1e7,
    "cm": 1e8,
}
# LZW codes of 12 bits stand for at most 4096 bytes each.
_MAX_TIFF_RATIO = 4096


@dataclasses.dataclass(frozen=True)
class TiffImage:
    """A stack from a TIFF file.

    Attributes:
      data: [z, y, x] or [n_tilts, y, x], float32, C-contiguous; row 0 is the first
        row of the file, which TIFF viewers draw at the top.
      voxel_size_angstrom: (z, y, x), or None when the file does not say.
      path: Where it came from.
      warnings: One line per assumption.
    """

    data: np.ndarray
    voxel_size_angstrom: tuple[float, float, float] | None
    path: pathlib.Path
    warnings: tuple[str, ...]


def read_tiff(
    path: str | os.PathLike[str], *, max_input_gb: float = gate.DEFAULT_MAX_INPUT_GB
) -> TiffImage:
    """Read a TIFF stack as float32 [z, y, x].

    Args:
      path: File name.
      max_input_gb: Largest float32 array to build, GiB.

    Raises:
      InputError: not TIFF, colour or complex data, pages of several sizes, more than
        one axis besides y and x, or a declared size that the file cannot hold.
    """
    path, size = gate.regular_file(path)
    try:
        with _complaints_raised(), tifffile.TiffFile(path) as tiff:
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
            data = series.asarray(maxworkers=1).reshape(shape)
            voxel, notes = _voxel_size(tiff, path.name)
    except errors.InputError:
        raise
    except Exception as error:  # tifffile raises many kinds on damaged files
        raise gate.bad_input(
            path,
            "a readable TIFF stack",
            f"{type(error).__name__} ({error})",
            "save it again, uncompressed or deflated",
        ) from None
    return TiffImage(
        data=np.ascontiguousarray(data, dtype=np.float32),
        voxel_size_angstrom=voxel,
        path=path,
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
      volume: [z, y, x] or [n_tilts, y, x]; written as float32.
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
            volume,
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
    plain = series.keyframe.compression == tifffile.COMPRESSION.NONE
    packed = max(1, 8 * series.dtype.itemsize // max(series.keyframe.bitspersample, 1))
    room = size * (packed if plain else _MAX_TIFF_RATIO)
    if declared > room:
        raise gate.bad_input(
            f"{path}: pixels {list(shape)} of {series.dtype}",
            f"{declared} bytes",
            f"a file of {size} bytes",
            "the file is cut off or its header is wrong; copy it again",
        )


def _voxel_size(
    tiff: tifffile.TiffFile, name: str
) -> tuple[tuple[float, float, float] | None, list[str]]:
    """(z, y, x) from ImageJ's unit, spacing and the resolution tags."""
    metadata = tiff.imagej_metadata or {}
    unit = str(metadata.get("unit", "")).strip()
    if "\\u" in unit:  # ImageJ escapes the letters of micrometre and Angstrom
        unit = unit.encode("ascii", "replace").decode("unicode_escape")
    scale = _ANGSTROM_PER_UNIT.get(unit.lower())
    tags = tiff.pages.first.tags
    y, x = (_pitch(tags, tag) for tag in ("YResolution", "XResolution"))
    if scale is None or y is None or x is None:
        # Resolution without a unit of length is a printing resolution.
        return None, [f"{name}: the TIFF has no voxel size in a known unit"]
    z, spacing = x, metadata.get("spacing")
    if isinstance(spacing, int | float) and math.isfinite(spacing) and spacing > 0:
        z = float(spacing)
    return (z * scale, y * scale, x * scale), []


def _pitch(tags: tifffile.TiffTags, name: str) -> float | None:
    """Length of a pixel in the file's unit, from pixels per unit as a ratio."""
    tag = tags.get(name)
    if tag is None:
        return None
    numerator, denominator = tag.value
    return denominator / numerator if numerator > 0 and denominator > 0 else None
