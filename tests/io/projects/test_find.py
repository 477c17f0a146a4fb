"""What lies on disk is found by itself, and what is not a series is refused."""

import numpy as np
import pytest
import tifffile

from temdiff_jax import io
from temdiff_jax.io import projects, write
from temdiff_jax.io.gate import InputError
from temdiff_jax.io.projects import imod, singles

ANGLES = [-40.0, -20.0, 0.0, 20.0, 40.0]


def said(series, words):
    return any(words in str(line) for line in series.decisions)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a_n60", "a_n30", "a_p00", "a_p30"], [-60, -30, 0, 30]),
        (["TS_01_000_-12.0", "TS_01_001_0.0", "TS_01_002_12.0"], [-12, 0, 12]),
        (["P_1_001[-3.00]_frac", "P_1_002[0.00]_frac", "P_1_003[3.00]_frac"],
         [-3, 0, 3]),
        (["tilt +10", "tilt -10", "tilt +0"], [10, -10, 0]),
        (["m9 x", "m3 x", "p3 x", "p9 x"], [-9, -3, 3, 9]),
    ],
)  # fmt: skip
def test_angles_stand_in_names(names, expected):
    np.testing.assert_array_equal(singles.angles_in_names(names), expected)


@pytest.mark.parametrize(
    "names",
    [
        ["img_001", "img_002", "img_003"],  # a running number is no angle
        ["img_100", "img_120", "img_140"],  # beyond 90 degrees
        ["a_5", "a_5", "a_7"],  # twice the same
        ["a", "b", "c"],
        ["a_1_2", "a_1", "a_1_3"],
    ],
)
def test_other_numbers_are_no_angles(names):
    assert singles.angles_in_names(names) is None


def test_folder_of_tiffs_with_angles_in_their_names(tmp_path, stack):
    for angle, image in zip(ANGLES, stack, strict=True):
        sign = "n" if angle < 0 else "p"
        name = f"grid_{sign}{abs(angle):02.0f}.tif"
        tifffile.imwrite(tmp_path / name, image[::-1])
    series = io.load_tilt_series(tmp_path)
    np.testing.assert_array_equal(series.tilts, stack)
    np.testing.assert_array_equal(series.angles_deg, ANGLES)
    assert series.name == tmp_path.name and said(series, "angles from their names")
    assert len(series.sha256) == 64


def test_folder_of_images_without_angles_says_what_to_do(tmp_path, stack):
    for number, image in enumerate(stack):
        write.write_mrc(tmp_path / f"img_{number:03d}.mrc", image[None], 10.0)
    with pytest.raises(InputError, match="tilt angles in the names.*--angles"):
        io.load_tilt_series(tmp_path)
    series = io.load_tilt_series(tmp_path, ANGLES)
    np.testing.assert_array_equal(series.tilts, stack)
    write.write_tlt(tmp_path / "order.tlt", ANGLES)
    assert said(io.load_tilt_series(tmp_path), "order.tlt")


def test_images_of_another_size_or_with_many_sections_are_named(tmp_path, stack):
    for angle, image in zip(ANGLES, stack, strict=True):
        write.write_mrc(tmp_path / f"a_{angle:+05.1f}.mrc", image[None], 10.0)
    write.write_mrc(tmp_path / "a_+20.0.mrc", stack[0][None, :4], 10.0, overwrite=True)
    with pytest.raises(InputError, match=r"a_\+20.0.mrc: expected 6 x 7 pixels"):
        io.load_tilt_series(tmp_path)


def mdoc(path, angles, *, axis=None, spacing=10.0, image=None):
    text = f"PixelSpacing = {spacing}\n" + (f"ImageFile = {image}\n" if image else "")
    if axis is not None:
        text += f"[T =     Tilt axis angle = {axis}, binning = 1  spot = 8]\n"
    for z, angle in enumerate(angles):
        text += f"\n[ZValue = {z}]\nTiltAngle = {angle}\nExposureDose = 2.5\n"
    path.write_text(text)
    return path


