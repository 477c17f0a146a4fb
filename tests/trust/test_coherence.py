"""The likelihood of tilts against its model, drawn and written out."""

import numpy as np
from numpy.testing import assert_allclose

from temdiff_jax.trust import coherence
from temdiff_jax.trust.coherence import Slab, Spectra

TANGENTS = np.array([-0.5, -0.1, 0.0, 0.3])
FX, FY = np.arange(-4, 5) / 32, np.arange(5) / 32


def matrix(fx, slab, noise, unshared, width=32.0):
    """C of one frequency by a fine sum over depth."""
    depth = slab.thickness * (np.arange(4000) + 0.5) / 4000 - slab.thickness / 2
    lag = TANGENTS[:, None] - TANGENTS
    turn = np.cos(2 * np.pi * fx * lag[..., None] * depth)
    seen = coherence._overlap(lag[..., None] * depth / width)
    rest = noise + unshared * (1 - noise)
    return (1 - rest) * np.mean(turn * seen, axis=-1) + rest * np.eye(len(TANGENTS))


def drawn(seed=0, noise=0.2):
    rng = np.random.default_rng(seed)
    shape = (len(TANGENTS), len(FX), len(FY))
    data = (rng.normal(size=shape) + 1j * rng.normal(size=shape)) / np.sqrt(2)
    ones = np.ones(shape[1:])
    return Spectra(data, FX, FY, noise * ones, ones, TANGENTS, 32.0)


def test_gains_are_those_of_the_covariance_written_out():
    found, slab = drawn(), Slab(20.0)
    gains = coherence.gains(found, coherence.modes(found, slab))
    for unshared, gain in zip(coherence.UNSHARED, gains, strict=True):
        expected = 0.0
        for i, fx in enumerate(FX):
            covariance = matrix(fx, slab, 0.2, unshared)
            for j in range(len(FY)):
                y = found.data[:, i, j]
                inner = (np.conj(y) @ np.linalg.solve(covariance, y)).real
                expected += np.sum(np.abs(y) ** 2) - inner
                expected -= np.linalg.slogdet(covariance)[1]
        assert_allclose(gain, expected, rtol=1e-4)


def test_a_slab_off_the_middle_is_one_with_phases():
    found, slab = drawn(), Slab(12.0, 5.0)
    phase = np.exp(-2j * np.pi * 5.0 * np.outer(TANGENTS, FX))[..., None]
    moved = found._replace(data=found.data * phase)
    here = coherence.gains(moved, coherence.modes(moved, slab))
    there = coherence.gains(found, coherence.modes(found, Slab(12.0)))
    assert_allclose(here, there, rtol=1e-9)
    assert slab.reach == 11.0


def test_the_window_overlaps_itself_as_it_does():
    place = (np.arange(4000) + 0.5) / 4000 - 0.5
    window = coherence._hann(place)
    for lag in (0, 400, 1700, 3900):
        sum_ = np.sum(window[lag:] * window[: 4000 - lag]) / np.sum(window**2)
        assert_allclose(coherence._overlap(np.array(lag / 4000)), sum_, atol=1e-3)


def test_the_slab_is_found_in_its_images(bench):
    found = coherence.spectra(bench.series(thickness=8).views)
    fit = coherence.fit_within(found, 16.0)
    assert 5 < fit.slab.thickness < 12
    assert fit.gain > coherence.fit(found, [Slab(16.0)]).gain
