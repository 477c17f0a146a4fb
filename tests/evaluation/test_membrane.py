"""Profiles across drawn sheets of known width, tilt and contrast."""

import numpy as np
import pytest
from scipy import ndimage

from temdiff_jax.evaluation import membrane

SHAPE = (48, 32, 40)
FWHM = 2 * np.sqrt(2 * np.log(2))


def sheet(sigma, tilt_deg=0.0, middle=24.0, shape=SHAPE):
    """Gaussian sheet whose normal is tilted from z towards x."""
    z, _, x = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    tilt = np.deg2rad(tilt_deg)
    d = (z - middle) * np.cos(tilt) + (x - (shape[2] - 1) / 2) * np.sin(tilt)
    return np.exp(-0.5 * (d / sigma) ** 2)


def profile(volume, truth, mask=None):
    return membrane.mean_profile(volume, membrane.find_sheets(truth, mask))


@pytest.mark.parametrize("sigma", [1.5, 2.0])
def test_width_and_depth_of_a_flat_sheet(sigma):
    truth = 0.2 + 0.7 * sheet(sigma)
    sites = membrane.find_sheets(truth)
    np.testing.assert_array_equal(np.unique(sites[0]), [24])
    assert sites[0].size == SHAPE[1] * SHAPE[2]
    found = membrane.mean_profile(truth, sites)
    assert found.width == pytest.approx(FWHM * sigma, rel=0.01)
    assert found.depth == pytest.approx(0.7, rel=1e-3)
    assert np.argmax(found.values) == membrane.REACH


def test_blur_along_z_widens_and_flattens_the_profile_as_computed():
    truth = sheet(1.5)
    blurred = ndimage.gaussian_filter1d(truth, 2.0, axis=0)
    found = profile(blurred, truth)
    # Variances add, the area stays: sigma 2.5, height 1.5 / 2.5.
    assert found.width == pytest.approx(FWHM * 2.5, rel=0.01)
    assert found.depth == pytest.approx(0.6, rel=5e-3)
    sideways = profile(ndimage.gaussian_filter1d(truth, 2.0, axis=2), truth)
    assert sideways.width == pytest.approx(FWHM * 1.5, rel=0.01)


def test_only_sheets_near_flat_count():
    assert membrane.find_sheets(sheet(1.5, 15))[0].size > 200
    for tilt in (40, 90):
        assert membrane.find_sheets(sheet(1.5, tilt))[0].size == 0


def test_rods_balls_and_dark_sheets_are_no_membranes():
    z, y, x = np.meshgrid(*(np.arange(n) - n / 2 for n in SHAPE), indexing="ij")
    rod = np.exp(-0.5 * (z**2 + y**2) / 2.0)
    ball = np.exp(-0.5 * (z**2 + y**2 + x**2) / 4.0)
    # The two lines of inflection of a rod.
    assert membrane.find_sheets(rod)[0].size <= 2 * SHAPE[2]
    assert membrane.find_sheets(ball)[0].size < 20
    dark = membrane.find_sheets(-sheet(1.5))
    assert not np.isin(dark[0], np.arange(20, 29)).any()


def test_mask_leaves_out_places_whose_profile_it_cuts():
    mask = np.zeros(SHAPE, bool)
    mask[10:40, :, 5:20] = True
    z, _, x = membrane.find_sheets(sheet(1.5), mask)
    assert z.size == SHAPE[1] * 15
    assert (x.min(), x.max()) == (5, 19)
    mask[10:16] = False
    assert membrane.find_sheets(sheet(1.5), mask)[0].size == 0


def test_inverted_reconstruction_has_no_width_and_a_negative_depth():
    truth = sheet(1.5)
    found = profile(-truth, truth)
    assert np.isnan(found.width) and found.depth < 0


def test_too_few_places_and_thin_volumes_have_no_profile():
    thin = sheet(1.5, shape=(16, 20, 20), middle=8.0)
    assert np.isnan(profile(thin, thin).width)
    none = np.ones(SHAPE)
    assert np.isnan(profile(none, none).depth)
