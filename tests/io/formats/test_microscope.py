"""Formats of microscope software, which an extra package reads."""

import importlib
import subprocess
import sys

import numpy as np
import pytest

from temdiff_jax import io
from temdiff_jax.io import formats
from temdiff_jax.io.gate import InputError

ANGLES = np.array([-40.0, -20.0, 0.0, 20.0, 40.0])


def test_without_the_package_the_error_names_the_install(tmp_path, monkeypatch):
    def missing(name, *_):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    path = tmp_path / "a.dm4"
    path.write_bytes(b"x" * 100)
    with pytest.raises(InputError, match=r'pip install "temdiff_jax\[formats\]"'):
        formats.read_image(path)


def test_hyperspy_keeps_values_pixels_and_angles(tmp_path, stack):
    pytest.importorskip("h5py")
    hspy = pytest.importorskip("rsciio.hspy")
    axes = [
        {"name": "tilt", "units": "deg", "scale": 20.0, "offset": -40.0, "size": 5,
         "navigate": True, "index_in_array": 0, "_type": "UniformDataAxis"},
        {"name": "y", "units": "nm", "scale": 1.5, "offset": 0.0, "size": 6,
         "navigate": False, "index_in_array": 1, "_type": "UniformDataAxis"},
        {"name": "x", "units": "nm", "scale": 1.5, "offset": 0.0, "size": 7,
         "navigate": False, "index_in_array": 2, "_type": "UniformDataAxis"},
    ]  # fmt: skip
    signal = {
        "data": np.ascontiguousarray(stack[:, ::-1]),
        "axes": axes,
        "metadata": {"General": {"title": "series"}, "Signal": {}},
        "original_metadata": {},
        "attributes": {"_lazy": False},
        "package_info": {},
        "package": "test",
        "package_version": "0",
        "tmp_parameters": {},
        "learning_results": {},
        "models": {},
    }
    hspy.file_writer(str(tmp_path / "a.hspy"), signal)
    series = io.load_tilt_series(tmp_path / "a.hspy")
    np.testing.assert_array_equal(series.tilts, stack)
    np.testing.assert_allclose(series.angles_deg, ANGLES)
    assert series.voxel_size_angstrom == pytest.approx(15.0)


@pytest.mark.parametrize("suffix", [".dm3", ".dm4", ".ser", ".hspy"])
def test_damage_is_one_line(tmp_path, suffix):
    pytest.importorskip("rsciio")
    path = tmp_path / f"a{suffix}"
    path.write_bytes(bytes(range(256)) * 20)
    with pytest.raises(InputError) as error:
        formats.read_image(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1200


def test_the_package_is_not_imported_before_it_is_needed():
    code = "import sys, temdiff_jax.io; sys.exit('rsciio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
