import jax
import jax.numpy as jnp
import numpy as np
import pytest

from launch import evaluate_prior
from temdiff_jax.errors import InputError
from temdiff_jax.evaluation.protocol import Case
from temdiff_jax.inverse.tikhonov import settings_for
from temdiff_jax.model import NUM_SERIES
from temdiff_jax.reconstruction import multigrid
from temdiff_jax.series import inputs
from temdiff_jax.series.grids import grids_of, renormalised

CASE = Case(20, 10)
STEPS = multigrid.Steps((2, 1), (2, 2))


@pytest.fixture(scope="module")
def truth():
    rng = np.random.default_rng(0)
    coarse = rng.random((4, 4, 4)).astype(np.float32)
    return np.kron(coarse, np.ones((4, 4, 4), np.float32))


@pytest.fixture(scope="module")
def problem(truth):
    return evaluate_prior.simulate(truth, CASE, 3, 10.0)


def test_a_coarse_grid_is_what_binned_tilts_alone_would_give(problem):
    """Units, noise floor and voxel size as in training, where no fine grid is known."""
    coarse = renormalised(problem.binned(2))
    fine = problem.tilts * problem.units.contrast
    fine = fine + problem.background() * problem.units.contrast
    count, nu, ny = fine.shape
    cells = fine.reshape(count, nu // 2, 2, ny // 2, 2)
    alone = inputs.normalise(jnp.mean(cells, axis=(2, 4)) / 2, coarse.geometry)
    np.testing.assert_allclose(coarse.tilts, alone.tilts, rtol=1e-3, atol=2e-3)
    contrasts = [float(p.units.contrast) for p in (coarse, alone)]
    np.testing.assert_allclose(contrasts[0], contrasts[1], rtol=1e-4)
    assert float(coarse.voxel_nm) == 20.0
    floor = 0.02**2 * np.var(np.asarray(coarse.tilts), axis=(1, 2))
    variance = 1 / np.asarray(coarse.precision.weight)
    assert np.all(variance >= 0.999 * floor[:, None, None])


def test_the_features_of_a_coarse_grid_tell_its_voxel_size(problem):
    grids = grids_of(problem, settings_for(CASE.angles_deg), (2, 1))
    sizes = [float(grid.shown.features[NUM_SERIES]) for grid in grids]
    np.testing.assert_allclose(sizes, [np.log(2.0), 0.0], atol=1e-6)
    assert [grid.field_of_view for grid in grids] == [(8, 8, 8), (16, 16, 16)]


def test_a_network_that_answers_nothing_is_its_linear_guess(
    truth, problem, linear_prior
):
    prior, key = linear_prior, jax.random.key(0)
    drawn = evaluate_prior.draw(prior, truth, problem, STEPS, key, 3)
    assert drawn.samples.shape == (3, 16, 16, 16)
    np.testing.assert_allclose(drawn.mean, drawn.base, atol=1e-5)
    np.testing.assert_allclose(drawn.gains, 0.0, atol=1e-3)
    assert np.std(drawn.samples - drawn.mean) > 0.1
    again = evaluate_prior.draw(prior, truth, problem, STEPS, key, 3)
    np.testing.assert_array_equal(again.samples, drawn.samples)


def test_samples_without_tilts_have_the_power_of_the_card(linear_prior):
    """White, of unit variance, as the spectrum of the tiny prior says."""
    drawn = evaluate_prior.draw_free(
        jax.random.key(0), linear_prior, 20.0, shape=(16, 16, 16), count=4
    )
    assert drawn.shape == (4, 16, 16, 16)
    np.testing.assert_allclose(np.std(drawn), 1.0, rtol=0.06)
    neighbours = np.mean(np.asarray(drawn[:, 1:] * drawn[:, :-1]))
    assert abs(neighbours) < 0.05


def test_figures_of_exact_samples():
    """Truth and samples of one law: everything is as the theory has it."""
    rng = np.random.default_rng(1)
    shape, count = (16, 16, 16), 8
    drawn = []
    for _ in range(6):
        mean = rng.normal(size=shape)
        truth = mean + rng.normal(size=shape)
        samples = mean + rng.normal(size=(count, *shape))
        drawn.append(
            evaluate_prior.Drawn(
                truth,
                mean * 0.0,
                mean,
                samples,
                np.zeros(5),
                np.ones(shape),
                mean * 0.0,
            )
        )
    figures = evaluate_prior.row(drawn)
    assert abs(float(figures["mean of 8"]) + 10 * np.log10(1 + 1 / 8)) < 0.1
    assert abs(float(figures["one sample"]) + 3.01) < 0.1
    ratios = [float(v) for v in figures["error over spread, bin 1, 2, 4"].split(", ")]
    shares = [float(v) for v in figures["within 90 %, bin 1, 2, 4"].split(", ")]
    np.testing.assert_allclose(ratios, 1.0, atol=0.06)
    np.testing.assert_allclose(shares, 0.9, atol=0.03)
    head = "head of the mean call: error over spread, within 90 %, correlation"
    assert figures[head].startswith(("1.00, 0.90", "1.01, 0.90", "0.99, 0.90"))
    shells = [float(v) for v in figures["spectrum by shell, dB"].split()]
    np.testing.assert_allclose(shells[1:], 0.0, atol=0.5)
    text = evaluate_prior.page({"10/1": figures})
    assert text.startswith("| | 10/1 |\n|---|---|\n") and "| one sample | -" in text


def test_volumes_that_cannot_be_used_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, volume=np.zeros((8, 8, 8), np.uint8))
    for name, size, message in (
        (f"{path}.no:volume", 8, "found no file"),
        (f"{path}:v", 8, "expected the key 'v'"),
        (f"{path}:volume", 9, "expected at most 8"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate_prior.read_volume(name, size)
