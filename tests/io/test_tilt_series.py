"""One door for all series: what is accepted, what is said, what is refused."""

import dataclasses
import gzip
import hashlib
import subprocess
import sys

import numpy as np
import pytest

from temdiff_jax import io
from temdiff_jax.errors import InputError

ANGLES = [-40.0, -20.0, 0.0, 20.0, 40.0]


@pytest.fixture
def tlt(tmp_path):
    def make(angles=ANGLES, name="angles.tlt"):
        path = tmp_path / name
        path.write_text("".join(f"{a}\n" for a in angles))
        return path

    return make


def refused(match, *arguments, **options):
    with pytest.raises(InputError, match=match) as error:
        io.load_tilt_series(*arguments, **options)
    message = str(error.value)
    assert "\n" not in message
    assert "expected" in message and "got" in message and ";" in message


def test_mrc_with_tlt(make_mrc, tlt, stack):
    path = make_mrc(stack, name="TS_01.ali", cell=(70.0, 60.0, 50.0))
    series = io.load_tilt_series(path, tlt())
    np.testing.assert_array_equal(series.tilts, stack)
    np.testing.assert_array_equal(series.angles_deg, ANGLES)
    assert series.angles_deg.dtype == np.float64 and series.tilts.dtype == np.float32
    assert series.voxel_size_angstrom == pytest.approx(10.0)
    assert series.name == "TS_01" and series.path == path and series.num_tilts == 5
    assert series.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert series.warnings == () and series.tilt_axis == "y"
    with pytest.raises(dataclasses.FrozenInstanceError):
        series.name = "other"


def test_compressed_name(tmp_path, mrc_content, stack):
    path = tmp_path / "TS_02.st.gz"
    path.write_bytes(gzip.compress(mrc_content(stack)))
    series = io.load_tilt_series(path, ANGLES)
    assert series.name == "TS_02"
    np.testing.assert_array_equal(series.tilts, stack)


def test_tiff_round_trip_with_voxel_size(tmp_path, stack):
    io.write_tiff(tmp_path / "a.tif", stack, 13.5)
    series = io.load_tilt_series(tmp_path / "a.tif", np.array(ANGLES))
    np.testing.assert_array_equal(series.tilts, stack)
    assert series.voxel_size_angstrom == pytest.approx(13.5, rel=1e-6)


def test_mrc_round_trip_with_voxel_size(tmp_path, stack):
    io.write_mrc(tmp_path / "a.mrc", stack, 13.5, is_stack=True)
    series = io.load_tilt_series(tmp_path / "a.mrc", ANGLES)
    assert series.voxel_size_angstrom == pytest.approx(13.5, rel=1e-6)


def test_npz_carries_its_own_angles(tmp_path, stack):
    np.savez(tmp_path / "a.npz", projections=stack, angles_deg=ANGLES, pixel_nm=2.0)
    series = io.load_tilt_series(tmp_path / "a.npz")
    np.testing.assert_array_equal(series.angles_deg, ANGLES)
    assert series.voxel_size_angstrom == 20.0
    given = io.load_tilt_series(tmp_path / "a.npz", [-2, -1, 0, 1, 2])
    np.testing.assert_array_equal(given.angles_deg, [-2, -1, 0, 1, 2])


def test_angles_of_the_extended_header_are_used_and_said(make_mrc, stack):
    record = np.round(np.array(ANGLES) * 100).astype("<i2")
    path = make_mrc(
        stack, extended=record.tobytes(), exttyp=b"SERI", per_section=(2, 1)
    )
    series = io.load_tilt_series(path)
    np.testing.assert_array_equal(series.angles_deg, ANGLES)
    assert any("extended header" in str(line) for line in series.decisions)


def test_no_angles_anywhere(make_mrc, tlt, stack):
    path = make_mrc(stack)
    refused("none in the file; pass the .tlt", path)
    beside = tlt(name="a.rawtlt")
    series = io.load_tilt_series(path)
    np.testing.assert_array_equal(series.angles_deg, ANGLES)
    assert any(str(beside) in str(line) for line in series.decisions)


@pytest.mark.parametrize("count", [4, 6, 41])
def test_counts_that_differ_name_both_numbers(make_mrc, tlt, stack, count):
    angles = np.linspace(-60, 60, count)
    match = rf"tilts \[5, 6, 7\] and {count} angles"
    refused(match, make_mrc(stack), angles)
    refused(match, make_mrc(stack), tlt(angles))


@pytest.mark.parametrize("as_file", [True, False])
def test_radians(make_mrc, tlt, stack, as_file):
    angles = np.radians([-20, -10, 0, 10, 20])
    path = make_mrc(stack)
    source = tlt(angles) if as_file else angles
    refused("looks like radians", path, source)
    series = io.load_tilt_series(path, source, allow_small_angles=True)
    np.testing.assert_allclose(series.angles_deg, angles)


