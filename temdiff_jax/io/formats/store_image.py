"""A stack or a volume in a folder of zarr or N5, read whole as an image."""

from __future__ import annotations

import json
import pathlib

import numpy as np

from temdiff_jax.io import gate
from temdiff_jax.io.formats.record import Image

_ATTRIBUTES = (".zattrs", "zarr.json", "attributes.json")
_ANGLES = "tilt_angles_deg"
_MAX_JSON_BYTES = 2**26


def read_store(path: pathlib.Path, max_input_gb: float) -> Image:
    """Read the finest level of a zarr (v2, v3), N5 or precomputed store.

    Tilt angles are taken from the attribute ``tilt_angles_deg`` of its root.

    Raises:
      InputError: as `stores.open_volume`.
    """
    # TensorStore takes a while to import, and most commands never need it.
    from temdiff_jax.io.formats import stores

    volume = stores.open_volume(path, max_input_gb=max_input_gb, need_voxel=False)
    data = volume.read()
    size = volume.voxel_size_nm
    angles = _angles(path)
    return Image(
        data=np.ascontiguousarray(data, np.float32),
        path=path,
        voxel_size_angstrom=None
        if min(size) <= 0
        else (size[0] * 10, size[1] * 10, size[2] * 10),
        angles_deg=angles if angles is not None and len(angles) == len(data) else None,
        key=volume.dataset,
        header=(("store", f"{volume.kind}, array {volume.dataset!r}, {volume.dtype}"),),
        warnings=tuple(f"{path.name}: {note}" for note in volume.notes),
    )


def _angles(path: pathlib.Path) -> np.ndarray | None:
    for name in _ATTRIBUTES:
        file = path / name
        if not file.is_file() or file.stat().st_size > _MAX_JSON_BYTES:
            continue
        with gate.reading(file, "JSON attributes"):
            content = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                return None
            attributes = content.get("attributes", content)
            found = attributes.get(_ANGLES) if isinstance(attributes, dict) else None
            if found is not None:
                return np.asarray(found, np.float64).ravel()
    return None
