"""Stores written by TensorStore, or byte by byte, read back through one door."""

import functools
import gzip
import http.server
import json
import pathlib
import struct
import threading

import numpy as np
import pytest
import tensorstore

from temdiff_jax.errors import InputError
from temdiff_jax.io import write
from temdiff_jax.io.formats import stores, tiff

SHAPE = (5, 6, 7)
VOXEL = (5.24, 4.0, 3.0)
VOLUME = np.random.default_rng(0).integers(1, 250, SHAPE).astype(np.uint8)
BOX = (slice(1, 4), slice(2, 6), slice(3, 4))
OFF_CENTRE = (1, 4, 5)

OME_AXES = [{"name": a, "type": "space", "unit": "nanometer"} for a in "zyx"]


def ome(path="s0", scale=VOXEL, axes=OME_AXES):
    transforms = [
        {"type": "scale", "scale": list(scale)},
        {"type": "translation", "translation": [0.0] * len(scale)},
    ]
    level = {"path": path, "coordinateTransformations": transforms}
    return [{"version": "0.4", "axes": axes, "datasets": [level]}]


def put(path, driver, data, metadata=None, **spec):
    """Writes an array with TensorStore, axes as the driver has them."""
    kvstore = {"driver": "file", "path": f"{path}/"}
    full = {"driver": driver, "kvstore": kvstore, **spec}
    if metadata is not None:
        full["metadata"] = metadata
    options = {} if "scale_metadata" in spec else {"shape": data.shape}
    options |= {} if "scale_metadata" in spec else {"dtype": data.dtype}
    store = tensorstore.open(full, create=True, **options).result()
    (store[..., 0] if store.rank > data.ndim else store).write(data).result()


def attributes(path, name, **content):
    """Adds members to a JSON file."""
    file = path / name
    old = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(old | content))


def zarr2(root, data=VOLUME):
    put(root / "s0", "zarr", data, {"chunks": [2, 3, 4], "compressor": None})
    (root / ".zgroup").write_text('{"zarr_format": 2}')
    attributes(root, ".zattrs", multiscales=ome())
    return root


def zarr3(root, data=VOLUME):
    grid = {"name": "regular", "configuration": {"chunk_shape": [4, 4, 4]}}
    inner = {"chunk_shape": [2, 2, 2], "codecs": [{"name": "bytes"}]}
    shards = [{"name": "sharding_indexed", "configuration": inner}]
    put(root / "s0", "zarr3", data, {"chunk_grid": grid, "codecs": shards})
    group = {"zarr_format": 3, "node_type": "group"}
    group["attributes"] = {"ome": {"version": "0.5", "multiscales": ome()}}
    (root / "zarr.json").write_text(json.dumps(group))
    return root


def n5(root, data=VOLUME):
    # N5 counts its axes from the fastest: x, y, z.
    chunks = {"blockSize": [4, 3, 2], "compression": {"type": "raw"}}
    put(root / "em/s0", "n5", data.transpose(2, 1, 0), chunks)
    transform = {
        "axes": ["z", "y", "x"],
        "scale": list(VOXEL),
        "translate": [0.0, 0.0, 0.0],
        "units": ["nm"] * 3,
    }
    attributes(root / "em/s0", "attributes.json", transform=transform)
    attributes(root / "em", "attributes.json", multiscales=[{"datasets": []}])
    attributes(root, "attributes.json", n5="2.0.0")
    return root / "em"


def precomputed(root, data=VOLUME, encoding="raw"):
    put(
        root,
        "neuroglancer_precomputed",
        data.transpose(2, 1, 0),
        scale_metadata={
            "resolution": list(VOXEL[::-1]),
            "encoding": encoding,
            "chunk_size": [4, 3, 2],
            "size": list(data.shape[::-1]),
            "voxel_offset": [10, 20, 30],
        },
        multiscale_metadata={
            "type": "image",
            "data_type": str(data.dtype),
            "num_channels": 1,
        },
    )
    return root


WRITERS = {"zarr": zarr2, "zarr3": zarr3, "n5": n5}
WRITERS["neuroglancer_precomputed"] = precomputed


@pytest.mark.parametrize("kind", WRITERS)
def test_store_is_read_as_zyx(tmp_path, kind):
    volume = stores.open_volume(WRITERS[kind](tmp_path / "a"))
    assert volume.kind == kind and volume.shape == SHAPE and volume.notes == ()
    assert volume.dtype == np.uint8
    np.testing.assert_allclose(volume.voxel_size_nm, VOXEL)
    np.testing.assert_array_equal(volume.read(BOX), VOLUME[BOX])
    one = volume.read([slice(i, i + 1) for i in OFF_CENTRE])
    assert one.shape == (1, 1, 1) and one.item() == VOLUME[OFF_CENTRE]
    whole = volume.read()
    assert whole.dtype == np.uint8 and whole.flags.c_contiguous
    np.testing.assert_array_equal(whole, VOLUME)


