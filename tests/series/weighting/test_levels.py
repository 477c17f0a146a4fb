import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.inverse.quadratic import Metric
from temdiff_jax.projector import project
from temdiff_jax.series import noise
from temdiff_jax.series.weighting import levels

# Compiles for tens of seconds.


@pytest.mark.parametrize(("expected", "read"), [(60.0, 0.0), (500.0, 2.0), (500, 30.0)])
def test_variance_of_the_logarithm_of_counts(expected, read):
    rng = np.random.default_rng(0)
    counts = rng.poisson(expected, 200_000) + read * rng.standard_normal(200_000)
    found = float(levels.variance_of_log(jnp.float32(expected), read))
    # First order in the relative noise; chance is 0.3 %.
    assert found == pytest.approx(np.var(-np.log(counts)), rel=0.04)


def test_no_counts_have_a_finite_variance():
    found = levels.variance_of_log(jnp.asarray([0.0, -3.0]), 2.0)
    assert np.all(np.isfinite(found)) and float(found[0]) == pytest.approx(2 + 16)


def test_expected_counts_come_from_line_integrals():
    rng = np.random.default_rng(1)
    path = np.full((1, 80, 70), 0.7) + 0.5 * (np.arange(80) > 39)[None, :, None]
    counts = rng.poisson(900.0 * np.exp(-path))
    tilts = jnp.asarray(-np.log(counts / 900.0), jnp.float32)
    found = levels.expected_counts(tilts, 900.0)
    inner = np.s_[:, 8:30]
    np.testing.assert_allclose(found[inner], 900 * np.exp(-0.7), rtol=0.04)
    assert float(jnp.mean(found[inner])) == pytest.approx(900 * np.exp(-0.7), rel=2e-3)
    relative = levels.relative_variance(tilts)
    assert float(jnp.mean(relative)) == pytest.approx(1.0, rel=1e-5)
    thick, thin = float(jnp.mean(relative[:, 50:72])), float(jnp.mean(relative[inner]))
    assert thick / thin == pytest.approx(np.exp(0.5), rel=0.02)


METRIC = Metric(1.0, 0.01)
GEOMETRY = TiltGeometry.from_degrees(
    np.arange(-5.0, 5.1, 2.5), thickness=10, width=48, height=40
)
residual_level = jax.jit(
    levels.noise_from_residual, static_argnames=("num_iters", "rounds")
)


@jax.jit
def textured(sigma):
    """A rough medium of contrast 1, projected, with white noise in every tilt."""
    key, key_noise = jax.random.split(jax.random.key(0))
    volume = jax.random.normal(key, GEOMETRY.volume_shape)
    for axis in range(3):
        both = jnp.roll(volume, 1, axis) + jnp.roll(volume, -1, axis)
        volume = 0.5 * volume + 0.25 * both
    clean = project(volume / jnp.std(volume), GEOMETRY)
    return clean + sigma[:, None, None] * jax.random.normal(key_noise, clean.shape)


@pytest.mark.slow
def test_residual_tells_noise_from_texture():
    """Where second differences alone see more than twice the noise."""
    sigma = 0.4 * jnp.linspace(0.8, 1.2, 5)
    tilts = textured(sigma)
    plain = noise.noise_per_tilt(tilts)
    better = residual_level(tilts, GEOMETRY, METRIC, plain, jax.random.key(1))
    ratios = [float(jnp.mean(found / sigma)) for found in (plain, better)]
    print("estimated over true noise: {:.2f} {:.2f}".format(*ratios))
    assert ratios[0] > 2.0
    # 1760 pixels of strongly correlated detail leave some 7 % to chance.
    np.testing.assert_allclose(better, sigma, rtol=0.25)
    assert ratios[1] == pytest.approx(1.0, abs=0.12)


@pytest.mark.slow
@pytest.mark.parametrize("start", [0.3, 3.0])
def test_residual_finds_pure_noise_whatever_the_start(start):
    sigma = jnp.linspace(0.5, 2.0, 5)
    white = jax.random.normal(jax.random.key(0), GEOMETRY.tilts_shape)
    found = residual_level(
        sigma[:, None, None] * white,
        GEOMETRY,
        METRIC,
        jnp.full(5, start),
        jax.random.key(1),
    )
    np.testing.assert_allclose(found, sigma, rtol=0.2)
    assert float(jnp.mean(found / sigma)) == pytest.approx(1.0, abs=0.08)


@pytest.mark.slow
def test_masked_pixels_have_no_part_in_the_level():
    sigma = jnp.ones(5)
    tilts = textured(sigma)
    keep = jnp.ones(GEOMETRY.tilts_shape).at[:, :3].set(0.0).at[2].set(0.0)
    start, key = 1.3 * sigma, jax.random.key(1)
    found = [
        residual_level(
            jnp.where(keep > 0, tilts, value), GEOMETRY, METRIC, start, key, keep=keep
        )
        for value in (0.0, 50.0)
    ]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4)
    assert float(found[0][2]) == pytest.approx(1.3)
    np.testing.assert_allclose(np.delete(np.asarray(found[0]), 2), 1.0, atol=0.25)
