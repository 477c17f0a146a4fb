"""Guidance through the denoiser, where the guided guess is known exactly."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.diffusion import algebra, consistency, gaussian, guidance

SIGMAS = (0.05, 0.7, 6.0)


def bench(condition):
    problem = gaussian.make_problem(6, 3, condition=condition, seed=7)
    denoise = gaussian.denoiser(problem.prior)
    x = jax.random.normal(jax.random.key(1), (2, 6), jnp.float64) * 2
    return problem, denoise, gaussian.measurement(problem), x


def applied(predictor, x, sigma):
    return jax.jit(predictor.apply)(x, sigma, predictor.init(x))[0]


@pytest.mark.slow
def test_moment_matching_is_the_exact_conditional_guess(x64):
    problem, denoise, data, x = bench(10.0)
    exact = gaussian.denoiser(gaussian.posterior(problem))
    guess = guidance.moment_matching(denoise, data, num_iters=6)
    for sigma in SIGMAS:
        np.testing.assert_allclose(applied(guess, x, sigma), exact(x, sigma), rtol=1e-7)


def test_pigdm_is_p2_and_the_exact_guess_for_white_data(x64):
    problem, denoise, data, x = bench(1.0)
    exact = gaussian.denoiser(gaussian.posterior(problem))
    plain = algebra.predictor(denoise)
    guided = guidance.guide(plain, guidance.white_guess(data, num_iters=8))
    p2 = algebra.constrain(plain, consistency.proximal(data, num_iters=8))
    # The prior's mean is in the guess already: P2 pulls from it.
    for sigma in SIGMAS:
        got = applied(guided, x, sigma)
        np.testing.assert_allclose(got, applied(p2, x, sigma), rtol=1e-7)
        np.testing.assert_allclose(got, exact(x, sigma), rtol=1e-7)


def test_white_guess_knows_the_variance_of_the_data(x64):
    problem, denoise, data, x = bench(1.0)
    wide = problem.prior._replace(variances=4.0 * problem.prior.variances)
    exact = gaussian.denoiser(gaussian.posterior(problem._replace(prior=wide)))
    direction = guidance.white_guess(data, num_iters=8, prior_variance=4.0)
    guided = guidance.guide(algebra.predictor(gaussian.denoiser(wide)), direction)
    np.testing.assert_allclose(applied(guided, x, 0.7), exact(x, 0.7), rtol=1e-7)


@pytest.mark.slow
def test_guide_with_a_sure_guess_is_the_gradient_of_its_likelihood(x64):
    _, denoise, data, x = bench(10.0)

    def log_likelihood(x):
        residual = jax.vmap(data.residual)(denoise(x, 0.7))
        return -0.5 * jnp.sum(data.precision.weight * residual**2)

    guided = guidance.guide(algebra.predictor(denoise), guidance.sure_guess(data))
    expected = denoise(x, 0.7) + 0.49 * jax.grad(log_likelihood)(x)
    np.testing.assert_allclose(applied(guided, x, 0.7), expected, rtol=1e-9)


def test_guide_passes_on_what_the_inner_predictor_remembers(x64):
    _, denoise, data, x = bench(10.0)
    counting = algebra.Predictor(
        lambda x: jnp.int32(0), lambda x, sigma, n: (denoise(x, sigma), n + 1)
    )
    guided = guidance.guide(counting, guidance.sure_guess(data))
    _, aux = guided.apply(x, 0.7, guided.init(x))
    assert int(guided.apply(x, 0.7, aux)[1]) == 2


def test_pulled_back_norm_is_minus_its_gradient(x64):
    _, denoise, data, x = bench(10.0)

    def norm(x):
        residual = jax.vmap(data.residual)(denoise(x, 0.7))
        return jnp.sum(jnp.linalg.norm(residual, axis=1))

    guess = guidance.with_gradient(denoise, guidance.residual_norm(data))
    x0, pulled = guess.apply(x, 0.7, guess.init(x))
    np.testing.assert_allclose(x0, denoise(x, 0.7), rtol=1e-12)
    np.testing.assert_allclose(pulled, -jax.grad(norm)(x), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_weight_zero_is_invisible_to_guidance(x64):
    _, denoise, data, x = bench(10.0)
    blind = dataclasses.replace(data, precision=jnp.zeros(3))
    plain = denoise(x, 0.7)
    for direction in (
        guidance.sure_guess(blind),
        guidance.white_guess(blind, num_iters=4),
        guidance.residual_norm(blind),
    ):
        guided = guidance.guide(algebra.predictor(denoise), direction)
        np.testing.assert_array_equal(guided.apply(x, 0.7, ())[0], plain)
    matched = guidance.moment_matching(denoise, blind, num_iters=4)
    np.testing.assert_allclose(matched.apply(x, 0.7, ())[0], plain, rtol=1e-12)


@pytest.mark.parametrize("amount", [0.0, 0.5])
def test_classifier_free_guidance_extrapolates(amount):
    conditional = algebra.predictor(lambda x, sigma: x + 1.0)
    plain = algebra.predictor(lambda x, sigma: x)
    guess = guidance.classifier_free(conditional, plain, amount)
    x0, _ = guess.apply(jnp.zeros((1, 2)), 0.7, guess.init(jnp.zeros((1, 2))))
    np.testing.assert_array_equal(x0, jnp.full((1, 2), 1.0 + amount))


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_search_meets_the_data_to_the_tolerance_and_stops(x64):
    _, denoise, data, x = bench(10.0)

    def squares(x0):
        return np.sum(np.asarray(jax.vmap(data.residual)(x0)) ** 2, axis=1)

    def search(tolerance, num_iters=120):
        return jax.jit(
            guidance.search_input(
                denoise,
                data,
                num_iters=num_iters,
                learning_rate=0.05,
                tolerance=tolerance,
            )
        )(x, 0.7)

    before = squares(denoise(x, 0.7))
    assert np.all(before > 0.1)
    after = squares(search(0.05))
    assert np.all(after <= 0.05) and np.all(after > 0.01)
    np.testing.assert_allclose(search(1e9), denoise(x, 0.7), rtol=1e-12)
