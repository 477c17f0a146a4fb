import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.projector import project, ray_lengths
from temdiff_jax.series import noise, weighting


@pytest.fixture
def geometry():
    return TiltGeometry.from_degrees(
        [-20.0, -7.0, 0.0, 12.0, 30.0], thickness=8, width=24, height=20
    )


@pytest.fixture
def tilts(geometry):
    """Line integrals of blobs on a slab of density 3, with 2 % of noise."""
    rng = np.random.default_rng(0)
    z, x, y = (np.arange(n) - (n - 1) / 2 for n in geometry.volume_shape)
    volume = 3.0 + np.zeros(geometry.volume_shape)
    for centre in rng.uniform(-8, 8, (12, 3)):
        square = (
            (z - 0.3 * centre[0])[:, None, None] ** 2
            + (x - centre[1])[None, :, None] ** 2
            + (y - centre[2])[None, None, :] ** 2
        )
        volume += np.exp(-square / 18)
    clean = project(jnp.asarray(volume, jnp.float32), geometry)
    return clean + 0.5 * jnp.asarray(rng.standard_normal(clean.shape), jnp.float32)


def smooth_images(count=3, shape=(60, 50)):
    u, y = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    waves = [np.sin(u / (7 + k)) * np.cos(y / 9) + 0.02 * k * u for k in range(count)]
    return 5 * np.stack(waves)


@pytest.mark.slow
def test_noise_on_smooth_images_is_found_within_ten_percent():
    images = smooth_images()
    sigma = np.array([0.05, 0.4, 3.0])
    added = np.random.default_rng(1).standard_normal(images.shape)
    noisy = images + sigma[:, None, None] * added
    estimate = noise.noise_per_tilt(jnp.asarray(noisy, jnp.float32))
    np.testing.assert_allclose(estimate, sigma, rtol=0.1)


def test_noise_estimate_ignores_a_few_outliers():
    images = np.random.default_rng(2).standard_normal((1, 60, 50))
    images[0, ::13, ::11] += 200.0
    estimate = noise.noise_per_tilt(jnp.asarray(images, jnp.float32))
    assert float(estimate[0]) == pytest.approx(1.0, rel=0.35)


def test_noise_of_a_plane_is_zero():
    u, y = np.meshgrid(np.arange(12.0), np.arange(9.0), indexing="ij")
    estimate = noise.noise_per_tilt(jnp.asarray(2 * u - y + 4, jnp.float32)[None])
    np.testing.assert_allclose(estimate, 0.0, atol=1e-5)


@pytest.mark.slow
def test_mean_is_that_of_a_uniform_slab(geometry):
    tilts = jnp.broadcast_to(2.5 * ray_lengths(geometry), geometry.tilts_shape)
    scaling = noise.estimate_units(tilts, geometry)
    assert float(scaling.mean) == pytest.approx(2.5, rel=1e-5)
    assert np.max(np.abs(noise.normalise_tilts(tilts, geometry, scaling))) < 20
    assert np.isfinite(scaling.contrast)


def test_empty_tilts_do_not_divide_by_zero(geometry):
    tilts = jnp.zeros(geometry.tilts_shape)
    scaling = noise.estimate_units(tilts, geometry)
    assert float(scaling.mean) == 0 and float(scaling.contrast) == 1
    weight = noise.data_precision(noise.normalise_tilts(tilts, geometry, scaling))
    assert np.all(np.isfinite(weight))


@pytest.mark.slow
def test_contrast_of_a_random_medium_is_about_its_standard_deviation():
    """Correlation over the assumed length: cubes of that many voxels."""
    rng = np.random.default_rng(3)
    cubes = rng.standard_normal((4, 8, 8))
    volume = 0.7 * np.kron(cubes, np.ones((8, 8, 8)))
    geometry = TiltGeometry.from_degrees(
        [0.0], thickness=32, width=64, height=64, lateral_margin=0
    )
    tilts = project(jnp.asarray(volume, jnp.float32), geometry)
    scaling = noise.estimate_units(tilts, geometry)
    assert float(scaling.contrast) == pytest.approx(0.7, rel=0.2)


