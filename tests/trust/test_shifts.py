"""Shifts of a series, measured with their errors."""

import dataclasses

import numpy as np
import pytest

from temdiff_jax.trust import coherence, shifts
from temdiff_jax.trust.coherence import Fit, Slab


def true_shifts(moved, angles):
    cos = np.cos(np.deg2rad(angles))[:, None] ** np.array([1, 0])
    return shifts.gauge_free(moved / cos, np.tan(np.deg2rad(angles))) * cos


@pytest.mark.parametrize("size", [0.0, 1.5])
def test_shifts_are_measured_within_their_errors(bench, size):
    moved = size * np.random.default_rng(3).normal(size=(len(bench.angles), 2))
    found = shifts.measure(bench.series(moved).views, bench.thickness, 6.0)
    error = found.shifts - true_shifts(moved, bench.angles)
    assert np.sqrt(np.mean(error**2)) < 0.15
    assert found.errors.max() < 0.2
    z = np.sqrt(np.mean((error / found.errors) ** 2))
    assert 0.4 < z < 2.0


def test_a_position_of_the_specimen_is_no_shift(bench):
    tangents = np.tan(np.deg2rad(bench.angles))
    rng = np.random.default_rng(0)
    own = rng.normal(size=(len(bench.angles), 2))
    place = np.stack([2 - 3 * tangents, np.full(len(bench.angles), 0.7)], axis=1)
    alone, moved = (shifts.gauge_free(s, tangents) for s in (own, own + place))
    np.testing.assert_allclose(moved, alone, atol=1e-12)


def test_the_slope_is_that_of_the_likelihood(bench):
    views = bench.series().views
    slab, unshared = Slab(8.0, 1.0), 0.1

    def minus_square(step):
        found = coherence.spectra(shifts._moved(views, step))
        held = coherence.modes(found, slab)
        variance = coherence.variances(found, held, unshared)
        power = np.sum(np.abs(held.amplitudes) ** 2 / variance, axis=1)
        return -np.sum(found.worth * power)

    found = coherence.spectra(views)
    slope = shifts._curved(found, Fit(0.0, slab, unshared))[0].reshape(2, -1)
    for tilt, axis in [(0, 0), (7, 1)]:
        step = np.zeros((len(bench.angles), 2))
        step[tilt, axis] = 1e-4
        number = (minus_square(step) - minus_square(-step)) / 2e-4
        np.testing.assert_allclose(slope[axis, tilt], number, rtol=1e-4)


def test_the_gain_falls_with_planted_shifts(bench):
    views = bench.series().views
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=(len(bench.angles), 2))

    def gain(size):
        there = dataclasses.replace(views, shifts=size * drawn)
        return coherence.fit_within(coherence.spectra(there), bench.thickness).gain

    each = [gain(size) for size in (0.0, 0.5, 2.0)]
    assert each[0] > each[1] > each[2]
