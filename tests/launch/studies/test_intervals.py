"""Factors of intervals: fitted to some blocks, judged on others."""

import numpy as np
import pytest

from launch.studies import intervals
from temdiff_jax.errors import InputError


def block(rng, too_small):
    """A spread that knows where the error is, but is too small by a factor."""
    spread = rng.uniform(0.2, 2.0, size=(12, 12, 12))
    return {1: (np.abs(rng.normal(size=spread.shape)) * spread, spread / too_small)}


def test_factors_make_up_for_a_spread_that_is_too_small():
    rng = np.random.default_rng(0)
    fitted = intervals.factors([block(rng, 1.5) for _ in range(8)], 1)
    assert fitted["0.9"] == pytest.approx(1.5 * 1.645, rel=0.03)
    found = intervals.judge([block(rng, 1.5) for _ in range(8)], 1, fitted)
    for level, covered in found["coverage"].items():
        assert covered == pytest.approx(float(level), abs=0.015)
    assert found["width"] < 0.9 * found["constant"]
    rows = [{"case": "10/1", "cell": 1, "factors": fitted, "blocks": [8, 8]} | found]
    assert intervals.page(rows).count("|\n") == 3


def test_blocks_of_a_volume_do_not_overlap(tmp_path):
    values = np.arange(24**3).reshape(24, 24, 24) % 251
    path = tmp_path / "a.npz"
    np.savez(path, volume=values.astype(np.uint8))
    found = list(intervals.blocks_of(f"{path}:volume", 12, 8))
    assert len(found) == 8 and all(b.shape == (12, 12, 12) for b in found)
    total = sum(b.sum(dtype=np.float64) for b in found)
    whole = next(iter(intervals.blocks_of(f"{path}:volume", 24, 1)))
    np.testing.assert_allclose(total, whole.sum(dtype=np.float64), rtol=1e-5)
    with pytest.raises(InputError, match="at most 1 of edge 24"):
        list(intervals.blocks_of(f"{path}:volume", 24, 2))
