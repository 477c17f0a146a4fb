"""Blocks from volumes, and planted defects."""

import numpy as np
import pytest
from scipy import ndimage

from temdiff_jax.errors import InputError
from temdiff_jax.training import cleaning

CUBE = (8.0, 8.0, 8.0)


def tissue(shape=(40, 48, 56), seed=0, noise=0.3):
    """Smooth random grey levels with noise, uint8."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), 2.0, mode="wrap")
    grey = smooth / smooth.std() + noise * rng.normal(size=shape)
    return np.clip(128 + 30 * grey, 0, 255).astype(np.uint8)


def defects(volume, voxel=CUBE, step=7):
    slabs = (volume[i : i + step] for i in range(0, len(volume), step))
    return cleaning.find_defects(cleaning.profile_slices(slabs, len(volume)), voxel)


def kinds(found):
    return {(b.number, b.kind) for b in found.bad}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("noise", [0.0, 0.3, 0.8])
def test_a_clean_volume_raises_no_alarm(seed, noise):
    volume = tissue(seed=seed, noise=noise)
    for clean in (volume, volume.astype(np.float32) - 500.0, volume[:, :24, :20]):
        assert defects(clean) == cleaning.Defects((), ())


def test_missing_slices_are_found():
    volume = tissue().astype(np.float32)
    volume[0] = 0
    volume[9] = 255
    volume[17:20] = np.nan
    volume[30, :, :30] = 0  # half of it
    expected = {(i, "missing") for i in (0, 9, 17, 18, 19, 30)}
    found = defects(volume)
    assert kinds(found) == expected and found.jumps == ()
    assert found.bad[0].value == 0.0


def test_most_slices_may_be_missing():
    volume = tissue()
    volume[12:] = 0
    assert kinds(defects(volume)) == {(i, "missing") for i in range(12, 40)}


def test_saturated_slices_are_found():
    volume = tissue()
    volume[11] = np.clip(volume[11].astype(int) + 90, 0, 255)
    volume[25] = np.clip(volume[25].astype(int) - 80, 0, 255)
    found = defects(volume)
    assert kinds(found) == {(11, "saturated"), (25, "saturated")}
    assert all(bad.value > 0.05 for bad in found.bad)


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("shift", [3, -6])
def test_a_displaced_slice_is_found(noise, shift):
    volume = tissue(noise=noise)
    volume[15] = np.roll(volume[15], shift, axis=1)
    volume[28] = np.roll(volume[28], shift, axis=0)
    found = defects(volume)
    assert kinds(found) == {(15, "jittered"), (28, "jittered")} and found.jumps == ()


def test_a_jump_splits_and_loses_nothing():
    volume = tissue()
    volume[22:] = np.roll(volume[22:], 5, axis=2)
    found = defects(volume)
    assert found.bad == () and found.jumps == (22,)
    assert cleaning.clean_slabs(40, found, 4) == [(0, 22), (22, 40)]


def test_lost_sections_are_a_jump():
    volume = np.delete(tissue((60, 48, 56), noise=0.1), range(22, 42), axis=0)
    found = defects(volume)
    assert found.bad == () and found.jumps == (22,)


def test_a_stack_shifted_throughout_is_doubted():
    volume = tissue(noise=0.1)
    rng = np.random.default_rng(1)
    shaken = np.stack([np.roll(s, rng.integers(-3, 4, 2), (0, 1)) for s in volume])
    found = defects(shaken)
    assert len(found.warnings) == 1 and "shifted from section to" in found.warnings[0]
    # Of thick sections nothing else is to be expected.
    assert defects(volume[::3], (24.0, 8.0, 8.0)).warnings == ()


def test_profile_does_not_depend_on_the_slabs():
    volume = tissue()
    one, other = (
        cleaning.profile_slices([volume[a:b] for a, b in zip(cuts, cuts[1:])], 40)
        for cuts in ([0, 40], [0, 1, 2, 19, 40])
    )
    for first, second in zip(one, other, strict=True):
        np.testing.assert_array_equal(first, second)
    pair = [volume[3].astype(float).ravel(), volume[4].astype(float).ravel()]
    np.testing.assert_allclose(one.near[3], np.corrcoef(pair)[0, 1], atol=1e-5)
    far = [volume[3].astype(float).ravel(), volume[5].astype(float).ravel()]
    np.testing.assert_allclose(one.far[3], np.corrcoef(far)[0, 1], atol=1e-5)


def test_slabs_lie_between_defects():
    bad = (cleaning.BadSlice(0, "missing", 0.0), cleaning.BadSlice(10, "jittered", 0.2))
    found = cleaning.Defects(bad, (15, 30))
    assert cleaning.clean_slabs(40, found, 1) == [(1, 10), (11, 15), (15, 30), (30, 40)]
    assert cleaning.clean_slabs(40, found, 9) == [(1, 10), (15, 30), (30, 40)]


def test_grey_levels_become_stain():
    values = np.arange(1001, dtype=np.int16).reshape(1, 7, 143) - 300
    limits = cleaning.grey_limits(values)
    assert limits == (-295.0, 695.0)
    dark = cleaning.to_uint8(values, limits, stain_is_dark=True)
    assert dark.dtype == np.uint8 and dark.min() == 0 and dark.max() == 255
    expected = np.clip((values + 295) / 990 * 255, 0, 255)
    assert np.abs(dark - expected).max() <= 0.5
    bright = cleaning.to_uint8(values, limits, stain_is_dark=False)
    np.testing.assert_array_equal(bright, 255 - dark)
    with pytest.raises(InputError, match="expected contrast, got 3 at both"):
        cleaning.grey_limits(np.full(9, 3))


def membranes(seed=0):
    """Thin sheets between cells: dark where a smooth random field is near zero."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=(40, 40, 40)), 4.0, mode="wrap")
    sheets = np.exp(-((field / field.std() / 0.25) ** 2))
    return 200 - 120 * sheets + 10 * rng.normal(size=field.shape)