@pytest.mark.parametrize("angle", [95.0, -120.0, np.nan, np.inf])
def test_angles_that_are_none(make_mrc, stack, angle):
    refused("angle 4", make_mrc(stack), [*ANGLES[:4], angle])


def test_angles_that_are_no_numbers(make_mrc, stack):
    refused("a list of numbers", make_mrc(stack), ["a", "b", "c", "d", "e"])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_first_tilt_that_is_not_finite_is_named(make_mrc, stack, value):
    stack[2, 1, 1] = stack[3, 0, 0] = value
    refused(r"tilt 2 \(0 deg\).*1 of 42", make_mrc(stack, extremes=(0, 0)), ANGLES)


def test_constant_tilts_are_named(make_mrc, stack):
    stack[1] = 7
    stack[3] = 0
    match = r"tilt 1 \(-20 deg\), tilt 3 \(20 deg\)"
    refused(match, make_mrc(stack), ANGLES)


def test_bad_tilt_outside_the_range_does_not_matter(make_mrc, stack):
    stack[0] = np.nan
    stack[4] = 1
    path = make_mrc(stack, extremes=(0, 0))
    series = io.load_tilt_series(path, ANGLES, angle_range=(-20, 20))
    np.testing.assert_array_equal(series.tilts, stack[1:4])


def test_fill_values_are_reported(make_mrc, stack):
    stack[3, :, :2] = -1e30
    series = io.load_tilt_series(make_mrc(stack), ANGLES)
    assert "fill values" in series.warnings[0] and "tilt 3" in series.warnings[0]


def test_tiny_intensities_are_not_constant(make_mrc, stack):
    series = io.load_tilt_series(make_mrc(stack * np.float32(1e-9)), ANGLES)
    assert series.warnings == ()


def test_missing_voxel_size_stays_unknown_with_a_warning(make_mrc, stack):
    series = io.load_tilt_series(make_mrc(stack, cell=(0.0, 0.0, 0.0)), ANGLES)
    assert series.voxel_size_angstrom is None
    assert any("voxel_size_angstrom" in warning for warning in series.warnings)


@pytest.mark.parametrize("voxel", [0.0, -3.0, np.nan, np.inf])
def test_voxel_size_given_as_nonsense(make_mrc, stack, voxel):
    refused("voxel_size_angstrom", make_mrc(stack), ANGLES, voxel_size_angstrom=voxel)


def test_voxel_size_given_overrules_the_file_and_says_so(make_mrc, stack):
    path = make_mrc(stack)  # 1 Angstrom by its header
    series = io.load_tilt_series(path, ANGLES, voxel_size_angstrom=4.5)
    assert series.voxel_size_angstrom == 4.5
    assert "the file says 1" in series.warnings[0]
    same = io.load_tilt_series(path, ANGLES, voxel_size_angstrom=1.0)
    assert same.warnings == ()


def test_pixels_that_are_not_square(make_mrc, stack):
    path = make_mrc(stack, ispg=0, grid=(7, 6, 1), cell=(7.0, 12.0, 1.0))
    series = io.load_tilt_series(path, ANGLES)
    assert series.voxel_size_angstrom == pytest.approx(1.0)
    assert series.tilts.shape == (5, 12, 7)
    assert any("not square" in warning for warning in series.warnings)


def test_unsorted_series_is_sorted_with_a_warning(make_mrc, stack):
    order = [2, 3, 1, 4, 0]
    path = make_mrc(stack[order])
    series = io.load_tilt_series(path, np.array(ANGLES)[order])
    np.testing.assert_array_equal(series.tilts, stack)
    np.testing.assert_array_equal(series.angles_deg, ANGLES)
    assert "sorted" in series.warnings[0]


def test_duplicate_angles_are_kept_in_order_with_a_warning(make_mrc, stack):
    series = io.load_tilt_series(make_mrc(stack), [-10, 0, 0, 0, 10])
    np.testing.assert_array_equal(series.tilts, stack)
    assert "several tilts at 0 degrees" in series.warnings[0]


@pytest.mark.parametrize(
    ("limits", "kept"), [((-20, 40), slice(1, 5)), ((-45, 0), slice(0, 3))]
)
def test_asymmetric_range_is_cut_inclusively(make_mrc, stack, limits, kept):
    series = io.load_tilt_series(make_mrc(stack), ANGLES, angle_range=limits)
    np.testing.assert_array_equal(series.tilts, stack[kept])
    np.testing.assert_array_equal(series.angles_deg, ANGLES[kept])


@pytest.mark.parametrize(
    ("limits", "match"), [((5, 10), "at least one tilt"), ((10, -10), "swap them")]
)
def test_ranges_that_leave_nothing(make_mrc, stack, limits, match):
    refused(match, make_mrc(stack), ANGLES, angle_range=limits)


