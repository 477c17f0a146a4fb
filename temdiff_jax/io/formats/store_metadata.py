"""What the JSON of a store declares: driver, extents, axes, voxel size.

Read and bounded before TensorStore sees the store.  Sources of the layouts: see
`temdiff_jax.io.formats.stores`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from temdiff_jax.io import gate

MAX_CHUNK_BYTES = 2**30
"""Largest chunk, unpacked, that a store may have."""

DTYPES = ("uint8", "int8", "uint16", "int16", "float32", "float64")
AXES = ("z", "y", "x")

_MAX_EXTENT = 2**32
_CODECS = "bytes transpose blosc zstd gzip zlib lz4 bz2 bzip2 xz crc32c raw jpeg png"
_NM = {"nm": 1.0, "nanometer": 1.0, "nanometre": 1.0, "angstrom": 0.1, "å": 0.1}
_NM |= {"um": 1e3, "µm": 1e3, "μm": 1e3, "micron": 1e3, "micrometer": 1e3}
_NM |= {"micrometre": 1e3, "mm": 1e6, "millimeter": 1e6, "m": 1e9, "meter": 1e9}
_ZARR2_TYPE = re.compile(r"[<>|=]?([uif])([1248])")
_ZARR2_KINDS = {"u": "uint", "i": "int", "f": "float"}

Read = Callable[[str], bytes | None]
Json = dict[str, Any]


def join(*keys: str, what: object) -> str:
    """One key of several, which may not climb out of the store."""
    parts = [part for key in keys for part in str(key).split("/")]
    if ".." in parts:
        raise gate.bad_input(what, "a dataset inside it", keys[-1], "leave out '..'")
    return "/".join(part for part in parts if part not in ("", "."))


@dataclasses.dataclass(frozen=True)
class Node:
    """One folder of a store: its driver, its array metadata or None, attributes."""

    driver: str
    array: Json | None
    attributes: Json


@dataclasses.dataclass(frozen=True)
class Array:
    """What the metadata declare, in the order of the store."""

    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    dtype: str
    codecs: tuple[str, ...]
    axes: tuple[str, ...]
    scale_nm: Mapping[str, float] | None
    notes: tuple[str, ...] = ()


def find(name: str, key: str, read: Read) -> tuple[Node, Json, str, str]:
    """The array at `key`, or the finest level of the group there."""
    node = _node(read, key)
    if node is not None and node.array is not None:
        parent, _, level = key.rpartition("/")
        try:
            above = _node(read, parent)
        except (ValueError, KeyError, TypeError, AttributeError):
            if parent:
                raise
            above = None  # what lies beside the store is not its business
        return node, above.attributes if above else {}, key, level
    attributes = node.attributes if node else {}
    listed = _multiscale(attributes).get("datasets", [])
    for level in [*(d["path"] for d in listed[:1]), "s0", "0"]:
        inner = join(key, level, what=name)
        child = _node(read, inner)
        if child is not None and child.array is not None:
            return child, attributes, inner, level
    raise gate.bad_input(
        f"{name}: {key}",
        "a zarr (.zarray, zarr.json), N5 (attributes.json) or precomputed (info) store",
        "none of these files" if node is None else "a group without levels",
        "name the array inside the store (dataset)",
    )


def _node(read: Read, key: str) -> Node | None:
    def load(file: str) -> Json | None:
        content = read(f"{key}/{file}" if key else file)
        found = None if content is None else json.loads(content)
        if found is not None and not isinstance(found, dict):
            raise TypeError(f"{file} holds no object")
        return found

    if (meta := load("zarr.json")) is not None:
        own = meta.get("attributes", {})
        return Node("zarr3", meta if meta["node_type"] == "array" else None, own)
    meta = load(".zarray")
    if meta is not None or load(".zgroup") is not None:
        return Node("zarr", meta, load(".zattrs") or {})
    if (meta := load("info")) is not None and "scales" in meta:
        return Node("neuroglancer_precomputed", meta, {})
    if (meta := load("attributes.json")) is not None:
        return Node("n5", meta if "dimensions" in meta else None, meta)
    return None


def _multiscale(attributes: Json) -> Json:
    found = attributes.get("ome", attributes).get("multiscales") or [{}]
    return found[0]


def declare(node: Node, group: Json, level: str) -> Array:
    """What an array's metadata say, with the axes and voxels of its group."""
    meta, own = node.array or {}, node.attributes
    notes: tuple[str, ...] = ()
    if node.driver == "neuroglancer_precomputed":
        scale = meta["scales"][0]
        sizes = [math.prod(c) for c in scale["chunk_sizes"]]
        largest = scale["chunk_sizes"][sizes.index(max(sizes))]
        return Array(
            (*map(int, scale["size"]), int(meta["num_channels"])),
            (*map(int, largest), int(meta["num_channels"])),
            meta["data_type"],
            (scale["encoding"],),
            ("x", "y", "z", "c"),
            dict(zip("xyz", map(float, scale["resolution"]), strict=True)),
        )
    if node.driver == "n5":
        shape, chunk = meta["dimensions"], meta["blockSize"]
        dtype, codecs = meta["dataType"], [_id(meta["compression"], "type")]
        names = own.get("axes") or ["x", "y", "z"]  # the first one is the fastest
    elif node.driver == "zarr":
        shape, chunk, codecs = meta["shape"], meta["chunks"], []
        match = _ZARR2_TYPE.fullmatch(str(meta["dtype"]))
        dtype = str(meta["dtype"])
        if match:
            dtype = f"{_ZARR2_KINDS[match[1]]}{8 * int(match[2])}"
        for codec in [meta["compressor"], *(meta.get("filters") or [])]:
            codecs += [_id(codec, "id")] if codec is not None else []
        names = _axis_names(own, group)
    else:
        shape, dtype = meta["shape"], meta["data_type"]
        outer = meta["chunk_grid"]["configuration"]["chunk_shape"]
        chunk = _inner(meta["codecs"], outer)
        codecs = list(_codecs(meta["codecs"]))
        names = _axis_names(own, group) or meta.get("dimension_names")
    if not names:
        names = ["z", "y", "x"]
        notes = ("no axis names in the attributes: taken as z, y, x",)
    axes = tuple(str(n).lower() for n in names)
    scale_nm = _scale_nm(own, group, level)
    numbers = tuple(map(int, shape)), tuple(map(int, chunk))
    return Array(*numbers, str(dtype), tuple(codecs), axes, scale_nm, notes)


