import numpy as np
import pytest
from scipy import ndimage


@pytest.fixture(scope="module")
def simulator_gallery(load_program):
    return load_program("launch.studies.simulator_gallery")


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


def test_measured_tilts_are_those_near_the_angles_with_the_axis_upright(
    simulator_gallery, tmp_path
):
    angles = np.arange(-40.0, 36.0, 5.0)
    ramp = np.arange(100.0)[:, None] * np.ones((100, 110))
    stack = np.float32(ramp + 1000.0 * np.arange(len(angles))[:, None, None])
    np.savez(tmp_path / "lamella.npz", projections=stack, angles_deg=angles)
    kind = simulator_gallery.measured(
        tmp_path / "lamella.npz", None, contrast="bright", name="l", tilt_axis="x"
    )
    assert [tilt.shape for tilt in kind.tilts] == [(96, 96)] * 4
    # Of the 16 tilts: -30, 0, three after it, and 30 degrees.
    assert [int(tilt.min()) // 1000 for tilt in kind.tilts] == [2, 8, 11, 14]
    # What varied along y in the file varies along x where the axis is y.
    assert all(np.ptp(tilt, axis=0).max() == 0 for tilt in kind.tilts)
    assert all(np.ptp(tilt, axis=1).min() == 95 for tilt in kind.tilts)
