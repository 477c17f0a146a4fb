"""HDF5 stacks: EMD of Berkeley and tomviz, EMD of Velox, plain HDF5.

Berkeley's EMD marks a group with ``emd_group_type`` = 1; it holds ``data`` and one
vector a dimension, ``dim1``, ``dim2``, ..., with ``name`` and ``units``
(https://emdatasets.com/format).  tomviz writes the same with the images along the
first or the last axis and angles in degrees as that dimension.  Velox keeps images
[y, x, frame] at ``Data/Image/<id>/Data`` with JSON of every frame beside it.
"""

from __future__ import annotations

import importlib.util
import json
import math
import pathlib
from typing import Any

import numpy as np

from temdiff_jax.io import gate
from temdiff_jax.io.formats import apart
from temdiff_jax.io.formats.record import ANGSTROM_PER_UNIT, Image

_METRES = 1e10
_ANGLE_UNITS = ("deg", "degree", "degrees", "°")
_ANGLE_NAMES = ("angles", "angle", "angles_deg", "tilt_angles", "tilt", "tilts")
_MAX_MEMBERS = 10_000


def read_hdf5(path: pathlib.Path, max_input_gb: float) -> Image:
    """Read the one stack of an HDF5 or EMD file as float32 [n, y, x].

    Args:
      path: File name.
      max_input_gb: Largest float32 array to build, GiB.

    Raises:
      InputError: h5py is not installed, no stack of three axes or several, links to
        other files, real numbers expected.
    """
    if importlib.util.find_spec("h5py") is None:
        raise gate.bad_input(path, "the package h5py", "none", "pip install h5py")
    apart.try_parse(__name__, path, max_input_gb)
    with gate.reading(path, "a readable HDF5 file"):
        return parse(path, max_input_gb)


def parse(path: str | pathlib.Path, max_input_gb: float) -> Image:
    """As `read_hdf5`, in this process, where a damaged file may end it."""
    import h5py

    path = pathlib.Path(path)
    with h5py.File(path, "r") as file:
        if "Data/Image" in file:
            return _velox(path, file["Data/Image"], max_input_gb)
        found = _datasets(path, file)
        marked = [d for d in found if d.parent.attrs.get("emd_group_type") == 1]
        marked = [d for d in marked if d.name.rsplit("/", 1)[-1] == "data"]
        stack = _only(path, marked or found)
        data = _array(path, stack, max_input_gb)
        if marked:
            return _emd(path, stack, data)
        return _plain(path, file, stack, data)


def _datasets(path: pathlib.Path, file: Any) -> list[Any]:
    """All numeric arrays of three axes that lie in this very file."""
    import h5py

    found, todo, count = [], [file], 0
    while todo:
        group = todo.pop(0)
        for name in group:
            count += 1
            if count > _MAX_MEMBERS:
                raise ValueError(f"more than {_MAX_MEMBERS} members")
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                continue
            node = group[name]
            if isinstance(node, h5py.Group):
                if node not in todo:
                    todo.append(node)
            elif node.ndim == 3 and node.dtype.kind in "biuf" and node.size:
                found.append(node)
    return found


def _only(path: pathlib.Path, found: list[Any]) -> Any:
    if len(found) != 1:
        listed = ", ".join(f"{d.name} {list(d.shape)}" for d in found[:5])
        raise gate.bad_input(
            path,
            "one stack of three axes",
            listed or "none",
            "export the stack alone, as MRC or TIFF",
        )
    return found[0]


def _array(path: pathlib.Path, stack: Any, max_input_gb: float) -> np.ndarray:
    if stack.external or stack.is_virtual:
        raise gate.bad_input(
            f"{path}: {stack.name}", "data in this file", "others", "copy them into it"
        )
    chunk = stack.chunks or (1,)
    largest = math.prod(chunk) * stack.dtype.itemsize
    if largest > max_input_gb * gate.GIB:
        raise gate.bad_input(path, "smaller chunks", list(chunk), "export it again")
    gate.check_budget(path, stack.shape, stack.dtype.itemsize, max_input_gb)
    return stack[()]


