import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.fft import dctn

from temdiff_jax import model
from temdiff_jax.diffusion import spectrum

SHAPE = (4, 6, 8)
KEY = jax.random.key(0)


def random_volumes(count=3, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.standard_normal((count, *SHAPE)), jnp.float32)


def some_power():
    frequencies = np.meshgrid(*(np.arange(n) / n for n in SHAPE), indexing="ij")
    square = sum(f**2 for f in frequencies) + 0.02
    return jnp.asarray(0.1 / square, jnp.float32)[None]


def test_modes_are_the_orthonormal_cosine_transform():
    x = random_volumes()
    expected = dctn(np.asarray(x), axes=(1, 2, 3), norm="ortho")
    np.testing.assert_allclose(spectrum.to_modes(x), expected, atol=2e-6)
    np.testing.assert_allclose(spectrum.from_modes(spectrum.to_modes(x)), x, atol=2e-6)


@pytest.mark.parametrize("sigma", [0.1, 1.0, 30.0])
def test_a_white_spectrum_is_the_skip_of_edm(sigma):
    x, level = random_volumes(), jnp.full(3, sigma)
    guess, left = spectrum.linear_guess(x, level, jnp.ones((1, *SHAPE)))
    np.testing.assert_allclose(guess, x / (1 + sigma**2), rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(left, sigma / np.sqrt(1 + sigma**2), rtol=1e-5)


@pytest.mark.parametrize("sigma", [0.3, 3.0])
def test_the_linear_guess_leaves_the_deviation_that_it_says(sigma):
    power = some_power()
    modes = jnp.sqrt(power) * random_volumes(4000, seed=1)
    clean = spectrum.from_modes(modes)
    noisy = clean + sigma * random_volumes(4000, seed=2)
    guess, left = spectrum.linear_guess(noisy, jnp.full(4000, sigma), power)
    error = float(jnp.sqrt(jnp.mean((guess - clean) ** 2)))
    np.testing.assert_allclose(error, left[0], rtol=0.01)
    # No other gain of single modes is better.
    for factor in (0.9, 1.1):
        assert float(jnp.mean((factor * guess - clean) ** 2)) > error**2


def test_at_the_mean_level_the_input_does_not_matter():
    def network(x, embedding, guess):
        return 1.0 + x + guess

    level = jnp.full(3, spectrum.SIGMA_MEAN)
    power = some_power()
    given = [
        spectrum.denoise(network, random_volumes(3, s), level, power) for s in (1, 2)
    ]
    expected = np.sqrt(float(jnp.mean(power)))
    np.testing.assert_allclose(given[0], expected, rtol=1e-6)
    np.testing.assert_array_equal(given[0], given[1])


def test_a_perfect_network_is_found_again():
    power, sigma = some_power(), jnp.array([0.2, 1.0, 5.0])
    clean = random_volumes()
    noisy = clean + sigma[:, None, None, None] * random_volumes(3, 5)

    def network(x, embedding, shown):
        guess, left = spectrum.linear_guess(noisy, sigma, power)
        return (clean - guess) / left[:, None, None, None]

    found = spectrum.denoise(network, noisy, sigma, power)
    np.testing.assert_allclose(found, clean, atol=1e-5)


def test_the_scalars_are_in_the_order_of_the_network():
    assert spectrum.NUM_SERIES == model.NUM_SERIES


def test_the_fit_finds_a_law_of_wedge_and_voxel_size():
    """Rising with the wedge and the voxel size, falling with the frequency."""
    shape, count = (8, 10, 6), 48
    draws = jax.random.normal(jax.random.key(3), (count, 6))
    features = draws * jnp.asarray([0.5, 0.0, 0.0, 0.0, 0.0, 0.5])
    present = jnp.ones(count)
    law = spectrum.init(KEY)
    modes = spectrum._modes(shape, law._tangent(features))
    voxel = features[:, -1][:, None, None, None]
    expected = jnp.exp(-modes[..., 0] + 1.5 * modes[..., 4] + 2.0 * voxel)
    power = expected * jax.random.normal(jax.random.key(4), expected.shape) ** 2
    group = (power, features, present, jnp.zeros(count))
    found = spectrum.fit(KEY, [group], modes=40_000)
    off = 10 * jnp.log10(found(shape, features, present) / expected)
    spread = float(jnp.std(10 * jnp.log10(expected)))
    # Within 1 dB, of a law that spans far more.
    assert float(jnp.sqrt(jnp.mean(off**2))) < 1.0 < 0.2 * spread


def test_training_levels_stay_in_their_range_and_rise_with_the_quantile():
    levels = np.asarray(spectrum.training_levels(jnp.linspace(0.0, 1.0, 101)))
    assert levels[0] == pytest.approx(spectrum.SIGMA_LOW)
    assert levels[-1] == pytest.approx(spectrum.SIGMA_HIGH)
    assert np.all(np.diff(levels) >= 0)
    assert levels[50] == pytest.approx(np.exp(spectrum.LOG_MEAN), rel=1e-4)


def test_numbers_of_a_card_give_the_same_spectrum():
    made = spectrum.init(KEY)
    again = spectrum.from_json(spectrum.to_json(made))
    given = (SHAPE, jnp.ones((1, 6)), jnp.ones(1))
    np.testing.assert_array_equal(made(*given), again(*given))


@pytest.mark.parametrize("fault", ["sizes", "nan", "layers"])
def test_numbers_that_are_no_spectrum_are_refused(fault):
    rows = spectrum.to_json(spectrum.init(KEY))
    if fault == "sizes":
        rows[1]["weight"] = rows[1]["weight"][:-1]
    elif fault == "nan":
        rows[0]["bias"][3] = float("nan")
    else:
        rows = rows[:2]
    with pytest.raises(ValueError, match="spectrum of layers"):
        spectrum.from_json(rows)


def test_what_a_regression_leaves_has_a_power_of_its_own():
    """Half as strong as what the quadratic estimate leaves; found by the fit."""
    shape, count = (6, 8, 6), 40
    features, present = jnp.zeros((count, 6)), jnp.ones(count)
    regressed = (jnp.arange(count) % 2).astype(jnp.float32)
    noise = jax.random.normal(jax.random.key(5), (count, *shape)) ** 2
    power = jnp.where(regressed > 0, 0.5, 1.0)[:, None, None, None] * noise
    law = spectrum.fit(KEY, [(power, features, present, regressed)], modes=40_000)
    both = [law(shape, features[:1], present[:1], jnp.full(1, r)) for r in (0.0, 1.0)]
    np.testing.assert_allclose(np.mean(both[1] / both[0]), 0.5, rtol=0.1)


def test_an_older_spectrum_knows_no_regression():
    """A card without the row for it gives one power for both."""
    rows = spectrum.to_json(spectrum.init(KEY))
    rows[0]["weight"] = rows[0]["weight"][:-1]
    law = spectrum.from_json(rows)
    given = (SHAPE, jnp.ones((1, 6)), jnp.ones(1))
    np.testing.assert_array_equal(law(*given), law(*given, jnp.ones(1)))


def test_the_power_of_a_series_beyond_the_fit_stays_bounded():
    law = spectrum.init(KEY)
    last = (jnp.ones_like(law.layers[2][0]), law.layers[2][1])
    law = spectrum.Spectrum((*law.layers[:2], last))
    far, farther = (
        law(SHAPE, jnp.zeros((1, 6)).at[0, 4].set(v), jnp.ones(1)) for v in (12.0, 99.0)
    )
    np.testing.assert_allclose(far, farther, rtol=1e-2)
