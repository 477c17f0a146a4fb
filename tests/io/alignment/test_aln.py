"""AreTomo alignments of both counting habits."""

import numpy as np
import pytest

from temdiff_jax.errors import InputError
from temdiff_jax.io.alignment import aln

TITLE = "# SEC ROT GMAG TX TY SMEAN SFIT SCALE BASE TILT\n"


def aln_text(sections, tilts, *, dark=(), num_views=None, more=""):
    text = "# AreTomo Alignment / Priims bprmMn\n"
    if num_views is not None:
        text += f"# RawSize = 640 480 {num_views}\n"
    text += "# NumPatches = 0\n"
    for section in dark:
        text += f"# DarkFrame =     0 {section:4d}    60.00\n"
    text += more + TITLE
    for section, tilt in zip(sections, tilts, strict=True):
        text += f"{section:5d} -84.5 1.0 {section}.5 -2.0 1.0 1.0 1.0 0.0 {tilt:8.2f}\n"
    return text


@pytest.fixture
def make_aln(tmp_path):
    def make(*arguments, **options):
        path = tmp_path / "a.aln"
        path.write_text(aln_text(*arguments, **options))
        return path

    return make


@pytest.mark.parametrize("base", [0, 1])
def test_both_bases_give_the_same_views(make_aln, base):
    sections = [2 + base, 0 + base, 3 + base]
    table = aln.read_aln(make_aln(sections, [-3, 0, 3], dark=[1 + base], num_views=4))
    assert table.base == base
    np.testing.assert_array_equal(table.views, [2, 0, 3])
    assert table.dark_views == (1,) and table.num_views == 4
    np.testing.assert_array_equal(table.tilts_deg, [-3, 0, 3])
    np.testing.assert_array_equal(table.rotations_deg, [-84.5] * 3)
    np.testing.assert_array_equal(table.shifts_px[0], [sections[0] + 0.5, -2])
    assert "[1]" in table.warnings[0]


@pytest.mark.parametrize(("dark", "base"), [(0, 0), (4, 1)])
def test_a_dark_section_can_prove_the_base(make_aln, dark, base):
    table = aln.read_aln(make_aln([1, 2, 3], [-3, 0, 3], dark=[dark], num_views=4))
    assert table.base == base


def test_aretomo3_header_lines(make_aln):
    more = "# Comment = any words\n# AlphaOffset =   -9.50\n"
    more += "# BetaOffset = 1.25\n# Thickness = 812\n"
    table = aln.read_aln(make_aln([0, 1], [0, 3], num_views=2, more=more))
    assert table.alpha_offset_deg == -9.5
    assert table.beta_offset_deg == 1.25
    assert table.thickness_px == 812


def test_local_table_is_not_read_as_rows(make_aln):
    path = make_aln([0, 1], [0, 3], num_views=2)
    path.write_text(path.read_text() + "# Local Alignment\n 0 0 1.0 2.0 3.0 4.0 1.0\n")
    assert aln.read_aln(path).views.size == 2


def refused(match, path, **options):
    with pytest.raises(InputError, match=match) as error:
        aln.read_aln(path, **options)
    assert "\n" not in str(error.value)


def test_base_that_the_numbers_do_not_tell_is_asked_for(make_aln):
    path = make_aln([1, 2], [0, 3], num_views=4)
    refused("base=0 or base=1", path)
    np.testing.assert_array_equal(aln.read_aln(path, base=1).views, [0, 1])
    np.testing.assert_array_equal(aln.read_aln(path, base=0).views, [1, 2])


def test_contradicting_sections(make_aln):
    refused("both 0 and 3", make_aln([0, 3], [0, 3], num_views=3))


def test_tilt_beyond_90(make_aln):
    refused("-90 to 90", make_aln([0, 1], [0, 1.57e23], num_views=2))


def test_section_out_of_range_or_twice(make_aln):
    refused("section 9", make_aln([0, 9], [0, 3], num_views=4))
    refused("twice", make_aln([0, 0], [0, 3], num_views=4))


def test_rows_of_another_width(tmp_path):
    path = tmp_path / "a.aln"
    path.write_text(TITLE + "0 1 2 3\n")
    refused("10 columns", path)
    path.write_text(TITLE)
    refused("no rows", path)
