"""Writing results: complete or not at all, and never on top of something else.

Every writer fills a file with a random name in the target's folder, flushes it to
the disk and renames it. A reader therefore sees the old file, none, or the whole
new one; a symbolic link at the target is replaced, not followed. The writer holds a
lock on that file, so that `clean` knows those whose writer is dead.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import json
import math
import os
import pathlib
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence

import mrcfile
import numpy as np

from temdiff_jax.io import gate

MAX_LABELS = 10
LONGEST_NAME = 255
"""Bytes; what every common file system can bear."""
# Random part of a temporary name.
_NAME_BYTES = 8

_PATH_ERRORS = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
}


def check_output(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Fail now, before hours of work, if `path` could not be written later.

    Raises:
      InputError: the folder is missing or not writable, the target is a folder, or
        it exists and `overwrite` is False.
    """
    path = pathlib.Path(path)
    _refuse_existing(path, overwrite=overwrite)
    temporary, descriptor = _temporary(path)
    os.close(descriptor)
    temporary.unlink()


@contextlib.contextmanager
def atomic_path(
    path: str | os.PathLike[str], *, overwrite: bool = False
) -> Iterator[pathlib.Path]:
    """Give a temporary file to fill; it takes the name `path` when the block ends.

    If the block raises, the temporary file is removed and `path` is untouched.

    Raises:
      InputError: as `check_output`.
    """
    path = pathlib.Path(path)
    _refuse_existing(path, overwrite=overwrite)
    temporary, descriptor = _temporary(path)
    try:
        yield temporary
        os.fsync(descriptor)
        _refuse_existing(path, overwrite=overwrite)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    _sync_folder(path.parent)


def clean(paths: Iterable[str | os.PathLike[str]]) -> list[pathlib.Path]:
    """Remove what killed runs left of these files; returns what was removed.

    Temporary files that a living process fills, on this machine or by a network file
    system with locks on another, stay.
    """
    removed = []
    for path in map(pathlib.Path, paths):
        beginning = f".{path.name[:32]}."
        for left in sorted(path.parent.glob(f"{glob.escape(beginning)}*.tmp")):
            middle = left.name.removeprefix(beginning).removesuffix(".tmp")
            if len(middle) == 2 * _NAME_BYTES and _abandoned(left):
                left.unlink(missing_ok=True)
                removed.append(left)
    return removed


