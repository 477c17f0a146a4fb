"""TIFF stacks: sizes survive, colours and lies do not."""

import struct

import numpy as np
import pytest
import tifffile

from temdiff_jax.errors import InputError
from temdiff_jax.io.formats import tiff


@pytest.mark.parametrize("voxel", [13.5, 3.36, (20.0, 10.0, 5.0)])
def test_round_trip_keeps_values_and_voxel_size(tmp_path, stack, voxel):
    path = tmp_path / "a.tif"
    tiff.write_tiff(path, stack, voxel)
    image = tiff.read_tiff(path)
    np.testing.assert_array_equal(image.data, stack)
    expected = (voxel,) * 3 if np.isscalar(voxel) else voxel
    assert image.voxel_size_angstrom == pytest.approx(expected, rel=1e-6)
    assert image.warnings == ()


def test_unknown_voxel_size_stays_unknown(tmp_path, stack):
    tiff.write_tiff(tmp_path / "a.tif", stack, None)
    image = tiff.read_tiff(tmp_path / "a.tif")
    assert image.voxel_size_angstrom is None
    assert "no voxel size" in image.warnings[0]


@pytest.mark.parametrize(
    ("unit", "angstrom"),
    [("nm", 10.0), ("um", 1e4), ("\\u00B5m", 1e4), ("micron", 1e4), ("Angstrom", 1.0)],
)
def test_units_of_imagej(tmp_path, stack, unit, angstrom):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        stack,
        imagej=True,
        resolution=(4.0, 2.0),
        metadata={"unit": unit, "spacing": 0.75, "axes": "ZYX"},
    )
    expected = (0.75 * angstrom, 0.5 * angstrom, 0.25 * angstrom)
    assert tiff.read_tiff(path).voxel_size_angstrom == pytest.approx(expected)


def test_printing_resolution_is_not_a_voxel_size(tmp_path, stack):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stack, resolution=(72, 72), resolutionunit="INCH")
    assert tiff.read_tiff(path).voxel_size_angstrom is None


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float64"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_plain_stacks_are_promoted(tmp_path, dtype, order):
    path = tmp_path / "a.tif"
    data = np.arange(60).reshape(3, 4, 5).astype(dtype)
    tifffile.imwrite(path, data, byteorder=order, photometric="minisblack")
    image = tiff.read_tiff(path)
    np.testing.assert_array_equal(image.data, data[:, ::-1].astype(np.float32))
    assert image.data.dtype == np.float32 and image.data.flags.c_contiguous


def test_deflated_stack(tmp_path, stack):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stack, compression="zlib", photometric="minisblack")
    np.testing.assert_array_equal(tiff.read_tiff(path).data, stack[:, ::-1])


def test_single_page_becomes_one_image(tmp_path, stack):
    tifffile.imwrite(tmp_path / "a.tif", stack[0])
    assert tiff.read_tiff(tmp_path / "a.tif").data.shape == (1, 6, 7)


def refused(path, match, **options):
    with pytest.raises(InputError, match=match) as error:
        tiff.read_tiff(path, **options)
    assert "\n" not in str(error.value)


def test_colour_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((4, 8, 9, 3), np.uint8), photometric="rgb")
    refused(path, "colour")


def test_complex_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((5, 8, 9), np.complex64))
    refused(path, "real numbers")


def test_several_channels_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    data = np.zeros((4, 2, 8, 9), np.uint8)
    tifffile.imwrite(path, data, imagej=True, metadata={"axes": "ZCYX"})
    refused(path, "one stack axis")


def test_pages_of_several_sizes_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(np.zeros((8, 9), np.uint8))
        writer.write(np.zeros((5, 6), np.uint8))
    refused(path, "2 image series")


def test_limit_of_the_caller(tmp_path, stack):
    tiff.write_tiff(tmp_path / "a.tif", stack, 1.0)
    refused(tmp_path / "a.tif", "max_input_gb", max_input_gb=800 / 2**30)


@pytest.mark.parametrize("content", [b"", b"II*\0", b"not a tiff at all" * 10])
def test_damaged_files(tmp_path, content):
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    refused(path, "expected")


def test_page_larger_than_the_file(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((16, 16), np.uint8), metadata=None)
    content = bytearray(path.read_bytes())
    for tag in (256, 257):  # ImageWidth, ImageLength, each one LONG or SHORT
        for kind, code in ((3, "H"), (4, "I")):
            entry = content.find(struct.pack("<HHI", tag, kind, 1))
            if entry >= 0:
                struct.pack_into("<" + code, content, entry + 8, 20000)
    path.write_bytes(content)
    refused(path, "a file of")


@pytest.mark.parametrize("imagej", [True, False])
@pytest.mark.parametrize("kept", [0.1, 0.3, 0.6, 0.8])
def test_truncated_file_does_not_pass_as_a_shorter_stack(tmp_path, kept, imagej):
    path = tmp_path / "a.tif"
    data = np.ones((20, 16, 17), np.float32)
    tifffile.imwrite(
        path, data, imagej=imagej, photometric="minisblack", metadata={"axes": "ZYX"}
    )
    path.write_bytes(path.read_bytes()[: int(kept * data.nbytes)])
    refused(path, "expected")


def test_truncated_page_by_page_file(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        for _ in range(20):
            writer.write(np.ones((16, 17), np.float32), metadata=None)
    content = path.read_bytes()
    for kept in (0.3, 0.6, 0.9):
        path.write_bytes(content[: int(kept * len(content))])
        refused(path, "expected")


@pytest.mark.parametrize("shape", [(3, 5, 6), (4, 5, 3), (2, 5, 4), (2, 3, 5)])
def test_extents_of_3_and_4_are_not_taken_for_colours(tmp_path, shape):
    data = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    tiff.write_tiff(tmp_path / "a.tif", data, 2.0)
    np.testing.assert_array_equal(tiff.read_tiff(tmp_path / "a.tif").data, data)
