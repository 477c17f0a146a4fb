"""Reading .npy and .npz stacks without trusting what they declare."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import zipfile
import zlib

import numpy as np

from temdiff_jax import errors
from temdiff_jax.io import gate

STACK_KEYS = ("projections", "tilts", "volume")
_SCALAR_KEYS = ("scale", "offset", "voxel_size_angstrom", "pixel_nm")
_MAX_MEMBERS = 256
_ANGSTROM_PER_NM = 10.0


@dataclasses.dataclass(frozen=True)
class NpzImage:
    """A stack or a volume from a .npz or .npy file.

    Attributes:
      data: [n_tilts, y, x] or [z, y, x], float32, C-contiguous; `scale` and `offset`
        of the file are applied (value = stored * scale + offset).
      key: Name of the array inside the file ("" for .npy).
      angles_deg: [n_tilts] float64, or None.
      voxel_size_angstrom: (z, y, x), or None.
      path: Where it came from.
      warnings: One line per assumption.
    """

    data: np.ndarray
    key: str
    angles_deg: np.ndarray | None
    voxel_size_angstrom: tuple[float, float, float] | None
    path: pathlib.Path
    warnings: tuple[str, ...]


def read_npz(
    path: str | os.PathLike[str], *, max_input_gb: float = gate.DEFAULT_MAX_INPUT_GB
) -> NpzImage:
    """Read the one stack of a .npz or .npy file.

    The stack is the member `projections`, `tilts` or `volume`, or else the only
    array of three axes. `angles_deg`, `scale`, `offset`, `voxel_size_angstrom` and
    `pixel_nm` are used when present.

    Args:
      path: File name.
      max_input_gb: Limit in GiB, for the sum of all members as declared.

    Raises:
      InputError: damaged, lying or oversized file, object arrays, no stack or more
        than one.
    """
    path, size = gate.regular_file(path)
    with path.open("rb") as stream:
        magic = stream.read(6)
        stream.seek(0)
        if magic == b"\x93NUMPY":
            shape, _ = gate.npy_header(stream, size, path, max_input_gb)
            _check_axes(shape, path)
            stream.seek(0)
            data = np.lib.format.read_array(stream, allow_pickle=False)
            return _image(path, "", {"": data}, [])
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_archive(path, size, archive, max_input_gb)
    except errors.InputError:
        raise
    except (
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise gate.bad_input(
            path, "a .npz or .npy file", error, "copy it again or save it with numpy"
        ) from None


def _read_archive(
    path: pathlib.Path, size: int, archive: zipfile.ZipFile, max_input_gb: float
) -> NpzImage:
    members = archive.infolist()
    _check_members(path, size, members, max_input_gb)
    shapes = {}
    for member in members:
        name = member.filename.removesuffix(".npy")
        if name in shapes:
            raise gate.bad_input(
                path, "one array per name", f"two of {name!r}", "fix it"
            )
        with archive.open(member) as stream:
            what = f"{path}: array {name!r}"
            shapes[name], _ = gate.npy_header(
                stream, member.file_size, what, max_input_gb
            )
    key = _stack_key(path, shapes)
    _check_axes(shapes[key], path)
    wanted = {key, "angles_deg", *_SCALAR_KEYS}
    arrays = {}
    for member in members:
        name = member.filename.removesuffix(".npy")
        if name in wanted:
            with archive.open(member) as stream:
                arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
    notes = []
    if key not in STACK_KEYS:
        notes.append(f"{path.name}: took array {key!r}, the only one with three axes")
    return _image(path, key, arrays, notes)


def _check_members(
    path: pathlib.Path,
    size: int,
    members: list[zipfile.ZipInfo],
    max_input_gb: float,
) -> None:
    if not members or len(members) > _MAX_MEMBERS:
        raise gate.bad_input(
            path, f"1 to {_MAX_MEMBERS} arrays", len(members), "save the stack alone"
        )
    total = 0
    for member in members:
        if not member.filename.endswith(".npy"):
            raise gate.bad_input(
                path, "only .npy members", member.filename, "save it with numpy.savez"
            )
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise gate.bad_input(
                path,
                "stored or deflated members",
                f"compression {member.compress_type}",
                "save it with numpy.savez_compressed",
            )
        if member.file_size > gate.MAX_DEFLATE_RATIO * max(member.compress_size, 1):
            raise gate.bad_input(
                f"{path}: array {member.filename!r}",
                f"at most {gate.MAX_DEFLATE_RATIO} times its compressed size",
                f"{member.file_size} bytes from {member.compress_size}",
                "the file is damaged",
            )
        total += member.file_size
    if total > max_input_gb * gate.GIB:
        raise gate.bad_input(
            f"{path} ({size} bytes)",
            f"at most {max_input_gb:g} GiB when unpacked",
            f"{total / gate.GIB:.4g} GiB",
            "raise max_input_gb (--max-input-gb) if you trust the file",
        )


def _stack_key(path: pathlib.Path, shapes: dict[str, tuple[int, ...]]) -> str:
    found = [key for key in STACK_KEYS if key in shapes]
    if not found:
        found = [key for key, shape in shapes.items() if len(shape) == 3]
    if len(found) != 1:
        listed = ", ".join(f"{key} {list(shape)}" for key, shape in shapes.items())
        raise gate.bad_input(
            path,
            f"one array named {', '.join(STACK_KEYS)}, or one with three axes",
            listed,
            "save the stack under one of these names",
        )
    return found[0]


def _check_axes(shape: tuple[int, ...], path: pathlib.Path) -> None:
    if len(shape) != 3 or 0 in shape:
        raise gate.bad_input(
            path, "a stack [n_tilts, y, x]", f"shape {list(shape)}", "reshape it"
        )


def _image(
    path: pathlib.Path, key: str, arrays: dict[str, np.ndarray], notes: list[str]
) -> NpzImage:
    data = np.ascontiguousarray(arrays[key], dtype=np.float32)
    scale = _scalar(path, arrays, "scale", 1.0)
    offset = _scalar(path, arrays, "offset", 0.0)
    if (scale, offset) != (1.0, 0.0):
        data = data * np.float32(scale) + np.float32(offset)
    voxel = _scalar(path, arrays, "voxel_size_angstrom", None)
    if voxel is None:
        pixel_nm = _scalar(path, arrays, "pixel_nm", None)
        voxel = None if pixel_nm is None else pixel_nm * _ANGSTROM_PER_NM
    if voxel is not None and not voxel > 0:
        notes = [*notes, f"{path.name}: voxel size {voxel:g} is not positive; ignored"]
        voxel = None
    angles = arrays.get("angles_deg")
    return NpzImage(
        data=data,
        key=key,
        angles_deg=None if angles is None else angles.astype(np.float64).ravel(),
        voxel_size_angstrom=None if voxel is None else (voxel,) * 3,
        path=path,
        warnings=tuple(notes),
    )


def _scalar(
    path: pathlib.Path,
    arrays: dict[str, np.ndarray],
    key: str,
    default: float | None,
) -> float | None:
    if key not in arrays:
        return default
    array = arrays[key]
    if array.size != 1 or not np.isfinite(array).all():
        raise gate.bad_input(
            f"{path}: {key}",
            "one finite number",
            f"shape {array.shape}",
            "save it anew",
        )
    # The shortest text of a float32 is the number that was meant: 3.36, not
    # 3.3599998950958252.
    return float(str(array.ravel()[0]))
