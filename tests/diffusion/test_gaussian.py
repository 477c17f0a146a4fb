"""The test bench itself: its closed forms against other ways to get them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.diffusion import algebra, gaussian, schedule, solvers
from temdiff_jax.diffusion.methods import unguided
from temdiff_jax.errors import InputError


def dense(law):
    return np.asarray(law.mean), np.asarray(law.covariance())


def test_problem_is_in_general_position_and_scaled(x64):
    problem = gaussian.make_problem(10, 4, noise_std=0.2, condition=9.0, seed=3)
    _, covariance = dense(problem.prior)
    values = np.linalg.eigvalsh(covariance)
    np.testing.assert_allclose(values.max() / values.min(), 9.0, rtol=1e-9)
    np.testing.assert_allclose(np.trace(covariance), 10.0, rtol=1e-9)
    strength = np.linalg.svd(problem.matrix, compute_uv=False)
    np.testing.assert_allclose(strength, np.linspace(1.0, 0.3, 4), rtol=1e-9)
    # What is seen and what is not are correlated under the prior.
    _, _, rows = np.linalg.svd(np.asarray(problem.matrix))
    assert np.abs(rows[:4] @ covariance @ rows[4:].T).max() > 0.05
    white = gaussian.make_problem(5, 5, condition=1.0)
    np.testing.assert_allclose(white.prior.covariance(), np.eye(5), atol=1e-9)


@pytest.mark.parametrize("arguments", [{"num_data": 13}, {"condition": 0.5}])
def test_impossible_problems_are_refused(arguments):
    with pytest.raises(InputError, match="expected 1 <= num_data <= dim"):
        gaussian.make_problem(**arguments)


def test_posterior_conditions_the_joint_law(x64):
    """By the joint covariance of x0 and y, without any inverse of the prior."""
    problem = gaussian.make_problem(8, 3, seed=2)
    mean, covariance = dense(problem.prior)
    matrix, data = np.asarray(problem.matrix), np.asarray(problem.data)
    cross = covariance @ matrix.T
    total = matrix @ cross + 0.1**2 * np.eye(3)
    gain = np.linalg.solve(total, cross.T).T
    got_mean, got_covariance = dense(gaussian.posterior(problem))
    np.testing.assert_allclose(got_mean, mean + gain @ (data - matrix @ mean))
    np.testing.assert_allclose(got_covariance, covariance - gain @ cross.T, atol=1e-12)


def test_denoiser_conditions_on_the_noisy_volume(x64):
    law = gaussian.make_problem(6, 2, seed=4).prior
    mean, covariance = dense(law)
    x = np.random.default_rng(0).normal(size=(3, 6))
    gain = covariance @ np.linalg.inv(covariance + 0.7**2 * np.eye(6))
    expected = mean + (x - mean) @ gain.T
    np.testing.assert_allclose(gaussian.denoiser(law)(jnp.asarray(x), 0.7), expected)


@pytest.mark.slow
def test_flow_solves_the_probability_flow_equation(x64):
    law = gaussian.make_problem(6, 2, seed=4).prior
    x = 3.0 * jax.random.normal(jax.random.key(1), (2, 6), jnp.float64)
    slope = jax.jacfwd(lambda s: gaussian.flow(law, x, jnp.float64(2.0), s))
    for sigma in (2.0, 0.9, 0.1):
        here = gaussian.flow(law, x, 2.0, sigma)
        expected = (here - gaussian.denoiser(law)(here, sigma)) / sigma
        np.testing.assert_allclose(slope(jnp.float64(sigma)), expected, atol=1e-10)


def test_comparison_of_exact_draws_is_clean_and_of_shifted_ones_is_not(x64):
    problem = gaussian.make_problem(8, 4, seed=5)
    exact = gaussian.posterior(problem)
    mean, covariance = dense(exact)
    rng = np.random.default_rng(0)
    draws = rng.multivariate_normal(mean, covariance, size=4000)
    found = gaussian.compare(draws, problem)
    assert found.num_samples == 4000 and found.seen().sum() == 4
    assert np.all(np.abs(found.mean_error) < 4 * found.standard_error())
    np.testing.assert_allclose(found.variance_ratio, 1.0, atol=0.1)
    wrong = gaussian.compare(mean + 1.5 * (draws - mean) + 0.5, problem)
    np.testing.assert_allclose(wrong.variance_ratio, 2.25, rtol=0.1)
    assert np.max(np.abs(wrong.mean_error)) > 1


EXACT = {
    "ddim": lambda guess: solvers.ddim(guess, eta=0.0),
    "ancestral": solvers.ancestral,
    "heun": solvers.heun,
    "dpm_solver_2m": solvers.dpm_solver_2m,
    "dpm_solver_2m sde": lambda guess: solvers.dpm_solver_2m(guess, eta=1.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXACT)
def test_solvers_with_the_exact_conditional_denoiser_draw_from_the_posterior(name, x64):
    problem = gaussian.make_problem(condition=10.0, seed=6)
    guess = algebra.predictor(gaussian.denoiser(gaussian.posterior(problem)))
    # From 80 on: a start around 0 instead of the mean then leaves nothing behind.
    sigmas = schedule.karras(200, sigma_max=80.0, sigma_min=0.005)

    def make(denoise, data):
        return algebra.sampler(EXACT[name](guess), sigmas)

    found = gaussian.score(make, problem, jax.random.key(0), count=2048)
    assert np.all(np.abs(found.mean_error) < 4 * found.standard_error())
    assert np.all((found.variance_ratio > 0.8) & (found.variance_ratio < 1.25))


@pytest.mark.slow
def test_a_score_sees_a_sampler_that_ignores_the_data(x64):
    problem = gaussian.make_problem(condition=10.0, seed=6)
    sigmas = schedule.karras(30)

    def prior_only(denoise, data):
        kernel = solvers.heun(algebra.predictor(denoise))
        return algebra.sampler(kernel, sigmas)

    found = gaussian.score(prior_only, problem, jax.random.key(0), count=1024)
    assert np.all(found.variance_ratio[found.seen()] > 5)
    good = gaussian.score(
        lambda d, m: unguided.proximal_ddim(d, m, sigmas=sigmas),
        problem,
        jax.random.key(0),
        count=1024,
    )
    assert np.all(good.variance_ratio[good.seen()] < 1.25)
