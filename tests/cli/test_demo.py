import json

import numpy as np
import pytest

from temdiff_jax import baselines
from temdiff_jax.cli import demo
from temdiff_jax.cli.main import main
from temdiff_jax.io import write
from temdiff_jax.io.formats import mrc

NUM_TILTS, HEIGHT, WIDTH = 13, 8, 12


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """A stand-in for the packaged series: 13 tilts from -60 to 60 degrees."""
    folder = tmp_path / "data"
    folder.mkdir()
    tilts = np.random.default_rng(0).uniform(size=(NUM_TILTS, HEIGHT, WIDTH))
    write.write_mrc(folder / "needle.mrc", tilts.astype(np.float32), 33.6)
    write.write_tlt(folder / "needle.rawtlt", np.linspace(-60.0, 60.0, NUM_TILTS))
    monkeypatch.setattr(demo, "_data_folder", lambda: folder)
    return tilts.astype(np.float32)


@pytest.mark.slow
def test_narrow_range_beside_the_full_one(packaged, library, tmp_path, monkeypatch):
    seen = []

    def tikhonov(tilts, angles, *, thickness):
        seen.append((tilts, angles, thickness))
        return np.ones((thickness, HEIGHT, WIDTH), np.float32)

    monkeypatch.setattr(baselines, "tikhonov", tikhonov, raising=False)
    out = tmp_path / "demo_output"
    words = ["demo", "--out", str(out), "--range", "40", "--samples", "2"]
    assert main([*words, "--steps", "2"]) == 0
    (call,) = library.calls
    np.testing.assert_allclose(call["angles"], [-20.0, -10.0, 0.0, 10.0, 20.0])
    np.testing.assert_array_equal(call["tilts"], packaged[4:9])
    ((tilts, angles, thickness),) = seen
    assert len(angles) == NUM_TILTS and thickness == call["thickness"] == WIDTH
    np.testing.assert_array_equal(tilts, packaged)
    assert sorted(path.name for path in out.iterdir()) == [
        "needle_demo.temdiff.json",
        "needle_demo_report.html",
        "needle_demo_report.png",
        "needle_demo_std.mrc",
        "needle_demo_temdiff.mrc",
    ]
    assert mrc.read_mrc(out / "needle_demo_temdiff.mrc").data.shape == (12, 8, 12)
    record = json.loads((out / "needle_demo.temdiff.json").read_text())
    assert record["command"] == "demo"
    assert record["input"]["angle_range_deg"] == [-20.0, 20.0]


@pytest.mark.slow
def test_a_second_demo_replaces_the_first_and_nothing_else(packaged, library, tmp_path):
    out = tmp_path / "d"
    words = ["demo", "--out", str(out), "--samples", "1", "--steps", "2"]
    assert main(words) == 0
    (out / "mine.mrc").write_text("mine")
    assert main([*words, "--seed", "9"]) == 0
    record = json.loads((out / "needle_demo.temdiff.json").read_text())
    assert record["parameters"]["seed"] == 9
    assert (out / "mine.mrc").read_text() == "mine"


@pytest.mark.parametrize("words", [["--range", "x"], ["--method", "none"]])
def test_bad_options_are_one_line(packaged, library, tmp_path, capsys, words):
    assert main(["demo", "--out", str(tmp_path / "d"), *words]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert library.calls == []
    assert not (tmp_path / "d").exists()


def test_the_packaged_series_is_there_and_readable():
    folder = demo._data_folder()
    if not folder.joinpath("needle.mrc").is_file():
        pytest.skip("this checkout has no packaged series")
    from temdiff_jax.io import tilt_series

    series = tilt_series.load_tilt_series(
        folder.joinpath("needle.mrc"), folder.joinpath("needle.rawtlt")
    )
    assert series.num_tilts > 20
    assert series.angles_deg[0] < -50 < 50 < series.angles_deg[-1]
