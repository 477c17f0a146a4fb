"""What contradicts itself or holds no depth is not taken without a word."""

import numpy as np
import pytest

from temdiff_jax import io
from temdiff_jax.io.gate import InputError

ANGLES = np.linspace(-57.5, 57.5, 24)


def test_angles_that_are_all_the_same_are_refused(stack):
    with pytest.raises(InputError, match="no tilt, no depth"):
        io.tilt_series_from_arrays(stack, np.zeros(5))


def test_few_tilts_are_said_and_five_are_not(stack):
    one = io.tilt_series_from_arrays(stack[:1], [3.0])
    assert "single tilt" in one.warnings[0]
    three = io.tilt_series_from_arrays(stack[:3], [-2, 0, 2])
    assert "only 3 tilts over 4 degrees" in three.warnings[0]
    assert io.tilt_series_from_arrays(stack, [-4, -2, 0, 2, 4]).warnings == ()


def beads(height):
    """Tilts of beads at several heights, [24, height, 40]."""
    y, x = np.indices((height, 40), np.float64)
    stack = np.zeros((24, height, 40))
    places = [(-9, 5, 4), (7, 17, -5), (2, 10, 6), (-4, 20, -2), (10, 2, 0)]
    for n, angle in enumerate(np.deg2rad(ANGLES)):
        for bx, by, bz in places:
            u = bx * np.cos(angle) + bz * np.sin(angle) + 19.5
            stack[n] += np.exp(-((x - u) ** 2 + (y - by) ** 2) / 8)
    rng = np.random.default_rng(0)
    return (stack + 0.01 * rng.standard_normal(stack.shape)).astype(np.float32)


def test_sinograms_that_counts_cannot_tell_are_suspected():
    stack = beads(24)
    assert io.tilt_series_from_arrays(stack, ANGLES).warnings == ()
    series = io.tilt_series_from_arrays(np.swapaxes(stack, 0, 1), ANGLES)
    assert any("stack of sinograms" in line for line in series.warnings)


def test_an_axis_with_the_count_of_the_angles_is_named():
    last = np.moveaxis(beads(30), 0, -1)
    with pytest.raises(InputError, match="the last axis has 24: move it to the front"):
        io.tilt_series_from_arrays(last, ANGLES)
    middle = np.moveaxis(beads(30), 0, 1)
    with pytest.raises(InputError, match="the middle axis has 24"):
        io.tilt_series_from_arrays(middle, ANGLES)


@pytest.mark.parametrize("scale", [1e20, 2e38])
def test_values_whose_squares_overflow_are_refused_before_the_work(stack, scale):
    huge = (np.abs(stack) / np.abs(stack).max() * scale).astype(np.float32)
    with pytest.raises(InputError, match="rescale the tilts"):
        io.tilt_series_from_arrays(huge, [-4, -2, 0, 2, 4])


def test_an_axis_is_given_once(tmp_path, stack):
    io.write_mrc(tmp_path / "a.mrc", stack, 1.0)
    with pytest.raises(InputError, match="one of them"):
        io.load_tilt_series(
            tmp_path / "a.mrc", [-4, -2, 0, 2, 4], axis_angle_deg=5.0, tilt_axis="x"
        )
