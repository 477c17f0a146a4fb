import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.simulator import errors

NUM = 3
ANGLES = jnp.deg2rad(jnp.linspace(-30.0, 30.0, NUM))
NONE = errors.draw_errors(jax.random.key(0), ANGLES, errors.ALIGNED)

warp = jax.jit(errors.warp_tilts)


def blob(u0, v0, shape=(31, 27), sigma=2.0):
    """One Gaussian per tilt at (u0, v0) from the centre, [n_tilts, u, v]."""
    u, v = (np.arange(n) - (n - 1) / 2 for n in shape)
    image = np.exp(-((u[:, None] - u0) ** 2 + (v[None, :] - v0) ** 2) / (2 * sigma**2))
    return jnp.asarray(np.broadcast_to(image, (NUM, *shape)), jnp.float32)


def centroid(tilts):
    tilts = np.asarray(tilts, np.float64)
    u, v = (np.arange(n) - (n - 1) / 2 for n in tilts.shape[1:])
    mass = tilts.sum(axis=(1, 2))
    return np.stack(
        [(tilts.sum(axis=2) @ u) / mass, (tilts.sum(axis=1) @ v) / mass], axis=1
    )


def every(value):
    return jnp.full((NUM,), value, jnp.float32)


def test_aligned_draws_no_error_at_all():
    for name in ("shift_u", "shift_v", "tilt_rad", "rotation_rad", "ramp"):
        np.testing.assert_array_equal(getattr(NONE, name), 0.0)
    np.testing.assert_array_equal(NONE.magnification, 1.0)
    np.testing.assert_array_equal(NONE.gain, 1.0)
    assert NONE.ramp.shape == (NUM, 2)


def test_warp_without_errors_changes_nothing():
    tilts = jax.random.normal(jax.random.key(1), (NUM, 9, 12))
    np.testing.assert_allclose(warp(tilts, NONE), tilts, atol=1e-5)


def test_shift_moves_content_by_plus_the_shift():
    tilts = blob(-3.0, 1.0)
    moved = warp(tilts, NONE._replace(shift_u=every(2.0)))
    np.testing.assert_allclose(centroid(moved), [[-1.0, 1.0]] * NUM, atol=1e-3)
    np.testing.assert_allclose(moved[:, 2:], tilts[:, :-2], atol=1e-6)
    moved = warp(tilts, NONE._replace(shift_v=every(-1.5)))
    np.testing.assert_allclose(centroid(moved), [[-3.0, -0.5]] * NUM, atol=1e-3)


def test_shifts_belong_to_their_tilt():
    moved = warp(blob(0, 0), NONE._replace(shift_u=jnp.asarray([-1.0, 0.0, 4.0])))
    np.testing.assert_allclose(centroid(moved)[:, 0], [-1.0, 0.0, 4.0], atol=1e-3)


def test_positive_rotation_turns_content_from_u_towards_v():
    turned = warp(blob(6.0, 0.0), NONE._replace(rotation_rad=every(np.pi / 2)))
    np.testing.assert_allclose(centroid(turned), [[0.0, 6.0]] * NUM, atol=1e-2)
    small = np.deg2rad(20.0)
    turned = warp(blob(6.0, 0.0), NONE._replace(rotation_rad=every(small)))
    expected = [6 * np.cos(small), 6 * np.sin(small)]
    np.testing.assert_allclose(centroid(turned), [expected] * NUM, atol=1e-2)


def test_content_is_turned_about_the_centre_before_it_is_shifted():
    drawn = NONE._replace(rotation_rad=every(np.pi / 2), shift_u=every(3.0))
    np.testing.assert_allclose(
        centroid(warp(blob(5.0, 0.0), drawn)), [[3.0, 5.0]] * NUM, atol=1e-2
    )


def test_magnification_moves_content_outwards():
    grown = warp(blob(5.0, -4.0), NONE._replace(magnification=every(1.2)))
    np.testing.assert_allclose(centroid(grown), [[6.0, -4.8]] * NUM, atol=1e-2)
    before, after = float(jnp.sum(blob(5.0, -4.0))), float(jnp.sum(grown))
    assert after == pytest.approx(1.44 * before, rel=1e-2)


def test_edges_are_continued():
    tilts = jnp.ones((NUM, 6, 8)) * jnp.asarray([1.0, 2.0, 3.0])[:, None, None]
    drawn = NONE._replace(shift_u=every(4.5), rotation_rad=every(0.3))
    np.testing.assert_allclose(warp(tilts, drawn), tilts, rtol=1e-6)


def draw_many(config):
    angles = jnp.deg2rad(jnp.linspace(-40.0, 40.0, 5))
    keys = jax.random.split(jax.random.key(2), 2000)
    return jax.vmap(lambda key: errors.draw_errors(key, angles, config))(keys)


@pytest.mark.parametrize(
    ("field", "sigma", "names", "unit"),
    [
        ("shift_px", 1.5, ("shift_u", "shift_v"), 1.0),
        ("tilt_deg", 0.2, ("tilt_rad",), np.pi / 180),
        ("rotation_deg", 0.3, ("rotation_rad",), np.pi / 180),
        ("magnification", 0.01, ("magnification",), 1.0),
        ("gain", 0.05, ("gain",), 1.0),
        ("offset", 0.02, ("offset",), 1.0),
    ],
)
def test_each_spread_is_the_standard_deviation_of_its_error_alone(
    field, sigma, names, unit
):
    drawn = draw_many(errors.ErrorConfig(**{field: sigma}))
    none = NONE._asdict()
    for name, value in drawn._asdict().items():
        value = np.asarray(value)
        if name in names:
            centre = 1.0 if name in ("magnification", "gain") else 0.0
            assert np.std(value) == pytest.approx(sigma * unit, rel=0.05)
            assert np.mean(value) == pytest.approx(centre, abs=0.05 * sigma * unit)
        else:
            np.testing.assert_array_equal(value, none[name].ravel()[0])


