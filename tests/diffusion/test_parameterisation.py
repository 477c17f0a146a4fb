"""The preconditioned denoiser on data whose best denoiser is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.diffusion import algebra, schedule
from temdiff_jax.diffusion import parameterisation as par

SIGMAS = jnp.array([0.02, 0.3, 1.0, 7.0, 20.0])


def column(values):
    return values[:, None, None, None]


def optimal_network(spread: float):
    """F of the best denoiser of N(0, spread^2): D = x spread^2 / (spread^2 + s^2)."""

    def network(scaled, embedding):
        sigma = jnp.exp(4.0 * embedding)
        c_skip, c_out, c_in = par.scalings(sigma)
        x = scaled / column(jnp.where(c_in > 0, c_in, 1.0))
        wiener = spread**2 / (spread**2 + sigma**2)
        return x * column((wiener - c_skip) / c_out)

    return network


@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0])
def test_optimal_network_gives_the_wiener_denoiser(spread):
    x = jax.random.normal(jax.random.key(0), (5, 2, 3, 4)) * column(SIGMAS)
    guess = par.denoise(optimal_network(spread), x, SIGMAS)
    expected = x * column(spread**2 / (spread**2 + SIGMAS**2))
    np.testing.assert_allclose(guess, expected, rtol=1e-4, atol=1e-5)


def test_zero_network_is_optimal_for_unit_variance_data():
    x = jax.random.normal(jax.random.key(1), (5, 2, 3, 4))
    guess = par.denoise(lambda scaled, level: jnp.zeros_like(scaled), x, SIGMAS)
    np.testing.assert_allclose(guess, x / column(1 + SIGMAS**2), rtol=1e-6)


def test_scalings_keep_input_and_target_at_unit_variance():
    c_skip, c_out, c_in = par.scalings(SIGMAS)
    np.testing.assert_allclose(c_in**2 * (1 + SIGMAS**2), 1, rtol=1e-5)
    # Var(r - c_skip (r + s z)) = c_out^2 for r of unit variance.
    target = (1 - c_skip) ** 2 + c_skip**2 * SIGMAS**2
    np.testing.assert_allclose(target, c_out**2, rtol=1e-4)


def test_the_mean_level_does_not_look_at_x():
    sigma = jnp.full((2,), par.SIGMA_MEAN)
    seen = []

    def network(scaled, level):
        seen.append(level)
        return 3.0 + scaled

    for scale in (0.0, 1e3):
        x = scale * jax.random.normal(jax.random.key(2), (2, 3, 3, 3))
        np.testing.assert_array_equal(par.denoise(network, x, sigma), 3.0)
    np.testing.assert_allclose(seen[0], np.log(par.SIGMA_MEAN) / 4, rtol=1e-6)


@pytest.mark.slow
def test_loss_of_the_optimal_network_is_the_floor():
    key_data, key_noise = jax.random.split(jax.random.key(3))
    shape = (5, 16, 16, 16)
    clean = jax.random.normal(key_data, shape)
    noise = jax.random.normal(key_noise, shape)
    best = par.loss_per_example(optimal_network(1.0), clean, SIGMAS, noise)
    # Posterior variance s^2 / (1 + s^2) over c_out^2 is 1 at every level.
    np.testing.assert_allclose(best, 1.0, atol=0.06)
    worse = par.loss_per_example(optimal_network(2.0), clean, SIGMAS, noise)
    assert np.all(worse[1:] > best[1:])


NAMES = sorted(par.VIEWS)


def noisy_pair(key, shape=(5, 2, 3, 4)):
    key_data, key_noise = jax.random.split(key)
    clean = jax.random.normal(key_data, shape)
    noise = jax.random.normal(key_noise, shape)
    return clean, noise, clean + column(SIGMAS.astype(clean.dtype)) * noise


def published_outputs(clean, noise, x, sigma):
    """Each output by its own definition, in the scale of its own paper."""
    s = column(sigma)
    alpha_bar = 1 / (1 + s**2)
    v = jnp.sqrt(alpha_bar) * noise - jnp.sqrt(1 - alpha_bar) * clean
    return {
        "edm": (clean - x / (1 + s**2)) * jnp.sqrt(1 + s**2) / s,
        "eps": noise,
        "flow": noise - clean,
        "score": -(x - clean) / s**2,
        "v": v,
        "x0": clean,
    }


@pytest.mark.parametrize("name", NAMES)
def test_output_of_a_view_is_what_its_paper_defines(name, x64):
    sigma = SIGMAS.astype(jnp.float64)
    clean, noise, x = noisy_pair(jax.random.key(4))
    expected = published_outputs(clean, noise, x, sigma)[name]
    got = par.to_view(x, clean, sigma, par.VIEWS[name])
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-10)
    back = par.from_view(x, got, sigma, par.VIEWS[name])
    np.testing.assert_allclose(back, clean, rtol=1e-12, atol=1e-12)


def test_input_of_a_view_is_on_the_scale_of_its_process(x64):
    sigma = SIGMAS.astype(jnp.float64)
    clean, noise, x = noisy_pair(jax.random.key(5))
    time = column(sigma / (1 + sigma))
    flow = column(par.flow_scalings(sigma)[2]) * x
    np.testing.assert_allclose(flow, (1 - time) * clean + time * noise, rtol=1e-12)
    alpha_bar = column(1 / (1 + sigma**2))
    kept = jnp.sqrt(alpha_bar) * clean + jnp.sqrt(1 - alpha_bar) * noise
    for name in ("v", "edm"):
        scaled = column(par.VIEWS[name](sigma)[2]) * x
        np.testing.assert_allclose(scaled, kept, rtol=1e-11, atol=1e-12)


def test_preconditioning_for_unit_variance_is_v_with_its_sign_turned(x64):
    sigma = SIGMAS.astype(jnp.float64)
    skip, out, scale = par.scalings(sigma)
    v_skip, v_out, v_scale = par.v_scalings(sigma)
    np.testing.assert_allclose(skip, v_skip, rtol=1e-14)
    np.testing.assert_allclose(out, -v_out, rtol=1e-14)
    np.testing.assert_allclose(scale, v_scale, rtol=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_views_of_the_exact_denoiser_of_a_gaussian_are_equal(name, x64):
    """N(mean, spread^2): a different denoiser per view would differ in the guess."""
    mean, spread = 0.3, 0.7
    sigma = SIGMAS.astype(jnp.float64)

    def exact(x, sigma):
        gain = column(spread**2 / (spread**2 + sigma**2))
        return mean + gain * (x - mean)

    x = noisy_pair(jax.random.key(6))[2]
    network = par.as_view(exact, par.VIEWS[name])
    guess = par.denoise(network, x, sigma, par.VIEWS[name])
    np.testing.assert_allclose(guess, exact(x, sigma), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_every_view_is_the_mean_where_the_input_says_nothing(name):
    sigma = jnp.full((2,), par.SIGMA_MEAN)
    x = jnp.full((2, 2, 2, 2), 1e3)
    guess = par.denoise(lambda scaled, level: 3.0 + scaled, x, sigma, par.VIEWS[name])
    np.testing.assert_array_equal(guess, 3.0)


@pytest.mark.slow
def test_network_samples_alike_through_any_view(x64):
    """One network of the default form, its guess taken through a view at every step."""

    def network(scaled, embedding):
        mixed = jnp.roll(scaled, 1, axis=1) - 0.4 * jnp.roll(scaled, 1, axis=3)
        return jnp.tanh(mixed + column(embedding))

    def denoiser(x, sigma):
        return par.denoise(network, x, sigma)

    def draw(function):
        def guess(x, sigma):
            return function(x, jnp.full((x.shape[0],), sigma))

        kernel = algebra.ddim(algebra.predictor(guess), eta=0.5)
        method = algebra.sampler(kernel, schedule.karras(8).astype(jnp.float64))
        return algebra.draw(method, jax.random.key(7), (2, 3, 4, 5))

    def through(view):
        other = par.as_view(denoiser, view)
        return draw(lambda x, sigma: par.denoise(other, x, sigma, view))

    # One program for all.
    expected, got = jax.jit(
        lambda: (draw(denoiser), [through(par.VIEWS[name]) for name in NAMES])
    )()
    assert float(jnp.std(expected)) > 0.1
    for samples in got:
        np.testing.assert_allclose(samples, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_loss_of_a_view_is_the_squared_error_of_its_output(name, x64):
    sigma = SIGMAS.astype(jnp.float64)
    clean, noise, x = noisy_pair(jax.random.key(8))
    view = par.VIEWS[name]
    network = lambda scaled, level: jnp.sin(scaled)  # noqa: E731
    raw = network(column(view(sigma)[2]) * x, None)
    error = raw - published_outputs(clean, noise, x, sigma)[name]
    expected = jnp.mean(error**2, axis=(1, 2, 3))
    got = par.loss_per_example(network, clean, sigma, noise, view)
    np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_variance_that_is_learned_is_that_of_the_errors(x64):
    """Free log-variances of three kinds of voxels, on errors of known spread."""
    spreads = jnp.array([0.2, 1.0, 3.0])
    noise = jax.random.normal(jax.random.key(9), (1, 3, 40, 500), jnp.float64)
    error = spreads[None, :, None, None] * noise

    def loss(free):
        wide = jnp.broadcast_to(free[None, :, None, None], error.shape)
        return jnp.sum(par.variance_loss(error, wide))

    def step(free, _):
        return free - jax.grad(loss)(free), None

    free = jax.jit(lambda: jax.lax.scan(step, jnp.zeros(3), length=400)[0])()
    # The likelihood is largest at the mean of the squares.
    expected = jnp.mean(error**2, axis=(0, 2, 3))
    np.testing.assert_allclose(jnp.exp(free), expected, rtol=1e-3)
    np.testing.assert_allclose(jnp.exp(free), spreads**2, rtol=0.05)


@pytest.mark.slow
def test_gradient_of_the_variance_is_that_of_the_weighted_likelihood(x64):
    error, s = jnp.array(0.7), 0.4
    wide = jnp.full((1, 1, 1, 1), s)
    grad = jax.grad(lambda v: par.variance_loss(error * jnp.ones_like(v), v)[0])(wide)
    expected = 0.5 * (1 - np.exp(-s) * 0.49) * np.exp(s / 2)
    np.testing.assert_allclose(grad[0, 0, 0, 0], expected, rtol=1e-12)
    at_error = jax.grad(lambda e: par.variance_loss(e, wide)[0])(0.7 * wide)
    np.testing.assert_array_equal(at_error, 0.0)


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_second_output_changes_no_bit_of_the_first_loss(x64):
    sigma = SIGMAS.astype(jnp.float64)
    clean, noise, x = noisy_pair(jax.random.key(10))

    def both(scaled, level):
        return jnp.sin(scaled), 0.1 * scaled

    def one(scaled, level):
        return both(scaled, level)[0]

    for name in NAMES:
        view = par.VIEWS[name]
        first, second = par.losses_per_example(both, clean, sigma, noise, view)
        alone = par.loss_per_example(one, clean, sigma, noise, view)
        np.testing.assert_array_equal(first, alone, err_msg=name)
        guess, log_variance = par.denoise_both(both, x, sigma, view)
        plain = par.denoise(one, x, sigma, view)
        np.testing.assert_array_equal(guess, plain, err_msg=name)
        # In units of the volume the variance holds the square of c_out.
        c_skip, c_out, c_in = (column(c) for c in view(sigma))
        raw = log_variance - 2 * jnp.log(jnp.abs(c_out))
        np.testing.assert_allclose(raw, 0.1 * c_in * x, rtol=1e-9, atol=1e-12)
        error = (guess - clean) / c_out
        np.testing.assert_allclose(second, par.variance_loss(error, raw), rtol=1e-9)