def test_mdoc_alone_names_its_stack_and_turns_the_axis(tmp_path, stack):
    write.write_mrc(tmp_path / "TS.mrc", stack, 10.0, is_stack=True)
    path = mdoc(tmp_path / "TS.mrc.mdoc", ANGLES, axis=-90.0)
    for given in (path, tmp_path):
        series = io.load_tilt_series(given)
        # The axis lies along +x: a turn by a quarter brings it to +y.
        turned = io.tilts_from_file(stack, "x")
        np.testing.assert_allclose(series.tilts, turned, atol=1e-5)
        assert said(series, "turned by the tilt axis, -90 degrees by the .mdoc")
        assert said(series, "dose 12.5 e/A2")
    straight = io.load_tilt_series(path, axis_angle_deg=0.0)
    np.testing.assert_allclose(straight.tilts, stack, atol=1e-5)


def test_mdoc_beside_a_stack_warns_of_an_oblique_axis(tmp_path, stack):
    write.write_mrc(tmp_path / "a.mrc", stack, 10.0, is_stack=True)
    path = mdoc(tmp_path / "a.mrc.mdoc", ANGLES, axis=84.7)
    series = io.load_tilt_series(tmp_path / "a.mrc", path)
    np.testing.assert_array_equal(series.tilts, stack)
    (line,) = [w for w in series.warnings if "84.7" in w]
    assert "--axis-angle 84.7" in line and "--tilt-axis x" in line
    mdoc(path, ANGLES, axis=-2.0)
    assert io.load_tilt_series(tmp_path / "a.mrc", path).warnings == ()


def test_sorted_stack_with_an_unsorted_mdoc_keeps_the_angles_of_its_header(
    tmp_path, make_mrc, stack
):
    record = np.round(np.array(ANGLES) * 100).astype("<i2").tobytes()
    path = make_mrc(
        stack, extended=record, exttyp=b"SERI", per_section=(2, 1), cell=(70, 60, 50)
    )
    order = [0.0, 20.0, -20.0, 40.0, -40.0]
    series = io.load_tilt_series(path, mdoc(tmp_path / "a.mdoc", order))
    np.testing.assert_array_equal(series.tilts, stack)
    np.testing.assert_array_equal(series.angles_deg, ANGLES)
    assert any("took the header's" in line for line in series.warnings)


@pytest.mark.parametrize(
    ("header", "side", "taken", "word"),
    [
        (1.0, 13.79, 13.79, "took 13.79"),
        (27.58, 13.79, 27.58, "binned by 2 after it"),
        (12.0, 13.79, 12.0, "--voxel-size"),
    ],
)
def test_two_pixel_sizes_are_both_said(tmp_path, stack, header, side, taken, word):
    write.write_mrc(tmp_path / "a.mrc", stack, header, is_stack=True)
    path = mdoc(tmp_path / "a.mdoc", ANGLES, spacing=side)
    series = io.load_tilt_series(tmp_path / "a.mrc", path)
    assert series.voxel_size_angstrom == pytest.approx(taken, rel=1e-5)
    (line,) = [w for w in series.warnings if "a pixel" in w]
    assert word in line and f"{side:g}" in line
    given = io.load_tilt_series(tmp_path / "a.mrc", path, voxel_size_angstrom=5.0)
    assert given.voxel_size_angstrom == 5.0 and len(given.warnings) == 2


def test_a_quarter_turn_keeps_the_whole_field(tmp_path, stack):
    write.write_mrc(tmp_path / "a.mrc", stack, 10.0, is_stack=True)
    series = io.load_tilt_series(tmp_path / "a.mrc", ANGLES, axis_angle_deg=90.0)
    assert series.tilts.shape == (5, 7, 6)
    assert sorted(series.tilts.ravel()) == pytest.approx(
        sorted(stack.ravel()), abs=1e-5
    )


def test_alignment_of_a_larger_stack_is_divided(tmp_path, stack):
    big = np.repeat(np.repeat(stack, 4, axis=1), 4, axis=2)
    write.write_mrc(tmp_path / "a.mrc", big[:, ::2, ::2], 10.0, is_stack=True)
    text = "# RawSize = 28 24 5\n# Thickness = 40\n"
    for n, angle in enumerate(ANGLES):
        text += f"{n} 0.0 1 4.0 -2.0 1 1 1 0 {angle}\n"
    (tmp_path / "a.aln").write_text(text)
    series = io.load_tilt_series(tmp_path / "a.aln", resample=False)
    np.testing.assert_array_equal(series.alignment.shifts_px, [[2.0, -1.0]] * 5)
    assert series.thickness_px == 20
    assert any("2 times larger" in line for line in series.warnings)
    write.write_mrc(tmp_path / "a.mrc", stack[:, :5], 10.0, overwrite=True)
    with pytest.raises(InputError, match="images of 24 x 28"):
        io.load_tilt_series(tmp_path / "a.aln")


