"""Binning keeps means, extents and the promised centre."""

import numpy as np
import pytest

from temdiff_jax.io import binning


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_blocks_are_averaged(factor):
    tilts = np.random.default_rng(0).normal(size=(2, 6, 12)).astype(np.float32)
    binned = binning.bin_stack(tilts, factor)
    assert binned.shape == (2, 6 // factor, 12 // factor)
    assert binned.dtype == np.float32 and binned.flags.c_contiguous
    block = tilts[1, factor : 2 * factor, 2 * factor : 3 * factor]
    assert binned[1, 1, 2] == pytest.approx(block.mean(), rel=1e-6, abs=1e-7)
    np.testing.assert_allclose(
        binned.mean(axis=(1, 2)), tilts.mean(axis=(1, 2)), atol=1e-6
    )


def test_large_counts_do_not_lose_digits():
    tilts = np.full((1, 64, 64), 60001, np.uint16)
    np.testing.assert_array_equal(binning.bin_stack(tilts, 32), 60001.0)


@pytest.mark.parametrize("extent", range(4, 12))
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_the_centre_stays_where_it_is(extent, factor):
    # On a ramp the mean of all binned pixels is the centre of what was kept.
    ramp = np.broadcast_to(np.arange(extent, dtype=np.float64), (1, factor, extent))
    centre = float(binning.bin_stack(ramp, factor).mean())
    assert centre == pytest.approx((extent - 1) / 2)


@pytest.mark.parametrize("factor", [0, -1, 1.5, 7])
def test_factors_that_are_none(factor):
    with pytest.raises(ValueError, match="factor"):
        binning.bin_stack(np.zeros((2, 6, 8)), factor)


def test_three_axes_are_needed():
    with pytest.raises(ValueError, match="n_tilts, y, x"):
        binning.bin_stack(np.zeros((6, 8)), 2)
