"""Noise levels to sample on and to train on."""

import jax
import numpy as np
import pytest
from scipy import stats

from temdiff_jax.diffusion import schedule
from temdiff_jax.errors import InputError


@pytest.mark.parametrize("num_steps", [2, 7, 25])
def test_grid_falls_from_the_largest_to_the_smallest_level_and_zero(num_steps):
    grid = np.asarray(schedule.karras(num_steps))
    assert grid.shape == (num_steps + 1,)
    assert np.all(np.diff(grid) < 0)
    np.testing.assert_allclose(
        grid[[0, -2, -1]], [schedule.SIGMA_MAX, schedule.SIGMA_MIN, 0.0], rtol=1e-4
    )


def test_grid_is_even_in_the_root_of_the_level():
    grid = np.asarray(schedule.karras(9, sigma_max=5.0, sigma_min=0.1, rho=3.0))
    steps = np.diff(grid[:-1] ** (1 / 3))
    np.testing.assert_allclose(steps, steps[0], rtol=1e-3)


def test_one_step_goes_straight_to_zero():
    np.testing.assert_array_equal(schedule.karras(1), [schedule.SIGMA_MAX, 0.0])


def test_training_levels_are_log_normal_inside_the_range_of_the_grid():
    sigma = np.asarray(schedule.training_sigma(jax.random.key(0), (20000,)))
    assert sigma.min() >= schedule.SIGMA_MIN and sigma.max() <= schedule.SIGMA_MAX
    np.testing.assert_allclose(np.median(np.log(sigma)), -0.4, atol=0.05)
    np.testing.assert_allclose(np.std(np.log(sigma)), 1.4, atol=0.05)


GRIDS = {
    "flow_uniform": schedule.flow_uniform,
    "karras": schedule.karras,
    "ve_geometric": schedule.ve_geometric,
    "vp_cosine": schedule.vp_cosine,
    "vp_linear": schedule.vp_linear,
}


@pytest.mark.parametrize("name", GRIDS)
def test_every_grid_falls_between_the_levels_it_was_given(name, x64):
    grid = np.asarray(GRIDS[name](33, sigma_max=7.0, sigma_min=0.05))
    assert grid.shape == (34,) and grid.dtype == np.float64
    assert np.all(np.diff(grid) < 0)
    np.testing.assert_allclose(grid[[0, -2]], [7.0, 0.05], rtol=1e-9)
    assert grid[-1] == 0.0
    np.testing.assert_allclose(GRIDS[name](1, sigma_max=7.0), [7.0, 0.0], rtol=1e-12)


@pytest.mark.parametrize("name", GRIDS)
def test_grids_in_single_precision_agree_with_double(name, x64):
    double = np.asarray(GRIDS[name](33))
    with jax.enable_x64(False):
        single = GRIDS[name](33)
        assert single.dtype == np.float32
        np.testing.assert_allclose(single, double, rtol=1e-3)


@pytest.mark.slow
def test_variance_preserving_levels_follow_the_published_alpha_bar(x64):
    sigma = np.asarray(schedule.vp_linear(5))[:-1]
    slope, least = 19.9, 0.1
    decay = np.log1p(sigma**2)
    time = (np.sqrt(least**2 + 2 * slope * decay) - least) / slope
    np.testing.assert_allclose(np.diff(time), np.diff(time)[0], rtol=1e-9)
    # The published end: ab(1) = exp(-(0.1 + 20) / 2).
    end = np.sqrt(np.expm1(10.05))
    last = schedule.vp_linear(2, sigma_max=end)
    np.testing.assert_allclose(1 / (1 + last[0] ** 2), np.exp(-10.05), rtol=1e-9)

    sigma = np.asarray(schedule.vp_cosine(5))[:-1]
    first = 0.008 / 1.008 * np.pi / 2
    angle = np.arccos(np.cos(first) / np.sqrt(1 + sigma**2))
    np.testing.assert_allclose(np.diff(angle), np.diff(angle)[0], rtol=1e-6)


def test_geometric_levels_have_a_constant_ratio_and_a_uniform_log_snr(x64):
    grid = schedule.ve_geometric(9, sigma_max=8.0, sigma_min=0.5)[:-1]
    np.testing.assert_allclose(grid[1:] / grid[:-1], 16 ** (-1 / 8), rtol=1e-9)
    ends = {"log_snr_min": -2 * np.log(8.0), "log_snr_max": -2 * np.log(0.5)}
    same = schedule.log_snr_uniform(9, **ends)[:-1]
    np.testing.assert_allclose(same, grid, rtol=1e-9)