@pytest.mark.parametrize("kind", ["zarr", "zarr3", "n5"])
def test_an_array_inside_a_store_knows_the_attributes_of_its_group(tmp_path, kind):
    group = WRITERS[kind](tmp_path / "a")
    by_path = stores.open_volume(group / "s0")
    by_name = stores.open_volume(group, dataset="s0")
    for volume in (by_path, by_name):
        np.testing.assert_allclose(volume.voxel_size_nm, VOXEL)
        np.testing.assert_array_equal(volume.read(BOX), VOLUME[BOX])
    assert by_name.dataset == "s0"


def test_n5_bytes_written_by_hand_have_x_fastest(tmp_path):
    """The format's own layout, without TensorStore: big-endian, x first."""
    data = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)  # z, y, x
    block = struct.pack(">HHIII", 0, 3, 4, 3, 2) + data.astype(">u2").tobytes()
    (tmp_path / "s0/0/0").mkdir(parents=True)
    (tmp_path / "s0/0/0/0").write_bytes(block)
    meta = {"dimensions": [4, 3, 2], "blockSize": [4, 3, 2], "dataType": "uint16"}
    meta |= {"compression": {"type": "raw"}}
    meta |= {"pixelResolution": {"dimensions": [4.0, 5.0, 6.0], "unit": "nm"}}
    (tmp_path / "s0/attributes.json").write_text(json.dumps(meta))
    volume = stores.open_volume(tmp_path / "s0")
    assert volume.voxel_size_nm == (6.0, 5.0, 4.0) and volume.dtype == np.uint16
    np.testing.assert_array_equal(volume.read(), data)


def test_zarr_bytes_written_by_hand_have_the_last_axis_fastest(tmp_path):
    data = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    meta = {"zarr_format": 2, "shape": [2, 3, 4], "chunks": [2, 3, 4], "dtype": "<f4"}
    meta |= {"order": "C", "fill_value": 0, "filters": None}
    meta |= {"compressor": {"id": "gzip", "level": 1}}
    (tmp_path / ".zarray").write_text(json.dumps(meta))
    (tmp_path / "0.0.0").write_bytes(gzip.compress(data.tobytes()))
    volume = stores.open_volume(tmp_path, voxel_size_nm=(8, 8, 8))
    assert "taken as z, y, x" in volume.notes[0] and volume.dtype == np.float32
    np.testing.assert_array_equal(volume.read(), data)


@pytest.mark.parametrize(
    ("own", "group", "level", "expected"),
    [
        (
            {"transform": {"axes": "xyz", "scale": [1, 2, 3], "units": ["um"] * 3}},
            {},
            "s1",
            (3000, 2000, 1000),
        ),
        (
            {"pixelResolution": [0.004, 0.005, 0.006], "downsamplingFactors": [2] * 3},
            {},
            "s1",
            (12, 10, 8),
        ),
        (
            {},
            {
                "pixelResolution": {"dimensions": [4, 5, 6], "unit": "nm"},
                "scales": [[1, 1, 1], [2, 2, 4]],
            },
            "s1",
            (24, 10, 8),
        ),
        (
            {"axes": ["x", "y", "z"], "resolution": [4, 5, 6], "units": ["nm"] * 3},
            {},
            "s0",
            (6, 5, 4),
        ),
    ],
)
def test_voxel_size_of_n5_dialects(tmp_path, own, group, level, expected):
    root = tmp_path / "a"
    chunks = {"blockSize": [4, 3, 2], "compression": {"type": "gzip"}}
    put(root / level, "n5", VOLUME.transpose(2, 1, 0), chunks)
    attributes(root / level, "attributes.json", **own)
    attributes(root, "attributes.json", **group)
    volume = stores.open_volume(root / level)
    np.testing.assert_allclose(volume.voxel_size_nm, expected)
    np.testing.assert_array_equal(volume.read(BOX), VOLUME[BOX])