def test_tilts_left_out_by_number_and_by_angle(tmp_path, stack):
    write.write_mrc(tmp_path / "a.mrc", stack[::-1], 10.0, is_stack=True)
    path = tmp_path / "a.mrc"
    series = io.load_tilt_series(path, ANGLES[::-1], exclude="0,3-4")
    np.testing.assert_array_equal(series.angles_deg, [0.0, 20.0])
    np.testing.assert_array_equal(series.views, [2, 1])
    assert said(series, "0 (40 deg), 3 (-20 deg), 4 (-40 deg)")
    series = io.load_tilt_series(path, ANGLES[::-1], exclude="-45:-15deg,40deg")
    np.testing.assert_array_equal(series.angles_deg, [0.0, 20.0])
    for words, match in (
        ("9", "tilts from 0 to 4"),
        ("a", "tilts such as"),
        ("0-4", "some tilts left"),
        ("50deg", "got none"),
    ):
        with pytest.raises(InputError, match=match):
            io.load_tilt_series(path, ANGLES, exclude=words)


def test_command_files_are_read_as_imod_reads_them(tmp_path):
    path = tmp_path / "tilt.com"
    path.write_text(
        "$goto doblend\n$newstack -StandardInput\nOFFSET 9\n$tilt -StandardInput\n"
        "# OFFSET 8\n  Offset  1.5  -2\nTHICKNESS\t300\n$exit\nSHIFT 7 7\n"
    )
    entries = imod.read_com(path, "tilt")
    assert entries == {
        "OFFSET": imod.Entry(("1.5", "-2"), 6),
        "THICKNESS": imod.Entry(("300",), 7),
    }
    assert imod.view_list("1,4-6 9", "x") == [1, 4, 5, 6, 9]
    with pytest.raises(InputError, match="numbers such as"):
        imod.view_list("1-", "x")


@pytest.mark.parametrize(
    ("files", "match"),
    [
        ({}, "a tilt series"),
        ({"a.aln": "x", "b.aln": "y"}, "one tilt series, got 2"),
        ({"a.edf": "", "b.edf": ""}, "one data set"),
        ({"a.xf": "1 0 0 1 0 0\n"}, "a.st with a.xf"),
        ({"a.xml": "<TiltSeries></TiltSeries>"}, "a list of Angles"),
        ({"a.star": "data_\nloop_\n_rlnTomoXTilt #1\n"}, "one block with"),
    ],
)
def test_folders_that_hold_no_series_say_what_is_missing(tmp_path, files, match):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=match) as error:
        io.load_tilt_series(tmp_path)
    assert "\n" not in str(error.value)


def test_a_star_file_of_several_series_lists_them(tmp_path):
    path = tmp_path / "all.star"
    path.write_text(
        "data_global\nloop_\n_rlnTomoName #1\n_rlnTomoTiltSeriesStarFile #2\n"
        "TS_01 a.star\nTS_02 b.star\n"
    )
    with pytest.raises(InputError, match=r"2 \(TS_01, TS_02\)"):
        projects.find(path)


def test_a_name_in_latin_1_is_read_and_written(tmp_path, stack):
    path = tmp_path / "pr\udcf6be.mrc"
    write.write_mrc(path, stack, 10.0, is_stack=True)
    write.write_tlt(tmp_path / "pr\udcf6be.tlt", ANGLES)
    series = io.load_tilt_series(path)
    assert series.name == "pr�be" and series.num_tilts == 5
    write.write_json(tmp_path / "a.json", {"path": path})
    assert (tmp_path / "a.json").read_text(encoding="ascii")


