"""Samplers over slices: their parts against closed forms and brute force."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.diffusion import algebra, consistency, gaussian, methods, schedule
from temdiff_jax.diffusion.methods import slicewise, unguided
from temdiff_jax.errors import InputError
from temdiff_jax.inverse.problem import Measurement

# Each of these compiles for seconds.

SHAPE = (2, 3, 5)  # z, x, y


def slice_matrix(seed: int = 0, num_data: int = 4) -> np.ndarray:
    """One operator for every slice ``[num_data, z x]``, as tilts about y are."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num_data, SHAPE[0] * SHAPE[1]))


def measurement(matrix: np.ndarray, data: np.ndarray) -> Measurement:
    """``data`` [n, y] of a volume [z, x, y], slice by slice."""
    matrix = jnp.asarray(matrix)
    return Measurement(
        lambda x: matrix @ x.reshape(-1, x.shape[-1]),
        lambda r: (matrix.T @ r).reshape(*SHAPE[:2], r.shape[-1]),
        jnp.asarray(data),
        1.0,
    )


def random_data(seed: int = 1, num_data: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num_data, SHAPE[2]))


def random_volumes(count: int = 1, seed: int = 2) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(count, *SHAPE)))


def test_adjoint_of_the_circular_difference(x64):
    a, b = random_volumes(2)
    left = jnp.sum(slicewise.difference(a) * b)
    right = jnp.sum(a * slicewise.difference_adjoint(b))
    np.testing.assert_allclose(left, right, rtol=1e-12)
    np.testing.assert_allclose(jnp.sum(slicewise.difference(a), -1), 0.0, atol=1e-12)


def objective(x, matrix, data, strength):
    residual = matrix @ x.reshape(-1, x.shape[-1]) - data
    jump = np.roll(x, -1, axis=-1) - x
    return 0.5 * np.sum(residual**2) + strength * np.sum(np.abs(jump))


def brute_force(matrix, data, strength, num_iters=100_000):
    """Dual projected gradient: x = (A^T A)^-1 (A^T y - D^T p), |p| <= strength."""
    inverse = np.linalg.inv(matrix.T @ matrix)
    pulled, ny = matrix.T @ data, data.shape[1]
    d = np.roll(np.eye(ny), 1, axis=1) - np.eye(ny)  # row j: x[j + 1] - x[j]
    p = np.zeros((matrix.shape[1], ny))
    step = 1.0 / (4.0 * np.linalg.norm(inverse, 2))
    for _ in range(num_iters):
        x = inverse @ (pulled - p @ d)
        before, p = p, np.clip(p + step * (x @ d.T), -strength, strength)
        if np.max(np.abs(p - before)) < 1e-13:
            break
    return x.reshape(*SHAPE)


@pytest.mark.slow
def test_admm_tends_to_the_optimum_found_by_brute_force(x64):
    matrix, data = slice_matrix(num_data=8), random_data(num_data=8)
    problem = measurement(matrix, data)
    rho = 0.1 * float(consistency.largest_curvature(problem))
    step = slicewise.admm_tv(problem, coupling=0.1, threshold=0.3, num_iters=40)
    x = jnp.zeros((1, *SHAPE))

    def body(carry, _):
        return step(*carry), carry[0]

    start = (x, slicewise.no_duals(x))
    (x, (v, u)), path = jax.lax.scan(body, start, length=400)
    best = brute_force(matrix, data, 0.3 * rho)
    np.testing.assert_allclose(x[0], best, atol=1e-7)
    # The multiplier proves it: a subgradient of the variation that balances the data.
    p = rho * np.asarray(u[0])
    assert np.max(np.abs(p)) <= 0.3 * rho * (1 + 1e-9)
    jump = np.asarray(slicewise.difference(x[0]))
    far = np.abs(jump) > 1e-6
    assert far.any() and not far.all()
    np.testing.assert_allclose(p[far], 0.3 * rho * np.sign(jump[far]), rtol=1e-6)
    cost = [objective(np.asarray(s[0]), matrix, data, 0.3 * rho) for s in path]
    assert cost[0] > cost[2] > cost[10] > cost[50] > cost[-1] - 1e-9


