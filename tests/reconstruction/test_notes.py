"""What is said about a run, and what is saved of it."""

import dataclasses
import json

import numpy as np
import pytest

from temdiff_jax import reconstruct
from temdiff_jax.errors import InputError
from temdiff_jax.io import tilt_series_from_arrays
from temdiff_jax.reconstruction import notes


def test_the_verdict_is_said_and_a_run_without_one_says_nothing():
    assert notes.verdict({}) == []
    assert notes.verdict({"trust": {"sentences": ["CONSISTENT: x."]}}) == [
        "CONSISTENT: x."
    ]


def test_a_result_saves_what_the_command_writes(tmp_path):
    tilts = np.random.default_rng(0).normal(5, 1, (5, 12, 14)).astype(np.float32)
    series = tilt_series_from_arrays(tilts, np.linspace(-4, 4, 5))
    series = dataclasses.replace(series, warnings=("grid: a doubt of its file",))
    result = reconstruct(series, thickness=6, method="fbp", weighting="off")
    paths = result.save(tmp_path / "out", "grid")
    reports = ["grid_report.png", "grid_report.html"]
    names = ["grid_temdiff.mrc", *reports, "grid.temdiff.json"]
    assert [path.name for path in paths] == names
    record = json.loads(paths[-1].read_text())
    assert record["run"] == result.provenance["run"]
    assert record["volume_shape"] == [6, 12, 14] and "chi2" in record
    assert "grid: a doubt of its file" in record["warnings"]
    from temdiff_jax.io.formats import mrc

    np.testing.assert_array_equal(mrc.read_mrc(paths[0]).data, result.mean)
    with pytest.raises(InputError, match="exists"):
        result.save(tmp_path / "out", "grid")
