"""SIRT and SART: fixed points, descent, relations between the two."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax import baselines, layout, projector
from temdiff_jax.baselines.sart import farthest_first, sart_normalised
from temdiff_jax.baselines.sirt import safe_inverse, sirt_normalised
from temdiff_jax.inverse.problem import Problem, Units

run_sirt = jax.jit(sirt_normalised)
run_sart = jax.jit(sart_normalised)


def as_problem(tilts, geometry):
    """Tilts taken as normalised already."""
    units = Units(jnp.zeros(()), jnp.ones(()))
    return Problem(geometry, tilts, jnp.ones((len(tilts), 1, 1)), units)


def core(scene):
    tilts = layout.tilts_to_core(scene.tilts)
    return as_problem(tilts, scene.geometry), layout.volume_to_core(scene.volume)


def one_sirt(volume, problem, **options):
    return run_sirt(problem, volume, iterations=1, **options)


@pytest.mark.slow
def test_sirt_never_raises_the_weighted_residual(noisy):
    problem, _ = core(noisy)
    rows = safe_inverse(projector.ray_lengths(noisy.geometry))
    volume = jnp.zeros(noisy.geometry.volume_shape)
    norms = []
    for _ in range(12):
        residual = problem.tilts - projector.project(volume, noisy.geometry)
        norms.append(float(jnp.sum(rows * residual**2)))
        volume = one_sirt(volume, problem)
    assert np.all(np.diff(norms) < 0)
    assert norms[-1] < 0.2 * norms[0]


@pytest.mark.slow
def test_sart_sweeps_lower_the_residual(narrow):
    problem, _ = core(narrow)
    order = farthest_first(narrow.angles)
    volume = jnp.zeros(narrow.geometry.volume_shape)
    norms = []
    for _ in range(8):
        residual = problem.tilts - projector.project(volume, narrow.geometry)
        norms.append(float(jnp.linalg.norm(residual)))
        volume = run_sart(problem, volume, order=order, lam=0.5, sweeps=1)
    assert np.all(np.diff(norms) < 0)
    assert norms[-1] < 0.1 * norms[0]


@pytest.mark.slow
def test_the_truth_is_a_fixed_point(full):
    problem, truth = core(full)
    order = farthest_first(full.angles)
    for moved in (
        one_sirt(truth, problem),
        run_sart(problem, truth, order=order, lam=1.0, sweeps=1),
    ):
        np.testing.assert_allclose(moved, truth, atol=1e-5)


def test_iterations_continue_where_they_stopped(noisy):
    problem, _ = core(noisy)
    half = run_sirt(problem, iterations=3)
    twice = run_sirt(problem, half, iterations=3)
    whole = run_sirt(problem, iterations=6)
    np.testing.assert_allclose(twice, whole, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("angle", [0.0, 12.0])
def test_with_one_tilt_sart_is_sirt(angle, noisy):
    tilts, angles = noisy.tilts[:1], [angle]
    same = {"lateral_margin": 0}
    one = baselines.sart(tilts, angles, lam=0.7, sweeps=4, **same)
    other = baselines.sirt(tilts, angles, relaxation=0.7, iterations=4, **same)
    np.testing.assert_allclose(one, other, atol=1e-4 * np.abs(other).max())


@pytest.mark.slow
def test_sart_follows_the_formula_tilt_by_tilt():
    # Against dense matrices made column by column; steep and shallow tilts mixed.
    from temdiff_jax.geometry import TiltGeometry

    angles = np.array([-60.0, 10.0, 50.0])
    rays = TiltGeometry.from_degrees(
        angles, thickness=5, width=7, height=1, lateral_margin=1
    )
    nz, nx, _ = rays.volume_shape
    columns = jnp.eye(nz * nx).reshape(nz, nx, nz * nx)
    matrices = np.asarray(projector.project(columns, rays), np.float64)
    measured = np.random.default_rng(3).normal(size=(3, 7, 1))
    order, lam = np.array([1, 2, 0], np.int32), 0.6
    expected = np.zeros(nz * nx)
    for _ in range(2):
        for k in order:
            matrix = matrices[k]
            ratio = (measured[k, :, 0] - matrix @ expected) / matrix.sum(1)
            sums = matrix.sum(0)
            step = np.divide(
                matrix.T @ ratio, sums, out=np.zeros_like(sums), where=sums > 1e-3
            )
            expected = expected + lam * step
    problem = as_problem(jnp.asarray(measured, jnp.float32), rays)
    found = run_sart(problem, order=order, lam=lam, sweeps=2)
    np.testing.assert_allclose(np.ravel(found), expected, atol=1e-4)


@pytest.mark.slow
def test_positivity_holds_in_the_units_of_the_input(noisy):
    options = {"lateral_margin": 0, "iterations": 20}
    free = baselines.sirt(noisy.tilts, noisy.angles, **options)
    bound = baselines.sirt(noisy.tilts, noisy.angles, positivity=True, **options)
    assert free.min() < -0.01
    assert bound.min() > -1e-5
    assert (bound < 1e-5).any()


def test_farthest_first_spreads_the_tilts():
    angles = np.arange(-60.0, 61.0, 15.0)
    order = farthest_first(angles)
    assert order.dtype == np.int32
    assert sorted(order) == list(range(9))
    assert angles[order[0]] == 0.0
    assert set(angles[order[1:3]]) == {-60.0, 60.0}
    assert set(angles[order[3:5]]) == {-30.0, 30.0}


def test_opposite_ends_of_the_full_range_are_one_direction():
    order = farthest_first([-90.0, -45.0, 0.0, 45.0, 90.0])
    # After 0 and one of the two vertical views the other is the last choice.
    assert list(order[:2]) == [2, 0]
    assert order[-1] == 4


def test_farthest_first_of_equal_angles_keeps_every_tilt():
    assert sorted(farthest_first([3.0, 3.0, 3.0])) == [0, 1, 2]
