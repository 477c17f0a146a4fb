"""STAR files of RELION 5 and XML files of Warp, and what is wrong with bad ones."""

import numpy as np
import pytest

from temdiff_jax.errors import InputError
from temdiff_jax.io.alignment import packages, relion, warp

STAR = """
# version 50001

data_TS_01

loop_
_rlnMicrographName #1
_rlnTomoXTilt #2
_rlnTomoYTilt #3
_rlnTomoZRot #4
_rlnTomoXShiftAngst #5
_rlnTomoYShiftAngst #6
a.mrc 0.5 -30.0 85.5 20.0 -6.0
b.mrc 0.5 0.2 85.6 21.5 -5.6

c.mrc 0.5 30.1 85.7 -2.2e1 -5.2
"""

XML = """<?xml version="1.0" encoding="utf-8"?>
<TiltSeries AreAnglesInverted="True" LevelAngleX="1.5" LevelAngleY="-2">
  <Angles>-30.5
0
30.5</Angles>
  <UseTilt>True
False
True</UseTilt>
  <AxisAngle>-4.3
-4.2
-4.1</AxisAngle>
  <AxisOffsetX>10
11
12.5</AxisOffsetX>
  <AxisOffsetY>0
-1
-2</AxisOffsetY>
  <Param Name="Other" Value="1" />
</TiltSeries>
"""


def write(tmp_path, text, name="a.star"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_columns_of_relion(tmp_path):
    found = relion.read_relion_star(write(tmp_path, STAR))
    assert isinstance(found, packages.RelionAlignment)
    np.testing.assert_array_equal(found.x_tilts_deg, [0.5, 0.5, 0.5])
    np.testing.assert_array_equal(found.y_tilts_deg, [-30.0, 0.2, 30.1])
    np.testing.assert_array_equal(found.z_rotations_deg, [85.5, 85.6, 85.7])
    np.testing.assert_array_equal(
        found.shifts_angstrom, [[20.0, -6.0], [21.5, -5.6], [-22.0, -5.2]]
    )
    alignment = packages.from_relion(
        found, pixel_size_angstrom=2.0, image_shape=(8, 8), volume_shape=(4, 8, 8)
    )
    assert alignment.x_tilt_deg == 0.5


def test_one_of_several_tomograms(tmp_path):
    other = STAR.replace("TS_01", "TS_02").replace("-30.0", "-31.0")
    both = "data_global\n\n_rlnTomoName TS\n\n" + STAR + other
    path = write(tmp_path, both)
    found = relion.read_relion_star(path, tomogram="TS_02")
    assert found.y_tilts_deg[0] == -31.0
    with pytest.raises(InputError, match=r"got 2 \(TS_01, TS_02\)"):
        relion.read_relion_star(path)


def test_lists_of_warp(tmp_path):
    found = warp.read_warp_xml(write(tmp_path, XML, "a.xml"))
    np.testing.assert_array_equal(found.used, [True, False, True])
    record = found.alignment
    np.testing.assert_array_equal(record.angles_deg, [-30.5, 0.0, 30.5])
    np.testing.assert_array_equal(record.axis_angles_deg, [-4.3, -4.2, -4.1])
    np.testing.assert_array_equal(
        record.axis_offsets_angstrom, [[10, 0], [11, -1], [12.5, -2]]
    )
    assert (record.level_x_deg, record.level_y_deg) == (1.5, -2.0)
    alignment = packages.from_warp(record, pixel_size_angstrom=10.0)
    np.testing.assert_array_equal(alignment.angles_deg, [32.5, 2.0, -28.5])
    every = XML.replace("UseTilt", "Used").replace("LevelAngle", "Other")
    found = warp.read_warp_xml(write(tmp_path, every, "b.xml"))
    assert found.used.all() and found.alignment.level_x_deg == 0.0


BAD_STAR = {
    "no alignment": (STAR.replace("rlnTomoZRot", "rlnOther"), r"got 0 \(none\)"),
    "no rows": (STAR.partition("a.mrc")[0], "expected rows, one a tilt, got none"),
    "a short row": (STAR.replace(" 20.0 -6.0", " 20.0"), "line 13: expected 6 columns"),
    "a comma": (STAR.replace("85.6", "85,6"), "rlnTomoZRot: expected numbers with a"),
    "a word": (STAR.replace("85.6", "none"), "rlnTomoZRot: expected a number"),
}


@pytest.mark.parametrize("name", BAD_STAR)
def test_bad_star_files_are_one_line(tmp_path, name):
    text, message = BAD_STAR[name]
    with pytest.raises(InputError, match=message) as error:
        relion.read_relion_star(write(tmp_path, text))
    assert "\n" not in str(error.value)


BAD_XML = {
    "not XML": (XML[:200], "the XML of a tilt series"),
    "another XML": ("<Movie></Movie>", "a list of Angles, got none"),
    "a short list": (XML.replace("11\n", ""), "AxisOffsetX: expected one entry"),
    "a comma": (XML.replace("12.5", "12,5"), "AxisOffsetX: expected numbers with a"),
    "an endless level": (XML.replace('"1.5"', '"NaN"'), "LevelAngleX: expected a numb"),
    "entities": ("<!DOCTYPE a [<!ENTITY b 'c'>]>" + XML, "XML without a DOCTYPE"),
}


@pytest.mark.parametrize("name", BAD_XML)
def test_bad_xml_files_are_one_line(tmp_path, name):
    text, message = BAD_XML[name]
    with pytest.raises(InputError, match=message) as error:
        warp.read_warp_xml(write(tmp_path, text, "a.xml"))
    assert "\n" not in str(error.value)
