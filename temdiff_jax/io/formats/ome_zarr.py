"""Writing OME-Zarr: a pyramid of chunks that viewers open at any size.

Versions 0.4 (zarr 2) and 0.5 (zarr 3), https://ngff.openmicroscopy.org.  Level k has
voxels 2^k times as long; its first voxel is the mean of the first 2^k along every axis,
so its centre lies (2^k - 1) / 2 voxels of the finest level further in.
"""

from __future__ import annotations

import json
import os
import pathlib
import secrets
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np

from temdiff_jax.io import gate, write

VERSIONS = ("0.4", "0.5")
_CHUNK = 64
_SMALLEST = 64
_ATTRIBUTES = {"0.4": ".zattrs", "0.5": "zarr.json"}


def write_ome_zarr(
    path: str | os.PathLike[str],
    volume: np.ndarray,
    voxel_size_angstrom: float | Sequence[float] | None,
    *,
    angles_deg: Sequence[float] | np.ndarray | None = None,
    version: str = "0.4",
    overwrite: bool = False,
) -> None:
    """Write a volume as multiscale OME-Zarr; a stack with angles as one level.

    Args:
      path: Folder to make, NAME.ome.zarr by custom.
      volume: [z, y, x] or [n_tilts, y, x]; float32, float64, int16, uint16, int8 or
        uint8 are kept, everything else is written as float32.
      voxel_size_angstrom: One length, or (z, y, x); None writes 1 without a unit.
      angles_deg: Of a tilt stack; kept as the attribute `tilt_angles_deg`.
      version: "0.4" or "0.5".
      overwrite: Replace an existing store.

    Raises:
      InputError: another version, a voxel size that is not positive, a path that
        exists or cannot be written.
      ValueError: not three axes.
    """
    volume = np.asarray(volume)
    if volume.ndim != 3 or volume.size == 0:
        raise ValueError(f"volume: expected [z, y, x], got shape {volume.shape}")
    if version not in VERSIONS:
        raise gate.bad_input("OME-Zarr version", " or ".join(VERSIONS), version, "")
    if volume.dtype.kind not in "iuf" or volume.dtype.itemsize > 8:
        volume = volume.astype(np.float32)
    if volume.dtype.kind in "iu" and volume.dtype.itemsize > 2:
        volume = volume.astype(np.float32)
    if volume.dtype == np.float16:
        volume = volume.astype(np.float32)
    voxel = write.voxel_zyx(voxel_size_angstrom)
    target = pathlib.Path(path)
    if os.path.lexists(target) and not overwrite:
        raise gate.bad_input(
            target, "a new folder", "one that exists", "pass overwrite (--overwrite)"
        )
    temporary = target.with_name(f".{target.name[:64]}.{secrets.token_hex(8)}.tmp")
    levels = [volume] if angles_deg is not None else _pyramid(volume)
    try:
        temporary.mkdir(parents=False)
        for number, level in enumerate(levels):
            _write_level(temporary / str(number), level, version)
        attributes = _attributes(len(levels), voxel, version, target.name, angles_deg)
        _write_group(temporary, attributes, version)
        _replace(temporary, target)
    except OSError as error:
        raise gate.bad_input(
            f"output {target}",
            "a folder that can be written",
            error.strerror,
            "choose another",
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace(temporary: pathlib.Path, target: pathlib.Path) -> None:
    """Give the finished store its name; an older one goes only then."""
    older = None
    if os.path.lexists(target):
        older = target.with_name(f".{target.name[:64]}.{secrets.token_hex(8)}.old")
        os.rename(target, older)
    os.rename(temporary, target)
    if older is not None:
        if older.is_dir() and not older.is_symlink():
            shutil.rmtree(older)
        else:
            older.unlink()


def _pyramid(volume: np.ndarray) -> list[np.ndarray]:
    """The volume and its halves, down to a side that fits a chunk."""
    levels = [volume]
    while max(levels[-1].shape) > _SMALLEST and min(levels[-1].shape) >= 2:
        levels.append(_halved(levels[-1]))
    return levels


def _halved(volume: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 x 2 voxels; an odd last plane is left out."""
    z, y, x = (n // 2 for n in volume.shape)
    cut = volume[: 2 * z, : 2 * y, : 2 * x].reshape(z, 2, y, 2, x, 2)
    mean = cut.mean(axis=(1, 3, 5), dtype=np.float64)
    if volume.dtype.kind in "iu":
        mean = np.rint(mean)
    return mean.astype(volume.dtype)


def _write_level(path: pathlib.Path, volume: np.ndarray, version: str) -> None:
    import tensorstore

    chunk = [min(n, _CHUNK) for n in volume.shape]
    spec: dict[str, Any] = {"kvstore": {"driver": "file", "path": f"{path}/"}}
    if version == "0.4":
        spec |= {
            "driver": "zarr",
            "metadata": {
                "shape": list(volume.shape),
                "chunks": chunk,
                "dtype": volume.dtype.newbyteorder("<").str,
                "dimension_separator": "/",
                "compressor": {"id": "zlib", "level": 1},
            },
        }
    else:
        codecs = [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "gzip", "configuration": {"level": 1}},
        ]
        spec |= {
            "driver": "zarr3",
            "metadata": {
                "shape": list(volume.shape),
                "data_type": volume.dtype.name,
                "dimension_names": ["z", "y", "x"],
                "chunk_grid": {
                    "name": "regular",
                    "configuration": {"chunk_shape": chunk},
                },
                "codecs": codecs,
            },
        }
    store = tensorstore.open(spec, create=True, open=False).result()
    store.write(np.ascontiguousarray(volume)).result()


def _attributes(
    count: int,
    voxel: tuple[float, float, float] | None,
    version: str,
    name: str,
    angles_deg: Sequence[float] | np.ndarray | None,
) -> dict[str, Any]:
    axes: list[dict[str, str]] = [{"name": a, "type": "space"} for a in "zyx"]
    if voxel is not None:
        axes = [{**axis, "unit": "angstrom"} for axis in axes]
    size = voxel or (1.0, 1.0, 1.0)
    datasets = [
        {
            "path": str(k),
            "coordinateTransformations": [
                {"type": "scale", "scale": [v * 2**k for v in size]},
                {
                    "type": "translation",
                    "translation": [v * (2**k - 1) / 2 for v in size],
                },
            ],
        }
        for k in range(count)
    ]
    multiscale: dict[str, Any] = {"name": name, "axes": axes, "datasets": datasets}
    extra = {}
    if angles_deg is not None:
        extra["tilt_angles_deg"] = [float(a) for a in np.asarray(angles_deg).ravel()]
    if version == "0.4":
        return {"multiscales": [{"version": version, **multiscale}], **extra}
    return {"ome": {"version": version, "multiscales": [multiscale]}, **extra}


def _write_group(
    folder: pathlib.Path, attributes: dict[str, Any], version: str
) -> None:
    if version == "0.4":
        (folder / ".zgroup").write_text(json.dumps({"zarr_format": 2}))
        content = attributes
    else:
        content = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    text = json.dumps(content, indent=2, allow_nan=False)
    (folder / _ATTRIBUTES[version]).write_text(text)