def _id(codec: Json, key: str) -> str:
    return str(codec[key])


def _codecs(listed: list[Json]) -> Iterator[str]:
    for codec in listed:
        if codec["name"] == "sharding_indexed":
            yield from _codecs(codec["configuration"]["codecs"])
        else:
            yield _id(codec, "name")


def _inner(listed: list[Json], outer: list[int]) -> list[int]:
    """Shape of what is unpacked at once: the chunk inside a shard."""
    for codec in listed:
        if codec["name"] == "sharding_indexed":
            inside = codec["configuration"]
            return _inner(inside["codecs"], inside["chunk_shape"])
    return outer


def _axis_names(own: Json, group: Json) -> list[str] | None:
    axes = _multiscale(group).get("axes")
    if axes:
        return [a["name"] if isinstance(a, dict) else a for a in axes]
    return own.get("transform", {}).get("axes") or own.get("_ARRAY_DIMENSIONS")


def _scale_nm(own: Json, group: Json, level: str) -> dict[str, float] | None:
    """Voxel per axis name, from the attributes nearest to the array."""
    multiscale = _multiscale(group)
    listed = multiscale.get("datasets", [])
    entry: Json = next((d for d in listed if d["path"] == level), {})
    transform = own.get("transform") or entry.get("transform")
    if transform:  # OpenOrganelle
        return _in_nm(transform["axes"], transform["scale"], transform["units"])
    steps = entry.get("coordinateTransformations", [])
    steps = [*steps, *multiscale.get("coordinateTransformations", [])]
    scales = [s["scale"] for s in steps if s["type"] == "scale"]
    axes = multiscale.get("axes", [])
    if scales and all(isinstance(a, dict) for a in axes):  # OME-Zarr
        space = [i for i, a in enumerate(axes) if a["name"].lower() in AXES]
        total = [math.prod(float(s[i]) for s in scales) for i in space]
        units = [axes[i].get("unit", "") for i in space]
        return _in_nm([axes[i]["name"] for i in space], total, units)
    for attributes, factor in (
        (own, own.get("downsamplingFactors", [1, 1, 1])),
        (group, _level_factor(group, level)),
    ):  # the N5 viewer, x first
        pixel = attributes.get("pixelResolution")
        if pixel and factor is not None:
            lengths, unit = pixel, "um"
            if isinstance(pixel, dict):
                lengths, unit = pixel["dimensions"], pixel["unit"]
            sizes = [float(p) * float(f) for p, f in zip(lengths, factor, strict=True)]
            return _in_nm("xyz", sizes, [unit] * 3)
    if "resolution" in own and "units" in own:  # TensorStore's own N5 attributes
        return _in_nm(own.get("axes") or "xyz", own["resolution"], own["units"])
    return None


