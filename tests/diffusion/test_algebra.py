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
        lambda x: jnp.int32(0), lambda x0, sigma, n: (x0 + step * sigma, n + 1)
    )


def doubling() -> algebra.Constraint:
    return algebra.constraint(lambda x0, sigma: 2.0 * x0)


def rules() -> list[algebra.Constraint]:
    return [counting(0.1), doubling(), counting(-0.3)]


def guesses(rule: algebra.Constraint | None, *more: algebra.Constraint):
    """Guesses of the constrained denoiser at every level, and the last aux."""
    guess = algebra.predictor(gaussian)
    for each in (rule, *more):
        guess = guess if each is None else algebra.constrain(guess, each)
    apply, aux, found = jax.jit(guess.apply), guess.init(X), []
    for sigma in SIGMAS[:-1]:
        x0, aux = apply(X, sigma, aux)
        found.append(x0)
    assert apply._cache_size() == 1
    return np.stack(found), aux


def sample(rule: algebra.Constraint | None) -> algebra.State:
    guess = algebra.predictor(gaussian)
    if rule is not None:
        guess = algebra.constrain(guess, rule)

    @jax.jit
    def program(x, sigmas):
        kernel = algebra.ddim(guess, eta=0.6)
        return algebra.run(kernel, jax.random.key(1), x, sigmas)

    state, info = program(X, SIGMAS)
    np.testing.assert_array_equal(info.sigma, SIGMAS[:-1])
    assert np.all(info.update_rms > 0)
    return state


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_identity_changes_no_bit():
    np.testing.assert_array_equal(guesses(algebra.identity())[0], guesses(None)[0])
    with_it, without = sample(algebra.identity()), sample(None)
    np.testing.assert_array_equal(with_it.x, without.x)
    np.testing.assert_array_equal(with_it.x0, without.x0)


@pytest.mark.usefixtures("optimised")
def test_chain_associates():
    a, b, c = rules()
    left, _ = guesses(algebra.chain(algebra.chain(a, b), c))
    right, _ = guesses(algebra.chain(a, algebra.chain(b, c)))
    np.testing.assert_array_equal(left, right)
    # Their order does matter.
    swapped, _ = guesses(algebra.chain(algebra.chain(c, b), a))
    assert np.max(np.abs(swapped - left)) > 1e-3


@pytest.mark.usefixtures("optimised")
def test_constraints_nest_as_they_chain():
    a, b, c = rules()
    nested, _ = guesses(a, b, c)
    chained, _ = guesses(algebra.chain(a, algebra.chain(b, c)))
    np.testing.assert_array_equal(nested, chained)


@pytest.mark.usefixtures("optimised")
def test_all_embracing_within_is_invisible():
    everywhere, _ = guesses(algebra.within(doubling()))
    np.testing.assert_array_equal(everywhere, guesses(doubling())[0])


@pytest.mark.usefixtures("optimised")
def test_every_step_is_invisible_and_every_third_acts_at_the_first_of_three():
    everywhere, _ = guesses(algebra.every(doubling(), 1))
    np.testing.assert_array_equal(everywhere, guesses(doubling())[0])
    found, (_, (calls, acted)) = guesses(algebra.every(counting(0.1), 3))
    assert (int(calls), int(acted)) == (8, 3)
    plain, _ = guesses(None)
    moved = np.any(found != plain, axis=(1, 2, 3, 4))
    np.testing.assert_array_equal(np.flatnonzero(moved), [0, 3, 6])


def test_within_acts_between_its_limits_and_counts_only_there():
    low, high = float(SIGMAS[5]), float(SIGMAS[2])
    found, (_, count) = guesses(algebra.within(counting(0.1), low=low, high=high))
    assert int(count) == 4
    plain, _ = guesses(None)
    moved = np.any(found != plain, axis=(1, 2, 3, 4))
    np.testing.assert_array_equal(np.flatnonzero(moved), [2, 3, 4, 5])


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_chunks_equal_one_scan_bit_for_bit_with_one_program():
    guess = algebra.constrain(algebra.predictor(gaussian), counting(0.01))
    kernel = algebra.ddim(guess, eta=0.85)
    key = jax.random.key(3)
    whole, info = jax.jit(algebra.run, static_argnums=0)(kernel, key, X, SIGMAS)
    part = jax.jit(algebra.run_steps, static_argnums=(0, 5))
    for programs, chunk in enumerate((1, 4), start=1):
        state, sigmas = kernel.init(X), []
        for start in range(0, 8, chunk):
            state, piece = part(kernel, key, state, SIGMAS, jnp.int32(start), chunk)
            sigmas.append(piece.sigma)
        assert part._cache_size() == programs
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


