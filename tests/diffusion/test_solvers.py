"""Measured orders of the solvers, and which of them are the same map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.diffusion import algebra, gaussian, schedule, solvers

HIGH, LOW = 10.0, 0.1
CHUNK = 64
COUNTS = np.array([64, 128, 256, 512])

ORDERS = {
    "ddim": (solvers.ddim, 1.0),
    "euler": (solvers.euler, 1.0),
    "flow_euler": (solvers.flow_euler, 1.0),
    "heun": (solvers.heun, 2.0),
    "flow_heun": (solvers.flow_heun, 2.0),
    "dpm_solver_2m": (solvers.dpm_solver_2m, 2.0),
}


def exact_guess(law) -> algebra.Predictor:
    return algebra.predictor(gaussian.denoiser(law))


def unit_guess() -> algebra.Predictor:
    """The exact denoiser of N(0, 1), any shape."""
    return algebra.predictor(lambda x, sigma: x / (1.0 + sigma**2))


@pytest.mark.parametrize("name", ORDERS)
def test_order_on_the_probability_flow_of_a_gaussian_prior(name, x64):
    make, order = ORDERS[name]
    law = gaussian.make_problem(4, 2, seed=1).prior
    kernel = make(exact_guess(law))
    start = HIGH * jax.random.normal(jax.random.key(0), (3, 4), jnp.float64)
    exact = gaussian.flow(law, start, HIGH, LOW)
    errors, key = [], jax.random.key(0)
    chunk = jax.jit(
        lambda state, part: algebra.run_steps(kernel, key, state, part, 0, CHUNK)
    )
    for count in COUNTS:
        # Even in ln s, and the same program for every count.
        sigmas = jnp.geomspace(HIGH, LOW, count + 1)
        state = kernel.init(start)
        for first in range(0, count, CHUNK):
            part = sigmas[first : first + CHUNK + 1]
            state, _ = chunk(state, part)
        errors.append(np.max(np.abs(state.x - exact)))
    assert chunk._cache_size() == 1
    slope = np.polyfit(np.log(1 / COUNTS), np.log(errors), 1)[0]
    np.testing.assert_allclose(slope, order, atol=0.1)


def run(kernel, shape=(2, 3), steps=6, seed=0):
    sigmas = schedule.karras(steps)
    x = sigmas[0] * jax.random.normal(jax.random.key(seed), shape, sigmas.dtype)
    return algebra.run(kernel, jax.random.key(seed + 1), x, sigmas)[0]


@pytest.mark.slow
def test_ddim_euler_and_flow_euler_are_one_map():
    reference = run(solvers.ddim(unit_guess(), eta=0.0)).x
    for make in (solvers.euler, solvers.flow_euler):
        np.testing.assert_allclose(run(make(unit_guess())).x, reference, rtol=2e-4)


@pytest.mark.slow
def test_ancestral_is_the_conditional_of_the_forward_process():
    """x' given x and x0 is Gaussian by Bayes' rule: compare one step with it."""
    sigma, after, count = 2.0, 1.5, 20000
    kernel = solvers.ancestral(algebra.predictor(lambda x, s: jnp.full_like(x, 0.7)))
    state = kernel.init(jnp.full((count, 1), 3.0))
    x = kernel.step(jax.random.key(0), state, jnp.float32(sigma), after)[0].x
    # Prior x' ~ N(x0, after^2), likelihood x ~ N(x', sigma^2 - after^2).
    precision = 1 / after**2 + 1 / (sigma**2 - after**2)
    mean = (0.7 / after**2 + 3.0 / (sigma**2 - after**2)) / precision
    np.testing.assert_allclose(x.mean(), mean, atol=4 / np.sqrt(precision * count))
    np.testing.assert_allclose(x.var(), 1 / precision, rtol=0.05)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_first_step_of_the_multistep_solver_is_that_of_ddim(eta):
    multi = solvers.dpm_solver_2m(unit_guess(), eta=eta)
    single = solvers.ddim(unit_guess(), eta=eta)
    x, key = jnp.asarray([[3.0, -1.0]]), jax.random.key(4)
    levels = jnp.asarray([2.0, 1.2])
    got = multi.step(key, multi.init(x), *levels)[0].x
    expected = single.step(key, single.init(x), *levels)[0].x
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def variance_of(kernel, steps=16) -> float:
    x = run(kernel, (1 << 16, 1), steps).x
    return float(np.var(np.asarray(x, np.float64)))


@pytest.mark.slow
def test_sde_form_comes_closer_to_the_variance_than_the_ancestral_step():
    coarse = abs(variance_of(solvers.ancestral(unit_guess())) - 1)
    fine = abs(variance_of(solvers.dpm_solver_2m(unit_guess(), eta=1.0)) - 1)
    assert coarse > 0.15
    assert fine < 0.5 * coarse


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_churn_keeps_the_law_of_the_samples_and_needs_the_key():
    still, churned = solvers.heun(unit_guess()), solvers.heun(unit_guess(), churn=0.3)
    a, b = (run(still, seed=0).x, run(churned, seed=0).x)
    assert np.max(np.abs(a - b)) > 1e-2
    # What is left of the error falls with its square; churned steps are longer.
    np.testing.assert_allclose(variance_of(still, 32), 1.0, atol=0.03)
    np.testing.assert_allclose(variance_of(churned, 64), 1.0, atol=0.03)
    outside = solvers.heun(unit_guess(), churn=0.3, churn_low=1e3)
    np.testing.assert_array_equal(run(outside).x, a)


@pytest.mark.slow
def test_renoise_replaces_a_share_of_the_noise_and_hides_the_rule_from_it():
    shift = algebra.constraint(lambda x0, sigma: x0 + 1.0)
    x, levels = jnp.asarray([[3.0, -1.0]]), jnp.asarray([2.0, 1.0])
    hidden = solvers.renoise(unit_guess(), eta=0.0, rule=shift)
    seen = solvers.renoise(algebra.constrain(unit_guess(), shift), eta=0.0)
    x0 = x / 5.0
    got = hidden.step(jax.random.key(0), hidden.init(x), *levels)[0].x
    np.testing.assert_allclose(got, x0 + 1.0 + (x - x0) / 2.0, rtol=1e-5)
    got = seen.step(jax.random.key(0), seen.init(x), *levels)[0].x
    np.testing.assert_allclose(got, x0 + 1.0 + (x - x0 - 1.0) / 2.0, rtol=1e-5)
    noisy = solvers.renoise(unit_guess(), eta=1.0)
    many = jnp.full((20000, 1), 3.0)
    got = noisy.step(jax.random.key(0), noisy.init(many), *levels)[0].x
    np.testing.assert_allclose([got.mean(), got.std()], [0.6, 1.0], atol=0.03)


def test_noise_matched_gives_the_ancestral_spread_around_the_corrected_guess():
    """Data noise of deviation n in R plus what the kernel adds: the ancestral one."""
    sigma, after, noise_std = 2.0, 1.5, 0.3
    draws = noise_std * jax.random.normal(jax.random.key(5), (20000, 1))
    rule = algebra.constraint(lambda x0, s: draws)
    kernel = solvers.noise_matched(unit_guess(), rule, noise_std)
    state = kernel.init(jnp.full((20000, 1), 3.0))
    x = kernel.step(jax.random.key(0), state, jnp.float32(sigma), after)[0].x
    share = 1 - after**2 / sigma**2
    np.testing.assert_allclose(x.mean(), 3.0 * (1 - share), atol=0.03)
    np.testing.assert_allclose(x.std(), after * np.sqrt(share), rtol=0.02)


def test_blended_pulls_in_proportion_to_flow_time():
    rule = algebra.constraint(lambda x0, sigma: x0 + 1.0)
    kernel = solvers.blended(unit_guess(), rule)
    state = kernel.init(jnp.asarray([[3.0]]))
    clean = kernel.step(jax.random.key(0), state, jnp.float32(3.0), 0.0)[0].x
    np.testing.assert_allclose(clean, 0.3 + 0.75, rtol=1e-5)


def test_averaged_tends_to_the_mean_of_the_denoised_draws():
    rule = algebra.constraint(lambda x0, sigma: x0 + 1.0)
    kernel = solvers.averaged(unit_guess(), rule, count=4)
    state = kernel.init(jnp.full((20000, 1), 2.0))
    x = kernel.step(jax.random.key(0), state, jnp.float32(1.0), 0.0)[0].x
    np.testing.assert_allclose(x.mean(), 1.5, atol=0.01)
    np.testing.assert_allclose(x.std(), 0.5 / np.sqrt(4), rtol=0.03)
