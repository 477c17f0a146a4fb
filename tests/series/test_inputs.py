import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.inverse.problem import Problem, Units
from temdiff_jax.inverse.tikhonov import TikhonovSettings
from temdiff_jax.model import NUM_FEATURES
from temdiff_jax.projector import project, ray_lengths
from temdiff_jax.series import inputs, noise

SETTINGS = TikhonovSettings(smoothness=1.0, ridge=0.05, num_iters=12)
ANGLES = (-15.0, -5.0, 0.0, 10.0, 25.0)

prepare = jax.jit(inputs.prepare, static_argnames="settings")


@pytest.fixture
def geometry():
    return TiltGeometry.from_degrees(
        ANGLES, thickness=8, width=14, height=10, lateral_margin=3
    )


@pytest.fixture
def tilts(geometry):
    key_volume, key_noise = jax.random.split(jax.random.key(0))
    coarse = jax.random.normal(key_volume, (2, 5, 3))
    volume = 4.0 + jax.image.resize(coarse, geometry.volume_shape, "linear")
    clean = project(volume, geometry)
    return clean + 0.3 * jax.random.normal(key_noise, clean.shape)


@pytest.mark.slow
def test_prepared_parts_have_the_promised_shapes(geometry, tilts):
    ready = prepare(tilts, geometry, SETTINGS)
    assert ready.tilts.shape == geometry.tilts_shape
    assert ready.precision.weight.shape == (5, 1, 1)
    assert ready.shown.tikhonov.shape == geometry.volume_shape
    assert ready.shown.coverage.shape == (8, 20, 1)
    assert ready.shown.features.shape == (NUM_FEATURES,)
    assert ready.shown.level.shape == ready.units.mean.shape == ()
    for leaf in jax.tree.leaves(ready):
        assert leaf.dtype == jnp.float32
        assert np.all(np.isfinite(leaf))


@pytest.mark.slow
def test_level_is_the_spread_over_the_field_of_view(geometry, tilts):
    ready = prepare(tilts, geometry, SETTINGS)
    inside = np.asarray(ready.shown.tikhonov)[:, 3:17]
    assert float(ready.shown.level) == pytest.approx(np.std(inside), rel=1e-5)


def test_estimate_in_input_units_explains_the_tilts(geometry, tilts):
    ready = prepare(tilts, geometry, SETTINGS)
    volume = ready.shown.tikhonov * ready.units.contrast + ready.units.mean
    misfit = float(jnp.std(project(volume, geometry) - tilts))
    slab = float(jnp.std(ready.units.mean * ray_lengths(geometry) - tilts))
    assert misfit < 0.35 * slab


@pytest.mark.parametrize(("factor", "density"), [(10.0, 0.0), (1.0, 6.0), (0.01, 0.5)])
def test_condition_has_no_unit(geometry, tilts, factor, density):
    base = prepare(tilts, geometry, SETTINGS)
    other = prepare(
        factor * tilts + density * ray_lengths(geometry), geometry, SETTINGS
    )
    atol = 5e-3 * float(base.shown.level)
    np.testing.assert_allclose(other.shown.tikhonov, base.shown.tikhonov, atol=atol)
    np.testing.assert_allclose(other.shown.level, base.shown.level, rtol=5e-3)
    np.testing.assert_allclose(other.shown.features, base.shown.features, atol=5e-3)
    np.testing.assert_allclose(other.shown.coverage, base.shown.coverage, atol=1e-2)
    np.testing.assert_allclose(
        other.units.mean, factor * base.units.mean + density, rtol=1e-3
    )


@pytest.mark.slow
def test_dropping_a_tilt_equals_never_having_had_it(geometry, tilts):
    """Up to the scaling of weights, a zero in `valid` removes a tilt."""
    valid = jnp.asarray([1.0, 1.0, 0.0, 1.0, 1.0])
    dropped = prepare(tilts.at[2].set(-50.0), geometry, SETTINGS, valid)
    kept = np.array([0, 1, 3, 4])
    shorter = dataclasses.replace(
        geometry, angles_rad=geometry.angles_rad[kept], steep=(False,) * 4
    )
    without = prepare(tilts[kept], shorter, SETTINGS)
    atol = 1e-3 * float(without.shown.level)
    np.testing.assert_allclose(
        dropped.shown.tikhonov, without.shown.tikhonov, atol=atol
    )
    np.testing.assert_allclose(
        dropped.shown.coverage, without.shown.coverage, atol=1e-4
    )
    np.testing.assert_allclose(
        dropped.shown.features, without.shown.features, atol=1e-3
    )


