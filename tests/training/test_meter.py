"""Rates over known times, and the words that tell them."""

import time

import pytest

from temdiff_jax.training import meter


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved: ``clock[0] += seconds``."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_rates_are_those_of_the_time_since_the_last_line(clock):
    found = meter.Meter(peak=4e9)
    for _ in range(2):
        found.add([1.0], 1000, 3e9)
    clock[0] += 2.0
    first = found.usage()
    assert first.voxels_per_second == 1000.0
    assert first.flops_per_second == 3e9 and first.peak_share == 0.75
    clock[0] += 5.0
    found.add([1.0], 500, 1e9)
    again = found.usage()
    assert again.voxels_per_second == 100.0 and again.flops_per_second == 2e8
    assert found.rows == []


def test_line_and_curves_tell_the_same(clock):
    found = meter.Meter(peak=4e9)
    found.add([1.0], 3000, 2e9)
    clock[0] += 1.0
    usage = found.usage()
    assert str(usage).startswith("voxels/s 3e+03 GFLOP/s 2 MFU 0.500 rss ")
    values = usage.values()
    assert values["voxels_per_second"] == 3000.0
    assert values["gflop_per_second"] == 2.0 and values["mfu"] == 0.5
    assert 0.01 < values["rss_gb"] < 1000


def test_nothing_is_said_of_operations_that_nobody_counted(clock):
    found = meter.Meter()
    found.add([1.0], 10)
    clock[0] += 1.0
    usage = found.usage()
    assert str(usage).startswith("voxels/s 10 rss ")
    assert "mfu" not in usage.values() and "gflop_per_second" not in usage.values()
    found = meter.Meter()
    found.add([1.0], 10, 1e9)
    clock[0] += 1.0
    assert "MFU" not in str(found.usage())


def test_peak_is_operations_over_the_smallest_time(monkeypatch):
    # Calls of 4 s, 2 s and 8 s.
    times = iter([0.0, 4.0, 10.0, 12.0, 20.0, 28.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(times))
    assert meter.product_peak(size=16, repeats=3) == 2 * 16**3 / 2.0
