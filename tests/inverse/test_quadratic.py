"""The anchored least-squares update against dense linear algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.inverse.quadratic import (
    Metric,
    apply_metric,
    negative_laplacian,
    proximal_update,
)
from temdiff_jax.projector import project

solve = jax.jit(proximal_update, static_argnames="num_iters")

EXTENTS = (4, 6, 2)
SIZE = 48


def array(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def dense_laplacian(extents):
    """Sum over neighbours of (e_a - e_b)(e_a - e_b)^T: Neumann by construction."""
    size = int(np.prod(extents))
    number = np.arange(size).reshape(extents)
    matrix = np.zeros((size, size))
    for axis in range(3):
        lower = np.take(number, range(extents[axis] - 1), axis).ravel()
        upper = np.take(number, range(1, extents[axis]), axis).ravel()
        for a, b in zip(lower, upper):
            matrix[a, a] += 1
            matrix[b, b] += 1
            matrix[a, b] -= 1
            matrix[b, a] -= 1
    return matrix


@pytest.fixture
def problem(x64):
    """Geometry, dense A of the whole volume, guess, tilts and per-ray weights."""
    geometry = TiltGeometry.from_degrees(
        [-55.0, -10.0, 25.0],
        thickness=4,
        width=4,
        height=2,
        lateral_margin=1,
        dtype=jnp.float64,
    )
    assert geometry.volume_shape == EXTENTS
    # Row by row; tests/projector compares the projector with loops over rays.
    units = jnp.eye(SIZE).reshape(SIZE, *EXTENTS)
    rows = jax.vmap(project, (0, None))(units, geometry)
    matrix = np.asarray(rows).reshape(SIZE, -1).T
    guess = array(EXTENTS)
    tilts = array(geometry.tilts_shape, 1)
    weight = np.abs(array(geometry.tilts_shape, 2)) + 0.2
    return geometry, matrix, guess, tilts, weight


def update(problem, metric, num_iters=200, spread=1.0):
    geometry, _, guess, tilts, weight = problem
    return solve(
        jnp.asarray(guess),
        jnp.asarray(tilts),
        geometry,
        jnp.asarray(weight),
        Metric(*(jnp.asarray(value, jnp.float64) for value in metric)),
        num_iters=num_iters,
        spread=jnp.asarray(spread, jnp.float64),
    )


@pytest.mark.parametrize("smoothness", [0.0, 1.7])
@pytest.mark.parametrize("ridge_per_voxel", [False, True])
def test_update_equals_the_dense_minimiser(problem, smoothness, ridge_per_voxel):
    _, matrix, guess, tilts, weight = problem
    ridge = np.abs(array(EXTENTS, 3)) + 0.5 if ridge_per_voxel else np.float64(0.3)
    precision = smoothness * dense_laplacian(EXTENTS) + np.diag(
        np.broadcast_to(ridge, EXTENTS).ravel()
    )
    normal = matrix.T @ (weight.ravel()[:, None] * matrix) + precision
    rhs = matrix.T @ (weight.ravel() * tilts.ravel()) + precision @ guess.ravel()
    expected = np.linalg.solve(normal, rhs).reshape(EXTENTS)
    volume, info = update(problem, Metric(smoothness, jnp.asarray(ridge)))
    np.testing.assert_allclose(volume, expected, rtol=0, atol=1e-9)
    assert info.relative_residual[-1] < 1e-10


@pytest.mark.parametrize("smoothness", [0.0, 0.8])
def test_update_equals_the_form_in_the_space_of_the_tilts(problem, smoothness):
    """x0 + M^-1 A^T (A M^-1 A^T + W^-1)^-1 (y - A x0), by push-through."""
    _, matrix, guess, tilts, weight = problem
    precision = smoothness * dense_laplacian(EXTENTS) + 0.4 * np.eye(SIZE)
    spread = np.linalg.solve(precision, matrix.T)
    gain = matrix @ spread + np.diag(1 / weight.ravel())
    step = spread @ np.linalg.solve(gain, tilts.ravel() - matrix @ guess.ravel())
    volume, _ = update(problem, Metric(smoothness, 0.4))
    np.testing.assert_allclose(volume, guess + step.reshape(EXTENTS), atol=1e-9)


@pytest.mark.parametrize("smoothness", [0.0, 0.8])
def test_guess_of_uneven_spread_equals_the_gaussian_with_that_covariance(
    problem, smoothness
):
    """x0 + C A^T (A C A^T + W^-1)^-1 (y - A x0) with C = D M^-1 D."""
    _, matrix, guess, tilts, weight = problem
    spread = np.abs(array(EXTENTS, 4)) + 0.3
    precision = smoothness * dense_laplacian(EXTENTS) + 0.4 * np.eye(SIZE)
    covariance = spread.ravel()[:, None] * np.linalg.inv(precision) * spread.ravel()
    image = covariance @ matrix.T
    gain = matrix @ image + np.diag(1 / weight.ravel())
    step = image @ np.linalg.solve(gain, tilts.ravel() - matrix @ guess.ravel())
    volume, _ = update(problem, Metric(smoothness, 0.4), spread=spread)
    np.testing.assert_allclose(volume, guess + step.reshape(EXTENTS), atol=1e-9)
    # The same factor everywhere is a weaker metric.
    even, _ = update(problem, Metric(smoothness, 0.4), spread=2.0)
    weaker, _ = update(problem, Metric(smoothness / 4, 0.1))
    np.testing.assert_allclose(even, weaker, atol=1e-9)


def test_a_guess_that_fits_the_tilts_stays(problem):
    geometry, matrix, guess, _, weight = problem
    tilts = (matrix @ guess.ravel()).reshape(geometry.tilts_shape)
    volume, _ = update((geometry, matrix, guess, tilts, weight), Metric(0.5, 0.1))
    np.testing.assert_allclose(volume, guess, atol=1e-12)


def test_the_weaker_the_anchor_the_closer_the_fit(problem):
    _, matrix, _, tilts, weight = problem
    misfits = []
    for ridge in (100.0, 1.0, 0.01):
        volume, _ = update(problem, Metric(0.0, ridge))
        residual = matrix @ np.asarray(volume).ravel() - tilts.ravel()
        misfits.append(np.sum(weight.ravel() * residual**2))
    assert misfits[0] > misfits[1] > misfits[2]


@pytest.mark.slow
def test_update_runs_under_vmap_and_jit(problem):
    geometry, _, guess, tilts, weight = problem
    guesses = jnp.stack([jnp.asarray(guess), jnp.zeros(EXTENTS)])

    @jax.jit
    @jax.vmap
    def both(start):
        metric = Metric(0.5, 0.2)
        return proximal_update(
            start, jnp.asarray(tilts), geometry, weight, metric, num_iters=200
        )[0]

    for start, volume in zip(guesses, both(guesses)):
        alone, _ = update((geometry, None, start, tilts, weight), Metric(0.5, 0.2))
        np.testing.assert_allclose(volume, alone, atol=1e-10)


@pytest.mark.parametrize("extents", [(4, 6, 2), (1, 5, 3), (3, 1, 1), (1, 1, 1)])
def test_laplacian_equals_the_dense_one(extents, x64):
    volume = array(extents)
    expected = dense_laplacian(extents) @ volume.ravel()
    np.testing.assert_allclose(
        negative_laplacian(jnp.asarray(volume)), expected.reshape(extents), atol=1e-13
    )


def test_laplacian_is_symmetric_and_never_negative(x64):
    a, b = jnp.asarray(array(EXTENTS)), jnp.asarray(array(EXTENTS, 1))
    left = jnp.vdot(a, negative_laplacian(b))
    np.testing.assert_allclose(left, jnp.vdot(negative_laplacian(a), b), rtol=1e-12)
    assert jnp.vdot(a, negative_laplacian(a)) > 0


def test_laplacian_is_zero_on_constants():
    np.testing.assert_array_equal(negative_laplacian(jnp.full(EXTENTS, 3.7)), 0.0)


@pytest.mark.slow
def test_laplacian_reflects_at_the_borders(x64):
    """The same as inside a volume continued by its mirror image."""
    volume = jnp.asarray(array((5, 4, 3)))
    mirrored = jnp.pad(volume, 2, mode="symmetric")
    inner = negative_laplacian(mirrored)[2:-2, 2:-2, 2:-2]
    np.testing.assert_allclose(negative_laplacian(volume), inner, atol=1e-13)


def test_metric_adds_its_two_terms(x64):
    volume = jnp.asarray(array(EXTENTS))
    np.testing.assert_allclose(
        apply_metric(volume, Metric(2.0, 0.5)),
        2.0 * negative_laplacian(volume) + 0.5 * volume,
        atol=1e-14,
    )