def features(geometry, tilts, weight, chi2):
    """Of tilts as they are, on voxels of 12 nm."""
    units = Units(jnp.float32(0.0), jnp.float32(1.0))
    problem = Problem(geometry, tilts, weight, units, voxel_nm=12.0)
    return np.asarray(inputs.features(problem, weight, chi2, jnp.float32(1.5)))


def test_features_are_logarithms_of_what_the_series_is(geometry):
    tilts = jax.random.normal(jax.random.key(1), geometry.tilts_shape)
    weight = jnp.full((5, 1, 1), 1 / 0.04)  # noise 0.2 of a signal of variance ~ 1
    chi2 = jnp.asarray([1.0, 2.0, 3.0, 2.0, 4.5])
    values = features(geometry, tilts, weight, chi2)
    signal = np.mean(np.var(np.asarray(tilts), axis=(1, 2)))
    ratio = 0.2 / np.sqrt(signal)
    expected = np.log([20 / 15, 5 / 15, 8 / 64, ratio / 0.1, 2.5, 1.2, 1.5])
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)


def test_features_do_not_count_tilts_of_no_weight(geometry):
    tilts = jax.random.normal(jax.random.key(2), geometry.tilts_shape)
    weight = jnp.asarray([0.0, 1.0, 1.0, 1.0, 0.0])[:, None, None]
    chi2 = jnp.asarray([9.0, 2.0, 2.0, 2.0, 9.0])
    values = features(geometry, tilts, weight, chi2)
    np.testing.assert_allclose(values[:2], np.log([7.5 / 15, 3 / 15]), rtol=1e-5)
    np.testing.assert_allclose(values[4], np.log(2.0), rtol=1e-5)


def test_features_of_one_tilt_are_finite():
    geometry = TiltGeometry.from_degrees([0.0], thickness=8, width=6, height=5)
    values = features(
        geometry, jnp.zeros(geometry.tilts_shape), jnp.ones((1, 1, 1)), jnp.zeros(1)
    )
    assert np.all(np.isfinite(values))


@pytest.mark.slow
def test_prepare_agrees_with_its_parts(geometry, tilts):
    ready = prepare(tilts, geometry, SETTINGS)
    scaling = noise.estimate_units(tilts, geometry)
    np.testing.assert_allclose(ready.units, scaling, rtol=1e-5)
    np.testing.assert_allclose(
        ready.shown.coverage,
        noise.coverage(geometry, ready.precision.weight),
        atol=1e-6,
    )


def test_fit_residual_scale_recovers_a_log_linear_law():
    rng = np.random.default_rng(3)
    values = rng.standard_normal((200, 4)).astype(np.float32)
    slopes = np.array([0.5, -0.3, 0.0, 0.2], np.float32)
    scales = np.exp(-0.4 + values @ slopes)
    fitted = inputs.fit_residual_scale(jnp.asarray(values), jnp.asarray(scales))
    # The ridge of one percent shrinks slopes by about as much.
    np.testing.assert_allclose(fitted.slopes, slopes, atol=0.015)
    assert float(fitted.intercept) == pytest.approx(-0.4, abs=0.01)
    np.testing.assert_allclose(fitted(jnp.asarray(values)), scales, rtol=0.06)


def test_fit_residual_scale_leaves_a_constant_feature_alone():
    rng = np.random.default_rng(4)
    values = rng.standard_normal((50, 4)).astype(np.float32)
    values[:, 2] = 0.0
    scales = np.exp(0.3 + 0.2 * values[:, 0])
    fitted = inputs.fit_residual_scale(jnp.asarray(values), jnp.asarray(scales))
    assert float(fitted.slopes[2]) == pytest.approx(0.0, abs=1e-6)


def test_residual_scale_is_positive_and_bounded_far_from_the_data():
    scale = inputs.ResidualScale(0.0, jnp.asarray([100.0, 0.0, 0.0, 0.0]))
    far = jnp.asarray([[1.0, 0, 0, 0], [-1.0, 0, 0, 0], [0.0, 0, 0, 0]])
    np.testing.assert_allclose(scale(far), np.exp([3.0, -3.0, 0.0]), rtol=1e-5)
