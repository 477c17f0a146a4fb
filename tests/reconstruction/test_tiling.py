"""Windows over a volume: partition of unity, seams, ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.reconstruction import tiling

OVERLAP = 4


def windowed(function, fields, window=8, multiple=4, overlap=OVERLAP):
    return tiling.apply_windowed(
        function, fields, window=window, multiple=multiple, overlap=overlap
    )


def noise(shape=(2, 8, 20, 13), seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize(
    ("extent", "window", "overlap"), [(8, 8, 4), (5, 8, 4), (9, 8, 4), (37, 12, 4)]
)
def test_windows_cover_every_voxel_and_share_the_overlap(extent, window, overlap):
    starts = tiling.window_starts(extent, window, overlap)
    assert starts[0] == 0
    covered = np.zeros(max(extent, window), int)
    for start in starts:
        assert start + window <= max(extent, window)
        covered[start : start + window] += 1
    assert covered.min() >= 1
    gaps = np.diff(starts)
    assert np.all(gaps > 0) and np.all(window - gaps >= overlap - 1)


@pytest.mark.parametrize(("extent", "window"), [(8, 8), (9, 8), (37, 12), (64, 16)])
def test_tapers_make_a_partition_of_unity(extent, window):
    starts = tiling.window_starts(extent, window, OVERLAP)
    tapers = [tiling.taper(window, extent, s, OVERLAP) for s in starts]
    total = np.zeros(extent)
    for start, weight in zip(starts, tapers, strict=True):
        assert weight.min() > 0 and weight.max() == 1
        total[start : start + window] += weight
    shares = np.zeros(extent)
    for start, weight in zip(starts, tapers, strict=True):
        shares[start : start + window] += weight / total[start : start + window]
    np.testing.assert_allclose(shares, 1, rtol=1e-6)
    # The borders of the volume are not tapered.
    assert tapers[0][0] == 1 and tapers[-1][-1] == 1


def test_identity_in_windows_is_the_identity():
    x = noise()
    np.testing.assert_allclose(windowed(lambda a: a, [x]), x, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_noise_keeps_its_deviation_in_the_overlaps():
    x = noise((1, 4, 64, 64))
    blended = windowed(lambda a: a, [x], window=16)
    starts = tiling.window_starts(64, 16, OVERLAP)
    overlaps = np.zeros(64, bool)
    for left, right in zip(starts[:-1], starts[1:]):
        overlaps[right : left + 16] = True
    inside, seam = blended[:, :, ~overlaps], blended[:, :, overlaps]
    reference = np.std(x[:, :, overlaps]) / np.std(x[:, :, ~overlaps])
    np.testing.assert_allclose(np.std(seam) / np.std(inside), reference, rtol=1e-4)
    np.testing.assert_allclose(np.std(seam), np.std(x[:, :, overlaps]), rtol=0.02)


def test_function_of_the_voxel_does_not_see_the_windows():
    x, y = noise(seed=1), noise(seed=2)
    got = windowed(lambda a, b: jnp.tanh(a) * b + a, [x, y])
    np.testing.assert_allclose(got, jnp.tanh(x) * y + x, rtol=1e-5, atol=1e-5)


def test_each_window_sees_its_own_part_once():
    shapes = []

    def record(a):
        shapes.append(a.shape)
        return jnp.full_like(a, jnp.mean(a))

    # Two windows of one constant each: their blend runs from one to the other.
    x = jnp.concatenate([jnp.zeros((1, 8, 8, 8)), jnp.ones((1, 8, 8, 8))], axis=2)
    out = np.asarray(windowed(record, [x], window=12))
    assert set(shapes) == {(1, 8, 12, 8)}
    line = out[0, 0, :, 0]
    np.testing.assert_allclose(line[[0, -1]], [1 / 3, 2 / 3], rtol=1e-5)
    assert np.all(np.diff(line) >= -1e-6)


def test_volume_within_one_window_is_given_whole():
    calls = []

    def record(a):
        calls.append(a.shape)
        return 2 * a

    x = noise((2, 8, 12, 4))
    np.testing.assert_array_equal(windowed(record, [x], window=16), 2 * x)
    assert calls == [(2, 8, 12, 4)]


def test_ends_are_mirrored_up_to_the_multiple_and_cut_again():
    seen = []

    def record(a):
        seen.append(np.asarray(a))
        return a

    x = noise((1, 3, 6, 5))
    out = windowed(record, [x], window=16)
    np.testing.assert_array_equal(out, x)
    assert seen[0].shape == (1, 4, 8, 8)
    np.testing.assert_array_equal(seen[0][:, 3:, :6, :5], x[:, 2:])
    np.testing.assert_array_equal(seen[0][:, :3, 6:, :5], x[:, :, 5:3:-1])


def test_extent_far_below_the_multiple_is_mirrored_again_and_again():
    x = jnp.arange(2.0).reshape(1, 1, 1, 2)
    padded = tiling.pad_to_multiple(x, 8)
    np.testing.assert_array_equal(padded[0, 0, 0], [0, 1, 1, 0, 0, 1, 1, 0])
    assert padded.shape == (1, 8, 8, 8)


def test_every_axis_may_have_a_window_of_its_own():
    seen = []

    def function(x):
        seen.append(x.shape)
        return x

    x = noise((1, 16, 20, 13))
    given = (16, 8, 12)
    np.testing.assert_allclose(windowed(function, [x], given), x, atol=1e-6)
    assert set(seen) == {(1, *given)}
