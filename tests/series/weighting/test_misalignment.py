"""Series drawn from the model that the estimate assumes, small enough for matrices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.inverse.precision import low_rank
from temdiff_jax.inverse.problem import Problem, Units
from temdiff_jax.inverse.quadratic import Metric, apply_metric, proximal_update
from temdiff_jax.projector import project
from temdiff_jax.series.weighting import (
    Spread,
    derivative_images,
    estimate_misalignment,
    scale_images,
)

# Compiles for tens of seconds.

GEOMETRY = TiltGeometry.from_degrees(
    np.arange(-12.0, 13.0, 3.0), thickness=6, width=16, height=12
)
NO_UNITS = Units(jnp.zeros(()), jnp.ones(()))
METRIC = Metric(1.0, 0.05)
SIGMA = 0.2
WEIGHT = jnp.full((GEOMETRY.num_tilts, 1, 1), 1 / SIGMA**2)
SPREAD = Spread(tilt_rad=1e-6, rotation_rad=1e-6, magnification=1e-6)
ITERATIONS = 60
SIZE = int(np.prod(GEOMETRY.volume_shape))


@pytest.fixture(scope="module")
def metric_matrix():
    """M, float64 ``[voxels, voxels]``."""
    unit = jnp.eye(SIZE).reshape(SIZE, *GEOMETRY.volume_shape)
    rows = jax.vmap(lambda v: apply_metric(v, METRIC))(unit)
    return np.asarray(rows, np.float64).reshape(SIZE, SIZE)


@pytest.fixture(scope="module")
def draw(metric_matrix):
    """``(factor, seed) -> tilts`` misaligned by so much of ``SPREAD``."""
    root = np.linalg.cholesky(metric_matrix)

    def series(factor, seed):
        rng = np.random.default_rng(seed)
        volume = np.linalg.solve(root.T, rng.standard_normal(SIZE))
        volume = jnp.asarray(volume.reshape(GEOMETRY.volume_shape), jnp.float32)
        columns = scale_images(derivative_images(volume, GEOMETRY), SPREAD)
        errors = factor * rng.standard_normal(columns.shape[:2])
        moved = jnp.einsum("kmuy,km->kuy", columns, jnp.asarray(errors, jnp.float32))
        noise = SIGMA * rng.standard_normal(GEOMETRY.tilts_shape)
        return project(volume, GEOMETRY) + moved + jnp.asarray(noise, jnp.float32)

    return series


@functools.partial(jax.jit, static_argnames="iterations")
def solve(tilts, weight, *, iterations=ITERATIONS):
    zero = jnp.zeros(GEOMETRY.volume_shape)
    volume, _ = proximal_update(
        zero, tilts, GEOMETRY, weight, METRIC, num_iters=iterations
    )
    return volume


@jax.jit
def estimate(tilts, weight=WEIGHT):
    return estimate_misalignment(
        Problem(GEOMETRY, tilts, weight, NO_UNITS),
        METRIC,
        SPREAD,
        solve(tilts, weight),
        num_iters=ITERATIONS,
        max_steps=30,
    )


@pytest.mark.slow
@pytest.mark.parametrize("factor", [0.3, 1.0])
def test_drawn_misalignment_is_found(draw, factor):
    found = [float(estimate(draw(factor, seed))) for seed in range(6)]
    # Columns come from the estimate, which is misled the more the larger the errors.
    assert 0.6 * factor < np.mean(found) < 1.1 * factor
    assert np.std(found) < 0.25 * factor


@pytest.mark.slow
def test_aligned_series_is_told_from_a_misaligned_one(draw):
    assert [float(estimate(draw(0.0, seed))) for seed in range(3)] == [0.0] * 3


@pytest.mark.slow
def test_likelihood_of_the_dense_model_is_highest_there(draw, metric_matrix):
    tilts = draw(0.6, 3)
    found = float(estimate(tilts))
    plain = scale_images(derivative_images(solve(tilts, WEIGHT), GEOMETRY), SPREAD)
    volume = solve(tilts, low_rank(WEIGHT, found * plain))
    columns = scale_images(derivative_images(volume, GEOMETRY), SPREAD)
    unit = jnp.eye(SIZE).reshape(SIZE, *GEOMETRY.volume_shape)
    forward = np.asarray(jax.vmap(lambda v: project(v, GEOMETRY))(unit), np.float64)
    forward = forward.reshape(SIZE, -1)
    prior = forward.T @ np.linalg.solve(metric_matrix, forward)
    count, each = GEOMETRY.num_tilts, forward.shape[1] // GEOMETRY.num_tilts
    modes = np.zeros((count, each, count, each))
    flat = np.asarray(columns, np.float64).reshape(count, -1, each)
    for k in range(count):
        modes[k, :, k] = flat[k].T @ flat[k]
    modes = modes.reshape(count * each, -1)
    noise = SIGMA**2 * np.eye(len(modes))
    data = np.asarray(tilts, np.float64).ravel()

    def log_likelihood(factor):
        root = np.linalg.cholesky(prior + noise + factor**2 * modes)
        white = np.linalg.solve(root, data)
        return -0.5 * white @ white - np.sum(np.log(np.diag(root)))

    grid = found * np.array([0.5, 0.7, 0.85, 1.0, 1.2, 1.4, 2.0])
    values = [log_likelihood(factor) for factor in grid]
    assert 2 <= int(np.argmax(values)) <= 4
    assert log_likelihood(found) - log_likelihood(0.0) > 50
    # Flat at the top: what a few random sums miss of the trace costs next to nothing.
    assert max(values) - values[3] < 0.5


@pytest.mark.slow
def test_one_tilt_that_is_far_off_does_not_speak_for_all(draw):
    tilts = draw(0.0, 5)
    spoilt = tilts.at[4].set(jnp.roll(tilts[4], 4, axis=0))
    assert float(estimate(spoilt)) < 0.3


def test_masked_tilt_says_nothing(draw):
    tilts = draw(0.6, 1)
    weight = WEIGHT.at[2].set(0.0)
    there, gone = (estimate(tilts.at[2].set(v), weight) for v in (0.0, 50.0))
    assert float(there) > 0.2
    np.testing.assert_allclose(gone, there, rtol=1e-3)


@pytest.mark.slow
def test_under_vmap_as_one_by_one(draw):
    pair = jnp.stack([draw(0.0, 0), draw(1.0, 0)])
    together = jax.vmap(estimate)(pair)
    np.testing.assert_allclose(
        together, [estimate(pair[0]), estimate(pair[1])], rtol=2e-2
    )


@pytest.mark.slow
def test_proportions_are_those_that_were_told(draw):
    """Twice the spread told is half the factor found."""
    tilts = draw(0.6, 2)
    wide = Spread(*[2 * s for s in SPREAD])
    twice = jax.jit(
        lambda y: estimate_misalignment(
            Problem(GEOMETRY, y, WEIGHT, NO_UNITS),
            METRIC,
            wide,
            solve(y, WEIGHT),
            num_iters=ITERATIONS,
            max_steps=30,
        )
    )(tilts)
    assert float(twice) == pytest.approx(0.5 * float(estimate(tilts)), rel=0.1)
