"""The depth gauge finds known shifts and scales and leaves good volumes alone."""

import numpy as np
import pytest
from scipy import ndimage

from temdiff_jax.evaluation import gauge


@pytest.fixture(scope="module")
def truth():
    noise = np.random.default_rng(2).normal(size=(40, 20, 24))
    return ndimage.gaussian_filter(noise, (2.5, 1.0, 1.0))


def stretched(volume, shift, scale):
    """Volume whose content lies at ``c + scale (z - c) + shift``."""
    size = volume.shape[0]
    centre = (size - 1) / 2
    position = centre + (np.arange(size) - shift - centre) / scale
    z = np.broadcast_to(position[:, None, None], volume.shape)
    rest = np.meshgrid(*(np.arange(n) for n in volume.shape), indexing="ij")[1:]
    return ndimage.map_coordinates(volume, [z, *rest], order=3, mode="nearest")


@pytest.mark.parametrize(
    ("shift", "scale"), [(0.0, 1.0), (3.0, 1.0), (-2.4, 1.0), (0.0, 1.2), (1.5, 0.85)]
)
def test_known_depth_error_is_found_and_undone(truth, shift, scale):
    wrong = 3.0 * stretched(truth, shift, scale) + 11.0
    fit = gauge.fit_depth_gauge(wrong, truth)
    assert fit.shift == pytest.approx(shift, abs=0.15)
    assert fit.scale == pytest.approx(scale, abs=0.01)
    inner = slice(10, 30)
    got, want = fit.volume[inner], 3.0 * truth[inner] + 11.0
    assert np.corrcoef(got.ravel(), want.ravel())[0, 1] > 0.99


def test_perfect_volume_stays_bit_for_bit(truth):
    fit = gauge.fit_depth_gauge(truth, truth)
    assert (fit.shift, fit.scale) == (0.0, 1.0)
    assert fit.correlation == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_array_equal(fit.volume, truth)


def test_reported_correlation_is_that_of_the_volume(truth):
    fit = gauge.fit_depth_gauge(stretched(truth, 2.0, 1.1), truth)
    measured = np.corrcoef(fit.volume.ravel(), truth.ravel())[0, 1]
    assert fit.correlation == pytest.approx(measured, abs=1e-9)


def test_constant_reconstruction_keeps_the_identity(truth):
    fit = gauge.fit_depth_gauge(np.ones_like(truth), truth)
    assert (fit.shift, fit.scale, fit.correlation) == (0.0, 1.0, 0.0)


def test_only_full_columns_of_the_mask_count(truth):
    mask = np.zeros(truth.shape, dtype=bool)
    mask[:, :, 8:16] = True
    wrong = stretched(truth, 3.0, 1.0)
    wrong[:, :, :8] = stretched(truth, -5.0, 1.0)[:, :, :8]
    wrong[:, :, 16:] = stretched(truth, -5.0, 1.0)[:, :, 16:]
    assert gauge.fit_depth_gauge(wrong, truth, mask).shift == pytest.approx(3, abs=0.15)
