"""Intervals: coverage of exact samples, factors between ranges, what is refused."""

import numpy as np
import pytest

from temdiff_jax.errors import InputError
from temdiff_jax.reconstruction import intervals

CARD = {
    "interval_factors": {
        "num_samples": 8,
        "rows": [
            {"half_range_deg": 5.0, "cell": 1, "factors": {"0.5": 1.0, "0.9": 3.0}},
            {"half_range_deg": 20.0, "cell": 1, "factors": {"0.5": 1.0, "0.9": 2.0}},
            {"half_range_deg": 5.0, "cell": 4, "factors": {"0.5": 2.0, "0.9": 4.0}},
            {"half_range_deg": 20.0, "cell": 4, "factors": {"0.5": 2.0, "0.9": 4.0}},
        ],
    }
}


def record(samples=8, **change):
    known = intervals.describe(CARD, 10.0, ())
    return {"num_samples": samples, "draws": True, "method": "default"} | {
        "intervals": known | change
    }


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_exact_samples_cover_as_often_as_they_say(level):
    """Truth and samples of one normal law, Student's factor, no card."""
    rng = np.random.default_rng(0)
    truth, *samples = rng.normal(size=(9, 20, 20, 20))
    mean, std = np.mean(samples, axis=0), np.std(samples, axis=0, ddof=1)
    made = {"num_samples": 8, "draws": True, "method": "default"}
    made["intervals"] = intervals.describe(None, 10.0, ())
    found = intervals.interval(mean, std, None, made, level, 1)
    covered = np.mean((found.low <= truth) & (truth <= found.high))
    assert abs(covered - level) < 0.02
    assert not found.calibrated and "uncalibrated" in found.note


def test_factors_between_two_ranges_follow_the_logarithm():
    known = intervals.describe(CARD, 10.0, ())
    assert known["cell_1"]["0.9"] == pytest.approx(2.5)
    assert known["cell_4"]["0.9"] == 4.0
    half, reason = intervals.factor(known, 0.9, 1, 8)
    assert half == pytest.approx(2.5) and not reason
    more, _ = intervals.factor(known, 0.9, 1, 64)
    ratio = intervals.student(0.9, 64) / intervals.student(0.9, 8)
    assert more == pytest.approx(2.5 * ratio) and ratio < 1


def test_cells_have_the_spread_of_their_means():
    rng = np.random.default_rng(1)
    samples = rng.normal(size=(8, 8, 9, 4)).astype(np.float32)
    mean = samples.mean(axis=0)
    given = (mean, samples.std(axis=0), samples, record())
    found = intervals.interval(*given, 0.9, 4)
    assert found.low.shape == (2, 2, 1) and found.calibrated
    spread = samples[:, :4, :4, :].mean(axis=(1, 2, 3)).std(ddof=1)
    width = found.high[0, 0, 0] - found.low[0, 0, 0]
    assert width == pytest.approx(8 * spread, rel=1e-5)


@pytest.mark.parametrize(
    ("half_range", "doubts", "words"),
    [
        (40.0, (), "factors hold for half-ranges of 4 to 25"),
        (10.0, ("voxels of 50 nm",), "voxels of 50 nm"),
    ],
)
def test_series_unlike_those_of_the_fit_are_uncalibrated(half_range, doubts, words):
    known = intervals.describe(CARD, half_range, doubts)
    half, reason = intervals.factor(known, 0.9, 1, 8)
    assert words in reason and half == intervals.student(0.9, 8)
    said = intervals.label(record(uncalibrated=reason))
    assert said == "standard deviation of the samples, uncalibrated"
    assert "mean +- 2.50 std" in intervals.label(record()) and len(said) <= 60


@pytest.mark.parametrize(
    ("samples", "level", "cell", "words"),
    [
        (1, 0.9, 1, "expected a result with a spread"),
        (8, 1.0, 1, "expected a level between 0 and 1"),
        (8, 0.9, 9, "expected a cell of 1 to 8"),
        (8, 0.9, 4, "keep_samples=True"),
    ],
)
def test_what_has_no_interval_is_refused(samples, level, cell, words):
    volume = np.zeros((8, 8, 8))
    with pytest.raises(InputError, match=words):
        intervals.interval(volume, volume, None, record(samples), level, cell)
