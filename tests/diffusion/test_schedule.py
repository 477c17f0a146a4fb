"""Noise levels to sample on and to train on."""

import jax
import numpy as np
import pytest

from temdiff_jax.diffusion import schedule


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