def test_default_ends_of_the_log_snr_grid_are_those_of_the_others():
    ends = np.asarray(schedule.log_snr_uniform(4))[[0, -2]]
    expected = [schedule.SIGMA_MAX, schedule.SIGMA_MIN]
    np.testing.assert_allclose(ends, expected, rtol=0.01)


def test_flow_levels_are_uniform_in_time_and_a_shift_scales_them(x64):
    grid = schedule.flow_uniform(6, sigma_max=9.0, sigma_min=0.1)[:-1]
    time = grid / (1 + grid)
    np.testing.assert_allclose(np.diff(time), np.diff(time)[0], rtol=1e-9)
    plain = schedule.flow_uniform(6, sigma_max=3.0, sigma_min=0.1)
    shifted = schedule.flow_uniform(6, sigma_max=9.0, sigma_min=0.3, shift=3.0)
    np.testing.assert_allclose(shifted, 3.0 * plain, rtol=1e-9)
    moved = 3.0 * plain / (1 + plain) / (1 + 2 * plain / (1 + plain))
    np.testing.assert_allclose(shifted / (1 + shifted), moved, rtol=1e-9)


def test_ends_may_be_traced():
    for make in GRIDS.values():
        traced = jax.jit(lambda high, make=make: make(4, sigma_max=high))
        np.testing.assert_allclose(traced(5.0)[0], 5.0, rtol=1e-4)


def normal(mean, std):
    return lambda sigma: stats.norm.cdf((np.log(sigma) - mean) / std)


def uniform(variable):
    low, high = variable(schedule.SIGMA_MIN), variable(schedule.SIGMA_MAX)
    return lambda sigma: (variable(sigma) - low) / (high - low)


# Cumulative distributions inside the range; what lies beyond is put on its ends.
CUMULATIVE = {
    "log_normal": normal(-0.4, 1.4),
    "edm": normal(np.log(2) - 1.2, 1.2),
    "logit_normal": normal(0.0, 1.0),
    "log_uniform": uniform(np.log),
    "cosine": uniform(np.arctan),
    "flow_uniform": uniform(lambda sigma: sigma / (1 + sigma)),
}


@pytest.mark.parametrize("name", sorted(schedule.TRAINING_NOISE))
def test_training_levels_have_the_quantiles_of_their_distribution(name):
    count = 50_000
    draws = schedule.training_noise(name)(jax.random.key(1), (count,))
    assert draws.dtype == np.float32
    draws = np.asarray(draws)
    assert draws.min() >= np.float32(schedule.SIGMA_MIN)
    assert draws.max() <= np.float32(schedule.SIGMA_MAX)
    levels = np.array([0.1, 0.25, 0.5, 0.75, 0.9])
    share = CUMULATIVE[name](np.quantile(draws, levels))
    # Four standard errors of an empirical quantile.
    error = 4 * np.sqrt(levels * (1 - levels) / count)
    assert np.all(np.abs(share - levels) < error)


def test_logit_normal_flow_times_are_log_normal_levels():
    sigma = schedule.training_noise("logit_normal")(jax.random.key(2), (50_000,))
    time = np.asarray(sigma / (1 + sigma))
    logit = np.log(time / (1 - time))
    np.testing.assert_allclose([logit.mean(), logit.std()], [0, 1], atol=0.02)


def test_draws_are_a_function_of_the_key_and_of_the_name_alone():
    for name in schedule.TRAINING_NOISE:
        draw = schedule.training_noise(name)
        first = draw(jax.random.key(3), (6,))
        np.testing.assert_array_equal(first, draw(jax.random.key(3), (6,)))
        assert np.any(np.asarray(first != draw(jax.random.key(4), (6,))))
    default = schedule.training_noise("log_normal")(jax.random.key(3), (6,))
    np.testing.assert_array_equal(
        default, schedule.training_sigma(jax.random.key(3), (6,))
    )


def test_unknown_training_noise_is_refused_with_the_known_names():
    with pytest.raises(InputError, match=r"expected one of \['cosine'.* got 'beta'"):
        schedule.training_noise("beta")
