"""Offset, logarithm and sense from the mean grey of slabs."""

import numpy as np
import pytest

from temdiff_jax.series import intensity
from temdiff_jax.trust import levels

ANGLES = np.arange(-30.0, 31.0, 4.0)


def slab(mean=1.0):
    """Line integrals of a slab of a mean density, ``[n, y, x]``."""
    path = 1 / np.cos(np.deg2rad(ANGLES))
    rng = np.random.default_rng(0)
    texture = rng.gamma(2.0, 0.05, size=(len(ANGLES), 24, 24))
    return path[:, None, None] * (mean + texture)


def kinds(tilts, **options):
    chosen = {"log": "off", "contrast": "bright"} | options
    prepared, record = intensity.to_dense_bright(tilts, ANGLES, **chosen)
    return [cause.kind for cause in levels.causes(prepared, ANGLES, record)]


def test_a_slab_is_as_it_should_be():
    assert kinds(slab()) == []
    assert kinds(np.exp(-slab()), log="on", contrast="auto") == []


def test_an_offset_is_named():
    assert kinds(slab() + 20.0) == ["offset"]


@pytest.mark.parametrize("contrast", ["bright", "auto"])
def test_a_logarithm_that_is_missing_is_named(contrast):
    assert kinds(1000 * np.exp(-slab()), contrast=contrast) == ["logarithm"]


def test_a_logarithm_of_line_integrals_is_named():
    assert kinds(slab(), log="on") == ["logarithm"]


def test_the_wrong_sense_is_named():
    assert kinds(slab(), contrast="dark") == ["sense"]


def test_a_specimen_in_vacuum_and_a_narrow_range_say_nothing():
    rng = np.random.default_rng(1)
    vacuum = 5 + rng.gamma(2.0, 0.5, size=(len(ANGLES), 24, 24))
    assert kinds(vacuum) == []
    prepared, record = intensity.to_dense_bright(
        slab() + 20.0, ANGLES / 10, log="off", contrast="bright"
    )
    assert levels.causes(prepared, ANGLES / 10, record) == []