@pytest.mark.slow
def test_without_coupling_it_is_conjugate_gradients_as_in_dds(x64):
    problem = measurement(slice_matrix(), random_data())
    x = random_volumes()
    step = slicewise.admm_tv(problem, coupling=0.0, num_iters=3)
    rule = consistency.replace_range(problem, num_iters=3)
    got = jax.jit(step)(x, slicewise.no_duals(x))[0]
    expected = jax.jit(rule.apply)(x, jnp.ones(()), rule.init(x))[0]
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)

    def denoise(x, sigma):
        return x / (1.0 + sigma**2)

    sigmas = schedule.karras(4)
    volumes = slicewise.dds_3d(denoise, problem, sigmas=sigmas, coupling=0.0)
    slices = unguided.dds(denoise, problem, sigmas=sigmas)
    draws = jax.jit(
        lambda key: [algebra.draw(m, key, (2, *SHAPE)) for m in (volumes, slices)]
    )
    got, expected = draws(jax.random.key(0))
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_slices_see_each_other_through_the_variation_alone(x64):
    matrix, data = slice_matrix(num_data=8), random_data(num_data=8)
    other = data + 3.0 * (np.arange(SHAPE[2]) == 2)
    x = random_volumes()

    @jax.jit
    def fit(values, coupling):
        problem = measurement(matrix, values)
        step = slicewise.admm_tv(problem, coupling=coupling, num_iters=30)
        return step(x, slicewise.no_duals(x))[0][0]

    change = {
        coupling: np.abs(fit(other, coupling) - fit(data, coupling)).max(axis=(0, 1))
        for coupling in (0.0, 0.1)
    }
    alone = np.arange(SHAPE[2]) == 2
    assert change[0.0][alone] > 0.1 and np.all(change[0.0][~alone] < 1e-8)
    assert np.all(change[0.1] > 1e-3)


@pytest.mark.slow
def test_langevin_corrector_keeps_the_variance_of_a_gaussian(x64):
    """v -> v (1 - h / v)^2 + 2 h with h = 2 snr^2 v: 1.0026 v at an snr of 0.16."""
    variance, snr = 4.0, 0.16
    shape = (2, 40, 40, 25)
    x = 2.0 * jax.random.normal(jax.random.key(0), shape)
    out = slicewise.langevin_correct(jax.random.key(1), x, -x / variance, snr)
    step = 2.0 * snr**2
    expected = variance * ((1.0 - step) ** 2 + 2.0 * step)
    np.testing.assert_allclose(jnp.var(out), expected, rtol=0.02)
    assert abs(expected / variance - 1.0) < 0.003
    # And moves: the correlation with where it was is 1 - h / v.
    correlation = jnp.sum(x * out) / jnp.sum(x * x)
    np.testing.assert_allclose(correlation, 1.0 - step, atol=0.005)


def test_langevin_step_is_a_volume_s_own():
    x = jax.random.normal(jax.random.key(0), (2, *SHAPE))
    score = -x.at[1].multiply(3.0)
    key = jax.random.key(1)
    both = slicewise.langevin_correct(key, x, score, 0.16)
    other = slicewise.langevin_correct(key, x, score.at[1].multiply(2.0), 0.16)
    np.testing.assert_array_equal(both[0], other[0])
    assert np.max(np.abs(both[1] - other[1])) > 1e-4


