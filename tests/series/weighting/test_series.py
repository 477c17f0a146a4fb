import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.errors import InputError
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.inverse.precision import Precision
from temdiff_jax.inverse.problem import Problem, Units
from temdiff_jax.inverse.quadratic import Metric, proximal_update
from temdiff_jax.projector import no_motion, project, project_moving
from temdiff_jax.series.weighting import FORMS, Spread, weigh

# Compiles for tens of seconds.

SIGMA = 0.3
NO_UNITS = Units(jnp.zeros(()), jnp.ones(()))
METRIC = Metric(2.0, 0.02)
SPREAD = Spread(tilt_rad=1e-6, rotation_rad=1e-6, magnification=1e-6, gain=1e-6)
GEOMETRY = TiltGeometry.from_degrees(
    np.arange(-16.0, 17.0, 4.0), thickness=10, width=28, height=24
)
# Every call has the same extents and steps, so that each form compiles once.
ITERATIONS = 20
EVERYTHING = jnp.ones(GEOMETRY.tilts_shape)
WEIGHT = jnp.full((GEOMETRY.num_tilts, 1, 1), 1 / SIGMA**2)


def series(blobs, shift_px, seed=0):
    """Tilts of blobs with noise and shifts in which no movement of all is left."""
    volume = blobs(GEOMETRY, width=2.0, count=25)
    rng = np.random.default_rng(seed)
    shifts = shift_px * rng.standard_normal((2, GEOMETRY.num_tilts))
    angles = np.asarray(GEOMETRY.angles_rad)
    design = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    shifts[0] -= design @ np.linalg.lstsq(design, shifts[0], rcond=None)[0]
    shifts[1] -= shifts[1].mean()
    motion = no_motion(GEOMETRY.num_tilts)._replace(
        shift_u=jnp.asarray(shifts[0], jnp.float32),
        shift_v=jnp.asarray(shifts[1], jnp.float32),
    )
    clean = project_moving(volume, GEOMETRY, motion, border=2)
    noise = SIGMA * jax.random.normal(jax.random.key(seed), clean.shape)
    return clean + noise, volume, shifts


def call(tilts, form, *, keep=EVERYTHING, spread=None):
    return weigh(
        Problem(GEOMETRY, tilts, WEIGHT, NO_UNITS),
        METRIC,
        form=form,
        spread=spread,
        keep=keep,
        num_iters=ITERATIONS,
    )


def error(found, volume):
    return float(jnp.sqrt(jnp.mean(GEOMETRY.crop(found - volume) ** 2)))


def test_off_is_the_quadratic_estimate(blobs):
    tilts, _, _ = series(blobs, 0.0)
    found = call(tilts, "off")
    zero = jnp.zeros(GEOMETRY.volume_shape)
    expected, _ = proximal_update(
        zero, tilts, GEOMETRY, WEIGHT, METRIC, num_iters=ITERATIONS
    )
    np.testing.assert_allclose(found.volume, expected, atol=1e-5)
    np.testing.assert_array_equal(found.factors, 1.0)
    np.testing.assert_allclose(found.precision.weight, WEIGHT * EVERYTHING)


@pytest.mark.slow
def test_misaligned_series_gains_most_from_the_modes(blobs):
    tilts, volume, shifts = series(blobs, 0.8)
    aligned, _, _ = series(blobs, 0.0)
    told = SPREAD._replace(shift_u=0.8, shift_v=0.8)
    found = {form: call(tilts, form, spread=told) for form in FORMS}
    errors = {form: error(f.volume, volume) for form, f in found.items()}
    best = error(call(aligned, "off").volume, volume)
    assert errors["diagonal"] < errors["off"]
    lost, won = errors["off"] - best, errors["off"] - errors["low-rank"]
    assert won > 0.5 * lost and errors["low-rank"] < errors["diagonal"]
    # To first order the modes have found the shifts themselves.
    amplitudes = 0.8 * np.asarray(found["low-rank"].amplitudes)[:, :2]
    for axis in range(2):
        assert np.corrcoef(amplitudes[:, axis], shifts[axis])[0, 1] > 0.8
    assert not np.any(found["diagonal"].amplitudes)


@pytest.mark.slow
def test_aligned_series_loses_little(blobs):
    tilts, volume, _ = series(blobs, 0.0)
    plain = call(tilts, "off")
    for form in ("diagonal", "low-rank"):
        same = call(tilts, form, spread=Spread(*([1e-7] * 7)))
        np.testing.assert_allclose(same.volume, plain.volume, atol=2e-3)
        told = call(tilts, form)
        assert error(told.volume, volume) < 1.25 * error(plain.volume, volume)


@pytest.mark.slow
def test_corrupted_tilt_is_found_and_weighs_less(blobs):
    tilts, volume, _ = series(blobs, 0.0)
    bad = tilts.at[3].set(jnp.roll(tilts[3], 6, axis=0) + 2.0)
    off, found = call(bad, "off"), call(bad, "robust")
    factors = np.asarray(found.factors)
    assert factors[3] < 0.3 and np.all(np.delete(factors, 3) > 0.5)
    assert int(np.argmax(found.chi2)) == 3
    assert error(found.volume, volume) < 0.8 * error(off.volume, volume)
    np.testing.assert_allclose(
        found.precision.weight[:, 0, 0], factors / SIGMA**2, rtol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("form", ["robust", "low-rank"])
def test_masked_pixels_have_no_influence(form, blobs):
    tilts, _, _ = series(blobs, 0.3)
    keep = jnp.ones(tilts.shape).at[:, :3].set(0.0).at[2].set(0.0)
    results = []
    for value in (0.0, 5.0):
        spoilt = jnp.where(keep > 0, tilts, value)
        found = call(spoilt, form, keep=keep)
        assert isinstance(found.precision, Precision)
        results.append(found)
    np.testing.assert_allclose(results[0].volume, results[1].volume, atol=1e-4)
    np.testing.assert_allclose(results[0].chi2, results[1].chi2, rtol=1e-3, atol=1e-5)
    assert np.all(np.asarray(results[0].precision.weight)[2] == 0)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [({"form": "full"}, "expected one of"), ({"rounds": 0}, "at least one round")],
)
def test_bad_choices_are_refused(kwargs, message):
    tilts = jnp.zeros(GEOMETRY.tilts_shape)
    with pytest.raises(InputError, match=message):
        weigh(Problem(GEOMETRY, tilts, WEIGHT, NO_UNITS), METRIC, **kwargs)


@pytest.mark.slow
def test_reprojection_of_the_estimate_is_what_chi2_speaks_of(blobs):
    tilts, _, _ = series(blobs, 0.0)
    found = call(tilts, "robust")
    residual = tilts - project(found.volume, GEOMETRY)
    np.testing.assert_allclose(
        found.chi2, jnp.mean(residual**2, axis=(1, 2)) / SIGMA**2, rtol=1e-3
    )
