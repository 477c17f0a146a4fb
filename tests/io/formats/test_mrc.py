"""What real MRC files do, row by row."""

import bz2
import gzip

import mrcfile
import numpy as np
import pytest

from temdiff_jax.errors import InputError
from temdiff_jax.io.formats import mrc

BYTES = np.array([[[0, 100, 127], [128, 200, 255]]], np.uint8)


def test_float_volume_keeps_values_voxel_origin_and_labels(make_mrc, stack):
    path = make_mrc(
        stack,
        cell=(7 * 2.5, 6 * 2.5, 5 * 2.5),
        origin=(1.0, 2.0, 3.0),
        start=(10, 20, 30),
        labels=("first", "second"),
    )
    image = mrc.read_mrc(path)
    np.testing.assert_array_equal(image.data, stack)
    assert image.data.dtype == np.float32 and image.data.flags.c_contiguous
    assert image.voxel_size_angstrom == pytest.approx((2.5, 2.5, 2.5))
    assert image.origin_angstrom == (3.0, 2.0, 1.0)
    assert "first index 10 20 30 (x y z)" in dict(image.header)["axes"]
    assert image.labels == ("first", "second")
    assert image.warnings == ()


@pytest.mark.parametrize("kind", ["int16", "uint16", "float16"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_integer_and_half_modes_are_promoted_in_both_byte_orders(make_mrc, kind, order):
    data = np.arange(24).reshape(2, 3, 4).astype(kind) * np.array(100, kind)
    image = mrc.read_mrc(make_mrc(data, order=order))
    np.testing.assert_array_equal(image.data, data.astype(np.float32))
    assert image.data.dtype.isnative


def test_mode_12_sums_beyond_the_range_of_float16(make_mrc):
    image = mrc.read_mrc(make_mrc(np.full((4, 16, 16), 60000, np.float16)))
    assert float(image.data.sum()) == pytest.approx(4 * 256 * 60000, rel=1e-3)


def test_big_endian_float_equals_little_endian(make_mrc, stack):
    image = mrc.read_mrc(make_mrc(stack, order=">"))
    np.testing.assert_array_equal(image.data, stack)


@pytest.mark.parametrize(
    ("flags", "extremes", "signed"),
    [
        (1, (0.0, 0.0), True),
        (0, (0.0, 0.0), False),
        (None, (-128.0, 127.0), True),
        (None, (0.0, 255.0), False),
    ],
)
def test_mode_0_is_signed_by_stamp_then_by_extremes(make_mrc, flags, extremes, signed):
    image = mrc.read_mrc(make_mrc(BYTES, imod_flags=flags, extremes=extremes))
    expected = BYTES.view(np.int8) if signed else BYTES
    np.testing.assert_array_equal(image.data, expected.astype(np.float32))
    assert image.warnings == ()


def test_stamp_outranks_extremes(make_mrc):
    image = mrc.read_mrc(make_mrc(BYTES, imod_flags=0, extremes=(-128.0, 127.0)))
    assert image.data.max() == 255


def test_ambiguous_mode_0_is_unsigned_with_a_warning(make_mrc):
    image = mrc.read_mrc(make_mrc(BYTES, extremes=(0.0, 0.0)))
    assert image.data.max() == 255
    assert "signed or unsigned" in image.warnings[0]


def test_ambiguous_mode_0_is_silent_where_both_readings_agree(make_mrc):
    small = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
    assert mrc.read_mrc(make_mrc(small, extremes=(0.0, 0.0))).warnings == ()


@pytest.mark.parametrize("order", ["<", ">"])
def test_odd_machine_stamp_is_settled_by_the_values(make_mrc, stack, order):
    path = make_mrc(stack, order=order, stamp=b"\x44\x20\x20\x20")
    image = mrc.read_mrc(path)
    np.testing.assert_array_equal(image.data, stack)
    assert "machine stamp" in image.warnings[0]


def test_wrong_machine_stamp_is_overruled_by_the_values(make_mrc, stack):
    image = mrc.read_mrc(make_mrc(stack, order=">", stamp=b"\x44\x44\0\0"))
    np.testing.assert_array_equal(image.data, stack)
    assert "big-endian by the values" in image.warnings[0]


def test_missing_map_mark_of_old_files(make_mrc, stack):
    image = mrc.read_mrc(make_mrc(stack, mark=b"\0\0\0\0"))
    np.testing.assert_array_equal(image.data, stack)
    assert "old MRC" in image.warnings[0]


@pytest.mark.parametrize(
    "axes", [(3, 2, 1), (2, 1, 3), (2, 3, 1), (3, 1, 2), (1, 3, 2)]
)
def test_permuted_axes_come_back_as_zyx(make_mrc, stack, axes):
    # axes[0] names the axis of columns, axes[2] the axis of sections; stack is z y x.
    names = {3: 0, 2: 1, 1: 2}
    stored = np.transpose(stack, [names[axis] for axis in axes[::-1]])
    start_xyz = {1: 11, 2: 22, 3: 33}
    path = make_mrc(
        np.ascontiguousarray(stored),
        axes=axes,
        start=tuple(start_xyz[axis] for axis in axes),
        grid=(7, 6, 5),
        cell=(7 * 1.0, 6 * 2.0, 5 * 3.0),
        origin=(1.0, 2.0, 3.0),
    )
    image = mrc.read_mrc(path)
    np.testing.assert_array_equal(image.data, stack)
    assert image.data.flags.c_contiguous
    assert image.voxel_size_angstrom == pytest.approx((3.0, 2.0, 1.0))
    assert image.origin_angstrom == (3.0, 2.0, 1.0)


def test_nonsense_axes_are_taken_as_usual_with_a_warning(make_mrc, stack):
    image = mrc.read_mrc(make_mrc(stack, axes=(0, 0, 0)))
    np.testing.assert_array_equal(image.data, stack)
    assert "mapc" in image.warnings[0]


def test_zero_cell_is_an_unknown_voxel_size(make_mrc, stack):
    image = mrc.read_mrc(make_mrc(stack, cell=(0.0, 0.0, 0.0)))
    assert image.voxel_size_angstrom is None
    assert "no voxel size" in image.warnings[0]


def test_voxel_size_divides_by_the_grid_not_by_the_extents(make_mrc, stack):
    path = make_mrc(stack, grid=(70, 60, 50), cell=(140.0, 120.0, 100.0))
    assert mrc.read_mrc(path).voxel_size_angstrom == pytest.approx((2.0, 2.0, 2.0))


def test_z_of_a_stack_with_one_grid_section_follows_x(make_mrc, stack):
    path = make_mrc(stack, ispg=0, grid=(7, 6, 1), cell=(14.0, 12.0, 99.0))
    image = mrc.read_mrc(path)
    assert image.voxel_size_angstrom == pytest.approx((2.0, 2.0, 2.0))


def test_unequal_voxels_are_reported(make_mrc, stack):
    image = mrc.read_mrc(make_mrc(stack, cell=(7.0, 6.0, 10.0)))
    assert image.voxel_size_angstrom == pytest.approx((2.0, 1.0, 1.0))
    assert "not cubes" in image.warnings[0]


def test_inverted_origin_flag_of_imod(make_mrc, stack):
    image = mrc.read_mrc(make_mrc(stack, imod_flags=4, origin=(1.0, 2.0, 3.0)))
    assert image.origin_angstrom == (-3.0, -2.0, -1.0)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_compressed_files_are_told_by_content(tmp_path, mrc_content, stack, pack):
    path = tmp_path / "a.map.gz"
    path.write_bytes(pack(mrc_content(stack)))
    np.testing.assert_array_equal(mrc.read_mrc(path).data, stack)


def test_memory_map_equals_reading(make_mrc, stack):
    path = make_mrc(stack, extended=bytes(80), exttyp=b"CCP4")
    image = mrc.read_mrc(path, memory_map=True)
    assert isinstance(image.data, np.memmap) and not image.data.flags.writeable
    np.testing.assert_array_equal(image.data, stack)


def test_memory_map_falls_back_where_bytes_must_change(make_mrc, stack):
    image = mrc.read_mrc(make_mrc(stack, order=">"), memory_map=True)
    assert not isinstance(image.data, np.memmap)
    np.testing.assert_array_equal(image.data, stack)


def test_single_image_keeps_three_axes(make_mrc, stack):
    image = mrc.read_mrc(make_mrc(stack[:1], ispg=0))
    assert image.data.shape == (1, 6, 7)


def test_reads_what_mrcfile_writes(tmp_path, stack):
    path = tmp_path / "a.mrc"
    with mrcfile.new(path) as image:
        image.set_data(stack)
        image.voxel_size = 3.25
    assert mrc.read_mrc(path).voxel_size_angstrom == pytest.approx((3.25,) * 3)


@pytest.mark.parametrize(
    ("mode", "name"),
    [(3, "complex int16"), (4, "complex float32"), (16, "RGB"), (101, "4-bit")],
)
def test_modes_that_are_not_grey_values_are_refused_by_name(
    make_mrc, stack, mode, name
):
    with pytest.raises(InputError, match=name):
        mrc.read_mrc(make_mrc(stack, mode=mode))


def test_unknown_mode_is_refused(make_mrc, stack):
    with pytest.raises(InputError, match="mode 7"):
        mrc.read_mrc(make_mrc(stack, mode=7))


def test_stack_of_volumes_is_refused(make_mrc, stack):
    path = make_mrc(stack[:4], ispg=401, grid=(7, 6, 2))
    with pytest.raises(InputError, match="stack of volumes"):
        mrc.read_mrc(path)


@pytest.mark.parametrize("name", ["a.st", "b.ALI", "c.rec.gz", "d.map.bz2", "e.mrc"])
def test_names_of_the_family(name):
    assert mrc.is_mrc_name(name)


def test_other_names_are_not_of_the_family():
    assert not mrc.is_mrc_name("a.tif") and not mrc.is_mrc_name("a.tif.gz")
