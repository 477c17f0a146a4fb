"""Angles in extended headers: taken when they make sense, left alone otherwise."""

import numpy as np
import pytest
from mrcfile import dtypes as mrc_dtypes

from temdiff_jax.io.formats import mrc

ANGLES = np.array([-60.0, -30.5, 0.0, 30.25, 60.0])


@pytest.mark.parametrize("order", ["<", ">"])
def test_seri_angles_are_hundredths_of_degrees(make_mrc, stack, order):
    # Flags 1 (tilt) + 4 (stage) + 32 (dose): 2 + 4 + 4 bytes a section.
    record = np.zeros((5, 5), order + "i2")
    record[:, 0] = np.round(ANGLES * 100)
    path = make_mrc(
        stack,
        order=order,
        extended=record.tobytes(),
        exttyp=b"SERI",
        per_section=(10, 37),
    )
    image = mrc.read_mrc(path)
    np.testing.assert_allclose(image.angles_deg, ANGLES)
    np.testing.assert_array_equal(image.data, stack)


def test_seri_without_the_tilt_flag_has_no_angles(make_mrc, stack):
    path = make_mrc(stack, extended=bytes(20), exttyp=b"SERI", per_section=(4, 4))
    assert mrc.read_mrc(path).angles_deg is None


@pytest.mark.parametrize("kind", ["FEI1", "FEI2"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_fei_angles(make_mrc, stack, kind, order):
    dtype = mrc_dtypes.get_ext_header_dtype(kind.encode(), order)
    records = np.zeros(5, dtype)
    records["Metadata size"] = dtype.itemsize
    records["Alpha tilt"] = ANGLES
    path = make_mrc(
        stack, order=order, extended=records.tobytes(), exttyp=kind.encode()
    )
    np.testing.assert_allclose(mrc.read_mrc(path).angles_deg, ANGLES)


@pytest.mark.parametrize("per_section", [(0, 32), (128, 32)])
def test_old_fei_records_of_128_bytes(make_mrc, stack, per_section):
    table = np.zeros((1024, 32), "<f4")
    table[:5, 0] = ANGLES
    path = make_mrc(stack, extended=table.tobytes(), per_section=per_section)
    np.testing.assert_allclose(mrc.read_mrc(path).angles_deg, ANGLES)


def test_impossible_angles_are_left_with_a_warning(make_mrc, stack):
    table = np.full((1024, 32), 1e20, "<f4")
    path = make_mrc(stack, extended=table.tobytes(), per_section=(0, 32))
    image = mrc.read_mrc(path)
    assert image.angles_deg is None
    assert "make no sense" in image.warnings[0]


def test_zero_filled_records_are_no_angles(make_mrc, stack):
    path = make_mrc(stack, extended=bytes(1024 * 128), per_section=(0, 32))
    assert mrc.read_mrc(path).angles_deg is None
