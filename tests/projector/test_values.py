"""Known line integrals: what, where, how much, and how exactly."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.projector import backproject, project, ray_lengths, seen_by_all
from temdiff_jax.simulator import phantoms

# Away from 0, 45 and 90 degrees, of either sign and either kind.
ANGLES = [-78.0, -41.0, -9.0, 0.0, 22.0, 45.0, 60.0, 90.0]


def test_equals_plain_loops(build, dense, x64):
    geometry = build(jnp.float64)
    nz, nx, ny = geometry.volume_shape
    rng = np.random.default_rng(1)
    volume = rng.standard_normal(geometry.volume_shape)
    tilts = rng.standard_normal(geometry.tilts_shape)
    matrix = dense(geometry)
    image = (matrix @ volume.reshape(nz * nx, ny)).reshape(geometry.tilts_shape)
    smear = (matrix.T @ tilts.reshape(-1, ny)).reshape(geometry.volume_shape)
    np.testing.assert_allclose(
        project(jnp.asarray(volume), geometry), image, rtol=0, atol=1e-11
    )
    np.testing.assert_allclose(
        backproject(jnp.asarray(tilts), geometry), smear, rtol=0, atol=1e-11
    )


def test_chords_of_a_ball():
    shape, radius, centre = (34, 36, 29), 11.0, (2.0, -3.0, 1.0)
    geometry = TiltGeometry(
        jnp.deg2rad(jnp.asarray(ANGLES)), shape, 36, tuple(abs(a) > 45 for a in ANGLES)
    )
    tilts = np.asarray(project(phantoms.ball(shape, centre, radius), geometry))
    u = (np.arange(36) - 17.5)[:, None]
    y = (np.arange(29) - 14.0)[None, :]
    for tilt, angle in zip(tilts, np.deg2rad(ANGLES)):
        u0 = centre[1] * math.cos(angle) + centre[0] * math.sin(angle)
        square = (u - u0) ** 2 + (y - centre[2]) ** 2
        chord = 2 * np.sqrt(np.maximum(radius**2 - square, 0))
        deep = square < 0.6 * radius**2
        assert np.max(np.abs(tilt - chord)[deep]) < 0.35
        # The rim, where chords are short and steep, errs most.
        assert np.sum(np.abs(tilt - chord)) < 0.025 * np.sum(chord)
        assert np.max(tilt[square > (radius + 2) ** 2]) == 0
        assert np.sum(tilt) == pytest.approx(4 / 3 * np.pi * radius**3, rel=5e-3)


def test_untilted_projection_is_the_sum_over_z_exactly():
    geometry = TiltGeometry.from_degrees(
        [0.0], thickness=11, width=8, height=5, lateral_margin=0
    )
    # Small whole numbers: their sums are exact in float32.
    volume = np.random.default_rng(2).integers(0, 9, geometry.volume_shape)
    tilts = project(jnp.asarray(volume, jnp.float32), geometry)
    np.testing.assert_array_equal(tilts[0], volume.sum(axis=0))


def test_upright_projection_is_the_sum_over_x(x64):
    geometry = TiltGeometry.from_degrees(
        [90.0, -90.0],
        thickness=7,
        width=7,
        height=3,
        lateral_margin=0,
        dtype=jnp.float64,
    )
    volume = np.random.default_rng(3).standard_normal((7, 7, 3))
    tilts = project(jnp.asarray(volume), geometry)
    # At +90 degrees the detector's columns run along z, at -90 against it.
    np.testing.assert_allclose(tilts[0], volume.sum(axis=1), atol=1e-12)
    np.testing.assert_allclose(tilts[1], volume.sum(axis=1)[::-1], atol=1e-12)


@pytest.mark.parametrize(
    "voxel", [(9, 7, 1), (1, 7, 3), (5, 12, 0), (5, 3, 4), (8, 11, 2)]
)
def test_one_voxel_shows_the_sign_of_every_axis(voxel):
    """Right-handed about +y: above the centre means larger u at positive angles."""
    shape = (11, 15, 5)
    angles = [-30.0, -5.0, 0.0, 40.0, 65.0]  # not symmetric: no sign can hide
    geometry = TiltGeometry(
        jnp.deg2rad(jnp.asarray(angles)), shape, 21, tuple(a > 45 for a in angles)
    )
    tilts = np.asarray(project(jnp.zeros(shape).at[voxel].set(1.0), geometry))
    z, x = voxel[0] - 5, voxel[1] - 7
    for tilt, angle in zip(tilts, np.deg2rad(angles)):
        expected = x * math.cos(angle) + z * math.sin(angle)
        row = tilt[:, voxel[2]]
        assert np.sum(tilt) == np.sum(row) > 0  # stays in its y-slice
        centroid = np.sum(row * (np.arange(21) - 10)) / np.sum(row)
        assert abs(centroid - expected) < 0.2


@pytest.mark.slow
def test_slices_of_y_do_not_mix(named):
    geometry = named("every kind", jnp.float32)
    volume = jnp.zeros(geometry.volume_shape).at[:, :, 2].set(1.0)
    tilts = np.asarray(project(volume, geometry))
    assert np.all(tilts[:, :, [0, 1, 3]] == 0)
    assert np.all(tilts[:, :, 2].sum(axis=1) > 0)


@pytest.mark.parametrize("angle", [0.0, 15.0, -38.0])
def test_rays_through_both_faces_of_a_slab_are_thickness_over_cosine_long(angle):
    geometry = TiltGeometry.from_degrees([angle], thickness=12, width=9, height=2)
    lengths = ray_lengths(geometry)
    assert lengths.shape == (1, 9, 1)
    np.testing.assert_allclose(lengths, 12 / math.cos(math.radians(angle)), rtol=1e-6)


def test_ray_lengths_are_zero_off_the_volume(named):
    geometry = named("wide detector", jnp.float32)
    assert np.all(np.asarray(ray_lengths(geometry))[:, [0, -1]] == 0)
    assert np.all(np.asarray(ray_lengths(geometry))[:, 7] > 0)


def test_a_ray_along_an_edge_is_cut_off():
    geometry = TiltGeometry.from_degrees(
        [90.0], thickness=4, width=9, height=1, lateral_margin=0
    )
    lengths = np.asarray(ray_lengths(geometry))[0, :, 0]
    # Voxels at z = -1.5 ... 1.5 and rays at whole u: half a voxel at either end.
    np.testing.assert_allclose(lengths, [0, 0, 4.5, 9, 9, 9, 4.5, 0, 0], atol=1e-4)


def test_seen_by_all_equals_brute_force(x64):
    angles = [-52.0, -11.0, 27.0, 71.0]
    geometry = TiltGeometry.from_degrees(
        angles,
        thickness=10,
        width=9,
        height=2,
        lateral_margin=4,
        dtype=jnp.float64,
    )
    mask = np.asarray(seen_by_all(geometry))
    assert mask.shape == (10, 17)
    for k in range(10):
        for i in range(17):
            places = [
                (i - 8) * math.cos(math.radians(a))
                + (k - 4.5) * math.sin(math.radians(a))
                for a in angles
            ]
            assert mask[k, i] == all(-4 <= place <= 4 for place in places)
    assert 0 < mask.sum() < mask.size


def test_seen_by_all_untilted_is_the_field_of_view():
    geometry = TiltGeometry.from_degrees(
        [0.0], thickness=3, width=5, height=1, lateral_margin=2
    )
    expected = np.zeros((3, 9), bool)
    expected[:, 2:7] = True
    np.testing.assert_array_equal(seen_by_all(geometry), expected)


@pytest.mark.slow
def test_error_on_a_gaussian_blob_falls_with_the_square_of_the_voxel(x64):
    """Lengths in units of the field: sigma 0.1, centre (0.05, -0.08)."""
    sigma, z0, x0 = 0.1, 0.05, -0.08
    theta = np.deg2rad([20.0, 33.0, 70.0])
    errors = []
    for n in (24, 48, 96):
        places = (np.arange(n) - (n - 1) / 2) / n
        square = (places[:, None] - z0) ** 2 + (places[None, :] - x0) ** 2
        blob = np.exp(-0.5 * square / sigma**2)[:, :, None]
        geometry = TiltGeometry(jnp.asarray(theta), (n, n, 1), n, (False, False, True))
        measured = np.asarray(project(jnp.asarray(blob), geometry))[:, :, 0] / n
        shift = places - (x0 * np.cos(theta) + z0 * np.sin(theta))[:, None]
        exact = math.sqrt(2 * np.pi) * sigma * np.exp(-0.5 * (shift / sigma) ** 2)
        errors.append(np.max(np.abs(measured - exact), axis=1))
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert np.max(errors[0]) < 0.02 * math.sqrt(2 * np.pi) * sigma
    np.testing.assert_allclose(orders, 2.0, atol=0.15)


def test_wrong_extents_are_refused(named):
    geometry = named("every kind", jnp.float32)
    with pytest.raises(ValueError, match=r"z, x = \[9, 20\], got \[20, 9, 4\]"):
        project(jnp.zeros((20, 9, 4)), geometry)
    with pytest.raises(ValueError, match="project: expected a volume"):
        project(jnp.zeros((9, 20)), geometry)
    with pytest.raises(ValueError, match=r"n_tilts, u = \[9, 14\], got \[9, 4, 14\]"):
        backproject(jnp.zeros((9, 4, 14)), geometry)
