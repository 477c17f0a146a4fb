import numpy as np
from scipy import ndimage

from temdiff_jax.evaluation import sliced


def noise(seed, std=1.0, mean=0.0, count=2):
    rng = np.random.default_rng(seed)
    return mean + std * rng.standard_normal((count, 20, 20, 20))


def test_distance_of_gaussians_is_that_of_theory():
    """Along a direction N(0, 1) and N(0, s^2): |1 - s| E|z|; and none to itself."""
    found = sliced.distance(noise(0), noise(1, std=2.0))
    expected = np.sqrt(2 / np.pi)
    np.testing.assert_allclose(found[0], expected, rtol=0.05)
    # Means over 8 voxels: deviations smaller by sqrt(8).
    np.testing.assert_allclose(found[1], expected / np.sqrt(8), rtol=0.1)
    assert max(sliced.distance(noise(0), noise(1))[:2]) < 0.1


def test_texture_counts_where_the_histogram_is_the_same():
    rough = noise(2)
    smooth = ndimage.gaussian_filter(rough, (0.0, 1.0, 1.0, 1.0), mode="wrap")
    smooth *= np.std(rough) / np.std(smooth)
    apart = sliced.distance(rough, smooth)[0]
    assert apart > 3 * sliced.distance(rough, noise(3))[0]


def test_ratio_to_real_blocks_is_one_for_real_blocks():
    real = [noise(seed, count=1)[0] for seed in range(8)]
    same = sliced.relative(noise(20, count=4), real)
    other = sliced.relative(noise(20, std=1.5, count=4), real)
    assert all(0.4 < v < 2.0 for v in same)
    assert other[0] > 5 * same[0]