def test_wrong_polarity_is_warned_about():
    for seed in range(3):
        block = membranes(seed)
        score, inverse = cleaning.stain_score(block), cleaning.stain_score(-block)
        assert score > cleaning.POLARITY_UNSURE
        np.testing.assert_allclose(inverse, -score, atol=1e-3)
        assert cleaning.polarity_warning(score, stain_is_dark=True) is None
        assert cleaning.polarity_warning(inverse, stain_is_dark=False) is None
        for value, dark in ((score, False), (inverse, True)):
            text = cleaning.polarity_warning(value, stain_is_dark=dark)
            assert text is not None and "check the declaration" in text
    assert cleaning.polarity_warning(0.05, stain_is_dark=False) is None


def test_resampling_keeps_a_linear_ramp_and_its_place():
    z, y, x = np.meshgrid(np.arange(10), np.arange(12), np.arange(8), indexing="ij")
    voxel = (10.0, 5.0, 4.0)
    ramp = sum(w * (i + 0.5) * v for w, i, v in zip((1, 2, 3), (z, y, x), voxel))
    for target in (5.0, 4.0, 10.0, 20.0):
        got = cleaning.resample(ramp, voxel, target)
        shape = [int(n * v / target + 1e-6) for n, v in zip(ramp.shape, voxel)]
        assert list(got.shape) == shape and got.dtype == np.float32
        where = [(np.arange(n) + 0.5) * target for n in shape]
        expected = sum(
            w * p for w, p in zip((1, 2, 3), np.meshgrid(*where, indexing="ij"))
        )
        inner = tuple(slice(2, n - 2) if n > 4 else slice(None) for n in shape)
        # Means over 1.25 voxels take these as steps.
        exact = all(target <= v or target % v == 0 for v in voxel)
        tolerance = {"rtol": 1e-5} if exact else {"atol": 0.3 * max(voxel)}
        np.testing.assert_allclose(got[inner], expected[inner], **tolerance)


def test_coarser_voxels_are_means():
    block = np.random.default_rng(0).normal(size=(6, 4, 8))
    got = cleaning.resample(block, (4, 4, 4), 8)
    expected = block.reshape(3, 2, 2, 2, 4, 2).mean((1, 3, 5))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(
        cleaning.resample(block, (4, 4, 4), 4), block.astype(np.float32)
    )


@pytest.mark.parametrize("limit", [1000, 137, 1])
def test_pieces_cover_a_box_once(limit):
    shape = (7, 20, 5)
    count = np.zeros(shape, int)
    for piece in cleaning.pieces(shape, limit):
        assert count[piece].size <= limit
        count[piece] += 1
    assert (count == 1).all()
