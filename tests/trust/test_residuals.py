"""Noise measured in images, and residuals against it."""

import numpy as np
from numpy.testing import assert_allclose
from scipy import ndimage

from temdiff_jax.trust import residuals

SHAPE = (6, 64, 48)


def white(seed=0):
    return np.random.default_rng(seed).normal(size=SHAPE)


def test_the_noise_under_a_smooth_picture_is_measured():
    picture = 20 * ndimage.gaussian_filter(white(1), (0, 3, 3))
    found = residuals.measure_noise(picture + 0.7 * white())
    assert found.flat.all()
    assert_allclose(found.sigma, 0.7, rtol=0.12)


def test_blurred_noise_is_said_to_be_unknown():
    found = residuals.measure_noise(ndimage.gaussian_filter(white(), (0, 1, 1)))
    assert not found.flat.any()


def test_chi2_of_the_noise_itself_is_one_and_white():
    judged = residuals.judge(0.3 * white(), np.full(6, 0.3), np.ones(SHAPE, bool))
    assert_allclose(judged.chi2, 1.0, atol=0.1)
    assert judged.p.min() > 0.01


def test_chi2_counts_the_pixels_that_are_not_masked():
    keep = np.random.default_rng(2).random(SHAPE) > 0.3
    rest = np.where(keep, 2 * white(), 100.0)
    assert_allclose(residuals.judge(rest, np.ones(6), keep).chi2, 4.0, rtol=0.12)


def test_structure_is_seen_where_the_size_is_right():
    smooth = ndimage.gaussian_filter(white(), (0, 2, 2))
    smooth /= smooth.std()
    rest = (white(3) + smooth) / np.sqrt(2)
    judged = residuals.judge(rest, np.ones(6), np.ones(SHAPE, bool))
    assert_allclose(judged.chi2, 1.0, atol=0.2)
    assert judged.p.max() < 1e-3
    assert judged.excess.min() > 0.2


def test_white_residuals_are_rarely_called_structured():
    p = [
        residuals.judge(white(seed), np.ones(6), np.ones(SHAPE, bool)).p
        for seed in range(40)
    ]
    assert np.mean(np.concatenate(p) < 0.01) <= 0.02
