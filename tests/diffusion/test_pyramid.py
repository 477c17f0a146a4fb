import jax
import jax.numpy as jnp
import numpy as np

from temdiff_jax.diffusion import algebra, pyramid, schedule, solvers

COARSE, FINE = (2, 4, 2), (4, 8, 4)
KEY = jax.random.key(0)


def grid(shape, guess=None, unit=1.0, sigmas=None):
    zeros = jnp.zeros(shape)
    guess = algebra.predictor(guess or (lambda x, sigma: x))
    return pyramid.Grid(guess, zeros, jnp.float32(unit), zeros, sigmas)


def test_means_and_detail_share_a_volume_out():
    volume = jax.random.normal(KEY, (3, *FINE))
    again = pyramid.repeat(pyramid.coarsen(volume)) + pyramid.detail(volume)
    np.testing.assert_allclose(again, volume, atol=1e-6)
    coarse = jax.random.normal(KEY, COARSE)
    np.testing.assert_allclose(
        pyramid.coarsen(pyramid.repeat(coarse)), coarse, atol=1e-6
    )
    np.testing.assert_allclose(pyramid.coarsen(pyramid.detail(volume)), 0.0, atol=1e-6)


def test_noise_of_a_coarse_grid_becomes_white_noise_of_the_fine_one():
    """Covariance of 20000 draws; units differ between the grids."""
    coarse, fine = grid(COARSE, unit=2.0), grid(FINE, unit=0.5)
    sigma = jnp.float32(3.0)
    x = sigma * jax.random.normal(KEY, (20000, *COARSE))
    x, level = pyramid.refine(jax.random.key(1), x, sigma, coarse, fine)
    np.testing.assert_allclose(level, 3.0 * 2.0 * 8**0.5 / 0.5, rtol=1e-6)
    flat = np.asarray(x).reshape(20000, -1) / float(level)
    covariance = flat.T @ flat / 20000
    np.testing.assert_allclose(covariance, np.eye(flat.shape[1]), atol=0.05)


def test_the_bases_and_the_detail_of_the_mean_are_carried_over():
    base = jax.random.normal(KEY, FINE)
    mean = jax.random.normal(jax.random.key(2), FINE)
    coarse = grid(COARSE, unit=2.0)._replace(base=pyramid.coarsen(base))
    fine = grid(FINE, unit=0.5)._replace(base=base, mean=mean)
    x = jax.random.normal(jax.random.key(3), (1, *COARSE))
    found, level = pyramid.refine(KEY, x, jnp.float32(0.0), coarse, fine)
    volume = fine.base + fine.unit * found[0]
    means = coarse.base + coarse.unit * x[0]
    np.testing.assert_allclose(pyramid.coarsen(volume), means, atol=1e-5)
    expected = pyramid.detail(mean)
    np.testing.assert_allclose(pyramid.detail(volume), expected, atol=1e-5)
    assert float(level) == 0.0


def test_samples_on_two_grids_have_the_law_of_the_fine_one():
    """Gaussian volumes: means of variance 4, detail of 0.02; exact denoisers."""
    wide, narrow, count = 4.0, 0.02, 6000

    def coarse_guess(x, sigma):
        return wide / (wide + sigma**2) * x

    def fine_guess(x, sigma):
        means = pyramid.coarsen(x)
        # Noise of a mean over eight voxels has an eighth of the variance.
        means = wide / (wide + sigma**2 / 8) * means
        return pyramid.repeat(means) + narrow / (narrow + sigma**2) * pyramid.detail(x)

    first = schedule.karras(60, sigma_max=60.0, sigma_min=0.7)[:-1]
    last = schedule.karras(60, sigma_max=2.0, sigma_min=0.02)
    grids = [grid(COARSE, coarse_guess, 1.0, first), grid(FINE, fine_guess, 1.0, last)]

    def solver(guess):
        return solvers.dpm_solver_2m(guess, eta=1.0)

    found = pyramid.sample(KEY, grids, solver, count)
    means, rest = pyramid.coarsen(found), pyramid.detail(found)
    # Seven of eight degrees of freedom of a cell are detail.
    variance = float(jnp.mean(rest**2)) * 8 / 7
    np.testing.assert_allclose(float(jnp.var(means)), wide, rtol=0.03)
    np.testing.assert_allclose(variance, narrow, rtol=0.05)