def test_ome_zarr_with_channel_and_other_order_of_axes(tmp_path):
    axes = [{"name": "c", "type": "channel"}, OME_AXES[2], OME_AXES[1], OME_AXES[0]]
    micron = [a | {"unit": "micrometer"} if "unit" in a else a for a in axes]
    data = VOLUME.transpose(2, 1, 0)[None]
    put(tmp_path / "0", "zarr", data)
    (tmp_path / ".zgroup").write_text('{"zarr_format": 2}')
    scale = (1.0, 0.003, 0.004, 0.005)
    attributes(tmp_path, ".zattrs", multiscales=ome("0", scale, micron))
    volume = stores.open_volume(tmp_path)
    np.testing.assert_allclose(volume.voxel_size_nm, (5, 4, 3))
    np.testing.assert_array_equal(volume.read(BOX), VOLUME[BOX])


def test_files_come_through_the_same_door(tmp_path):
    data = VOLUME.astype(np.float32)
    write.write_mrc(tmp_path / "v.mrc", data, [10 * v for v in VOXEL])
    tiff.write_tiff(tmp_path / "v.tif", data, [10 * v for v in VOXEL])
    np.savez(tmp_path / "v.npz", volume=VOLUME, other=VOLUME[:2], pixel_nm=4.0)
    for name in ("v.mrc", "v.tif"):
        volume = stores.open_volume(tmp_path / name)
        np.testing.assert_allclose(volume.voxel_size_nm, VOXEL, rtol=1e-4)
        np.testing.assert_array_equal(volume.read(BOX), data[BOX])
    volume = stores.open_volume(tmp_path / "v.npz")
    assert volume.voxel_size_nm == (4.0, 4.0, 4.0) and volume.dataset == "volume"
    np.testing.assert_array_equal(volume.read(BOX), data[BOX])
    other = stores.open_volume(tmp_path / "v.npz", dataset="other", voxel_size_nm=VOXEL)
    assert other.shape == (2, 6, 7) and other.dtype == np.uint8
    with pytest.raises(InputError, match="an array 'none'"):
        stores.open_volume(tmp_path / "v.npz", dataset="none", voxel_size_nm=VOXEL)


def first_chunk(root):
    skipped = ("attributes.json", "zarr.json", "info")
    files = [p for p in root.rglob("*") if p.is_file() and p.name not in skipped]
    return min(p for p in files if not p.name.startswith("."))


@pytest.mark.parametrize("kind", WRITERS)
def test_truncated_and_missing_chunks_are_refused(tmp_path, kind):
    root = WRITERS[kind](tmp_path / "a")
    chunk = first_chunk(root)
    chunk.write_bytes(chunk.read_bytes()[:-3])
    volume = stores.open_volume(root)
    message = "expected chunks that are there and whole, got .*; copy the store again"
    with pytest.raises(InputError, match=message) as caught:
        volume.read()
    assert "\n" not in str(caught.value)
    chunk.unlink()
    with pytest.raises(InputError, match=message):
        stores.open_volume(root).read()
    filled = stores.open_volume(root, allow_missing_chunks=True).read()
    assert (filled == 0).any() and set(np.unique(filled - VOLUME)) != {0}
    kept = filled != 0
    np.testing.assert_array_equal(filled[kept], VOLUME[kept])


def test_no_voxel_size_is_said(tmp_path):
    put(tmp_path / "a", "n5", VOLUME.transpose(2, 1, 0))
    with pytest.raises(InputError, match="expected a voxel size .*, got none; give it"):
        stores.open_volume(tmp_path / "a")
    given = stores.open_volume(tmp_path / "a", voxel_size_nm=(8, 8, 8))
    assert given.voxel_size_nm == (8.0, 8.0, 8.0)
    with pytest.raises(InputError, match="three positive lengths"):
        stores.open_volume(tmp_path / "a", voxel_size_nm=(8, 8, 0))


@pytest.mark.parametrize("kind", WRITERS)
def test_labels_are_refused(tmp_path, kind):
    root = WRITERS[kind](tmp_path / "a", VOLUME.astype(np.uint64))
    with pytest.raises(InputError, match="expected grey values .*got dtype uint64"):
        stores.open_volume(root)


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected an existing file"):
        stores.open_volume(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="N5 .* store, got none of these files"):
        stores.open_volume(tmp_path / "empty")
    (tmp_path / "text.txt").write_text("volume")
    with pytest.raises(InputError, match="a file ending in '.txt'"):
        stores.open_volume(tmp_path / "text.txt")
    (tmp_path / "group").mkdir()
    (tmp_path / "group/.zgroup").write_text("{}")
    with pytest.raises(InputError, match="a group without levels; name the array"):
        stores.open_volume(tmp_path / "group")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": None}, "zarr, N5 or precomputed JSON"),
        ({"shape": [5, 6]}, "zarr, N5 or precomputed JSON"),
        ({"shape": [2**40, 6, 7]}, r"extents of 1 to 2\^32"),
        ({"shape": [5, 0, 7]}, r"extents of 1 to 2\^32"),
        ({"chunks": [2**20, 2**20, 4]}, "chunks up to 1 GiB"),
        ({"compressor": {"id": "pickle"}}, r"codecs .*, got \['pickle'\]"),
        ({"filters": [{"id": "pickle"}]}, r"codecs .*, got \['pickle'\]"),
        ({"dtype": "|O"}, r"got dtype \|O"),
        ({"dtype": "<c8"}, "got dtype <c8"),
    ],
)
def test_hostile_metadata_is_refused_before_tensorstore_sees_it(
    tmp_path, monkeypatch, change, message
):
    root = zarr2(tmp_path / "a")
    attributes(root / "s0", ".zarray", **change)
    monkeypatch.setattr(tensorstore, "open", None)
    with pytest.raises(InputError, match=message):
        stores.open_volume(root)


