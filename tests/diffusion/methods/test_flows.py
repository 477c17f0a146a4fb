"""FMCT against its equations, and EFMCT against FMCT."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.diffusion import algebra, gaussian, methods, schedule
from temdiff_jax.diffusion.methods import flows

# Each of these compiles for seconds.

PROBLEM = gaussian.make_problem(4, 2, seed=3)
KEY = jax.random.key(0)


def build(make, sigmas, **options):
    return make(
        gaussian.denoiser(PROBLEM.prior),
        gaussian.measurement(PROBLEM),
        sigmas=sigmas,
        **options,
    )


@pytest.mark.slow
def test_a_step_of_fmct_is_that_of_the_paper_in_its_own_scale(x64):
    problem = gaussian.make_problem(4, 2, seed=3)
    denoise, data = gaussian.denoiser(problem.prior), gaussian.measurement(problem)
    sigma, after = 1.7, 1.1
    t, t_next = sigma / (1 + sigma), after / (1 + after)
    method = flows.fmct(denoise, data, anchor=0.3, num_iters=20)
    x = jnp.asarray([[0.3, -1.0, 2.0, 0.1]])
    got = method.kernel.step(KEY, method.kernel.init(x), sigma, after)[0]
    inside = np.asarray((1 - t) * x[0])
    v = (inside - np.asarray(denoise(x, sigma))[0]) / t
    moved = inside + (t_next - t) * v
    x0 = moved - t_next * v
    matrix, gamma = np.asarray(problem.matrix), 0.3  # A has norm 1
    normal = matrix.T @ matrix + gamma * np.eye(4)
    fitted = np.linalg.solve(normal, matrix.T @ np.asarray(problem.data) + gamma * x0)
    # gamma comes from 20 power iterations.
    np.testing.assert_allclose(
        got.x[0] * (1 - t_next), moved + fitted - x0, rtol=1e-3, atol=1e-3
    )


def test_without_data_fmct_is_the_euler_flow():
    blind = gaussian.measurement(PROBLEM)
    blind = dataclasses.replace(blind, precision=jnp.zeros(2))
    sigmas = schedule.flow_uniform(7)
    denoise = gaussian.denoiser(PROBLEM.prior)
    method = flows.fmct(denoise, blind, sigmas=sigmas)
    kernel = methods.SOLVERS["flow-euler"]
    plain = algebra.sampler(kernel(algebra.predictor(denoise)), sigmas)
    np.testing.assert_allclose(
        algebra.draw(method, KEY, (3, 4)), algebra.draw(plain, KEY, (3, 4)), rtol=1e-4
    )


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_no_tolerance_reuses_nothing():
    sigmas = schedule.flow_uniform(8)
    efmct = build(flows.efmct, sigmas, tolerance=-1.0)
    fmct = build(flows.fmct, sigmas)
    np.testing.assert_array_equal(
        algebra.draw(efmct, KEY, (3, 4)), algebra.draw(fmct, KEY, (3, 4))
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tolerance", "max_reuse", "calls"),
    # Of 8 steps the first and the last always call.
    [(np.inf, 10, 2), (np.inf, 2, 4), (np.inf, 0, 8), (-1.0, 10, 8)],
)
def test_network_is_called_when_the_rule_says_so(tolerance, max_reuse, calls):
    seen = []
    inner = gaussian.denoiser(PROBLEM.prior)

    def denoise(x, sigma):
        jax.debug.callback(lambda: seen.append(1))
        return inner(x, sigma)

    method = flows.efmct(
        denoise,
        gaussian.measurement(PROBLEM),
        sigmas=schedule.flow_uniform(8),
        tolerance=tolerance,
        max_reuse=max_reuse,
    )
    out = jax.jit(functools.partial(algebra.draw, method, shape=(2, 4)))(KEY)
    jax.block_until_ready(out)
    jax.effects_barrier()
    assert len(seen) == calls


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_samples_decide_each_for_itself():
    """A batch gives what its samples give one by one, whoever calls the network."""
    sigmas = schedule.flow_uniform(12)
    method = build(flows.efmct, sigmas, tolerance=0.9)
    x = sigmas[0] * jax.random.normal(KEY, (4, 4))
    run = jax.jit(lambda x: algebra.run(method.kernel, KEY, x, sigmas)[0])
    many = run(x)
    alone = [run(x[i : i + 1]) for i in range(4)]
    np.testing.assert_allclose(
        many.x, jnp.concatenate([s.x for s in alone]), rtol=5e-3, atol=2e-3
    )
    used = [int(s.aux[1][0]) for s in alone]
    np.testing.assert_array_equal(many.aux[1], used)


@pytest.mark.slow
def test_a_velocity_that_does_not_change_may_be_kept_for_ever(x64):
    """Data at a point: x_t runs straight, so reuse gives the same end."""
    point = jnp.asarray([0.5, -1.0, 0.2, 2.0])
    problem = gaussian.make_problem(4, 2, seed=3)
    data = gaussian.measurement(problem)
    data = dataclasses.replace(data, data=data.forward(point))

    def denoise(x, sigma):
        return jnp.broadcast_to(point, x.shape)

    sigmas = schedule.flow_uniform(10)
    ends = [
        algebra.draw(make(denoise, data, sigmas=sigmas), KEY, (2, 4))
        for make in (flows.fmct, flows.efmct)
    ]
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-9)
    np.testing.assert_allclose(ends[1], jnp.broadcast_to(point, (2, 4)), rtol=1e-9)
