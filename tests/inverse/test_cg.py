import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.inverse import cg


def positive_matrix(size, *, condition=10.0, seed=0):
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.standard_normal((size, size)))
    return (basis * np.geomspace(1.0, condition, size)) @ basis.T


def solve(matrix, rhs, start=None, *, num_iters):
    start = jnp.zeros_like(rhs) if start is None else start
    return cg.conjugate_gradient(
        lambda x: jnp.tensordot(matrix, x, 1), rhs, start, num_iters=num_iters
    )


def test_equals_numpy_solve_after_as_many_steps_as_unknowns(x64):
    matrix = positive_matrix(9)
    rhs = np.random.default_rng(1).standard_normal(9)
    x, info = solve(jnp.asarray(matrix), jnp.asarray(rhs), num_iters=9)
    np.testing.assert_allclose(x, np.linalg.solve(matrix, rhs), rtol=0, atol=1e-12)
    assert info.relative_residual[-1] < 1e-12


def test_as_many_steps_as_distinct_eigenvalues_suffice(x64):
    basis, _ = np.linalg.qr(np.random.default_rng(2).standard_normal((12, 12)))
    values = np.repeat([1.0, 4.0, 30.0], 4)
    rhs = jnp.asarray(np.random.default_rng(3).standard_normal(12))
    _, info = solve(jnp.asarray((basis * values) @ basis.T), rhs, num_iters=3)
    assert info.relative_residual[2] > 1e-3
    assert info.relative_residual[3] < 1e-12


@pytest.mark.slow
def test_the_error_in_the_energy_norm_falls_with_every_step(x64):
    matrix = positive_matrix(20, condition=1e3)
    rhs = np.random.default_rng(4).standard_normal(20)
    truth = np.linalg.solve(matrix, rhs)
    energies = []
    for num_iters in range(12):
        x, _ = solve(jnp.asarray(matrix), jnp.asarray(rhs), num_iters=num_iters)
        error = np.asarray(x) - truth
        energies.append(error @ matrix @ error)
    assert np.all(np.diff(energies) < 0)


def test_the_trace_falls_and_ends_at_the_true_residual(x64):
    matrix = positive_matrix(30, condition=5.0)
    rhs = np.random.default_rng(5).standard_normal(30)
    start = np.random.default_rng(6).standard_normal(30)
    x, info = solve(
        jnp.asarray(matrix), jnp.asarray(rhs), jnp.asarray(start), num_iters=10
    )
    trace = np.asarray(info.relative_residual)
    assert trace.shape == (11,)
    assert np.all(np.diff(trace) < 0)
    norm = np.linalg.norm(rhs)
    np.testing.assert_allclose(trace[0], np.linalg.norm(rhs - matrix @ start) / norm)
    np.testing.assert_allclose(
        trace[-1], np.linalg.norm(rhs - matrix @ np.asarray(x)) / norm, rtol=1e-6
    )


def test_steps_after_convergence_change_nothing():
    matrix = jnp.asarray(positive_matrix(6), jnp.float32)
    rhs = jnp.asarray(np.random.default_rng(7).standard_normal(6), jnp.float32)
    few, _ = solve(matrix, rhs, num_iters=8)
    many, info = solve(matrix, rhs, num_iters=300)
    assert np.all(np.isfinite(info.relative_residual))
    np.testing.assert_allclose(many, few, rtol=1e-5, atol=1e-6)


def test_starting_at_the_solution_stays_there_exactly():
    rhs = jnp.asarray([2.0, -4.0, 8.0])
    x, info = cg.conjugate_gradient(lambda v: 2 * v, rhs, rhs / 2, num_iters=5)
    np.testing.assert_array_equal(x, rhs / 2)
    np.testing.assert_array_equal(info.relative_residual, 0.0)


def test_zero_right_hand_side_gives_zero_without_nan():
    zero = jnp.zeros((2, 3))
    x, info = cg.conjugate_gradient(lambda v: 3 * v, zero, zero, num_iters=4)
    np.testing.assert_array_equal(x, zero)
    np.testing.assert_array_equal(info.relative_residual, 0.0)


@pytest.mark.parametrize("shape", [(4,), (2, 2), (1, 2, 2)])
def test_unknowns_may_have_any_shape(shape):
    scale = jnp.asarray([1.0, 2.0, 3.0, 5.0]).reshape(shape)
    rhs = jnp.ones(shape)
    x, _ = cg.conjugate_gradient(
        lambda v: scale * v, rhs, jnp.zeros(shape), num_iters=4
    )
    assert x.dtype == jnp.float32
    np.testing.assert_allclose(x, 1 / scale, rtol=1e-4)


@pytest.mark.slow
def test_vmap_equals_a_loop(x64):
    matrix = jnp.asarray(positive_matrix(7, condition=50.0))
    rhs = jnp.asarray(np.random.default_rng(8).standard_normal((3, 7)))
    # Systems of one batch converge at different steps; the last is already solved.
    rhs = rhs.at[2].set(0.0)
    together, info = jax.vmap(lambda b: solve(matrix, b, num_iters=5))(rhs)
    for i in range(3):
        alone, alone_info = solve(matrix, rhs[i], num_iters=5)
        np.testing.assert_allclose(together[i], alone, rtol=0, atol=1e-12)
        np.testing.assert_allclose(
            info.relative_residual[i], alone_info.relative_residual, atol=1e-12
        )
