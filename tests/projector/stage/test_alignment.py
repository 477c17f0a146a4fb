"""A motion from degrees and pixels."""

import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.errors import InputError
from temdiff_jax.projector.stage.alignment import motion_from_degrees


def test_fields_are_converted_and_broadcast():
    motion = motion_from_degrees(
        3,
        shifts_px=[1.5, -2.0],
        rotations_deg=[0, 90, -45],
        tilt_errors_deg=0.5,
        axis_offset_px=0.25,
        x_tilt_deg=180 / np.pi * 0.1,
    )
    for field in motion:
        assert field.dtype == jnp.float32
    np.testing.assert_array_equal(motion.shift_u, [1.5] * 3)
    np.testing.assert_array_equal(motion.shift_v, [-2.0] * 3)
    np.testing.assert_allclose(motion.rotation_rad, [0, np.pi / 2, -np.pi / 4])
    np.testing.assert_array_equal(motion.magnification, np.ones(3))
    np.testing.assert_allclose(motion.tilt_rad, np.deg2rad([0.5] * 3))
    assert float(motion.axis_offset) == 0.25
    np.testing.assert_allclose(motion.chi_rad, 0.1, rtol=1e-6)
    assert motion_from_degrees(2).chi_rad is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shifts_px": np.zeros((2, 2))}, r"shifts_px of shape \[3, 2\], got \[2, 2\]"),
        ({"rotations_deg": [0.0, np.nan, 0.0]}, "finite rotations_deg"),
        ({"rotations_deg": [[0.0]]}, r"rotations_deg of shape \[3\]"),
        ({"magnifications": 0.0}, "positive magnifications"),
        ({"magnifications": [1.0, -1.0, 1.0]}, "positive magnifications"),
        ({"tilt_errors_deg": np.inf}, "finite tilt_errors_deg"),
        ({"axis_offset_px": [1.0, 2.0]}, "axis_offset_px"),
        ({"x_tilt_deg": 90.0}, "x-tilt within 90 degrees"),
        ({"x_tilt_deg": np.nan}, "finite x_tilt_deg"),
    ],
)
def test_bad_numbers_are_one_line(fields, message):
    with pytest.raises(InputError, match=message) as error:
        motion_from_degrees(3, **fields)
    assert "\n" not in str(error.value) and "; " in str(error.value)