def _abandoned(path: pathlib.Path) -> bool:
    """Whether nobody holds the lock of a temporary file."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def write_bytes(
    path: str | os.PathLike[str], content: bytes, *, overwrite: bool = False
) -> None:
    """Write bytes atomically; the mode is what the umask leaves.

    Raises:
      InputError: as `check_output`.
    """
    with atomic_path(path, overwrite=overwrite) as temporary:
        temporary.write_bytes(content)


def write_text(
    path: str | os.PathLike[str], content: str, *, overwrite: bool = False
) -> None:
    """Write UTF-8 text atomically; raises as `write_bytes`."""
    # A name that is no UTF-8 is spelled out, which JSON reads back as it was.
    data = content.encode("utf-8", "backslashreplace")
    write_bytes(path, data, overwrite=overwrite)


def write_json(
    path: str | os.PathLike[str],
    content: Mapping[str, object],
    *,
    overwrite: bool = False,
    indent: int | None = 2,
) -> None:
    """Write strict JSON atomically; `indent` None is one line.

    numpy scalars and arrays become numbers and lists, paths become text, and NaN or
    Inf become null, since JSON has no word for them.

    Raises:
      InputError: as `check_output`.
      TypeError: a value that has no JSON form.
    """
    text = json.dumps(
        plain(content), indent=indent, allow_nan=False, ensure_ascii=False
    )
    write_text(path, text + "\n", overwrite=overwrite)


def write_tlt(
    path: str | os.PathLike[str],
    angles_deg: Sequence[float] | np.ndarray,
    *,
    overwrite: bool = False,
) -> None:
    """Write tilt angles in degrees, one a line, as IMOD's .tlt.

    Raises:
      InputError: as `check_output`.
    """
    angles = np.asarray(angles_deg, np.float64).ravel()
    # `+ 0.0` turns a negative zero into a plain one.
    lines = "".join(f"{round(float(a), 4) + 0.0:9.4f}\n" for a in angles)
    write_text(path, lines, overwrite=overwrite)


def write_mrc(
    path: str | os.PathLike[str],
    volume: np.ndarray,
    voxel_size_angstrom: float | Sequence[float] | None,
    *,
    origin: Sequence[float] = (0.0, 0.0, 0.0),
    labels: Sequence[str] = (),
    is_stack: bool = False,
    overwrite: bool = False,
) -> None:
    """Write a volume or a tilt stack as MRC2014.

    Args:
      path: Target name.
      volume: [z, y, x] or [n_tilts, y, x]; float32, float16, int16 or uint16 are
        kept, everything else is written as float32.
      voxel_size_angstrom: One length, or (z, y, x); None writes a cell of zero, which
        means unknown.
      origin: (z, y, x), Angstrom.
      labels: At most 10 lines; each is cut to 80 ASCII characters.
      is_stack: Space group 0 and mz = 1 instead of a volume's 1 and nz.
      overwrite: Replace an existing file.

    Raises:
      InputError: as `check_output`; a voxel size that is not positive.
      ValueError: not three axes, NaN or Inf in the data, too many labels.
    """
    volume = np.asarray(volume)
    if volume.ndim != 3 or volume.size == 0:
        raise ValueError(
            f"volume: expected [z, y, x] with no empty axis, got {volume.shape}; "
            "add or remove axes"
        )
    if len(labels) > MAX_LABELS:
        raise ValueError(
            f"labels: expected at most {MAX_LABELS}, got {len(labels)}; join some"
        )
    voxel = voxel_zyx(voxel_size_angstrom)
    if volume.dtype not in (np.float32, np.float16, np.int16, np.uint16):
        volume = volume.astype(np.float32)
    statistics = _statistics(volume)
    with atomic_path(path, overwrite=overwrite) as temporary:
        with mrcfile.new(temporary, overwrite=True) as image:
            image.set_data(volume)
            _fill_header(image, voxel, origin, labels, statistics, is_stack=is_stack)


def voxel_zyx(
    voxel_size_angstrom: float | Sequence[float] | None,
) -> tuple[float, float, float] | None:
    """Bring a voxel size into the form (z, y, x), Angstrom.

    Raises:
      InputError: not one or three positive finite numbers.
    """
    if voxel_size_angstrom is None:
        return None
    sizes = np.asarray(voxel_size_angstrom, np.float64).ravel()
    if sizes.size not in (1, 3) or not (np.isfinite(sizes) & (sizes > 0)).all():
        raise gate.bad_input(
            "voxel size",
            "a positive length in Angstrom (or three: z, y, x)",
            voxel_size_angstrom,
            "give it with voxel_size_angstrom (--voxel-size)",
        )
    z, y, x = np.broadcast_to(sizes, 3).tolist()
    return z, y, x


def _refuse_existing(path: pathlib.Path, *, overwrite: bool) -> None:
    length = len(os.fsencode(path.name))
    if length > LONGEST_NAME:
        raise gate.bad_input(
            f"output {path.name}",
            f"a name of at most {LONGEST_NAME} bytes",
            f"{length}",
            "rename the input, whose name it bears",
        )
    if path.is_dir() and not path.is_symlink():
        raise gate.bad_input(path, "a file name", "a folder", "add a file name")
    if not overwrite and os.path.lexists(path):
        raise gate.bad_input(
            path,
            "a new file",
            "one that exists",
            "choose another name or pass overwrite=True (--overwrite)",
        )


def _temporary(path: pathlib.Path) -> tuple[pathlib.Path, int]:
    """Create a file with a random name beside `path`; returns it and a descriptor."""
    temporary = path.parent / f".{path.name[:32]}.{secrets.token_hex(_NAME_BYTES)}.tmp"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        # What others may do with it is the umask's to say.
        descriptor = os.open(temporary, flags, 0o666)
    except OSError as error:
        if error.errno not in _PATH_ERRORS:
            raise
        raise gate.bad_input(
            f"output {path}",
            "a folder that can be written",
            error.strerror,
            "create the folder, or choose another with --out",
        ) from None
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return temporary, descriptor


def _sync_folder(folder: pathlib.Path) -> None:
    """Make the rename itself survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a folder; the data are safe already.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _statistics(volume: np.ndarray) -> tuple[float, float, float, float]:
    """Minimum, maximum, mean, standard deviation, summed in float64 by section."""
    low, high = float(volume.min()), float(volume.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        bad = int(np.flatnonzero(~np.isfinite(volume).all(axis=(1, 2)))[0])
        raise ValueError(
            f"volume: expected finite values, got NaN or Inf first in section {bad}; "
            "nothing was written"
        )
    total = sum(float(section.sum(dtype=np.float64)) for section in volume)
    mean = total / volume.size
    spread = sum(
        float(np.square(section.astype(np.float64) - mean).sum()) for section in volume
    )
    return low, high, mean, math.sqrt(spread / volume.size)


def _fill_header(
    image: mrcfile.mrcfile.MrcFile,
    voxel: tuple[float, float, float] | None,
    origin: Sequence[float],
    labels: Sequence[str],
    statistics: tuple[float, float, float, float],
    *,
    is_stack: bool,
) -> None:
    if is_stack:
        image.set_image_stack()
    else:
        image.set_volume()
    header = image.header
    header.dmin, header.dmax, header.dmean, header.rms = statistics
    # mrcfile orders lengths x, y, z; this package z, y, x.
    image.voxel_size = (0.0, 0.0, 0.0) if voxel is None else voxel[::-1]
    header.origin.z, header.origin.y, header.origin.x = (float(v) for v in origin)
    header.label[:] = b""
    for index, label in enumerate(labels):
        header.label[index] = " ".join(label.split()).encode("ascii", "replace")[:80]
    header.nlabl = len(labels)


def plain(value: object) -> object:
    """A value reduced to what JSON can say, see `write_json`."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value) if isinstance(value, (set, frozenset)) else value
        return [plain(item) for item in items]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value
