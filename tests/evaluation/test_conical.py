"""Conical correlation on volumes whose resolution differs by direction as planned."""

import numpy as np
import pytest
from scipy import ndimage

from temdiff_jax.evaluation import conical, fourier

SHAPE = (48, 48, 48)


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).normal(size=(2, *SHAPE))


def test_directions_are_even_over_the_half_sphere():
    axes = conical.hemisphere(256)
    np.testing.assert_allclose(np.linalg.norm(axes, axis=1), 1.0)
    assert (axes[:, 0] > 0).all()
    # Mean of v v^T over an even half sphere is I / 3.
    np.testing.assert_allclose(axes.T @ axes / 256, np.eye(3) / 3, atol=5e-3)
    cosines = np.abs(axes @ axes.T) - 2 * np.eye(256)
    nearest = np.rad2deg(np.arccos(cosines.max(axis=1)))
    assert 4.5 < nearest.min() and nearest.max() < 9.0


def test_same_volume_is_isotropic_whatever_its_gain(noise):
    same = conical.conical_correlation(3.0 * noise[0] + 1.0, noise[0])
    assert np.nanmin(same.fsc) > 1 - 1e-12
    assert same.ratio == pytest.approx(1.0)
    np.testing.assert_allclose(same.frequency, np.arange(1, 25) / 48)


def expected_curve(frequency, sigma, amount, direction):
    """FSC of blurred plus noise against white, mean over a cone of 20 degrees.

    G = exp(-2 pi^2 sigma^2 kz^2); FSC = sum G / sqrt(sum (G^2 + amount^2) n).
    """
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(200_000, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    near = np.abs(vectors @ np.asarray(direction)) >= np.cos(np.deg2rad(20))
    kz = np.outer(frequency, vectors[near, 0])
    blur = np.exp(-2 * np.pi**2 * sigma**2 * kz**2)
    return blur.mean(1) / np.sqrt((blur**2).mean(1) + amount**2)


def test_blur_along_z_lowers_the_curves_about_z_as_computed(noise):
    truth, extra = noise
    sigma, amount = 1.5, 0.3
    blurred = ndimage.gaussian_filter1d(truth, sigma, axis=0, mode="wrap")
    found = conical.conical_correlation(blurred + amount * extra, truth)
    use = slice(4, 23)
    for direction in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        axis = found.axes[np.argmax(np.abs(found.axes @ direction))]
        expected = expected_curve(found.frequency, sigma, amount, axis)
        got = found.along(direction)
        assert np.abs(got[use] - expected[use]).max() < 0.2  # few frequencies a cone
        assert np.abs((got - expected)[use].mean()) < 0.03
    assert found.along((0, 0, 1))[use].min() > 0.85
    assert found.along((1, 0, 0))[15:].max() < 0.25
    assert abs(found.axes[np.argmin(found.area)][0]) > 0.97
    assert 0.15 < found.ratio < 0.5


def test_isotropic_blur_stays_isotropic(noise):
    truth, extra = noise
    blurred = ndimage.gaussian_filter(truth, 1.0, mode="wrap")
    assert conical.conical_correlation(blurred + 0.2 * extra, truth).ratio > 0.85


def test_unfilled_wedge_has_the_area_zero(noise):
    truth = noise[0]
    inside = fourier.measured_region(SHAPE, np.arange(-60.0, 61.0, 3.0))
    rec = np.fft.irfftn(np.fft.rfftn(truth) * inside, SHAPE, axes=(0, 1, 2))
    found = conical.conical_correlation(rec, truth)
    # The wedge is 30 degrees to each side of z in the xz plane: the cone about z is
    # inside it, cones 60 degrees and more from z are not.
    assert np.nanmax(np.abs(found.along((1, 0, 0))[5:])) < 0.05
    assert np.nanmin(found.along((0, 0, 1))) > 0.999
    assert np.nanmin(found.along((0.5, 0, 0.9))) > 0.99
    assert found.ratio < 0.05


def test_truth_without_power_has_no_ratio():
    flat = np.ones((16, 16, 16))
    assert np.isnan(conical.conical_correlation(flat, flat).ratio)


def test_slab_of_any_shape():
    truth = np.random.default_rng(3).normal(size=(16, 30, 25))
    found = conical.conical_correlation(truth, truth)
    assert found.fsc.shape == (256, 8) and found.ratio == pytest.approx(1.0)
