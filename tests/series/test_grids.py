"""Grids of one series: binned volumes and what a regression adds."""

import jax
import jax.numpy as jnp
import numpy as np

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.inverse.tikhonov import TikhonovSettings
from temdiff_jax.projector import project
from temdiff_jax.series import grids, inputs

SETTINGS = TikhonovSettings(2.0, 0.05, 10)
SHAPE = (8, 16, 12)


def made():
    geometry = TiltGeometry.from_degrees(
        np.linspace(-20.0, 20.0, 5), thickness=8, width=16, height=12
    )
    volume = 3.0 + jax.random.uniform(jax.random.key(0), geometry.volume_shape)
    return inputs.prepare(project(volume, geometry), geometry, SETTINGS), volume


def test_a_cube_becomes_its_mean():
    volume = jnp.arange(4 * 6 * 2.0).reshape(4, 6, 2)
    found = grids.binned(volume, 2)
    assert found.shape == (2, 3, 1)
    assert float(found[1, 2, 0]) == float(jnp.mean(volume[2:, 4:, :]))


def test_a_regression_comes_back_in_input_units_on_every_grid():
    problem, _ = made()
    given = 3.0 + jax.random.normal(jax.random.key(1), SHAPE)
    found = grids.grids_of(problem, SETTINGS, (2, 1), given)
    for grid, factor in zip(found, (2, 1)):
        back = grid.to_input_units(grid.shown.regression)
        np.testing.assert_allclose(back, grids.binned(given, factor), atol=2e-5)
        assert grid.shown.best is grid.shown.regression


def test_without_a_regression_the_quadratic_estimate_is_the_best():
    problem, _ = made()
    (grid,) = grids.grids_of(problem, SETTINGS, (1,))
    assert grid.shown.regression is None and grid.shown.best is grid.shown.tikhonov
