"""What every classical method owes its caller, whatever it computes."""

import inspect
import logging

import jax
import numpy as np
import pytest

from temdiff_jax import baselines, errors, layout, projector
from temdiff_jax.geometry import TiltGeometry

METHODS = sorted(baselines.__all__)
# Options that keep the tests short; the shape of the call is the same.
SHORT = {
    "fbp": {},
    "sart": {"sweeps": 3},
    "sirt": {"iterations": 8},
    "tikhonov": {"iterations": 8},
    "tv": {"iterations": 12},
}
ANGLES = np.array([-8.0, -4.0, 0.0, 4.0, 8.0])
SHAPE = (5, 6, 14)
THICKNESS = 10

every_method = pytest.mark.parametrize("method", METHODS)


def reconstruct(method, tilts, angles=ANGLES, *, thickness=THICKNESS, **options):
    function = getattr(baselines, method)
    return function(tilts, angles, thickness=thickness, **SHORT[method], **options)


@pytest.fixture
def tilts() -> np.ndarray:
    return np.random.default_rng(1).normal(4.0, 1.0, SHAPE).astype(np.float32)


def test_the_package_offers_these_methods():
    assert METHODS == ["fbp", "sart", "sirt", "tikhonov", "tv"]


@every_method
def test_the_call_shape_is_shared(method):
    parameters = inspect.signature(getattr(baselines, method)).parameters
    assert list(parameters)[:4] == ["tilts", "angles", "thickness", "lateral_margin"]
    assert parameters["thickness"].default is None
    assert parameters["lateral_margin"].default == "auto"
    options = list(parameters.values())[2:]
    assert all(option.kind is option.KEYWORD_ONLY for option in options)
    assert all(option.default is not option.empty for option in options)


@pytest.mark.slow
@every_method
def test_shape_dtype_and_thickness(method, tilts):
    # Thickness None is the detector's width.
    for thickness, depth in ((THICKNESS, THICKNESS), (None, SHAPE[2])):
        volume = reconstruct(method, tilts, thickness=thickness)
        assert isinstance(volume, np.ndarray)
        assert volume.dtype == np.float32
        assert volume.shape == (depth, *SHAPE[1:])
        assert volume.flags.c_contiguous and volume.flags.writeable
        assert np.isfinite(volume).all()
        assert volume.std() > 0


@every_method
def test_same_input_same_output(method, tilts):
    first, second = reconstruct(method, tilts), reconstruct(method, tilts.copy())
    np.testing.assert_array_equal(first, second)


@every_method
def test_the_input_is_left_alone(method, tilts):
    before = tilts.copy()
    reconstruct(method, tilts)
    np.testing.assert_array_equal(tilts, before)


@every_method
def test_other_containers_and_dtypes_give_the_same(method, tilts):
    expected = reconstruct(method, tilts)
    found = reconstruct(method, jax.numpy.asarray(tilts), list(ANGLES))
    np.testing.assert_array_equal(found, expected)
    found = reconstruct(method, np.asfortranarray(tilts.astype(np.float64)))
    np.testing.assert_array_equal(found, expected)


@every_method
def test_gain_and_a_constant_slab_carry_over(method, tilts):
    geometry = TiltGeometry.from_degrees(
        ANGLES, thickness=THICKNESS, width=SHAPE[2], height=SHAPE[1]
    )
    assert geometry.margin > 0
    slab = layout.tilts_from_core(projector.ray_lengths(geometry))
    volume = reconstruct(method, tilts)
    found = reconstruct(method, 10.0 * tilts + 2.5 * np.asarray(slab))
    tolerance = 2e-3 * 10.0 * volume.std()
    np.testing.assert_allclose(found, 10.0 * volume + 2.5, atol=tolerance)


@every_method
def test_a_constant_slab_comes_back_flat(method):
    geometry = TiltGeometry.from_degrees(
        ANGLES, thickness=THICKNESS, width=SHAPE[2], height=SHAPE[1]
    )
    slab = np.asarray(layout.tilts_from_core(projector.ray_lengths(geometry)))
    volume = reconstruct(method, 3.0 * np.broadcast_to(slab, SHAPE))
    np.testing.assert_allclose(volume, 3.0, rtol=1e-4)


