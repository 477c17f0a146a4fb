"""OME-Zarr that we write is what readers of the format expect, in both versions."""

import json

import numpy as np
import pytest
import tensorstore

from temdiff_jax import io
from temdiff_jax.io.formats import ome_zarr, stores
from temdiff_jax.io.gate import InputError


@pytest.fixture
def volume():
    return np.random.default_rng(0).normal(size=(40, 70, 130)).astype(np.float32)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_levels_halve_and_lie_where_their_means_are(tmp_path, volume, version):
    path = tmp_path / "a.ome.zarr"
    ome_zarr.write_ome_zarr(path, volume, (30.0, 20.0, 10.0), version=version)
    if version == "0.4":
        multiscale = json.loads((path / ".zattrs").read_text())["multiscales"][0]
        driver = "zarr"
    else:
        attributes = json.loads((path / "zarr.json").read_text())["attributes"]
        assert attributes["ome"]["version"] == "0.5"
        multiscale, driver = attributes["ome"]["multiscales"][0], "zarr3"
    assert [axis["unit"] for axis in multiscale["axes"]] == ["angstrom"] * 3
    expected = volume
    for k, level in enumerate(multiscale["datasets"]):
        scale, shift = (t[t["type"]] for t in level["coordinateTransformations"])
        assert scale == [30.0 * 2**k, 20.0 * 2**k, 10.0 * 2**k]
        assert shift == [v * (2**k - 1) / 2 for v in (30.0, 20.0, 10.0)]
        kvstore = {"driver": "file", "path": str(path / level["path"])}
        stored = tensorstore.open({"driver": driver, "kvstore": kvstore}).result()
        np.testing.assert_allclose(stored.read().result(), expected, atol=1e-6)
        z, y, x = (n // 2 for n in expected.shape)
        blocks = expected[: 2 * z, : 2 * y, : 2 * x].reshape(z, 2, y, 2, x, 2)
        expected = blocks.mean(axis=(1, 3, 5))
    assert k == 2


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_round_trip_through_both_readers(tmp_path, volume, version):
    path = tmp_path / "a.ome.zarr"
    ome_zarr.write_ome_zarr(path, volume, 13.5, version=version)
    image = io.read_image(path)
    np.testing.assert_array_equal(image.data, volume)
    assert image.voxel_size_angstrom == pytest.approx((13.5,) * 3)
    opened = stores.open_volume(path)
    assert opened.voxel_size_nm == pytest.approx((1.35,) * 3)


def test_a_tilt_series_keeps_its_angles_and_is_one_level(tmp_path, stack):
    path = tmp_path / "a.zarr"
    angles = [-40.0, -20.0, 0.0, 20.0, 40.0]
    ome_zarr.write_ome_zarr(path, stack, 10.0, angles_deg=angles)
    series = io.load_tilt_series(path)
    np.testing.assert_array_equal(series.tilts, stack)
    np.testing.assert_array_equal(series.angles_deg, angles)
    assert not (path / "1").exists() and series.voxel_size_angstrom == 10.0


def test_whole_numbers_stay_whole(tmp_path):
    counts = np.arange(3 * 90 * 70, dtype=np.uint16).reshape(3, 90, 70) % 1000
    ome_zarr.write_ome_zarr(tmp_path / "a.zarr", counts, None)
    image = io.read_image(tmp_path / "a.zarr")
    np.testing.assert_array_equal(image.data, counts)
    assert image.voxel_size_angstrom is None


def test_nothing_is_replaced_unless_asked_and_nothing_is_left_over(tmp_path, stack):
    path = tmp_path / "a.zarr"
    ome_zarr.write_ome_zarr(path, stack, 1.0)
    with pytest.raises(InputError, match="a new folder"):
        ome_zarr.write_ome_zarr(path, stack + 1, 1.0)
    ome_zarr.write_ome_zarr(path, stack + 1, 1.0, overwrite=True)
    np.testing.assert_array_equal(io.read_image(path).data, stack + 1)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]
    with pytest.raises(InputError, match="can be written"):
        ome_zarr.write_ome_zarr(tmp_path / "none" / "a.zarr", stack, 1.0)
    with pytest.raises(InputError, match=r"0.4 or 0.5"):
        ome_zarr.write_ome_zarr(tmp_path / "b.zarr", stack, 1.0, version="0.3")
