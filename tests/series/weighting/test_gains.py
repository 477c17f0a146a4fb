import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.inverse import precision
from temdiff_jax.inverse.quadratic import Metric, proximal_update
from temdiff_jax.projector import project, ray_lengths
from temdiff_jax.series.weighting import gains

GAIN = np.asarray([1.04, 0.97, 1.0, 0.95, 1.02], np.float32)
OFFSET = np.asarray([0.3, -0.2, 0.0, 0.1, -0.4], np.float32)
SIGMA = 0.1


def disturbed(geometry, volume, key=0):
    """Line integrals of a slab with gain, offset and noise, and clean ones."""
    clean = project(volume, geometry) + 2.0 * ray_lengths(geometry)
    noise = SIGMA * jax.random.normal(jax.random.key(key), clean.shape)
    gain, offset = GAIN[:, None, None], OFFSET[:, None, None]
    return gain * clean + offset + noise, clean


@pytest.mark.slow
def test_gain_and_offset_of_a_known_volume_are_recovered(geometry, blobs):
    """Within the covariance that is returned, whose size is the noise's."""
    tilts, clean = disturbed(geometry, blobs(geometry))
    found = gains.fit_gain_offset(
        tilts, clean, 1 / SIGMA**2, gain_std=1.0, offset_std=20.0
    )
    std = jnp.sqrt(jnp.diagonal(found.covariance, axis1=1, axis2=2))
    assert np.all(np.abs(found.gain - GAIN) < 4 * std[:, 0])
    assert np.all(np.abs(found.offset - OFFSET) < 4 * std[:, 1])
    assert float(jnp.max(std[:, 0])) < 0.01
    np.testing.assert_allclose(found.correct(tilts), clean, atol=6 * SIGMA)


@pytest.mark.parametrize("held", ["gain", "offset"])
def test_a_spread_of_zero_holds_a_parameter(held, geometry, blobs):
    tilts, clean = disturbed(geometry, blobs(geometry))
    stds = {"gain_std": 1.0, "offset_std": 20.0} | {f"{held}_std": 0.0}
    found = gains.fit_gain_offset(tilts, clean, 1 / SIGMA**2, **stds)
    expected = 1.0 if held == "gain" else 0.0
    np.testing.assert_array_equal(getattr(found, held), expected)
    free = found.offset if held == "gain" else found.gain - 1
    assert float(jnp.max(jnp.abs(free))) > 0.01


def test_priors_pull_as_a_measurement_would(geometry, blobs):
    """One unknown: precision-weighted mean of the data and the prior."""
    tilts, clean = disturbed(geometry, blobs(geometry))
    prior = 1e-3
    found = gains.fit_gain_offset(tilts, clean, 1 / SIGMA**2, gain_std=prior)
    information = jnp.sum(clean**2, axis=(1, 2)) / SIGMA**2
    free = jnp.sum(clean * tilts, axis=(1, 2)) / jnp.sum(clean**2, axis=(1, 2))
    expected = (information * free + 1 / prior**2) / (information + 1 / prior**2)
    np.testing.assert_allclose(found.gain, expected, rtol=1e-5)
    np.testing.assert_allclose(
        found.covariance[:, 0, 0], 1 / (information + 1 / prior**2), rtol=1e-3
    )


@pytest.mark.slow
def test_coherent_errors_make_a_fit_less_sure_and_masks_leave_pixels_out(
    geometry, blobs
):
    tilts, clean = disturbed(geometry, blobs(geometry))
    weight = jnp.full(geometry.tilts_shape, 1 / SIGMA**2).at[:, :4].set(0.0)
    spoilt = tilts.at[:, :4].set(1e4)
    plain = gains.fit_gain_offset(tilts, clean, weight, gain_std=1.0)
    same = gains.fit_gain_offset(spoilt, clean, weight, gain_std=1.0)
    np.testing.assert_allclose(same.gain, plain.gain, rtol=1e-6)
    columns = 0.2 * jnp.ones((5, 1, *geometry.tilts_shape[1:]))
    unsure = gains.fit_gain_offset(
        tilts, clean, precision.low_rank(weight, columns), gain_std=1.0
    )
    ratio = unsure.covariance[:, 0, 0] / plain.covariance[:, 0, 0]
    assert float(jnp.min(ratio)) > 2


@pytest.mark.slow
def test_alternating_with_an_estimate_removes_offsets(geometry, blobs):
    """Correct, reconstruct, fit again; what all tilts share belongs to the volume."""
    tilts, _ = disturbed(geometry, blobs(geometry))
    background = 2.0 * ray_lengths(geometry)
    weight = jnp.full((5, 1, 1), 1 / SIGMA**2)

    @jax.jit
    def once(corrected):
        volume, _ = proximal_update(
            jnp.zeros(geometry.volume_shape),
            corrected - background,
            geometry,
            weight,
            Metric(20.0, 0.1),
            num_iters=25,
        )
        projected = project(volume, geometry) + background
        found = gains.fit_gain_offset(
            tilts, projected, weight, gain_std=0.0, offset_std=5.0
        )
        return found, found.correct(tilts)

    true = OFFSET + (GAIN - 1) * 2.0 * float(jnp.mean(ray_lengths(geometry)))
    true = true - true.mean()
    corrected, errors = tilts, []
    for _ in range(6):
        found, corrected = once(corrected)
        offset = np.asarray(found.offset)
        errors.append(np.abs(offset - offset.mean() - true).max())
    assert errors[-1] < 0.25 * np.abs(true).max()
    assert errors[-1] < 0.6 * errors[0]