def test_damaged_json_is_one_line(tmp_path):
    root = n5(tmp_path / "a")
    (root / "s0/attributes.json").write_text("{'dimensions':\n 3")
    with pytest.raises(InputError, match="zarr, N5 or precomputed JSON") as caught:
        stores.open_volume(root)
    assert "\n" not in str(caught.value)


def test_a_dataset_cannot_leave_its_store(tmp_path):
    zarr2(tmp_path / "secret")
    root = zarr2(tmp_path / "a")
    with pytest.raises(InputError, match="a dataset inside it"):
        stores.open_volume(root, dataset="../secret/s0")
    attributes(root, ".zattrs", multiscales=ome("../secret/s0"))
    with pytest.raises(InputError, match="a dataset inside it"):
        stores.open_volume(root)
    (root / "link").symlink_to(tmp_path / "secret/s0")
    with pytest.raises(InputError, match="a link out of it"):
        stores.open_volume(root, dataset="link")
    attributes(root, ".zattrs", multiscales=ome("link"))
    with pytest.raises(InputError, match="a link out of it"):
        stores.open_volume(root)


def test_files_beside_a_store_do_no_harm(tmp_path):
    (tmp_path / "info").write_text("not of the store")
    (tmp_path / "attributes.json").write_text("[1]")
    put(tmp_path / "a", "zarr", VOLUME)
    volume = stores.open_volume(tmp_path / "a", voxel_size_nm=VOXEL)
    np.testing.assert_array_equal(volume.read(BOX), VOLUME[BOX])


def test_box_is_checked(tmp_path):
    volume = stores.open_volume(zarr2(tmp_path / "a"))
    for bad in (slice(0, 9), slice(-1, 2), slice(3, 3), slice(0, 4, 2)):
        with pytest.raises(InputError, match="box: expected inside"):
            volume.read((slice(None), slice(None), bad))
    small = stores.open_volume(tmp_path / "a", max_input_gb=1e-7)
    with pytest.raises(InputError, match="at most 1e-07 GiB as float32"):
        small.read()
    assert small.read(BOX).shape == (3, 4, 1)


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and, as object stores do, parts of files."""

    def do_GET(self):
        wanted = self.headers.get("Range")
        path = pathlib.Path(self.translate_path(self.path))
        if wanted is None or not path.is_file():
            return super().do_GET()
        content = path.read_bytes()
        first, last = wanted.removeprefix("bytes=").split("-")
        start = int(first) if first else len(content) - int(last)
        stop = int(last) + 1 if first and last else len(content)
        self.send_response(206)
        self.send_header("Content-Length", str(stop - start))
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(content[start:stop])

    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path):
    """URL of `tmp_path` on this machine."""
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("kind", WRITERS)
def test_remote_stores_need_permission(tmp_path, served, kind):
    path = WRITERS[kind](tmp_path / "a").relative_to(tmp_path)
    with pytest.raises(InputError, match="expected a local path, got http://; allow"):
        stores.open_volume(f"{served}/{path}")
    volume = stores.open_volume(f"{served}/{path}", allow_remote=True)
    np.testing.assert_allclose(volume.voxel_size_nm, VOXEL)
    np.testing.assert_array_equal(volume.read(BOX), VOLUME[BOX])


@pytest.mark.parametrize("url", ["s3://b/a.n5", "gs://b/a", "https://h/a.zarr"])
def test_no_request_leaves_without_permission(monkeypatch, url):
    monkeypatch.setattr(tensorstore.KvStore, "open", None)
    with pytest.raises(InputError, match="expected a local path"):
        stores.open_volume(url)
    with pytest.raises(InputError, match="one of http, https, s3, gs"):
        stores.open_volume("file:///a.zarr", allow_remote=True)
