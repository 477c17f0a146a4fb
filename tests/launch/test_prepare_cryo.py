import numpy as np
import pytest

from temdiff_jax.errors import InputError

ANGLES = np.linspace(-57.0, 60.0, 14)
OFFSETS = np.stack([np.linspace(9.0, -11.0, 14), np.linspace(-1.0, 2.0, 14)], axis=1)
AXIS_DEG = -4.3


@pytest.fixture(scope="module")
def prepare_cryo(load_program):
    return load_program("launch.prepare_cryo")


def series(prepare_cryo, bead):
    """Raw views of one dense bead at (x, y, z), as Warp places it."""
    x, y, z = bead
    angle, axis = np.deg2rad(ANGLES), np.deg2rad(AXIS_DEG)
    q = np.stack([x * np.cos(angle) - z * np.sin(angle), y + 0 * angle])
    turn = np.asarray([[np.cos(axis), -np.sin(axis)], [np.sin(axis), np.cos(axis)]])
    # Warp counts from n / 2 of the pixels before binning by two: a quarter of a
    # binned pixel beyond (n - 1) / 2.
    at = (turn @ q).T + OFFSETS + np.asarray([(120 - 1) / 2, (100 - 1) / 2]) + 0.25
    rows, columns = np.indices((100, 120), np.float64)
    square = (columns - at[:, 0, None, None]) ** 2 + (rows - at[:, 1, None, None]) ** 2
    tilts = 50.0 - 20.0 * np.exp(-square / (2 * 1.5**2))
    axes = np.full(len(ANGLES), AXIS_DEG)
    return prepare_cryo.Series(tilts.astype(np.float32), ANGLES, axes, OFFSETS, 20.0)


def test_a_bead_follows_the_tilt_geometry_with_the_angles_negated(prepare_cryo):
    bead = np.asarray([12.0, -9.0, 14.0])
    aligned = prepare_cryo.align(series(prepare_cryo, bead), 64)
    dense = np.where(50.0 - aligned > 1.0, 50.0 - aligned, 0.0)
    rows, columns = np.indices(dense.shape[1:])
    total = dense.sum((1, 2))
    theta = np.deg2rad(-ANGLES)
    expected = bead[0] * np.cos(theta) + bead[2] * np.sin(theta)
    x = (dense * columns).sum((1, 2)) / total - 31.5
    y = (dense * rows).sum((1, 2)) / total - 31.5
    assert np.abs(x - expected).max() < 0.05
    assert np.abs(y - bead[1]).max() < 0.05


def test_a_square_that_leaves_the_images_is_refused(prepare_cryo):
    with pytest.raises(InputError, match="smaller --size"):
        prepare_cryo.align(series(prepare_cryo, np.zeros(3)), 100)


def test_views_can_be_left_out(prepare_cryo):
    whole = series(prepare_cryo, np.zeros(3))
    part = prepare_cryo.without(whole, [0, 13])
    np.testing.assert_array_equal(part.angles_deg, ANGLES[1:-1])
    np.testing.assert_array_equal(part.tilts, whole.tilts[1:-1])
    assert part.pixel_angstrom == 20.0
    with pytest.raises(InputError, match="views from 0 to 13"):
        prepare_cryo.without(whole, [14])


def test_the_incident_intensity_follows_from_the_slab(prepare_cryo):
    theta = np.linspace(-54.0, 60.0, 39)
    path = 1.0 / np.cos(np.deg2rad(theta + 1.75))
    generator = np.random.default_rng(0)
    noise = generator.normal(0.0, 0.06, (39, 16, 16))
    tilts = 88.0 * np.exp(-0.8 * path[:, None, None] + noise)
    slab = prepare_cryo.fit_slab(tilts, theta)
    assert slab.incident == pytest.approx(88.0, rel=0.02)
    assert slab.depth == pytest.approx(0.8, abs=0.02)
    assert slab.lean_deg == pytest.approx(-1.75, abs=0.5)
    assert slab.residual < 0.006
    with pytest.raises(InputError, match="positive intensities"):
        prepare_cryo.fit_slab(tilts - 100.0, theta)
