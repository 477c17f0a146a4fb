"""Containers change, numbers do not."""

import json

import numpy as np
import pytest

from temdiff_jax import io
from temdiff_jax.cli.main import main
from temdiff_jax.io import write

ANGLES = [-3.0, 0.0, 3.0]


@pytest.fixture
def volume():
    return np.random.default_rng(0).normal(size=(3, 6, 8)).astype(np.float32)


@pytest.mark.parametrize("ending", ["mrc", "tif", "npz", "ome.zarr"])
def test_there_and_back(tmp_path, capsys, volume, ending):
    source, middle, back = (tmp_path / n for n in ("a.mrc", f"b.{ending}", "c.mrc"))
    write.write_mrc(source, volume, 13.5, origin=(1.0, 2.0, 3.0), labels=["first"])
    assert main(["convert", str(source), str(middle)]) == 0
    assert main(["convert", str(middle), str(back)]) == 0
    image = io.read_image(back)
    np.testing.assert_array_equal(image.data, volume)
    assert image.voxel_size_angstrom == pytest.approx((13.5,) * 3, rel=1e-6)
    if ending == "mrc":
        assert image.origin_angstrom == (1.0, 2.0, 3.0)
        assert image.labels[0] == "first"
    assert f"wrote {back}" in capsys.readouterr().out


@pytest.mark.parametrize("ending", ["mrc", "npz", "zarr"])
def test_angles_go_with_the_stack(tmp_path, volume, ending):
    source, target = tmp_path / "a.npz", tmp_path / f"b.{ending}"
    np.savez(source, tilts=volume, angles_deg=ANGLES, pixel_nm=2.0)
    assert main(["convert", str(source), str(target)]) == 0
    series = io.load_tilt_series(target)  # an MRC file finds its .tlt beside it
    np.testing.assert_array_equal(series.angles_deg, ANGLES)
    np.testing.assert_array_equal(series.tilts, volume)
    assert series.voxel_size_angstrom == pytest.approx(20.0)


def test_refusals_are_one_line_and_write_nothing(tmp_path, capsys, volume):
    source = tmp_path / "a.mrc"
    write.write_mrc(source, volume, 10.0)
    for words, match in (
        ([str(source), str(tmp_path / "b.xyz")], "a name ending in"),
        ([str(source), str(source)], "a new file"),
        ([str(source), str(tmp_path / "b.mrc"), "--voxel-size", "0"], "positive"),
        ([str(source), str(tmp_path / "b.zarr"), "--ome-version", "9"], "0.4 or 0.5"),
    ):
        assert main(["convert", *words]) == 2
        captured = capsys.readouterr()
        assert match in captured.err and len(captured.err.splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.mrc"]


def test_a_simulation_is_what_its_record_says(tmp_path, capsys, volume):
    truth = np.zeros((12, 10, 16), np.float32)
    truth[3:9, 4:7, 5:11] = 1.0
    write.write_mrc(tmp_path / "truth.mrc", truth, 20.0)
    words = ["simulate", str(tmp_path / "truth.mrc"), "--angles=-20:20:10"]
    words += ["--out", str(tmp_path / "out"), "--noise", "0.05", "--seed", "3"]
    assert main(words) == 0
    series = io.load_tilt_series(tmp_path / "out" / "truth_tilts.mrc")
    np.testing.assert_array_equal(series.angles_deg, [-20, -10, 0, 10, 20])
    record = json.loads((tmp_path / "out" / "truth_tilts.json").read_text())
    assert record["seed"] == 3 and record["thickness"] == 12
    residual = series.tilts[2] - truth.sum(axis=0)
    assert residual.std() == pytest.approx(record["noise_std"], rel=0.2)
    assert main(words) == 2 and "exists" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0
    again = io.load_tilt_series(tmp_path / "out" / "truth_tilts.mrc")
    np.testing.assert_array_equal(again.tilts, series.tilts)


@pytest.mark.parametrize("angles", ["5", "5:-5:1", "-95:0:5", "a:b:c", "0:1:1e-9"])
def test_angles_of_a_simulation_that_are_none(tmp_path, capsys, volume, angles):
    write.write_mrc(tmp_path / "a.mrc", volume, 1.0)
    assert main(["simulate", str(tmp_path / "a.mrc"), f"--angles={angles}"]) == 2
    assert "LO:HI:STEP" in capsys.readouterr().err


def test_doctor_names_what_is_there(capsys, monkeypatch):
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["priors"]["default"] == "intact" and not report["problems"]
    assert set(report["optional"]) == {"h5py", "imagecodecs", "rsciio"}
    monkeypatch.setattr("temdiff_jax.priors.prior_names", lambda: [])
    assert main(["doctor"]) == 1
    assert "no prior is installed" in capsys.readouterr().out