def test_drift_is_linear_over_the_series_and_bounded():
    drawn = draw_many(errors.ErrorConfig(drift_px=3.0))
    shift = np.asarray(drawn.shift_u)
    np.testing.assert_allclose(np.diff(shift, n=2, axis=1), 0.0, atol=1e-5)
    assert 2.5 < np.max(np.abs(shift[:, -1] - shift[:, 0])) <= 3.0


@pytest.mark.slow
def test_tilt_scale_stretches_all_angles_by_one_factor():
    angles = jnp.deg2rad(jnp.asarray([-40.0, -10.0, 0.0, 30.0]))
    config = errors.ErrorConfig(tilt_scale=0.05)
    tilt = errors.draw_errors(jax.random.key(3), angles, config).tilt_rad
    factor = float(tilt[3] / angles[3])
    assert 0 < abs(factor) <= 0.05
    np.testing.assert_allclose(tilt, factor * angles, atol=1e-7)


def test_common_rotation_and_ramp_are_bounded():
    config = errors.ErrorConfig(common_rotation_deg=2.0, ramp=0.1)
    drawn = draw_many(config)
    rotation = np.rad2deg(drawn.rotation_rad)
    np.testing.assert_allclose(rotation, rotation[:, :1] * np.ones((1, 5)), atol=1e-5)
    assert 1.8 < np.max(np.abs(rotation)) <= 2.0 + 1e-5
    assert 0.095 < np.max(np.abs(drawn.ramp)) <= 0.1


@pytest.mark.slow
def test_a_key_decides_the_errors():
    config = errors.IMPERFECT
    first, again, other = (
        errors.draw_errors(jax.random.key(seed), ANGLES, config) for seed in (4, 4, 5)
    )
    for a, b, c in zip(first, again, other):
        np.testing.assert_array_equal(a, b)
        if np.ptp(a) > 0:
            assert np.any(a != c)


def test_configurations_are_frozen_and_comparable():
    assert errors.ErrorConfig() == errors.ALIGNED != errors.IMPERFECT
    with pytest.raises(dataclasses.FrozenInstanceError):
        errors.ALIGNED.gain = 1.0


def test_a_pressed_slab_moves_its_planes_towards_the_middle():
    """A Gaussian layer at height h comes to lie at f h, f times as thick."""
    nz, factor, height, width = 81, 0.7, 12.0, 5.0
    z = np.arange(nz) - (nz - 1) / 2
    layer = np.exp(-((z - height) ** 2) / (2 * width**2))
    slab = jnp.asarray(np.tile(layer[:, None, None], (1, 2, 3)), jnp.float32)
    pressed, inside = errors.shrink(slab, jnp.float32(factor))
    profile = np.asarray(pressed[:, 0, 0], np.float64)
    mean = profile @ z / profile.sum()
    spread = np.sqrt(profile @ (z - mean) ** 2 / profile.sum())
    assert mean == pytest.approx(factor * height, abs=0.02)
    assert spread == pytest.approx(factor * width, rel=0.03)
    assert float(inside.sum()) == pytest.approx(factor * nz, rel=1e-5)


def test_a_slab_of_full_thickness_is_untouched():
    slab = jax.random.normal(jax.random.key(2), (9, 4, 5))
    pressed, inside = errors.shrink(slab, jnp.float32(1.0))
    np.testing.assert_allclose(pressed, slab, atol=1e-6)
    np.testing.assert_array_equal(inside, 1.0)


def test_thickness_is_drawn_within_its_bound():
    config = errors.ErrorConfig(z_shrink=0.3)
    drawn = [
        float(errors.draw_errors(jax.random.key(i), ANGLES, config).thickness)
        for i in range(30)
    ]
    assert 0.7 <= min(drawn) < 0.8 and 0.9 < max(drawn) <= 1.0
    assert float(NONE.thickness) == 1.0


EVERY_ERROR = dataclasses.replace(
    errors.IMPERFECT,
    drift_px=1.0,
    magnification=0.01,
    ramp=0.1,
    offset=0.1,
    z_shrink=0.3,
)


def test_severity_is_a_factor_on_every_error():
    key = jax.random.key(3)
    full = errors.draw_errors(key, ANGLES, EVERY_ERROR)
    half = errors.draw_errors(key, ANGLES, EVERY_ERROR, 0.5)
    for name, none in NONE._asdict().items():
        of_full, of_half = (getattr(drawn, name) - none for drawn in (full, half))
        np.testing.assert_allclose(of_half, 0.5 * of_full, atol=1e-6, err_msg=name)
        assert np.any(np.abs(of_full) > 1e-4), name


@pytest.mark.slow
def test_a_traced_severity_of_zero_is_a_perfect_series():
    draw = jax.jit(
        lambda s: errors.draw_errors(jax.random.key(3), ANGLES, EVERY_ERROR, s)
    )
    for drawn, none in zip(draw(0.0), NONE, strict=True):
        np.testing.assert_array_equal(drawn, none)
