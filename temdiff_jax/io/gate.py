"""The gate in front of every reader: measure first, allocate afterwards.

A file is trusted only as far as its size on disk supports what its header says.
Nothing in this module allocates memory in proportion to a declared number before
that number has been compared with the bytes present and with the caller's limit.
"""

from __future__ import annotations

import bz2
import gzip
import io
import math
import os
import pathlib
import stat
import zlib
from collections.abc import Callable, Sequence
from typing import IO, Any

import numpy as np

from temdiff_jax import errors

DEFAULT_MAX_INPUT_GB = 16.0
"""Largest array, in GiB of float32, that a reader builds unless told otherwise."""

TRAILING_SLACK_BYTES = 1024
"""Padding tolerated behind the data block (some writers fill up a disk block)."""

GIB = 2**30
# Deflate cannot exceed 1032:1 (RFC 1951: at most 258 bytes from 2 bits), so a
# gzip or zip member that promises more is lying.
MAX_DEFLATE_RATIO = 1032


def bad_input(
    what: object, expected: object, got: object, fix: str
) -> errors.InputError:
    """Build the one-line error of four parts: what, expected, got, what to do."""
    text = f"{what}: expected {expected}, got {got}; {fix}"
    return errors.InputError(" ".join(text.split()))


def regular_file(path: str | os.PathLike[str]) -> tuple[pathlib.Path, int]:
    """Return the path and its size in bytes.

    Raises:
      InputError: nothing there, not a regular file, not readable, or empty.
    """
    path = pathlib.Path(path)
    try:
        info = path.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise bad_input(path, "an existing file", reason, "check the path") from None
    if not stat.S_ISREG(info.st_mode):
        kind = "a folder" if stat.S_ISDIR(info.st_mode) else "a special file"
        raise bad_input(path, "a regular file", kind, "name the file itself")
    if not os.access(path, os.R_OK):
        raise bad_input(path, "a readable file", "no permission", "check its mode")
    if info.st_size == 0:
        raise bad_input(path, "image data", "an empty file (0 bytes)", "copy it again")
    return path, info.st_size


def check_budget(
    what: object,
    shape: Sequence[int],
    itemsize: int,
    max_input_gb: float,
    *,
    in_memory: bool = True,
) -> int:
    """Check the extents and the memory an array needs, before it exists.

    Args:
      what: Name for the message.
      shape: Declared extents.
      itemsize: Bytes per stored element; 4 is charged at least, since readers
        promote to float32.
      max_input_gb: Limit in GiB.
      in_memory: False for a memory map, which half of the free memory does not
        bound.

    Returns:
      Bytes of the stored array.

    Raises:
      InputError: an extent is not positive, or the array exceeds a limit.
    """
    if not (math.isfinite(max_input_gb) and max_input_gb > 0):
        raise bad_input(
            "max_input_gb", "a positive number", max_input_gb, "give GiB, e.g. 16"
        )
    extents = [int(extent) for extent in shape]
    if any(extent <= 0 for extent in extents):
        raise bad_input(what, "positive extents", extents, "the file is damaged")
    count = math.prod(extents)
    needed = count * max(int(itemsize), 4)
    if needed > max_input_gb * GIB:
        raise bad_input(
            f"{what} of extents {extents}",
            f"at most {max_input_gb:g} GiB as float32",
            f"{needed / GIB:.4g} GiB",
            "bin or crop it, or raise max_input_gb (--max-input-gb)",
        )
    free = free_memory_bytes()
    if in_memory and free is not None and needed > free // 2:
        raise bad_input(
            f"{what} of extents {extents}",
            f"at most half of the free memory ({free / 2 / GIB:.3g} GiB)",
            f"{needed / GIB:.4g} GiB as float32",
            "bin or crop it, or use a machine with more memory",
        )
    return count * int(itemsize)


