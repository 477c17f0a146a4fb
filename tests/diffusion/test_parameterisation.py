"""The preconditioned denoiser on data whose best denoiser is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
