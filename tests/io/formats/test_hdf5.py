"""EMD of Berkeley, of tomviz and of Velox, and plain HDF5."""

import json

import numpy as np
import pytest

from temdiff_jax import io
from temdiff_jax.io import formats
from temdiff_jax.io.gate import InputError

h5py = pytest.importorskip("h5py")

ANGLES = np.array([-40.0, -20.0, 0.0, 20.0, 40.0])


def berkeley(path, data, dims, *, unit_style=str):
    """dims: (name, unit, values) for every axis of `data`."""
    with h5py.File(path, "w") as file:
        group = file.create_group("data/tomography")
        group.attrs["emd_group_type"] = 1
        group["data"] = data
        for number, (name, unit, values) in enumerate(dims, 1):
            vector = group.create_dataset(f"dim{number}", data=np.asarray(values, "f4"))
            vector.attrs["name"] = unit_style(name)
            vector.attrs["units"] = unit_style(unit)
    return path


@pytest.mark.parametrize("unit_style", [str, np.bytes_])
def test_berkeley_emd_with_tilts_first(tmp_path, stack, unit_style):
    dims = [
        ("angles", "[deg]", ANGLES),
        ("y", "[n_m]", 1.35 * np.arange(6)),
        ("x", "[n_m]", 1.35 * np.arange(7)),
    ]
    path = berkeley(tmp_path / "a.emd", stack, dims, unit_style=unit_style)
    series = io.load_tilt_series(path)
    np.testing.assert_array_equal(series.tilts, stack)
    np.testing.assert_array_equal(series.angles_deg, ANGLES)
    assert series.voxel_size_angstrom == pytest.approx(13.5, rel=1e-5)


def test_tomviz_has_the_tilts_last(tmp_path, stack):
    dims = [
        ("x", "[n_m]", 2.0 * np.arange(7)),
        ("y", "[n_m]", 2.0 * np.arange(6)),
        ("angles", "[deg]", ANGLES),
    ]
    path = berkeley(tmp_path / "a.emd", np.transpose(stack, (2, 1, 0)), dims)
    series = io.load_tilt_series(path)
    np.testing.assert_array_equal(series.tilts, stack)
    assert series.voxel_size_angstrom == pytest.approx(20.0)
    assert any("last axis" in note for note in series.warnings)


def test_velox_emd(tmp_path, stack):
    """[y, x, frame] from the top row, JSON of each frame as a column of bytes."""
    path = tmp_path / "velox.emd"
    with h5py.File(path, "w") as file:
        group = file.create_group("Data/Image/0123abc")
        group["Data"] = np.moveaxis(stack[:, ::-1], 0, -1)
        table = np.zeros((500, 5), np.uint8)
        for n, angle in enumerate(ANGLES):
            content = {
                "Stage": {"AlphaTilt": str(np.deg2rad(angle))},
                "BinaryResult": {"PixelSize": {"width": "2e-10", "height": "2e-10"}},
            }
            raw = json.dumps(content).encode()
            table[: len(raw), n] = np.frombuffer(raw, np.uint8)
        group["Metadata"] = table
    series = io.load_tilt_series(path)
    np.testing.assert_array_equal(series.tilts, stack)
    np.testing.assert_allclose(series.angles_deg, ANGLES)
    assert series.voxel_size_angstrom == pytest.approx(2.0)


def test_plain_hdf5_with_angles_beside_the_stack(tmp_path, stack):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["series/stack"] = stack
        file["series/angles"] = ANGLES
    series = io.load_tilt_series(tmp_path / "a.h5")
    np.testing.assert_array_equal(series.tilts, stack)
    np.testing.assert_array_equal(series.angles_deg, ANGLES)


def refused(path, match):
    with pytest.raises(InputError, match=match) as error:
        formats.read_image(path)
    assert "\n" not in str(error.value)


def test_what_is_no_single_stack_here_is_refused(tmp_path, stack):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["one"], file["two"] = stack, stack
    refused(path, "one stack of three axes.*/one")
    other = tmp_path / "b.h5"
    with h5py.File(other, "w") as file:
        file["away"] = h5py.ExternalLink("a.h5", "/one")
    refused(other, "one stack.*got none")
    raw = tmp_path / "secret.raw"
    raw.write_bytes(stack.tobytes())
    with h5py.File(other, "w") as file:
        file.create_dataset("d", stack.shape, "f4", external=[(str(raw), 0, 840)])
    refused(other, "data in this file")
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(2000))
    refused(path, "a readable HDF5")


def test_a_huge_stack_that_holds_nothing_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("d", (10000, 10000, 1000), "f4", chunks=(1, 100, 100))
    refused(path, "at most")