def free_memory_bytes() -> int | None:
    """Memory the system can still hand out, in bytes; None where it cannot be told."""
    try:
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def compression_of(path: pathlib.Path) -> str | None:
    """Tell "gzip" or "bz2" by the first bytes; suffixes are not believed."""
    with path.open("rb") as stream:
        magic = stream.read(3)
    if magic[:2] == b"\x1f\x8b":
        return "gzip"
    return "bz2" if magic == b"BZh" else None


class BoundedStream(io.RawIOBase):
    """A stream that gives at most `limit` bytes and fills every request it can.

    Args:
      path: File to open; decompressed on the fly if `compression` says so.
      compression: None, "gzip" or "bz2".
      limit: Bytes, counted after decompression, that may be taken altogether.
      replace: Bytes handed out instead of the first ones of the file.

    Raises:
      InputError: on reading, when the compressed data are damaged.
    """

    def __init__(
        self,
        path: pathlib.Path,
        compression: str | None,
        limit: int,
        *,
        replace: bytes = b"",
    ) -> None:
        super().__init__()
        self._path = path
        self._left = limit
        self._stream: io.BufferedIOBase
        if compression == "gzip":
            self._stream = gzip.GzipFile(path, "rb")
        elif compression == "bz2":
            self._stream = bz2.BZ2File(path, "rb")
        else:
            self._stream = path.open("rb")
        self._head = replace
        self._skip = len(replace)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")[: max(self._left, 0)]
        if self._skip:
            self._discard(self._skip)
            self._skip = 0
        done = min(len(self._head), len(view))
        view[:done] = self._head[:done]
        self._head = self._head[done:]
        while done < len(view):
            got = self._guarded(self._stream.readinto, view[done:])
            if not got:
                break
            done += got
        self._left -= done
        return done

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()

    def _discard(self, count: int) -> None:
        while count > 0:
            piece = self._guarded(self._stream.read, min(count, 65536))
            if not piece:
                return
            count -= len(piece)

    def _guarded(self, call: Callable[[Any], Any], argument: Any) -> Any:
        try:
            return call(argument)
        except (OSError, EOFError, zlib.error) as error:
            raise bad_input(
                self._path, "readable data", error, "the file is damaged; copy it again"
            ) from None


def npy_header(
    stream: IO[bytes], size: int, what: object, max_input_gb: float
) -> tuple[tuple[int, ...], np.dtype]:
    """Check the header of a .npy stream against its size in bytes.

    Args:
      stream: Open at the first byte.
      size: Bytes the stream holds (file size, or member size in a .npz).
      what: Name for messages.
      max_input_gb: Limit, GiB.

    Returns:
      Shape and dtype.

    Raises:
      InputError: not .npy, object or other non-numeric dtype, or a size that the
        header does not explain.
    """
    # 64 KiB is the longest header that version 1 can declare; later versions may
    # declare 4 GiB, so the library never sees more than this prefix.
    prefix = io.BytesIO(stream.read(65536 + 12))
    try:
        version = np.lib.format.read_magic(prefix)
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        shape, _, dtype = readers[version](prefix)
    except KeyError:
        raise bad_input(
            what, ".npy version 1 or 2", "another version", "save it again with numpy"
        ) from None
    except (ValueError, TypeError, SyntaxError) as error:
        raise bad_input(
            what, "a .npy array", error, "save it again with numpy"
        ) from None
    if dtype.hasobject or dtype.kind not in "biuf":
        raise bad_input(
            what,
            "real numbers (bool, integer or float)",
            f"dtype {dtype}",
            "objects are never loaded, since they can run code; save plain arrays",
        )
    expected = prefix.tell() + math.prod(shape) * dtype.itemsize
    if expected != size:
        raise bad_input(
            what,
            f"{expected} bytes (header {prefix.tell()} + {shape} of {dtype})",
            f"{size} bytes",
            "the file is cut off or its header is wrong; copy it again",
        )
    if math.prod(shape):
        check_budget(what, shape, dtype.itemsize, max_input_gb)
    return tuple(int(n) for n in shape), dtype