def nudge(key, before, after, sigma, sigma_next):
    return after.x + 0.1 * before.x + jax.random.normal(key, after.x.shape)


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_then_changes_x_after_the_step_with_a_key_of_its_own():
    inner = algebra.ddim(algebra.predictor(gaussian), eta=0.6)
    key, levels = jax.random.key(2), SIGMAS[:2]
    plain, _ = inner.step(key, inner.init(X), *levels)
    for unchanged in (
        algebra.then(inner, lambda key, before, after, s, t: after.x),
        algebra.then(inner, nudge, every=2),
    ):
        state, _ = unchanged.step(key, unchanged.init(X), *levels)
        np.testing.assert_array_equal(state.x, plain.x)
    kernel = algebra.then(inner, nudge)
    state, info = kernel.step(key, kernel.init(X), *levels)
    added = state.x - plain.x - 0.1 * X
    assert abs(np.std(added) - 1) < 0.2
    step_noise = jax.random.normal(key, X.shape)
    assert abs(np.corrcoef(np.ravel(added), np.ravel(step_noise))[0, 1]) < 0.3
    np.testing.assert_allclose(info.update_rms, np.std(state.x - X), rtol=0.05)


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_then_counts_its_steps_across_chunks():
    kernel = algebra.then(
        algebra.ddim(algebra.predictor(gaussian)),
        lambda key, before, after, s, t: after.x + 1.0,
        every=3,
    )
    key = jax.random.key(3)
    whole, _ = jax.jit(lambda x: algebra.run(kernel, key, x, SIGMAS))(X)
    part = jax.jit(lambda s, start: algebra.run_steps(kernel, key, s, SIGMAS, start, 2))
    state = kernel.init(X)
    for start in range(0, 8, 2):
        state, _ = part(state, jnp.int32(start))
    assert int(whole.aux[1]) == 8
    np.testing.assert_array_equal(state.x, whole.x)


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_draw_starts_where_the_sampler_says():
    kernel = algebra.ddim(algebra.predictor(gaussian))
    noisy = algebra.sampler(kernel, SIGMAS)
    start = noisy.start(jax.random.key(0), (4000, 2))
    np.testing.assert_allclose(start.std(), SIGMAS[0], rtol=0.05)
    key_start, key_steps = jax.random.split(jax.random.key(5))
    x = algebra.run(kernel, key_steps, noisy.start(key_start, (3, 2)), SIGMAS)[0].x
    np.testing.assert_array_equal(algebra.draw(noisy, jax.random.key(5), (3, 2)), x)
    fixed = algebra.sampler(kernel, SIGMAS, lambda key, shape: jnp.ones(shape))
    drawn = algebra.draw(fixed, jax.random.key(5), (3, 2))
    np.testing.assert_array_equal(drawn[0], drawn[1])


@pytest.mark.slow
def test_ddim_is_of_first_order_on_a_gaussian_prior(x64):
    x = jnp.asarray([[[[1.3, -0.4]]]], jnp.float64)
    high, low = 10.0, 0.1
    exact = x * np.sqrt((1 + low**2) / (1 + high**2))
    kernel = algebra.ddim(algebra.predictor(gaussian), eta=0.0)
    chunk = jax.jit(algebra.run_steps, static_argnums=(0, 5))
    errors, counts = [], np.array([64, 128, 256, 512])
    for count in counts:
        sigmas = jnp.geomspace(high, low, count + 1, dtype=jnp.float64)
        state = kernel.init(x)
        for start in range(0, count, 64):
            part = sigmas[start : start + 65]
            state, _ = chunk(kernel, jax.random.key(0), state, part, 0, 64)
        assert state.x.dtype == jnp.float64
        errors.append(np.max(np.abs(state.x - exact)))
    slope = np.polyfit(np.log(1 / counts), np.log(errors), 1)[0]
    np.testing.assert_allclose(slope, 1.0, atol=0.05)


def expected_variance(sigmas: np.ndarray, eta: float) -> float:
    """Variance of the last x by the recursion of the step, for N(0, 1)."""
    variance = sigmas[0] ** 2
    for sigma, after in zip(sigmas[:-1], sigmas[1:]):
        shrink = 1 / (1 + sigma**2)
        fresh = eta * after * np.sqrt(1 - (after / sigma) ** 2)
        factor = shrink + np.sqrt(after**2 - fresh**2) * (1 - shrink) / sigma
        variance = variance * factor**2 + fresh**2
    return variance


@jax.jit
def draw_gaussian(key, sigmas, eta):
    key_start, key_steps = jax.random.split(key)
    x = sigmas[0] * jax.random.normal(key_start, (64, 4, 8, 8))
    kernel = algebra.ddim(algebra.predictor(gaussian), eta=eta)
    return algebra.run(kernel, key_steps, x, sigmas)[0].x


@pytest.mark.parametrize("eta", [0.0, 0.85])
def test_samples_of_a_gaussian_prior_have_its_mean_and_the_known_variance(eta):
    sigmas = schedule.karras(50)
    values = draw_gaussian(jax.random.key(0), sigmas, jnp.float32(eta))
    values = np.asarray(values, np.float64)
    standard_error = values.std() / np.sqrt(values.size)
    assert abs(values.mean()) < 4 * standard_error
    known = expected_variance(np.asarray(sigmas, np.float64), eta)
    np.testing.assert_allclose(values.var(), known, rtol=0.05)
    # The exact flow ends at 1; what is missing are the finite steps.
    assert 0.85 < known < 1.0


@pytest.mark.slow
def test_run_under_vmap_over_keys_is_one_run_per_key():
    traces = []

    def guess(x, sigma):
        traces.append(None)
        return gaussian(x, sigma)

    @jax.jit
    def draws(keys, eta):
        kernel = algebra.ddim(algebra.predictor(guess), eta=eta)
        return jax.vmap(lambda key: algebra.run(kernel, key, X, SIGMAS)[0].x)(keys)

    keys = jax.random.split(jax.random.key(5), 4)
    together = draws(keys, jnp.float32(0.8))
    count = len(traces)
    draws(keys[::-1], jnp.float32(0.3))
    assert len(traces) == count
    for key, sample in zip(keys, together, strict=True):
        alone = draws(key[None], jnp.float32(0.8))[0]
        np.testing.assert_allclose(sample, alone, rtol=1e-5, atol=1e-5)
    assert np.max(np.abs(together[0] - together[1])) > 1e-2
