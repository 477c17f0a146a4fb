"""Blosc chunks: read where they are sound, refused where they lie about their size."""

import json
import struct

import numpy as np
import pytest
import tensorstore

from temdiff_jax.io.formats import stores
from temdiff_jax.io.gate import InputError

VOXEL = {"voxel_size_nm": (1, 1, 1)}


def array(root, driver):
    """A store of blosc chunks that TensorStore wrote, axes of 5 x 12 x 16."""
    data = np.random.default_rng(0).normal(size=(5, 12, 16)).astype(np.float32)
    blosc = {"cname": "lz4", "clevel": 5, "shuffle": 1}
    if driver == "zarr3":
        inner = {
            "name": "blosc",
            "configuration": {
                **blosc,
                "shuffle": "shuffle",
                "typesize": 4,
                "blocksize": 0,
            },
        }
        meta = {
            "shape": [5, 12, 16],
            "data_type": "float32",
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [5, 8, 8]},
            },
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, inner],
        }
    elif driver == "zarr":
        meta = {
            "shape": [5, 12, 16],
            "chunks": [5, 8, 8],
            "dtype": "<f4",
            "compressor": {"id": "blosc", **blosc},
        }
    else:
        meta = {
            "dimensions": [16, 12, 5],
            "blockSize": [8, 8, 5],
            "dataType": "float32",
            "compression": {"type": "blosc", **blosc},
        }
    spec = {
        "driver": driver,
        "metadata": meta,
        "kvstore": {"driver": "file", "path": f"{root}/"},
    }
    store = tensorstore.open(spec, create=True).result()
    store.write(data if driver != "n5" else data.T).result()
    return data


@pytest.mark.parametrize(
    ("driver", "chunk", "skip"),
    [("zarr", "0.1.1", 0), ("zarr3", "c/0/1/1", 0), ("n5", "1/1/0", 16)],
)
def test_sizes_are_compared_before_anything_is_unpacked(tmp_path, driver, chunk, skip):
    root = tmp_path / "a"
    data = array(root, driver)
    np.testing.assert_array_equal(stores.open_volume(root, **VOXEL).read(), data)
    path = root / chunk
    raw = bytearray(path.read_bytes())
    raw[skip + 4 : skip + 8] = struct.pack("<I", 2**31 - 20)
    path.write_bytes(raw)
    volume = stores.open_volume(root, **VOXEL)
    with pytest.raises(InputError, match="at most 1280 bytes"):
        volume.read()
    whole = (slice(0, 5), slice(0, 8), slice(0, 8))  # the other chunks are sound
    np.testing.assert_array_equal(volume.read(whole), data[:, :8, :8])
    path.write_bytes(b"ab")
    with pytest.raises(InputError, match="a chunk of at most"):
        stores.open_volume(root, **VOXEL).read()


def test_another_compression_needs_no_look(tmp_path):
    root = tmp_path / "a"
    array(root, "zarr")
    meta = json.loads((root / ".zarray").read_text())
    assert stores.open_volume(root, **VOXEL).check is not None
    (root / ".zarray").write_text(json.dumps(meta | {"compressor": None}))
    assert stores.open_volume(root, **VOXEL).check is None