def _emd(path: pathlib.Path, stack: Any, data: np.ndarray) -> Image:
    """A Berkeley or tomviz group: one vector of positions a dimension."""
    notes, scales, angles = [], [1.0] * 3, None
    angle_axis = None
    for axis in range(3):
        vector = stack.parent.get(f"dim{axis + 1}")
        if vector is None:
            scales[axis] = 0.0
            continue
        unit = _unit(vector.attrs.get("units"))
        values = np.asarray(vector[()], np.float64).ravel()
        name = _text(vector.attrs.get("name")).lower()
        if unit in _ANGLE_UNITS or name in _ANGLE_NAMES:
            if values.size != data.shape[axis]:
                raise ValueError(f"{values.size} angles of {data.shape[axis]} images")
            angles, angle_axis = values, axis
            continue
        step = float(values[1] - values[0]) if values.size > 1 else 0.0
        scales[axis] = abs(step) * ANGSTROM_PER_UNIT.get(unit, 0.0)
    # tomviz keeps x first and the tilts last, as Fortran would.
    if angle_axis == 2:
        data, scales = np.transpose(data, (2, 1, 0)), scales[::-1]
        notes.append(f"{path.name}: tilts along the last axis were put first")
    elif angle_axis == 1:
        raise ValueError("tilts along the middle axis")
    z, y, x = scales
    known = y > 0 and x > 0
    return Image(
        data=np.ascontiguousarray(data, np.float32),
        path=path,
        voxel_size_angstrom=(z if angles is None and z > 0 else x, y, x)
        if known
        else None,
        angles_deg=angles,
        key=stack.name,
        header=(("dataset", f"{stack.name}, {stack.dtype} (EMD)"),),
        warnings=tuple(notes),
    )


def _plain(path: pathlib.Path, file: Any, stack: Any, data: np.ndarray) -> Image:
    """HDF5 without a convention; angles by the usual names, pixels by none."""
    angles = None
    for name in _ANGLE_NAMES:
        node = stack.parent.get(name)
        if node is not None and getattr(node, "size", 0) == data.shape[0]:
            angles = np.asarray(node[()], np.float64).ravel()
            break
    return Image(
        data=np.ascontiguousarray(data, np.float32),
        path=path,
        angles_deg=angles,
        key=stack.name,
        header=(("dataset", f"{stack.name}, {stack.dtype} (HDF5)"),),
        warnings=(f"{path.name}: took array {stack.name!r}, axes as n, y, x",),
    )


def _velox(path: pathlib.Path, images: Any, max_input_gb: float) -> Image:
    """Frames [y, x, n] of Velox with the metadata of each."""
    group = _only(path, [images[name]["Data"] for name in images]).parent
    stack = group["Data"]
    data = np.moveaxis(_array(path, stack, max_input_gb), -1, 0)
    frames = []
    table = group.get("Metadata")
    if table is not None and table.ndim == 2:
        for column in range(min(table.shape[1], data.shape[0])):
            text = table[:, column].tobytes().rstrip(b"\0").decode("utf-8", "replace")
            frames.append(json.loads(text))
    notes, angles, voxel = [], None, None
    if len(frames) == data.shape[0]:
        tilts = [f.get("Stage", {}).get("AlphaTilt") for f in frames]
        if all(t is not None for t in tilts):
            angles = np.rad2deg(np.array([float(t) for t in tilts]))
            notes.append(f"{path.name}: angles from Stage.AlphaTilt, in radians there")
    if frames:
        size = frames[0].get("BinaryResult", {}).get("PixelSize", {})
        x, y = float(size.get("width", 0)), float(size.get("height", 0))
        if x > 0 and y > 0:
            voxel = (x * _METRES, y * _METRES, x * _METRES)
    # Velox begins with the top row.
    return Image(
        data=np.ascontiguousarray(data[:, ::-1], np.float32),
        path=path,
        voxel_size_angstrom=voxel,
        angles_deg=angles,
        key=stack.name,
        header=(("dataset", f"{stack.name}, {stack.dtype} (Velox EMD)"),),
        warnings=tuple(notes),
    )


def _text(value: Any) -> str:
    if isinstance(value, np.ndarray):
        value = value.ravel()[0] if value.size else ""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _unit(value: Any) -> str:
    """A unit as EMD writes it, "[n_m]", reduced to its name."""
    return _text(value or "").strip().strip("[]").replace("_", "").lower()
