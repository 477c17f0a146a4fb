"""Grids over the numbers of a published sampler."""

import types

import numpy as np
import pytest

from launch.studies import tune_published
from temdiff_jax.errors import InputError
from temdiff_jax.evaluation import protocol
from temdiff_jax.reconstruction import methods


def test_grid_is_every_combination_and_whole_numbers_stay_whole():
    points = list(tune_published.parse_grid(["coupling=0.1,1.0", "num_iters=1,3"]))
    assert points == [
        {"coupling": 0.1, "num_iters": 1},
        {"coupling": 0.1, "num_iters": 3},
        {"coupling": 1.0, "num_iters": 1},
        {"coupling": 1.0, "num_iters": 3},
    ]
    assert [type(value) for value in points[2].values()] == [float, int]
    assert list(tune_published.parse_grid([])) == [{}]


@pytest.mark.parametrize("text", ["strength", "strength=", "strength=much"])
def test_a_grid_that_cannot_be_read_is_refused(text):
    with pytest.raises(InputError, match="--grid: expected name=number,number, got"):
        tune_published.parse_grid([text])


def test_volumes_are_cut_in_the_middle_and_turned_to_stain(tmp_path):
    grey = np.random.default_rng(0).integers(0, 255, (20, 22, 24), np.uint8)
    np.savez(tmp_path / "a.npz", volume=grey)
    (stain,) = tune_published.load_stains(str(tmp_path / "*.npz"), 16).values()
    assert stain.shape == (16, 16, 16)
    middle = grey[2:18, 3:19, 4:20]
    # Dark grey is heavy stain.
    assert np.corrcoef(stain.ravel(), middle.ravel())[0, 1] < -0.99
    with pytest.raises(InputError, match="at least 21 voxels.*lower --crop"):
        tune_published.load_stains(str(tmp_path / "*.npz"), 21)
    with pytest.raises(InputError, match="--volumes: expected at least one file"):
        tune_published.load_stains(str(tmp_path / "*.mrc"), 16)


@pytest.mark.slow
def test_score_is_blind_to_gain_and_offset_and_sees_errors(monkeypatch):
    rng = np.random.default_rng(0)
    stains = {"a": np.float32(rng.random((16, 16, 16)))}
    error = {"size": 0.0}

    def reconstruct(tilts, angles_deg, *, thickness, prior, **options):
        assert options["method"].name == "dolce" and options["key"] == 0
        assert tilts.shape == (3, 16, 16) and thickness == 16 and prior == "weights"
        noise = error["size"] * rng.normal(size=(16, 16, 16))
        volume = np.float32(3.0 * (stains["a"] + noise) + 1.0)
        return types.SimpleNamespace(mean=volume)

    monkeypatch.setattr(tune_published, "reconstruct", reconstruct)
    dolce = methods.method_of("dolce")
    case = protocol.Case.from_name("20/10")
    exact, _ = tune_published.score(dolce, "weights", stains, case, 0)
    error["size"] = 0.1
    noisy, _ = tune_published.score(dolce, "weights", stains, case, 0)
    assert exact > 60
    assert noisy == pytest.approx(20.0, abs=0.8)
