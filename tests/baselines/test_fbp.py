"""The filter and the weights of the tilts."""

import importlib

import jax.numpy as jnp
import numpy as np
import pytest

fbp = importlib.import_module("temdiff_jax.baselines.fbp")


def weights_deg(angles):
    radians = jnp.deg2rad(jnp.asarray(angles, jnp.float32))
    return np.rad2deg(np.asarray(fbp.tilt_weights(radians)))


@pytest.mark.parametrize(
    ("angles", "expected"),
    [
        ([-10, 0, 10], [5, 10, 5]),
        ([-10, 0, 30], [5, 20, 15]),
        ([30, -10, 0], [15, 5, 20]),
        ([0, 0, 10], [0, 5, 5]),
        ([7], [180]),
        ([7, 7], [90, 90]),
    ],
)
def test_weights_are_half_the_gaps(angles, expected):
    np.testing.assert_allclose(weights_deg(angles), expected, atol=1e-3)


def test_weights_of_the_full_range_add_up_to_a_half_turn():
    assert weights_deg(np.linspace(-90, 90, 19)).sum() == pytest.approx(180.0, rel=1e-5)


@pytest.mark.parametrize("cycles", [2, 6, 12])
def test_ramp_times_hann_inside(cycles):
    # Far from the ends a wave is multiplied by |f| cos^2(pi f).
    size = 96
    frequency = cycles / 48
    u = np.arange(size)
    wave = np.cos(2 * np.pi * frequency * u) * np.hanning(size) ** 2
    filtered = np.asarray(fbp.ramp_filter(jnp.asarray(wave[None, :, None])))[0, :, 0]
    middle = slice(size // 2 - 8, size // 2 + 8)
    gain = np.vdot(wave[middle], filtered[middle]) / np.vdot(wave[middle], wave[middle])
    expected = frequency * np.cos(np.pi * frequency) ** 2
    assert gain == pytest.approx(expected, rel=0.05)


def test_filter_does_not_wrap_around():
    spike = jnp.zeros((1, 32, 1)).at[0, 0, 0].set(1.0)
    filtered = np.asarray(fbp.ramp_filter(spike))[0, :, 0]
    assert abs(filtered[-1]) < 1e-3 * filtered[0]


def test_filter_acts_along_u_alone():
    tilts = jnp.asarray(np.random.default_rng(0).normal(size=(3, 16, 5)), jnp.float32)
    alone = fbp.ramp_filter(tilts[1:2, :, 2:3])
    np.testing.assert_allclose(fbp.ramp_filter(tilts)[1:2, :, 2:3], alone, atol=1e-6)
