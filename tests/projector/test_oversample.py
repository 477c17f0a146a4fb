"""Several rays to a pixel: the pair, its derivatives, and what is left of the grid."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.projector import backproject, normal_op, project

pytestmark = pytest.mark.usefixtures("short_loops")


def array(shape, dtype=jnp.float64, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def matrix(geometry):
    """The formula of `taps`, averaged over rays: no floor, no neighbours."""
    nz, nx, _ = geometry.volume_shape
    angle = np.asarray(geometry.angles_rad, np.float64)[:, None, None, None, None]
    cos, sin = np.cos(angle), np.sin(angle)
    # At exactly 45 degrees the two differ by rounding only.
    half = np.maximum(np.abs(cos), np.abs(sin))
    t = (np.arange(nx) - (nx - 1) / 2) * cos
    t = t + (np.arange(nz) - (nz - 1) / 2)[:, None] * sin
    rays = np.arange(geometry.num_u * geometry.oversample) + 0.5
    rays = rays / geometry.oversample - geometry.num_u / 2
    rays = rays.reshape(-1, geometry.oversample)[None, :, :, None, None]
    weights = np.maximum(0, 1 - np.abs(rays - t) / half) / half
    return weights.mean(axis=2).reshape(-1, nz * nx)


@pytest.mark.parametrize("traced_steep", [False, True])
@pytest.mark.parametrize("rays", [2, 3])
@pytest.mark.parametrize("name", ["every kind", "narrow detector", "one voxel"])
def test_a_pixel_is_the_mean_of_its_rays(name, rays, traced_steep, named, x64):
    geometry = named(name, jnp.float64, traced_steep=traced_steep)
    geometry = dataclasses.replace(geometry, oversample=rays)
    nz, nx, ny = geometry.volume_shape
    volume, tilts = array(geometry.volume_shape), array(geometry.tilts_shape, seed=1)
    dense = matrix(geometry)
    image = (dense @ volume.reshape(nz * nx, ny)).reshape(geometry.tilts_shape)
    smear = (dense.T @ tilts.reshape(-1, ny)).reshape(geometry.volume_shape)
    np.testing.assert_allclose(project(volume, geometry), image, atol=1e-12)
    np.testing.assert_allclose(backproject(tilts, geometry), smear, atol=1e-12)


def test_dot_product_in_float64(build, x64):
    geometry = dataclasses.replace(build(jnp.float64), oversample=4)
    volume, tilts = array(geometry.volume_shape), array(geometry.tilts_shape, seed=1)
    image, smear = project(volume, geometry), backproject(tilts, geometry)
    scale = float(jnp.linalg.norm(image) * jnp.linalg.norm(tilts))
    assert scale > 0
    assert abs(jnp.vdot(image, tilts) - jnp.vdot(volume, smear)) < 1e-12 * scale


ANGLES = [-71.3, -23.7, 11.9, 52.1]


def small(angles, **kwargs):
    steep = tuple(abs(a) > 45 for a in ANGLES)
    return TiltGeometry(angles, (5, 8, 3), 6, steep, 4, **kwargs)


@pytest.mark.slow
@pytest.mark.parametrize("operation", [project, backproject])
def test_derivatives_and_vmap(operation, x64):
    angles = jnp.deg2rad(jnp.asarray(ANGLES))
    shape = (5, 8, 3) if operation is project else (4, 6, 3)
    alone = functools.partial(lambda data, a: operation(data, small(a)))
    check_grads(alone, (array(shape), angles), 1, atol=1e-6, rtol=1e-6)
    many = array((2, *shape))
    together = jax.vmap(lambda data: alone(data, angles))(many)
    np.testing.assert_allclose(together[1], alone(many[1], angles), atol=1e-13)
    turned = jax.vmap(alone)(many, jnp.stack([angles, angles + 0.01]))
    np.testing.assert_allclose(turned[1], alone(many[1], angles + 0.01), atol=1e-13)


@pytest.mark.slow
def test_normal_op_takes_all_rays(x64):
    geometry = small(jnp.deg2rad(jnp.asarray(ANGLES)))
    dense = matrix(geometry)
    volume = array(geometry.volume_shape)
    expected = dense.T @ (dense @ np.asarray(volume).reshape(40, 3))
    np.testing.assert_allclose(
        normal_op(volume, geometry), expected.reshape(5, 8, 3), atol=1e-12
    )


def test_many_rays_conserve_the_mass_of_every_voxel(x64):
    """One ray sees a voxel at 45 degrees as 0.83 to 1.41 of what it holds.

    The hat of half-width m, sampled once per pixel and divided by m, adds up to 1/m
    where a ray meets the voxel's centre and to (2 - 1/m) / m where two rays pass at
    half a pixel.  Sampled K times per pixel it adds up to one within
    2 sum_j sinc^2(j K m), the Poisson sum of the hat.
    """
    m = math.sqrt(0.5)
    seen = {}
    for rays in (1, 2, 4):
        geometry = TiltGeometry(
            jnp.asarray([math.pi / 4]), (41, 41, 1), 81, (False,), rays
        )
        seen[rays] = np.asarray(backproject(jnp.ones((1, 81, 1)), geometry))
        first = np.sinc(np.arange(1, 200) * rays * m) ** 2
        rest = 1 / (199 * (math.pi * rays * m) ** 2)
        assert np.max(np.abs(seen[rays] - 1)) < 2 * (np.sum(first) + rest)
        print(f"{rays} rays: {seen[rays].min():.3f} to {seen[rays].max():.3f}")
    assert seen[1].max() == pytest.approx(1 / m, abs=0.02)
    assert seen[1].min() == pytest.approx((2 - 1 / m) / m, abs=0.02)
    assert np.max(np.abs(seen[4] - 1)) < 0.05


def test_blur_is_that_of_the_footprint_and_of_the_pixel(x64):
    """Second moment of a voxel's image, over voxels: m^2/6 + (1 - 1/K^2)/12."""
    degrees = [3.0, 15.0, 30.0, 45.0]
    half = np.cos(np.deg2rad(degrees))
    u = (jnp.arange(121.0) - 60)[None, :, None]
    place = np.arange(61) - 30.0
    for rays in (1, 2, 4):
        geometry = TiltGeometry(
            jnp.deg2rad(jnp.asarray(degrees)), (61, 61, 1), 121, None, rays
        )
        blur = []
        for tilt, angle in enumerate(np.deg2rad(degrees)):
            one = dataclasses.replace(
                geometry, angles_rad=geometry.angles_rad[tilt : tilt + 1]
            )
            t = place[None, :] * math.cos(angle) + place[:, None] * math.sin(angle)
            moment = [
                np.asarray(backproject(u**power, one))[:, :, 0] for power in range(3)
            ]
            blur.append(np.mean(moment[2] - 2 * t * moment[1] + t**2 * moment[0]))
        print(rays, "rays, blur in pixels:", np.round(np.sqrt(blur), 3))
        expected = half**2 / 6 + (1 - 1 / rays**2) / 12
        np.testing.assert_allclose(blur, expected, rtol=0.04)


def test_a_number_of_rays_is_whole_and_positive():
    for rays in (0, -1, 1.5, math.nan, "2"):
        with pytest.raises(ValueError, match="expected oversample"):
            TiltGeometry.from_degrees(
                [0.0], thickness=4, width=4, height=1, oversample=rays
            )
    geometry = TiltGeometry.from_degrees(
        [0.0], thickness=4, width=4, height=1, oversample=2
    )
    assert geometry.oversample == 2
    assert jax.tree.structure(geometry) != jax.tree.structure(
        dataclasses.replace(geometry, oversample=1)
    )
