"""Gains of priors on held-out blocks."""

import jax
import numpy as np
import pytest

from temdiff_jax.errors import InputError
from temdiff_jax.model import NetworkConfig, make_network
from temdiff_jax.priors import Prior
from temdiff_jax.series.inputs import ResidualScale
from temdiff_jax.training.data import Batch

NETWORK = make_network(NetworkConfig(channels=(8,), blocks=(1,), groups=4, patch=2))
UNIT = ResidualScale(np.float32(0.0), np.zeros(5, np.float32))


@pytest.fixture(scope="module")
def score_priors(load_program):
    return load_program("launch.studies.score_priors")


def make_batch(seed, error):
    """A block whose quadratic estimate is wrong by so much."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(1, 8, 8, 8)).astype(np.float32)
    wrong = error * rng.normal(size=truth.shape).astype(np.float32)
    features = np.zeros((1, 5), np.float32)
    return Batch(truth, truth - wrong, np.ones_like(truth), features)


def make_prior():
    params = NETWORK.init(jax.random.key(0))
    return Prior(NETWORK, params, UNIT, None, None, {"name": "fresh"}, "0" * 64)


@pytest.mark.slow
def test_a_network_that_answers_zero_gains_nothing(score_priors):
    batches = [make_batch(seed, 1.0 + seed) for seed in range(4)]
    found = score_priors.gains(make_prior(), batches, 2)
    np.testing.assert_allclose(found, [0.0, 0.0], atol=1e-6)


@pytest.mark.slow
def test_noisy_residuals_are_shrunk_as_white_ones_are(score_priors):
    """Errors of unit variance: the skip connection alone is the best linear guess."""
    batches = [make_batch(seed, 1.0) for seed in range(16)]
    (found,) = score_priors.gains(make_prior(), batches, 1, sigma=0.5)
    assert found == pytest.approx(10 * np.log10(1.0 + 1 / 0.25), abs=0.3)  # 512 voxels


def test_blocks_are_summed_by_scenario(score_priors, monkeypatch):
    def guess(params, batch, scale, *, network, sigma):
        known = batch.truth - batch.estimate
        return 0.9 * known if known.std() > 2 else 0.5 * known, known, 0 * known

    monkeypatch.setattr(score_priors, "_guess", guess)
    batches = [make_batch(seed, error) for seed, error in enumerate((1, 3, 1, 3))]
    found = score_priors.gains(make_prior(), batches, 2)
    np.testing.assert_allclose(found, -20 * np.log10([0.5, 0.1]), rtol=1e-5)
    line = score_priors.row("a", make_prior(), batches, 2, [1.0])
    assert line == "| a | +6.02 | +20.00 | +13.01 | +13.01 |"


@pytest.mark.parametrize("text", ["much", "0", "-1", "nan", "inf"])
def test_noise_levels_that_are_none_are_refused(score_priors, text):
    assert score_priors.parse_sigmas(["0.3", "1"]) == [0.3, 1.0]
    with pytest.raises(InputError, match="--sigmas: expected positive numbers, got"):
        score_priors.parse_sigmas(["0.3", text])