def test_series_over_180_degrees_can_be_cut(make_mrc, stack):
    path, angles = make_mrc(stack), [0, 45, 90, 135, 178]
    refused("angle 3", path, angles)
    refused("from -90 to 90", path, angles, angle_range=(0, 180))
    series = io.load_tilt_series(path, angles, angle_range=(0, 60))
    np.testing.assert_array_equal(series.angles_deg, [0, 45])
    refused("angle 4", path, [0, 45, 90, 135, np.nan], angle_range=(0, 60))


def test_axis_along_x_is_turned(make_mrc, stack):
    series = io.load_tilt_series(make_mrc(stack), ANGLES, tilt_axis="x")
    assert series.tilts.shape == (5, 7, 6) and series.tilt_axis == "x"
    np.testing.assert_array_equal(io.volume_to_file(series.tilts, "x"), stack)
    refused("tilt_axis", make_mrc(stack), ANGLES, tilt_axis="z")


def test_mdoc_gives_angles_and_pitch(tmp_path, make_mrc, stack):
    mdoc = tmp_path / "a.mrc.mdoc"
    mdoc.write_text(
        "PixelSpacing = 3.5\n"
        + "".join(f"[ZValue = {z}]\nTiltAngle = {a}\n" for z, a in enumerate(ANGLES))
    )
    series = io.load_tilt_series(make_mrc(stack, cell=(0.0, 0.0, 0.0)), mdoc)
    np.testing.assert_array_equal(series.angles_deg, ANGLES)
    assert series.voxel_size_angstrom == 3.5
    assert any("from the .mdoc" in warning for warning in series.warnings)


def aln_file(tmp_path, views, tilts, dark, num_views):
    text = f"# RawSize = 7 6 {num_views}\n"
    text += "".join(f"# DarkFrame = 0 {view} 50.0\n" for view in dark)
    text += "# SEC ROT GMAG TX TY SMEAN SFIT SCALE BASE TILT\n"
    for view, tilt in zip(views, tilts, strict=True):
        text += f"{view} 85.0 1 0 0 1 1 1 0 {tilt}\n"
    path = tmp_path / "a.aln"
    path.write_text(text)
    return path


def test_aln_leaves_dark_views_out_and_follows_the_sections(tmp_path, make_mrc, stack):
    stack[1] = 0  # the dark view would be refused as constant
    path = aln_file(tmp_path, [4, 0, 2, 3], [-6, -3, 0, 3], [1], 5)
    series = io.load_tilt_series(make_mrc(stack), path)
    np.testing.assert_array_equal(series.tilts, stack[[4, 0, 2, 3]])
    np.testing.assert_array_equal(series.angles_deg, [-6, -3, 0, 3])
    assert any("dark" in warning for warning in series.warnings)
    assert any("only the angles" in warning for warning in series.warnings)


def test_aln_of_a_stack_without_its_dark_views(tmp_path, make_mrc, stack):
    path = aln_file(tmp_path, [4, 0, 2, 3], [-6, -3, 0, 3], [1], 5)
    series = io.load_tilt_series(make_mrc(stack[[0, 2, 3, 4]]), path)
    np.testing.assert_array_equal(series.tilts, stack[[4, 0, 2, 3]])


def test_aln_of_another_series(tmp_path, make_mrc, stack):
    path = aln_file(tmp_path, [4, 0, 2, 3], [-6, -3, 0, 3], [1], 5)
    refused("4 tilts, or 5 with dark views", make_mrc(stack[:3]), path)


def test_dark_view_is_named_by_its_number_in_the_file(tmp_path, make_mrc, stack):
    stack[3] = 0
    path = aln_file(tmp_path, [4, 0, 2, 3], [-6, -3, 0, 3], [1], 5)
    refused(r"tilt 3 \(3 deg\)", make_mrc(stack), path)


def test_unknown_ending(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_bytes(b"x")
    refused("a name ending in", path, ANGLES)


def test_empty_file(tmp_path):
    for name in ("a.mrc", "a.npz", "a.tif"):
        (tmp_path / name).touch()
        refused("empty file", tmp_path / name, ANGLES)


def test_arrays_in_memory(stack):
    series = io.tilt_series_from_arrays(stack.astype(np.float64), ANGLES, name="mine")
    np.testing.assert_array_equal(series.tilts, stack)
    assert series.path is None and len(series.sha256) == 64
    other = io.tilt_series_from_arrays(stack + 1, ANGLES)
    assert other.sha256 != series.sha256


@pytest.mark.parametrize(
    ("tilts", "match"),
    [
        (np.zeros((5, 6)), "n_tilts, y, x"),
        (np.zeros((0, 6, 7)), "no empty axis"),
        (np.zeros((5, 6, 7), np.complex64), "real numbers"),
    ],
)
def test_arrays_that_are_no_series(tilts, match):
    with pytest.raises(InputError, match=match):
        io.tilt_series_from_arrays(tilts, ANGLES)


def test_limit_reaches_the_reader(make_mrc, stack):
    refused("max_input_gb", make_mrc(stack), ANGLES, max_input_gb=1e-9)


def test_io_does_not_bring_jax():
    code = "import sys, temdiff_jax.io; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
