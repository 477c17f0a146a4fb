"""Simulated series of known volumes."""

import dataclasses

import numpy as np
import pytest

from temdiff_jax import layout
from temdiff_jax.evaluation import runner
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.projector import project
from temdiff_jax.simulator import ImagingConfig

ANGLES = np.array([-20.0, -7.0, 0.0, 10.0, 20.0])
SHAPE = (8, 9, 12)  # z, y, x


@pytest.fixture(scope="module")
def truth():
    rng = np.random.default_rng(0)
    return np.uint8(40 + 150 * rng.random(SHAPE))


@pytest.fixture(scope="module")
def ideal():
    """Noise-free line integrals of a stain of fixed contrast."""
    return runner.make_simulate(
        ImagingConfig(mode="ideal", contrast=(0.3, 0.3), blur_px=(0.0, 0.0))
    )


@pytest.mark.slow
def test_tilts_have_the_shape_of_the_field_of_view(truth):
    tilts = runner.simulate_case(truth, ANGLES, 0)
    assert tilts.shape == (5, 9, 12) and tilts.dtype == np.float32
    assert np.all(np.isfinite(tilts))


@pytest.mark.slow
def test_noise_is_a_function_of_the_seed(truth):
    first = runner.simulate_case(truth, ANGLES, 3)
    np.testing.assert_array_equal(first, runner.simulate_case(truth, ANGLES, 3))
    assert not np.array_equal(first, runner.simulate_case(truth, ANGLES, 4))


@pytest.mark.slow
def test_grey_levels_are_scaled_before_imaging(truth, ideal):
    scaled = 0.5 * truth.astype(np.float32) - 7.0
    np.testing.assert_allclose(
        ideal(scaled, ANGLES, 0), ideal(truth, ANGLES, 0), rtol=1e-4
    )


@pytest.mark.slow
def test_slab_goes_on_outside_the_field_of_view_by_mirroring(truth, ideal):
    tilts = ideal(truth, ANGLES, 0)
    geometry = TiltGeometry.from_degrees(ANGLES, thickness=8, width=12, height=9)
    margin = geometry.margin
    assert margin > 0
    stain = (truth - np.float32(truth.min())) / np.ptp(truth)
    left, right = stain[..., :margin][..., ::-1], stain[..., -margin:][..., ::-1]
    wide = np.concatenate([left, stain, right], axis=-1)
    plain = layout.tilts_from_core(project(layout.volume_to_core(wide), geometry))
    # The simulator adds a gain only: the contrast that it draws.
    gain = np.sum(tilts * plain) / np.sum(plain * plain)
    np.testing.assert_allclose(tilts, gain * np.asarray(plain), rtol=1e-4, atol=1e-5)


def test_protocol_draws_nothing_but_noise():
    ranges = dataclasses.asdict(runner.PROTOCOL_IMAGING)
    for name in ("dose", "resin_path", "contrast", "blur_px"):
        low, high = ranges[name]
        assert low == high, name