@pytest.mark.slow
def test_a_step_of_diffusion_mbir_is_its_three_parts(x64):
    problem = measurement(slice_matrix(), random_data())

    def denoise(x, sigma):
        return x / (1.0 + sigma**2) + 0.1

    method = slicewise.diffusion_mbir(denoise, problem, sigmas=schedule.karras(2))
    x, (sigma, after) = random_volumes(2), (1.5, 0.7)
    key = jax.random.key(5)
    got = method.kernel.step(key, method.kernel.init(x), sigma, after)[0]
    keys = jax.random.split(key)
    drop = sigma**2 - after**2
    score = (denoise(x, sigma) - x) / sigma**2
    noise = jax.random.normal(keys[0], x.shape, x.dtype)
    moved = x + drop * score + jnp.sqrt(drop) * noise
    score = (denoise(moved, sigma) - moved) / sigma**2
    moved = slicewise.langevin_correct(keys[1], moved, score, 0.16)
    expected, duals = slicewise.admm_tv(problem)(moved, slicewise.no_duals(x))
    np.testing.assert_allclose(got.x, expected, rtol=1e-9)
    np.testing.assert_allclose(got.aux, duals, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_last_step_of_diffusion_mbir_lands_nearer_to_the_data(x64):
    matrix = np.abs(slice_matrix())  # a projector is not negative
    problem = measurement(matrix, random_data())
    x = random_volumes()[0]
    one = slicewise._land(problem)
    before, after = problem.residual(x), problem.residual(one(x))
    assert jnp.linalg.norm(after) < 0.9 * jnp.linalg.norm(before)
    total = matrix.T @ matrix @ np.ones(SHAPE[0] * SHAPE[1])
    step = (matrix.T @ np.asarray(before)) / total[:, None]
    np.testing.assert_allclose(one(x) - x, step.reshape(*SHAPE), rtol=1e-9)


@pytest.mark.slow
def test_dolce_pulls_the_candidate_by_the_closed_form(x64):
    """x' <- (A^T A + l)^-1 (A^T y + l x') in the variance-preserving scale."""
    matrix, data = slice_matrix(), random_data()
    problem = measurement(matrix, data)

    def denoise(x, sigma):
        return 0.3 * x

    method = slicewise.dolce(
        denoise, problem, sigmas=schedule.karras(2), eta=0.0, strength=0.2
    )
    x, (sigma, after) = random_volumes(), (1.5, 0.7)
    kernel = method.kernel
    got = kernel.step(jax.random.key(0), kernel.init(x), sigma, after)[0].x[0]
    scale = np.sqrt(1 + after**2)
    candidate = np.asarray(0.3 * x + after * (0.7 * x) / sigma)[0] / scale
    weight = 0.2 * np.linalg.norm(matrix, 2) ** 2
    normal = matrix.T @ matrix + weight * np.eye(matrix.shape[1])
    flat = candidate.reshape(-1, SHAPE[2])
    expected = np.linalg.solve(normal, matrix.T @ data + weight * flat)
    # The largest eigenvalue is that of 20 power iterations.
    np.testing.assert_allclose(got, scale * expected.reshape(SHAPE), rtol=2e-3)


@pytest.mark.slow
def test_dolce_without_pull_is_the_ancestral_sampler():
    law = gaussian.make_problem(4, 2, seed=3).prior
    problem = gaussian.measurement(gaussian.make_problem(4, 2, seed=3))
    blind = dataclasses.replace(problem, precision=jnp.zeros(2), data=jnp.zeros(2))
    key, sigmas = jax.random.key(0), schedule.karras(5)
    denoise = gaussian.denoiser(law)
    method = slicewise.dolce(denoise, blind, sigmas=sigmas)
    kernel = methods.SOLVERS["ancestral"]
    plain = algebra.sampler(kernel(algebra.predictor(denoise)), sigmas)
    np.testing.assert_allclose(
        algebra.draw(method, key, (3, 4)), algebra.draw(plain, key, (3, 4)), rtol=1e-4
    )


@pytest.mark.slow
def test_accelerated_steps_reach_their_optimum(x64):
    matrix, data = slice_matrix(), random_data()
    problem, centre = measurement(matrix, data), random_volumes()[0]
    step = 0.5 / np.linalg.norm(matrix, 2) ** 2
    x = slicewise._accelerated(problem, step, 0.05, centre, num_iters=2000)
    pulled = problem.pull(problem.residual(x))
    np.testing.assert_allclose(step * pulled, 0.05 * (x - centre), atol=1e-10)


@pytest.mark.slow
def test_apgm_follows_the_data_and_draws_their_noise():
    problem = measurement(slice_matrix(), np.float32(random_data()))

    def denoise(x, sigma):
        return x / (1.0 + sigma**2)

    method = slicewise.dolce(denoise, problem, solver="apgm")
    draw = jax.jit(lambda key: algebra.draw(method, key, (1, *SHAPE)))
    first, second = draw(jax.random.key(0)), draw(jax.random.key(1))
    assert np.all(np.isfinite(first)) and np.max(np.abs(first - second)) > 1e-2
    size = jnp.linalg.norm(problem.data)
    assert jnp.linalg.norm(problem.residual(first[0])) < 0.2 * size
    with pytest.raises(InputError, match=r"'cgrad' or 'apgm', got 'cg'"):
        slicewise.dolce(denoise, problem, solver="cg")


def test_translated_numbers_are_those_of_the_programs():
    """Each default times its unit gives the number of the program back."""
    np.testing.assert_allclose(slicewise.MBIR_COUPLING * 256 * np.pi / 2, 10, rtol=1e-4)
    lam = slicewise.MBIR_THRESHOLD * 0.25 * 10
    np.testing.assert_allclose([lam, 10 * lam], [0.04, 0.4], rtol=1e-12)
    np.testing.assert_allclose(slicewise.DDS_THRESHOLD, 10 * slicewise.MBIR_THRESHOLD)
    views, rows, pixel = 360, 512, 0.8
    np.testing.assert_allclose(
        slicewise.DOLCE_STRENGTH * views * rows * pixel**2, 2.5e5, rtol=1e-12
    )
    assert 0 < slicewise.APGM_STEP < 1  # a stable step of the program
