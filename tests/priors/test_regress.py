"""A regression as the base of samples: one call, the same in training and in use."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.inverse.tikhonov import TikhonovSettings
from temdiff_jax.priors.regress import regress
from temdiff_jax.projector import project
from temdiff_jax.reconstruction import denoiser
from temdiff_jax.series import inputs


@pytest.fixture(scope="module")
def problem():
    geometry = TiltGeometry.from_degrees(
        np.linspace(-10.0, 10.0, 5), thickness=12, width=20, height=9
    )
    volume = 2.0 + jax.random.uniform(jax.random.key(0), geometry.volume_shape)
    settings = TikhonovSettings(2.0, 0.05, 10)
    return inputs.prepare(project(volume, geometry), geometry, settings)


def test_training_and_use_make_one_estimate(problem, regression_prior, linear_prior):
    """Windows that hold the whole field give what the one call gives."""
    trained = regress(regression_prior, problem)
    prior = dataclasses.replace(linear_prior, regression=regression_prior)
    used = denoiser.regressed(problem, prior, (64, 64, 64)).shown
    np.testing.assert_allclose(
        problem.to_input_units(used.regression), trained, atol=2e-5
    )
    plain = problem.to_input_units(used.tikhonov)
    assert float(jnp.std(trained - plain)) > 0.01 * float(jnp.std(plain))


def test_voxels_that_the_regression_does_not_know_keep_the_quadratic_estimate(
    problem, regression_prior, linear_prior
):
    known = dataclasses.replace(regression_prior, card={"voxel_size_nm": [8.0, 13.0]})
    prior = dataclasses.replace(linear_prior, regression=known)
    for size, expected in ((7.0, False), (10.0, True), (13.5, True), (20.0, False)):
        here = dataclasses.replace(problem, voxel_nm=size)
        found = denoiser.regressed(here, prior, (64, 64, 64))
        assert (found.shown.regression is not None) == expected
    assert denoiser.regressed(problem, linear_prior, (64, 64, 64)) is problem
