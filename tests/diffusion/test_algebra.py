"""Laws of the sampler algebra, and its solver on a Gaussian prior."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.diffusion import algebra, schedule

SHAPE = (2, 3, 4, 5)
SIGMAS = schedule.karras(8)
X = schedule.SIGMA_MAX * jax.random.normal(jax.random.key(7), SHAPE)


def gaussian(x, sigma):
    """The exact denoiser of N(0, 1)."""
    return x / (1.0 + sigma**2)


def counting(step: float) -> algebra.Constraint:
    """Adds to the guess and counts its calls."""
    return algebra.Constraint(
        lambda: jnp.int32(0), lambda x0, sigma, n: (x0 + step * sigma, n + 1)
    )


def doubling() -> algebra.Constraint:
    return algebra.constraint(lambda x0, sigma: 2.0 * x0)


def sample(rule: algebra.Constraint | None, sigmas=SIGMAS, eta=0.6) -> algebra.State:
    guess = algebra.predictor(gaussian)
    if rule is not None:
        guess = algebra.constrain(guess, rule)

    @jax.jit
    def program(x, sigmas, eta):
        kernel = algebra.ddim(guess, eta=eta)
        return algebra.run(kernel, jax.random.key(1), x, sigmas)

    state, info = program(X, sigmas, eta)
    np.testing.assert_array_equal(info.sigma, sigmas[:-1])
    assert np.all(info.update_rms > 0)
    return state


def test_identity_changes_no_bit():
    with_it = sample(algebra.identity())
    without = sample(None)
    np.testing.assert_array_equal(with_it.x, without.x)
    np.testing.assert_array_equal(with_it.x0, without.x0)


def test_chain_associates():
    a, b, c = counting(0.1), doubling(), counting(-0.3)
    left = sample(algebra.chain(algebra.chain(a, b), c))
    right = sample(algebra.chain(a, algebra.chain(b, c)))
    np.testing.assert_array_equal(left.x, right.x)
    swapped = sample(algebra.chain(algebra.chain(c, b), a))
    assert np.max(np.abs(swapped.x - left.x)) > 1e-3


def test_constraints_nest_as_they_chain():
    a, b = counting(0.1), doubling()
    guess = algebra.predictor(gaussian)
    nested = algebra.constrain(algebra.constrain(guess, a), b)
    kernel = algebra.ddim(nested, eta=0.6)
    state, _ = jax.jit(algebra.run, static_argnums=0)(
        kernel, jax.random.key(1), X, SIGMAS
    )
    np.testing.assert_array_equal(state.x, sample(algebra.chain(a, b)).x)


def test_all_embracing_within_is_invisible():
    np.testing.assert_array_equal(
        sample(algebra.within(doubling())).x, sample(doubling()).x
    )


def test_within_acts_between_its_limits_and_counts_only_there():
    low, high = float(SIGMAS[5]), float(SIGMAS[2])
    state = sample(algebra.within(counting(0.1), low=low, high=high))
    assert int(state.aux[1]) == 4
    nowhere = sample(algebra.within(doubling(), low=1e3))
    np.testing.assert_array_equal(nowhere.x, sample(None).x)


@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_chunks_equal_one_scan_bit_for_bit_with_one_program(chunk):
    guess = algebra.constrain(algebra.predictor(gaussian), counting(0.01))
    kernel = algebra.ddim(guess, eta=0.85)
    key = jax.random.key(3)
    whole, info = jax.jit(algebra.run, static_argnums=0)(kernel, key, X, SIGMAS)
    part = jax.jit(algebra.run_steps, static_argnums=(0, 5))
    state, sigmas = kernel.init(X), []
    before = part._cache_size()
    for start in range(0, 8, chunk):
        state, piece = part(kernel, key, state, SIGMAS, jnp.int32(start), chunk)
        sigmas.append(piece.sigma)
    assert part._cache_size() == before + 1
    np.testing.assert_array_equal(np.concatenate(sigmas), info.sigma)
    for got, expected in zip(jax.tree.leaves(state), jax.tree.leaves(whole)):
        np.testing.assert_array_equal(got, expected)


def test_new_numbers_compile_nothing():
    @jax.jit
    def program(key, x, sigmas, eta, step, limit):
        rule = algebra.constraint(lambda x0, sigma: x0 + step * sigma)
        guess = algebra.constrain(
            algebra.predictor(gaussian), algebra.within(rule, high=limit)
        )
        return algebra.run(algebra.ddim(guess, eta=eta), key, x, sigmas)[0].x

    first = program(jax.random.key(0), X, SIGMAS, *jnp.float32([0.5, 0.1, 5.0]))
    again = program(jax.random.key(0), X, SIGMAS, *jnp.float32([0.5, 0.1, 5.0]))
    other = program(jax.random.key(1), 2 * X, SIGMAS / 2, *jnp.float32([0.7, 0.2, 1]))
    assert program._cache_size() == 1
    np.testing.assert_array_equal(first, again)
    assert np.max(np.abs(other - first)) > 1e-3


def test_ddim_is_of_first_order_on_a_gaussian_prior(x64):
    x = jnp.asarray([[[[1.3, -0.4]]]], jnp.float64)
    high, low = 10.0, 0.1
    exact = x * np.sqrt((1 + low**2) / (1 + high**2))
    errors, counts = [], np.array([64, 128, 256, 512])
    for count in counts:
        sigmas = jnp.geomspace(high, low, count + 1, dtype=jnp.float64)
        kernel = algebra.ddim(algebra.predictor(gaussian), eta=0.0)
        state, _ = algebra.run(kernel, jax.random.key(0), x, sigmas)
        assert state.x.dtype == jnp.float64
        errors.append(np.max(np.abs(state.x - exact)))
    slope = np.polyfit(np.log(1 / counts), np.log(errors), 1)[0]
    np.testing.assert_allclose(slope, 1.0, atol=0.05)


def expected_variance(sigmas: np.ndarray, eta: float) -> float:
    """Variance of the last x by the recursion of the step, for N(0, 1)."""
    variance = sigmas[0] ** 2
    for sigma, after in zip(sigmas[:-1], sigmas[1:]):
        shrink = 1 / (1 + sigma**2)
        factor = shrink + after * np.sqrt(1 - eta**2) * (1 - shrink) / sigma
        variance = variance * factor**2 + (after * eta) ** 2
    return variance


@pytest.mark.parametrize("eta", [0.0, 0.85])
def test_samples_of_a_gaussian_prior_have_its_mean_and_the_known_variance(eta):
    sigmas = schedule.karras(50)
    x = sigmas[0] * jax.random.normal(jax.random.key(0), (64, 4, 8, 8))
    kernel = algebra.ddim(algebra.predictor(gaussian), eta=eta)
    state, _ = jax.jit(algebra.run, static_argnums=0)(
        kernel, jax.random.key(1), x, sigmas
    )
    values = np.asarray(state.x, np.float64)
    standard_error = values.std() / np.sqrt(values.size)
    assert abs(values.mean()) < 4 * standard_error
    known = expected_variance(np.asarray(sigmas, np.float64), eta)
    np.testing.assert_allclose(values.var(), known, rtol=0.05)
    if eta == 0.0:
        # The probability flow itself ends at 1; what is missing are the finite steps.
        assert 0.9 < known < 1.0
