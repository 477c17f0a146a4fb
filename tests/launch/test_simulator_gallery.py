import numpy as np
import pytest
from scipy import ndimage


@pytest.fixture(scope="module")
def simulator_gallery(load_program):
    return load_program("launch.simulator_gallery")


def test_numbers_of_white_noise_and_of_a_smooth_picture(simulator_gallery):
    rng = np.random.default_rng(0)
    white = simulator_gallery.describe([rng.normal(size=(96, 90)) for _ in range(2)])
    assert white["noise / signal"] == pytest.approx(1.0, abs=0.05)
    assert white["skewness"] == pytest.approx(0.0, abs=0.1)
    assert white["spectral slope"] == pytest.approx(0.0, abs=0.2)
    # Shells up to Nyquist: 3/4 of the area of a disc lie beyond half its radius.
    assert white["power above Nyquist / 2"] == pytest.approx(0.75, abs=0.05)
    smooth = ndimage.gaussian_filter(rng.normal(size=(96, 90)), 3.0)
    numbers = simulator_gallery.describe([smooth])
    assert numbers["noise / signal"] < 0.05
    assert numbers["spectral slope"] < -3
    assert numbers["power above Nyquist / 2"] < 1e-3


def test_middle_keeps_small_pictures_and_cuts_large_ones(simulator_gallery):
    image = np.arange(130 * 40).reshape(130, 40)
    cut = simulator_gallery.middle(image)
    np.testing.assert_array_equal(cut, image[17:113])
