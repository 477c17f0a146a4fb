"""The thickness of the volume: whose it is, and whether it can be one."""

import dataclasses

import numpy as np
import pytest

from temdiff_jax.cli import options, request
from temdiff_jax.errors import InputError
from temdiff_jax.io import tilt_series


def test_a_thickness_in_angstrom_is_recognised():
    options.check_depth(None, (10, 14), 20.0)
    options.check_depth(56, (10, 14), 20.0)
    with pytest.raises(InputError, match="1000 Angstrom are 50 voxels"):
        options.check_depth(1000, (10, 14), 20.0)
    with pytest.raises(InputError, match="at most 56"):
        options.check_depth(57, (10, 14), None)


def test_thickness_is_given_or_the_projects_or_left_to_the_library():
    tilts = np.random.default_rng(0).normal(size=(3, 101, 103)).astype(np.float32)
    series = tilt_series.tilt_series_from_arrays(tilts, [-5.0, 0.0, 5.0])
    named = dataclasses.replace(series, thickness_px=101)
    assert request.Model(thickness=7).of(named).thickness == 7
    assert request.Model().of(named).thickness == 101
    assert request.Model().of(request.binned(named, 2)).thickness == 50
    assert request.Model().of(series).thickness is None
