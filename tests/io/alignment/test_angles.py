"""Angle lists, transforms and .mdoc files."""

import numpy as np
import pytest

from temdiff_jax.errors import InputError
from temdiff_jax.io.alignment import angles, imod, mdoc


@pytest.fixture
def text_file(tmp_path):
    def make(content, name="a.tlt"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


def test_one_angle_a_line(text_file):
    table = angles.read_angles(text_file("-60.00\n  -30.5\n0\n+30.\n.5e1\r\n"))
    np.testing.assert_array_equal(table.angles_deg, [-60, -30.5, 0, 30, 5])
    assert table.angles_deg.dtype == np.float64 and table.warnings == ()


def test_several_angles_a_line_with_comments_and_empty_lines(text_file):
    path = text_file("# nominal\n-60 -57 -54\n\n-51 -48 # last\n")
    table = angles.read_angles(path)
    np.testing.assert_array_equal(table.angles_deg, [-60, -57, -54, -51, -48])


def test_full_grid_of_angles_is_a_list_when_the_count_says_so(text_file):
    path = text_file("-2 1\n2 0\n")  # column 2 alone would look like an order
    table = angles.read_angles(path, expected_count=4)
    np.testing.assert_array_equal(table.angles_deg, [-2, 1, 2, 0])


def test_full_grid_without_an_order_column_is_a_list(text_file):
    table = angles.read_angles(text_file("-60 -57 -54\n-51 -48 -45\n"))
    assert table.angles_deg.size == 6


@pytest.mark.parametrize("first", [0, 1])
def test_aretomo_table_gives_column_1_and_says_so(text_file, first):
    rows = [(-6, 2, 9.0), (0, 0, 3.0), (6, 1, 6.0)]
    text = "".join(
        f"{tilt:8.2f} {order + first} {dose}\n" for tilt, order, dose in rows
    )
    table = angles.read_angles(text_file(text, "a_TLT.txt"))
    np.testing.assert_array_equal(table.angles_deg, [-6, 0, 6])
    assert "column 1" in table.warnings[0]


def test_table_of_another_order_is_told_by_the_count(text_file):
    path = text_file("-6 7.5\n0 2.5\n6 5.0\n")
    table = angles.read_angles(path, expected_count=3)
    np.testing.assert_array_equal(table.angles_deg, [-6, 0, 6])
    assert "column 1" in table.warnings[0]


def refused(call, match, *arguments, **options):
    with pytest.raises(InputError, match=match) as error:
        call(*arguments, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["-60,0\n-57,0\n", "-60, -57\n", "-60.0,-57.0\n"])
def test_commas_are_refused_with_the_line(text_file, text):
    refused(angles.read_angles, "line 1.*decimal comma", text_file(text))


@pytest.mark.parametrize("word", ["abc", "nan", "inf", "1_0", "0x10", "--5", "1e"])
def test_other_words_are_refused_with_the_line(text_file, word):
    refused(angles.read_angles, "line 2", text_file(f"-3\n{word}\n"))


def test_number_that_overflows_is_refused(text_file):
    refused(angles.read_angles, "line 2.*a finite number", text_file("-3\n1e999\n"))


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n"])
def test_files_without_angles(text_file, text):
    refused(angles.read_angles, "expected", text_file(text))


def test_binary_file(text_file):
    refused(angles.read_angles, "binary", text_file(b"MAP \0\0\0"))


@pytest.mark.parametrize("angle", ["90.5", "-91", "1.57e23"])
def test_angles_beyond_90(text_file, angle):
    refused(angles.read_angles, "-90 to 90", text_file(f"0\n{angle}\n"))


def test_90_itself_is_an_angle(text_file):
    table = angles.read_angles(text_file("-90\n0\n90\n"))
    np.testing.assert_array_equal(table.angles_deg, [-90, 0, 90])


@pytest.mark.parametrize(
    ("limit_deg", "step_deg"), [(60, 3), (10, 1), (70, 10), (90, 2)]
)
def test_radians_are_suspected(text_file, limit_deg, step_deg):
    radians = np.radians(np.arange(-limit_deg, limit_deg + 1, step_deg))
    path = text_file("\n".join(f"{a:.5f}" for a in radians))
    refused(angles.read_angles, "radians.*allow_small_angles", path)
    table = angles.read_angles(path, allow_small_angles=True)
    np.testing.assert_allclose(table.angles_deg, radians, atol=1e-5)


@pytest.mark.parametrize(
    "text", ["-1\n-0.5\n0\n0.5\n1\n", "-0.1\n0.1\n", "0\n", "-2\n2\n"]
)
def test_small_degrees_that_cannot_be_told_from_radians_pass(text_file, text):
    assert angles.read_angles(text_file(text)).angles_deg.size >= 1


def test_xf(text_file):
    text = "1 0 0 1 0 0\n0.5 -0.25 0.125 2 -3.5 4\n"
    table = imod.read_xf(text_file(text, "a.xf"))
    np.testing.assert_array_equal(table.matrices[1], [[0.5, -0.25], [0.125, 2]])
    np.testing.assert_array_equal(table.shifts_px[1], [-3.5, 4])
    assert table.identity_views == (0,)


def test_xf_with_another_number_of_columns(text_file):
    refused(imod.read_xf, "6 numbers", text_file("1 0 0 1 0\n", "a.xf"))
    refused(imod.read_xf, "no numbers", text_file("\n", "a.xf"))


MDOC = """PixelSpacing = 2.7
ImageFile = TS_01.mrc
[T = SerialEM: microscope]
[T =     Tilt axis angle = -84.3, binning = 1  spot = 8  camera = 1]

[ZValue = 1]
TiltAngle = 3.001
PixelSpacing = 2.7
SubFramePath = X:\\frames\\a = b.tif

[ZValue = 0]
TiltAngle = 0.01

[ZValue = 2]
TiltAngle = -2.99
RotationAngle = 174.2
"""


def test_mdoc_is_ordered_by_zvalue(text_file):
    table = mdoc.read_mdoc(text_file(MDOC, "a.mdoc"))
    np.testing.assert_array_equal(table.angles_deg, [0.01, 3.001, -2.99])
    np.testing.assert_array_equal(table.z_values, [0, 1, 2])
    assert table.pixel_spacing_angstrom == 2.7
    assert table.tilt_axis_deg == -84.3  # the title, not RotationAngle
    assert "order of acquisition" in table.warnings[0]


def test_mdoc_in_latin_1_and_windows_lines(text_file):
    content = MDOC.replace("microscope", "Münster").replace("\n", "\r\n")
    table = mdoc.read_mdoc(text_file(content.encode("latin-1"), "a.mdoc"))
    assert table.angles_deg.size == 3


def test_mdoc_of_sorted_angles_has_no_warning(text_file):
    text = "".join(f"[ZValue = {z}]\nTiltAngle = {3 * z}\n" for z in range(4))
    table = mdoc.read_mdoc(text_file(text, "a.mdoc"))
    assert table.warnings == () and table.pixel_spacing_angstrom is None


def test_mdoc_sections_of_other_kinds_are_stepped_over(text_file):
    text = "[ZValue = 0]\nTiltAngle = 5\n[MontSection = 0]\nTiltAngle = 80\n"
    table = mdoc.read_mdoc(text_file(text, "a.mdoc"))
    np.testing.assert_array_equal(table.angles_deg, [5])


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("PixelSpacing = 1\n", "ZValue"),
        ("[ZValue = 0]\nDefocus = 1\n", "a TiltAngle"),
        ("[ZValue = 0]\nTiltAngle = 1\n[ZValue = 0]\n", "a new ZValue"),
        ("[ZValue = x]\n", "a new ZValue"),
        ("[ZValue = 0]\nTiltAngle = 1,5\n", "decimal comma"),
        ("[ZValue = 0]\nTiltAngle = 1.57e23\n", "-90 to 90"),
    ],
)
def test_damaged_mdoc(text_file, text, match):
    refused(mdoc.read_mdoc, match, text_file(text, "a.mdoc"))


@pytest.mark.parametrize(
    ("spacings", "match"), [((1, 2), "differs"), ((0, 0), "not positive")]
)
def test_mdoc_spacing_that_cannot_be_used(text_file, spacings, match):
    text = "".join(
        f"[ZValue = {z}]\nTiltAngle = {z}\nPixelSpacing = {spacing}\n"
        for z, spacing in enumerate(spacings)
    )
    table = mdoc.read_mdoc(text_file(text, "a.mdoc"))
    assert table.pixel_spacing_angstrom is None and match in table.warnings[0]
