"""Pulling guesses to tilts, and the posterior that the whole sampler draws from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.diffusion import algebra, consistency, schedule
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.projector import project
from temdiff_jax.projector.quadratic import Metric

NZ, NX, NY, MARGIN = 6, 6, 1, 2
ANGLES = (-50.0, -20.0, 0.0, 25.0, 55.0)


@pytest.fixture(scope="module")
def geometry():
    return TiltGeometry.from_degrees(
        ANGLES, thickness=NZ, width=NX, height=NY, lateral_margin=0
    )


@pytest.fixture(scope="module")
def wide():
    return TiltGeometry.from_degrees(
        ANGLES, thickness=NZ, width=NX, height=NY, lateral_margin=MARGIN
    )


def frame_for(geometry, weight, unit=1.0, seed=0):
    rng = np.random.default_rng(seed)
    return consistency.ResidualFrame(
        jnp.asarray(rng.normal(size=geometry.volume_shape), jnp.float32),
        jnp.float32(unit),
        jnp.asarray(rng.normal(size=geometry.tilts_shape), jnp.float32),
        jnp.full((len(ANGLES), 1, 1), weight, jnp.float32),
    )


def residuals(count=2):
    rng = np.random.default_rng(5)
    return jnp.asarray(rng.normal(size=(count, NZ, NX, NY)), jnp.float32)


def dense(geometry) -> np.ndarray:
    """The projector as a matrix [rays, voxels]."""
    basis = jnp.eye(NZ * NX).reshape(NZ * NX, NZ, NX, 1)
    columns = jax.vmap(lambda volume: project(volume, geometry))(basis)
    return np.asarray(columns, np.float64).reshape(NZ * NX, -1).T


def test_residuals_and_volumes_are_inverse_and_the_margin_keeps_the_base(wide):
    frame = frame_for(wide, 1.0, unit=0.3)
    residual = residuals()[0]
    volume = consistency.to_volume(residual, frame, wide)
    assert volume.shape == wide.volume_shape
    np.testing.assert_array_equal(volume[:, :MARGIN], frame.base[:, :MARGIN])
    np.testing.assert_array_equal(volume[:, -MARGIN:], frame.base[:, -MARGIN:])
    expected = frame.base[:, MARGIN:-MARGIN] + 0.3 * residual
    np.testing.assert_allclose(volume[:, MARGIN:-MARGIN], expected, rtol=1e-5)
    back = consistency.to_residual(volume, frame, wide)
    np.testing.assert_allclose(back, residual, atol=1e-5)


@jax.jit
def pull(frame, geometry, metric, sigma, x0):
    rule = consistency.proximal_consistency(frame, geometry, metric, num_iters=40)
    return rule.apply(x0, sigma, rule.init())[0]


def test_weight_zero_changes_nothing(wide):
    x0 = residuals()
    out = pull(frame_for(wide, 0.0), wide, Metric(0.5, 0.1), 1.0, x0)
    np.testing.assert_allclose(out, x0, atol=1e-6)


def test_at_vanishing_noise_the_guess_stays(wide):
    x0, frame = residuals(), frame_for(wide, 10.0)
    out = pull(frame, wide, Metric(0.0, 1.0), 1e-3, x0)
    np.testing.assert_allclose(out, x0, atol=1e-3)
    moved = pull(frame, wide, Metric(0.0, 1.0), 10.0, x0)
    assert np.max(np.abs(moved - x0)) > 0.1


@pytest.mark.parametrize("sigma", [0.5, 20.0])
def test_p2_is_the_posterior_mean_of_a_gaussian_prior(geometry, sigma):
    weight, unit = 4.0, 0.5
    frame, x0 = frame_for(geometry, weight, unit), residuals()
    # Prior of the residual around the guess: variance r^2 = s^2 / (s^2 + 1) per unit.
    metric = Metric(0.0, 1.0 / unit**2)
    matrix = dense(geometry) * unit
    rho = (sigma**2 + 1) / sigma**2
    base = dense(geometry) @ np.ravel(frame.base)
    data = np.ravel(frame.tilts) - base
    normal = weight * matrix.T @ matrix + rho * np.eye(NZ * NX)
    out = pull(frame, geometry, metric, sigma, x0)
    for guess, got in zip(x0, out, strict=True):
        right = weight * matrix.T @ data + rho * np.ravel(guess)
        expected = np.linalg.solve(normal, right)
        np.testing.assert_allclose(np.ravel(got), expected, atol=2e-4)


def test_sampler_draws_from_the_posterior_of_a_gaussian_prior(geometry):
    """N(0, 1) voxels, linear rays: mean and covariance are known in closed form."""
    weight, count = 2.0, 512
    rng = np.random.default_rng(3)
    matrix = dense(geometry)
    truth = rng.normal(size=NZ * NX)
    tilts = matrix @ truth + rng.normal(size=len(matrix)) / np.sqrt(weight)
    frame = consistency.ResidualFrame(
        jnp.zeros(geometry.volume_shape),
        jnp.float32(1.0),
        jnp.asarray(tilts.reshape(geometry.tilts_shape), jnp.float32),
        jnp.full((len(ANGLES), 1, 1), weight, jnp.float32),
    )
    # From 80 on: what a start around 0 instead of the mean leaves behind is small.
    sigmas = schedule.karras(50, sigma_max=80.0)

    @jax.jit
    def program(key, x, frame):
        rule = consistency.proximal_consistency(
            frame, geometry, Metric(0.0, 1.0), num_iters=16
        )
        guess = algebra.predictor(lambda x, sigma: x / (1 + sigma**2))
        kernel = algebra.ddim(algebra.constrain(guess, rule), eta=0.0)
        return algebra.run(kernel, key, x, sigmas)[0].x

    start = sigmas[0] * jax.random.normal(jax.random.key(0), (count, NZ, NX, NY))
    samples = np.asarray(program(jax.random.key(1), start, frame), np.float64)
    samples = samples.reshape(count, -1)
    precision = weight * matrix.T @ matrix
    covariance = np.linalg.inv(precision + np.eye(NZ * NX))
    mean = covariance @ (weight * matrix.T @ tilts)
    error = (samples.mean(axis=0) - mean) / (samples.std(axis=0) / np.sqrt(count))
    assert np.max(np.abs(error)) < 4.0
    # In the eigenbasis of the data, where directions are independent.
    strength, basis = np.linalg.eigh(precision)
    ratio = np.var(samples @ basis, axis=0) * (1.0 + strength)
    measured, unseen = ratio[strength > 1.0], ratio[strength < 0.1]
    assert measured.size > 5 and unseen.size > 5
    assert 0.8 < measured.mean() < 1.25
    assert 0.8 < unseen.mean() < 1.25