def test_scaling_follows_the_unit_and_the_density_of_the_slab(geometry, tilts):
    base = noise.estimate_units(tilts, geometry)
    slab = ray_lengths(geometry)
    other = noise.estimate_units(10 * tilts + 4 * slab, geometry)
    assert float(other.mean) == pytest.approx(10 * float(base.mean) + 4, rel=1e-4)
    assert float(other.contrast) == pytest.approx(10 * float(base.contrast), rel=1e-3)


@pytest.mark.parametrize(("factor", "density"), [(10.0, 0.0), (1.0, 5.0), (0.1, -2.0)])
def test_normalised_tilts_and_weights_have_no_unit(geometry, tilts, factor, density):
    def normalise(series):
        scaling = noise.estimate_units(series, geometry)
        out = noise.normalise_tilts(series, geometry, scaling)
        return out, noise.data_precision(out)

    expected, expected_weight = normalise(tilts)
    got, weight = normalise(factor * tilts + density * ray_lengths(geometry))
    np.testing.assert_allclose(got, expected, atol=1e-3 * float(jnp.std(expected)))
    np.testing.assert_allclose(weight, expected_weight, rtol=1e-2)


def test_a_tilt_without_validity_has_no_influence(geometry, tilts):
    valid = jnp.asarray([1.0, 1.0, 0.0, 1.0, 1.0])
    spoilt = tilts.at[2].set(1e3)
    clean = noise.estimate_units(tilts, geometry, valid)
    dirty = noise.estimate_units(spoilt, geometry, valid)
    np.testing.assert_allclose(dirty.mean, clean.mean, rtol=1e-6)
    np.testing.assert_allclose(dirty.contrast, clean.contrast, rtol=1e-5)
    weight = noise.data_precision(spoilt, valid)
    assert weight.shape == (5, 1, 1)
    assert float(weight[2, 0, 0]) == 0
    assert np.all(np.asarray(weight)[[0, 1, 3, 4]] > 0)


def test_precision_is_bounded_for_noiseless_tilts():
    images = jnp.asarray(smooth_images(), jnp.float32)
    weight = noise.data_precision(images)
    bound = 1 / (noise.NOISE_FLOOR * jnp.std(images, axis=(1, 2))) ** 2
    assert np.all(weight[:, 0, 0] <= bound * (1 + 1e-5))


@pytest.mark.slow
def test_chi2_of_pure_noise_is_about_one():
    geometry = TiltGeometry.from_degrees(
        [-10.0, 0.0, 25.0], thickness=4, width=80, height=60
    )
    key = jax.random.key(0)
    tilts = jnp.asarray([0.3, 1.0, 7.0])[:, None, None] * jax.random.normal(
        key, geometry.tilts_shape
    )
    weight = noise.data_precision(tilts)
    chi2 = weighting.chi2_per_tilt(-tilts, weight)
    assert chi2.shape == (3,)
    np.testing.assert_allclose(chi2, 1.0, atol=0.12)


def test_coverage_is_one_where_every_tilt_sees_and_falls_outside(geometry):
    cover = np.asarray(noise.coverage(geometry, jnp.ones((5, 1, 1))))
    nz, nx, _ = geometry.volume_shape
    assert cover.shape == (nz, nx, 1)
    assert cover.max() == pytest.approx(1, abs=1e-6) and cover.min() >= 0
    middle = cover[nz // 2, nx // 2 - 4 : nx // 2 + 4]
    assert np.all(middle > 0.9)
    assert cover[0, 0, 0] < 0.5


def test_coverage_counts_only_weighted_tilts(geometry):
    only = jnp.asarray([0.0, 0.0, 1.0, 0.0, 0.0])[:, None, None]
    cover = np.asarray(noise.coverage(geometry, only))[:, :, 0]
    inside = np.zeros_like(cover)
    inside[:, geometry.margin : geometry.margin + geometry.num_u] = 1
    np.testing.assert_allclose(cover, inside, atol=1e-6)
