"""The gate in front of every reader: measure first, allocate afterwards.

A file is trusted only as far as its size on disk supports what its header says.
Nothing in this module allocates memory in proportion to a declared number before
that number has been compared with the bytes present and with the caller's limit.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import math
import os
import pathlib
import resource
import stat
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

import numpy as np

from temdiff_jax.errors import InputError

DEFAULT_MAX_INPUT_GB = 16.0
"""Largest array, in GiB of float32, that a reader builds unless told otherwise."""

TRAILING_SLACK_BYTES = 1024
"""Padding tolerated behind the data block (some writers fill up a disk block)."""

GIB = 2**30
# Deflate cannot exceed 1032:1 (RFC 1951: at most 258 bytes from 2 bits), so a
# gzip or zip member that promises more is lying.
MAX_DEFLATE_RATIO = 1032
# Of what came, this much is repeated in an error line.
_LONGEST = 200
_PIECE_BYTES = 2**20


def bad_input(what: object, expected: object, got: object, fix: str) -> InputError:
    """Build the one-line error of four parts: what, expected, got, what to do."""
    text = f"{_cut(what, 600)}: expected {_cut(expected)}, got {_cut(got)}; {fix}"
    return InputError(" ".join(text.split()))


def _cut(part: object, longest: int = _LONGEST) -> str:
    """The part as text; of a long one the beginning and the end."""
    text = str(part)
    if len(text) <= longest:
        return text
    return f"{text[: longest - 60]} ... {text[-50:]}"


@contextlib.contextmanager
def reading(path: object, kind: str) -> Iterator[None]:
    """Turn whatever goes wrong while a file is parsed into one line.

    Libraries raise nearly every kind of exception on damaged files, and numpy warns;
    here none of it passes but an InputError.

    Args:
      path: What is read, for the message.
      kind: What it should have been, for example "a TIFF stack".

    Raises:
      InputError: in place of any exception of the block.
    """
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except MemoryError:
        raise bad_input(
            path, f"{kind} that fits into memory", "a larger one", "bin or crop it"
        ) from None
    except Exception as error:
        raise bad_input(
            path,
            kind,
            f"{type(error).__name__} ({_cut(error)})",
            "the file is damaged or something else; copy or export it again",
        ) from None


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
    """Memory this process can still get, in bytes; None where it cannot be told.

    The least of what the machine has, what the control group leaves and what the
    limit of the address space leaves.
    """
    found = [
        _kib("/proc/meminfo", "MemAvailable:"),
        _control_group(),
        _address_space(),
    ]
    return min((n for n in found if n is not None), default=None)


def resident_bytes() -> int | None:
    """Memory this process has now; None where it cannot be told."""
    return _kib("/proc/self/status", "VmRSS:")


def _kib(file: str, key: str) -> int | None:
    """Bytes of a line "key  number kB"."""
    try:
        lines = pathlib.Path(file).read_text().splitlines()
        return next(int(li.split()[1]) * 1024 for li in lines if li.startswith(key))
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def _control_group() -> int | None:
    root = pathlib.Path("/sys/fs/cgroup")
    for limit, usage in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            values = [int((root / name).read_text()) for name in (limit, usage)]
        except (OSError, ValueError):  # absent, or "max"
            continue
        return max(values[0] - values[1], 0)
    return None


def _address_space() -> int | None:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    used = _kib("/proc/self/status", "VmSize:")
    if limit == resource.RLIM_INFINITY or used is None:
        return None
    return max(limit - used, 0)


def compression_of(path: pathlib.Path) -> str | None:
    """Tell "gzip", "bz2" or "zip" by the first bytes; suffixes are not believed."""
    with path.open("rb") as stream:
        magic = stream.read(4)
    if magic == b"PK\3\4":
        return "zip"
    if magic[:2] == b"\x1f\x8b":
        return "gzip"
    return "bz2" if magic[:3] == b"BZh" else None


class BoundedStream(io.RawIOBase):
    """A stream that gives at most `limit` bytes and fills every request it can.

    Args:
      path: File to open; decompressed on the fly if `compression` says so.
      compression: None, "gzip", "bz2" or "zip" (an archive of one file).
      limit: Bytes, counted after decompression, that may be taken altogether.

    Raises:
      InputError: on reading, when the compressed data are damaged.
    """

    def __init__(self, path: pathlib.Path, compression: str | None, limit: int) -> None:
        super().__init__()
        self._path = path
        self._left = limit
        self._stream: Any
        if compression == "gzip":
            self._stream = gzip.GzipFile(path, "rb")
        elif compression == "bz2":
            self._stream = bz2.BZ2File(path, "rb")
        elif compression == "zip":
            self._stream = _only_member(path)
        else:
            self._stream = path.open("rb")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")[: max(self._left, 0)]
        done = 0
        while done < len(view):
            got = self._guarded(self._stream.readinto, view[done : done + _PIECE_BYTES])
            if not got:
                break
            done += got
        self._left -= done
        return done

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes; memory grows with what is there, not with `size`."""
        wanted = self._left if size < 0 else min(size, self._left)
        pieces = bytearray()
        while len(pieces) < wanted:
            piece = bytearray(min(_PIECE_BYTES, wanted - len(pieces)))
            got = self.readinto(piece)
            if not got:
                break
            pieces += piece[:got]
        return bytes(pieces)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()

    def _guarded(self, call: Callable[[Any], Any], argument: Any) -> Any:
        try:
            return call(argument)
        except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            raise bad_input(
                self._path, "readable data", error, "the file is damaged; copy it again"
            ) from None


def _only_member(path: pathlib.Path) -> IO[bytes]:
    """The one file of a zip archive, open for reading."""
    with reading(path, "a zip archive of one file"):
        archive = zipfile.ZipFile(path)
        files = [info for info in archive.infolist() if not info.is_dir()]
        if len(files) != 1:
            archive.close()
            raise bad_input(path, "one file in the zip", len(files), "unpack it first")
        return archive.open(files[0])


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
    with reading(what, "a .npy array of version 1 or 2"):
        version = np.lib.format.read_magic(prefix)
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        shape, _, dtype = readers[version](prefix)
        if any(type(n) is not int or n < 0 for n in shape):
            raise ValueError(f"shape {shape}")
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