def test_an_alignment_beside_a_stack_that_is_named_alone_is_not_passed_over(
    tmp_path, stack
):
    write.write_mrc(tmp_path / "TS.st", stack, 10.0, is_stack=True)
    write.write_tlt(tmp_path / "TS.tlt", ANGLES)
    (tmp_path / "TS.xf").write_text("1 0 0 1 2 0\n" * 5)
    (tmp_path / "tilt.com").write_text(
        "$tilt -StandardInput\nInputProjections TS.ali\nXAXISTILT 2.5\nSHIFT 0\n"
        "LOCALFILE TS.local\n"
    )
    lines = io.load_tilt_series(tmp_path / "TS.st").warnings
    assert any("TS.xf beside TS.st is not used" in line for line in lines)
    (line,) = [line for line in lines if "tilt.com" in line]
    assert "XAXISTILT 2.5, LOCALFILE TS.local, which is not used" in line
    used = io.load_tilt_series(tmp_path / "TS.st", alignment=tmp_path / "TS.xf")
    assert not any("TS.xf beside" in line for line in used.warnings)
    write.write_mrc(tmp_path / "other.st", stack, 10.0, is_stack=True)
    assert io.load_tilt_series(tmp_path / "other.st", ANGLES).warnings == ()


def test_an_aligned_stack_of_a_project_is_not_interpolated_again(tmp_path, stack):
    write.write_mrc(tmp_path / "TS.ali", stack, 20.0, is_stack=True)
    write.write_tlt(tmp_path / "TS.tlt", ANGLES)
    (tmp_path / "TS.edf").write_text("Setup.DatasetName=TS\n")
    (tmp_path / "tilt.com").write_text(
        "$tilt -StandardInput\nIMAGEBINNED 2\nTHICKNESS 300\nSHIFT 0 0\n"
    )
    series = io.load_tilt_series(tmp_path)
    np.testing.assert_array_equal(series.tilts, stack)
    assert series.thickness_px == 150 and series.warnings == ()


def test_the_first_of_two_axes_is_taken_and_said(tmp_path, stack):
    for axis, sign in (("a", 1), ("b", -1)):
        write.write_mrc(tmp_path / f"TS{axis}.ali", sign * stack, 1.0, is_stack=True)
        write.write_tlt(tmp_path / f"TS{axis}.tlt", ANGLES)
    (tmp_path / "TS.edf").write_text(
        "Setup.DatasetName=TS\nSetup.AxisType=Dual Axis\n"
        "Setup.AxisA.ExcludeProjections=1,5\n"
    )
    series = io.load_tilt_series(tmp_path)
    np.testing.assert_array_equal(series.tilts, stack[1:4])
    assert any("only the first one" in line for line in series.warnings)


def test_the_volume_beside_an_aln_is_not_taken_for_its_stack(tmp_path, stack):
    write.write_mrc(tmp_path / "TS_rec.mrc", np.zeros((9, 6, 7), np.float32), 1.0)
    write.write_mrc(tmp_path / "TS.mrc", stack, 10.0, is_stack=True)
    text = "# RawSize = 7 6 5\n"
    for n, angle in enumerate(ANGLES):
        text += f"{n} 0.0 1 0.0 0.0 1 1 1 0 {angle}\n"
    for name in ("TS_rec.aln", "TS.mrc.aln"):
        (tmp_path / name).write_text(text)
        series = io.load_tilt_series(tmp_path / name)
        np.testing.assert_array_equal(series.tilts, stack)


def test_single_images_are_matched_to_the_sections_of_an_mdoc(tmp_path, stack):
    order = [2, 3, 1, 4, 0]  # acquisition
    names = [f"TS_{n}_{ANGLES[n]:.1f}_Nov30" for n in range(5)]
    for n, name in enumerate(names):
        write.write_mrc(tmp_path / f"{name}_avg.mrc", stack[n][None], 10.0)
    text = "PixelSpacing = 10\n"
    for z, n in enumerate(order):
        text += f"[ZValue = {z}]\nTiltAngle = {ANGLES[n]}\n"
        text += f"SubFramePath = X:\\frames\\{names[n]}.tif\n"
    path = tmp_path / "TS.mdoc"
    path.write_text(text)
    series = io.load_tilt_series(tmp_path)
    np.testing.assert_array_equal(series.tilts, stack)
    assert said(series, "matched to SubFramePath")
    path.write_text(text.replace("SubFramePath", "Other"))
    series = io.load_tilt_series(tmp_path)
    np.testing.assert_array_equal(series.tilts, stack)
    assert said(series, "angles from the names")
