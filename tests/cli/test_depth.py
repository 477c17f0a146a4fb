"""The thickness of the volume: whose it is, and whether it can be one."""

import pytest

from temdiff_jax.cli import options
from temdiff_jax.io.gate import InputError


def test_a_thickness_in_angstrom_is_recognised():
    options.check_depth(None, (10, 14), 20.0)
    options.check_depth(56, (10, 14), 20.0)
    with pytest.raises(InputError, match="1000 Angstrom are 50 voxels"):
        options.check_depth(1000, (10, 14), 20.0)
    with pytest.raises(InputError, match="at most 56"):
        options.check_depth(57, (10, 14), None)


def test_thickness_is_given_or_the_projects_or_the_width():
    assert options.depth(7, 100, 2, 50) == (7, "as given")
    assert options.depth(None, 101, 2, 50) == (50, "by the project")
    assert options.depth(None, None, 2, 50)[0] == 50
