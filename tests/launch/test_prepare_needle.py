import importlib.resources

import numpy as np
import pytest

from temdiff_jax.errors import InputError
from temdiff_jax.io import tilt_series


@pytest.fixture(scope="module")
def prepare_needle(load_program):
    return load_program("launch.prepare_needle")


def test_vacuum_is_found_beside_specimen_and_spikes(prepare_needle):
    generator = np.random.default_rng(0)
    vacuum = generator.normal(25.0, 4.0, 6000)
    specimen = generator.uniform(100.0, 50000.0, 3000)
    level = prepare_needle.vacuum_level(np.concatenate([vacuum, specimen]))
    assert abs(level - 25.0) < 0.5


def test_fill_is_told_from_vacuum(prepare_needle):
    generator = np.random.default_rng(1)
    image = np.rint(generator.normal(25.0, 4.0, (40, 50)))
    image[:, :6] = 4.0
    filled = prepare_needle.filled_pixels(image)
    assert filled[:, :5].all()
    assert not filled[:, 7:].any()


def test_the_first_row_lies_beyond_the_fill_in_every_tilt(prepare_needle):
    filled = np.zeros((3, 64, 80), bool)
    filled[1, :5] = True
    filled[2, 60:] = True  # at the far end, beyond the tip
    filled[0, :20, :10] = True  # beside the needle
    assert prepare_needle.first_complete_row(filled) == 6
    assert prepare_needle.first_complete_row(np.zeros((1, 8, 8), bool)) == 0


def test_an_axis_on_row_n_half_comes_to_the_centre(prepare_needle):
    # A point on the axis, wherever the stage turns: row 32 of 64 in the source.
    tilts = np.random.default_rng(2).normal(30.0, 2.0, (2, 64, 64))
    tilts[:, 32, 20:60] += 4000.0
    prepared, levels = prepare_needle.prepare(tilts, 2)
    assert prepared.dtype == np.int16
    assert prepared.shape == (2, 32, 32)
    np.testing.assert_allclose(levels, 30.0, atol=0.5)
    profile = prepared[:, 12:28].astype(float).sum((0, 1))
    centre = (profile * (np.arange(32) - 15.5)).sum() / profile.sum()
    assert abs(centre) < 0.05
    # Half the counts on either side of the axis, and the sum over the axis is kept:
    # a mean over 2 x 2 pixels divided by 2, for a line one pixel wide.
    np.testing.assert_allclose(
        prepared[:, 12:28, 15:17].mean((0, 1)), [500, 500], atol=2
    )


def test_counts_that_do_not_fit_are_refused(prepare_needle):
    tilts = np.random.default_rng(2).normal(30.0, 2.0, (1, 64, 64))
    tilts[:, 20:44] += 70000.0
    with pytest.raises(InputError, match="larger --bin"):
        prepare_needle.prepare(tilts, 1)


def test_the_packaged_series_turns_about_its_centre():
    folder = importlib.resources.files("temdiff_jax").joinpath("data")
    series = tilt_series.load_tilt_series(
        str(folder.joinpath("needle.mrc")), str(folder.joinpath("needle.rawtlt"))
    )
    assert series.warnings == ()
    assert series.voxel_size_angstrom == pytest.approx(67.2, abs=1e-3)
    theta = np.deg2rad(series.angles_deg)
    terms = np.stack([np.cos(theta), np.sin(theta), np.ones_like(theta)], axis=1)
    u = np.arange(series.tilts.shape[2]) - (series.tilts.shape[2] - 1) / 2
    rows = series.tilts[:, 40:90].astype(np.float64)
    rows = np.where(rows > 0.02 * rows.max(axis=2, keepdims=True), rows, 0.0)
    centres = (rows * u).sum(axis=2) / rows.sum(axis=2)
    fit, *_ = np.linalg.lstsq(terms, centres, rcond=None)
    # Every slice moves as x cos + z sin does, about column (n - 1) / 2.
    assert abs(fit[2].mean()) < 0.1
    assert np.sqrt(np.mean((terms @ fit - centres) ** 2)) < 0.1
    vacuum = np.median(series.tilts[:, 100:], axis=(1, 2))
    assert np.abs(vacuum).max() <= 5