@every_method
def test_the_order_of_tilts_does_not_matter(method, tilts):
    order = np.array([3, 0, 4, 2, 1])
    expected = reconstruct(method, tilts)
    found = reconstruct(method, tilts[order], ANGLES[order])
    np.testing.assert_allclose(found, expected, atol=2e-3 * expected.std())


@every_method
def test_new_numbers_do_not_compile_again(method, tilts, caplog):
    reconstruct(method, tilts)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        caplog.clear()
        reconstruct(method, 2.0 * tilts + 1.0, ANGLES + 0.01 * ANGLES**2 / 64)
        compiled = [r for r in caplog.messages if "ompiling" in r]
    assert compiled == []


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("sart", {"lam": 0.9, "sweeps": 2}),
        ("sirt", {"iterations": 3, "relaxation": 0.5, "positivity": True}),
        ("tikhonov", {"smoothness": 0.2, "ridge": 0.01}),
        ("tv", {"lam": 0.2, "iterations": 5}),
    ],
)
def test_new_options_do_not_compile_again(method, options, tilts, caplog):
    function = getattr(baselines, method)
    reconstruct(method, tilts)
    if method == "tikhonov":  # a fixed number of conjugate-gradient steps
        options = options | SHORT[method]
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        caplog.clear()
        changed = function(tilts, ANGLES, thickness=THICKNESS, **options)
        compiled = [r for r in caplog.messages if "ompiling" in r]
    assert compiled == []
    assert np.abs(changed - reconstruct(method, tilts)).max() > 0


@every_method
def test_a_single_tilt_is_reconstructed(method, tilts):
    volume = reconstruct(method, tilts[:1], [5.0])
    assert volume.shape == (THICKNESS, *SHAPE[1:])
    assert np.isfinite(volume).all()


HOLE = np.ones(SHAPE)
HOLE[3, 2, 1] = np.nan
BAD = [
    (np.ones(SHAPE[1:]), ANGLES, {}, "stack the tilts"),
    (np.ones(SHAPE, complex), ANGLES, {}, "complex128"),
    (np.ones((5, 2, 14)), ANGLES, {}, "whole tilts"),
    (np.ones((0, 6, 14)), [], {}, "at least one tilt"),
    (HOLE, ANGLES, {}, "1 of 420 pixels that are not, first in tilt 3"),
    (np.ones(SHAPE), ANGLES[:4], {}, "one angle per tilt"),
    (np.ones(SHAPE), ANGLES[None], {}, "one angle per tilt"),
    (np.ones(SHAPE), list("abcde"), {}, "degrees per tilt"),
    (np.ones(SHAPE), ANGLES * 20, {}, "within"),
    (np.ones(SHAPE), ANGLES, {"thickness": 0}, "thickness"),
    (np.ones(SHAPE), ANGLES, {"thickness": 3.5}, "thickness"),
    (np.ones(SHAPE), ANGLES, {"lateral_margin": -1}, "lateral_margin"),
    (np.ones(SHAPE), ANGLES, {"lateral_margin": "wide"}, "lateral_margin"),
]


@every_method
@pytest.mark.parametrize(("tilts", "angles", "options", "message"), BAD)
def test_bad_input_is_refused(method, tilts, angles, options, message):
    with pytest.raises(errors.InputError, match=message):
        reconstruct(method, tilts, angles, **options)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("sart", {"lam": 0.0}),
        ("sart", {"lam": 2.0}),
        ("sart", {"sweeps": 0}),
        ("sirt", {"iterations": 2.5}),
        ("sirt", {"iterations": True}),
        ("sirt", {"relaxation": float("nan")}),
        ("tikhonov", {"smoothness": -1.0}),
        ("tikhonov", {"ridge": "weak"}),
        ("tikhonov", {"iterations": 0}),
        ("tv", {"lam": -0.1}),
        ("tv", {"iterations": -3}),
    ],
)
def test_bad_options_are_refused(method, options, tilts):
    with pytest.raises(errors.InputError, match=next(iter(options))):
        getattr(baselines, method)(tilts, ANGLES, thickness=THICKNESS, **options)
