"""The command with the real library behind it, on a series of a few pixels."""

import importlib.util
import json

import numpy as np
import pytest

from temdiff_jax.cli.main import main
from temdiff_jax.io import write
from temdiff_jax.io.formats import mrc

ANGLES = [-10.0, -5.0, 0.0, 5.0, 10.0]
SIZE = 24
# The width is in pixels, the centre of the bright bar in the view at 0 degrees.
BAR_COLUMN = 15


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("temdiff_jax.reconstruction") is None,
    reason="this checkout has no temdiff_jax.reconstruction",
)
def test_reconstructs_a_bar_from_five_tilts(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("temdiff_jax.cli.environment.prepare_jax", lambda: tmp_path)
    columns = np.arange(SIZE)
    tilts = np.random.default_rng(0).normal(10.0, 0.05, (len(ANGLES), SIZE, SIZE))
    for tilt, angle in enumerate(np.deg2rad(ANGLES)):
        # A bar along y through the middle height moves by cos alone.
        centre = (BAR_COLUMN - 11.5) * np.cos(angle) + 11.5
        tilts[tilt] += 4.0 * np.exp(-0.5 * ((columns - centre) / 1.5) ** 2)
    stack, angles, out = tmp_path / "bar.mrc", tmp_path / "bar.tlt", tmp_path / "out"
    write.write_mrc(stack, tilts.astype(np.float32), 50.0, is_stack=True)
    write.write_tlt(angles, ANGLES)
    words = ["reconstruct", stack, "--angles", angles, "--out", out, "--thickness", 16]
    words += ["--samples", 1, "--steps", 2, "--log", "off"]
    assert main([str(word) for word in words]) == 0, capsys.readouterr().err
    mean = mrc.read_mrc(out / "bar_temdiff.mrc")
    assert mean.data.shape == (16, SIZE, SIZE)
    assert mean.voxel_size_angstrom == pytest.approx((50.0, 50.0, 50.0))
    profile = mean.data.mean(axis=(0, 1))
    assert abs(int(np.argmax(profile)) - BAR_COLUMN) <= 1
    record = json.loads((out / "bar.temdiff.json").read_text())
    assert len(record["chi2"]) == len(record["weights"]) == len(ANGLES)
    assert (out / "bar_report.png").read_bytes()[:4] == b"\x89PNG"
