"""The primal-dual iteration against what is known of its minimiser."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax import baselines, layout, projector
from temdiff_jax.inverse import quadratic
from temdiff_jax.series import inputs

tv = importlib.import_module("temdiff_jax.baselines.tv")
run_tv = jax.jit(tv.tv_normalised)


def normalised(scene):
    return inputs.normalise(layout.tilts_to_core(scene.tilts), scene.geometry)


def minimise(scene, lam, iterations):
    return run_tv(normalised(scene), lam=lam, iterations=iterations)


@pytest.mark.slow
def test_gradient_and_its_adjoint():
    keys = jax.random.split(jax.random.key(0))
    volume = jax.random.normal(keys[0], (5, 4, 3))
    field = jax.random.normal(keys[1], (3, 5, 4, 3))
    left = jnp.vdot(tv.gradient(volume), field)
    right = jnp.vdot(volume, tv.gradient_adjoint(field))
    assert float(left) == pytest.approx(float(right), rel=1e-5)
    laplacian = tv.gradient_adjoint(tv.gradient(volume))
    expected = quadratic.negative_laplacian(volume)
    np.testing.assert_allclose(laplacian, expected, atol=1e-5)


@pytest.mark.slow
def test_gradient_norm_is_within_its_bound():
    waves = jnp.indices((12, 12, 12)).sum(axis=0) % 2 * 2.0 - 1.0
    ratio = jnp.sum(tv.gradient(waves) ** 2) / jnp.sum(waves**2)
    assert 10.0 < float(ratio) <= tv.GRADIENT_NORM_SQUARED


@pytest.mark.parametrize("radius", [0.0, 0.5])
def test_ball(radius):
    field = jax.random.normal(jax.random.key(1), (3, 4, 4, 4))
    inside = tv.project_to_ball(field, jnp.float32(radius))
    length = jnp.linalg.norm(field, axis=0)
    expected = jnp.minimum(length, radius)
    np.testing.assert_allclose(jnp.linalg.norm(inside, axis=0), expected, atol=1e-6)


@pytest.mark.slow
def test_without_penalty_it_is_least_squares(noisy):
    problem = normalised(noisy)
    volume = minimise(noisy, 0.0, 300)
    start = jnp.zeros(noisy.geometry.volume_shape)
    solution, _ = quadratic.proximal_update(
        start,
        problem.tilts,
        noisy.geometry,
        problem.precision,
        quadratic.Metric(0.0, 0.0),
        num_iters=60,
    )
    zero = jnp.zeros_like(volume)
    at_zero, reached, best = (
        float(tv.objective(x, problem, 0.0)) for x in (zero, volume, solution)
    )
    assert reached - best < 0.01 * (at_zero - best)


@pytest.mark.slow
def test_a_huge_penalty_leaves_a_constant(noisy):
    flat = baselines.tv(noisy.tilts, noisy.angles, lam=1e5)
    free = baselines.tv(noisy.tilts, noisy.angles, lam=0.0)
    assert np.ptp(flat) < 1e-3 * np.ptp(free)


@pytest.mark.slow
@pytest.mark.parametrize("lam", [0.1, 1.0, 10.0])
def test_the_default_number_of_steps_is_enough(lam, noisy):
    problem = normalised(noisy)

    def value(volume):
        return float(tv.objective(volume, problem, lam))

    zero = value(jnp.zeros(noisy.geometry.volume_shape))
    reached = value(minimise(noisy, lam, tv.NUM_ITERS))
    best = value(minimise(noisy, lam, 3000))
    assert best <= reached < best + 0.05 * (zero - best)


@pytest.mark.slow
def test_the_minimum_is_below_its_neighbours(noisy):
    problem = normalised(noisy)
    volume = minimise(noisy, 1.0, 3000)
    lowest = tv.objective(volume, problem, 1.0)
    truth = layout.volume_to_core(noisy.volume)
    directions = [
        jax.random.normal(jax.random.key(2), volume.shape),
        truth - truth.mean(),
        projector.backproject(problem.tilts, noisy.geometry) / 100.0,
    ]
    for direction in directions:
        for step in (-0.05, 0.05):
            other = volume + step * direction
            assert tv.objective(other, problem, 1.0) > lowest