def _level_factor(group: Json, level: str) -> list[float] | None:
    """Coarsening of level "s<k>" by the group's list, None where it has none."""
    scales, number = group.get("scales"), level.removeprefix("s")
    if scales and number.isdecimal() and int(number) < len(scales):
        return scales[int(number)]
    return [1, 1, 1] if number == "0" else None


def _in_nm(axes: Sequence[str], scale: Sequence, units: Sequence) -> dict | None:
    found = {}
    for axis, length, unit in zip(axes, scale, units, strict=True):
        if str(unit).lower() not in _NM:
            return None
        found[axis.lower()] = float(length) * _NM[str(unit).lower()]
    return found if set(AXES) <= set(found) else None


def check_dtype(dtype: str, what: object) -> None:
    """Refuses what is no plain number, labels above all."""
    if dtype not in DTYPES:
        raise gate.bad_input(
            what,
            f"grey values ({', '.join(DTYPES)})",
            f"dtype {dtype}",
            "labels and complex values are no image; name another dataset",
        )


def check_declared(declared: Array, key: str) -> None:
    """Refuses extents, chunks, codecs and axes that cannot be read here."""
    check_dtype(declared.dtype, key)
    shape, chunk, axes = declared.shape, declared.chunk, declared.axes
    if not len(shape) == len(chunk) == len(axes) or len(set(axes)) != len(axes):
        raise ValueError(f"shape {shape}, chunk {chunk}, axes {axes}")
    if min(*shape, *chunk) <= 0 or max(shape) > _MAX_EXTENT:
        raise gate.bad_input(key, "extents of 1 to 2^32", list(shape), "check it")
    if math.prod(chunk) * np.dtype(declared.dtype).itemsize > MAX_CHUNK_BYTES:
        raise gate.bad_input(
            key, "chunks up to 1 GiB", f"chunks of {list(chunk)}", "rechunk the store"
        )
    foreign = sorted(set(declared.codecs) - set(_CODECS.split()))
    if foreign:
        raise gate.bad_input(key, f"codecs {_CODECS}", foreign, "export it again")
    others = [n for n, a in zip(shape, axes, strict=True) if a not in AXES]
    if not set(AXES) <= set(axes) or any(n != 1 for n in others):
        raise gate.bad_input(
            key,
            "axes z, y, x and at most one channel and time point",
            ", ".join(f"{a} {n}" for a, n in zip(axes, shape, strict=True)),
            "export a single grey volume",
        )
