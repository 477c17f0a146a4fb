"""Back-projection is the exact adjoint of projection, whatever the geometry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.projector import backproject, project


def random_pair(geometry, dtype):
    rng = np.random.default_rng(0)
    volume = jnp.asarray(rng.standard_normal(geometry.volume_shape), dtype)
    tilts = jnp.asarray(rng.standard_normal(geometry.tilts_shape), dtype)
    return volume, tilts


def mismatch(geometry, dtype):
    volume, tilts = random_pair(geometry, dtype)
    image = np.asarray(project(volume, geometry), np.float64)
    smear = np.asarray(backproject(tilts, geometry), np.float64)
    assert image.shape == geometry.tilts_shape
    assert smear.shape == geometry.volume_shape
    forward = np.vdot(image, np.asarray(tilts, np.float64))
    backward = np.vdot(np.asarray(volume, np.float64), smear)
    scale = np.linalg.norm(image) * np.linalg.norm(tilts)
    assert scale > 0
    return abs(forward - backward) / scale


@pytest.mark.usefixtures("short_loops")
def test_dot_product_in_float32(build):
    assert mismatch(build(jnp.float32), jnp.float32) < 1e-5


def test_dot_product_in_float64(build, x64):
    assert mismatch(build(jnp.float64), jnp.float64) < 1e-12


@pytest.mark.parametrize("name", ["every kind", "narrow detector", "wide detector"])
def test_dot_product_when_the_trace_decides_what_is_steep(named, name, x64):
    geometry = named(name, jnp.float64, traced_steep=True)
    assert mismatch(geometry, jnp.float64) < 1e-12


@pytest.mark.parametrize("name", ["every kind", "narrow detector", "wide detector"])
def test_traced_steepness_equals_static(named, name, x64):
    static = named(name, jnp.float64)
    traced = named(name, jnp.float64, traced_steep=True)
    volume, tilts = random_pair(static, jnp.float64)
    np.testing.assert_allclose(
        project(volume, traced), project(volume, static), rtol=0, atol=1e-12
    )
    np.testing.assert_array_equal(
        backproject(tilts, traced), backproject(tilts, static)
    )


@pytest.mark.parametrize("margin", [0, 1, 7])
def test_dot_product_with_a_lateral_margin(margin, x64):
    geometry = TiltGeometry.from_degrees(
        [-70.0, -20.0, 0.0, 55.0],
        thickness=10,
        width=7,
        height=3,
        lateral_margin=margin,
        dtype=jnp.float64,
    )
    assert mismatch(geometry, jnp.float64) < 1e-12


def test_written_adjoint_equals_the_automatic_transpose(named, x64):
    geometry = named("every kind", jnp.float64)
    _, tilts = random_pair(geometry, jnp.float64)
    shape = jax.ShapeDtypeStruct(geometry.volume_shape, jnp.float64)
    (automatic,) = jax.linear_transpose(lambda v: project(v, geometry), shape)(tilts)
    np.testing.assert_array_equal(automatic, backproject(tilts, geometry))


def test_adjoint_of_the_adjoint_is_the_projection(named, x64):
    geometry = named("every kind", jnp.float64)
    volume, _ = random_pair(geometry, jnp.float64)
    shape = jax.ShapeDtypeStruct(geometry.tilts_shape, jnp.float64)
    (automatic,) = jax.linear_transpose(lambda t: backproject(t, geometry), shape)(
        volume
    )
    np.testing.assert_array_equal(automatic, project(volume, geometry))


def test_half_precision_sums_in_float32(named):
    geometry = named("thick", jnp.float32)
    volume, tilts = random_pair(geometry, jnp.bfloat16)
    image, smear = project(volume, geometry), backproject(tilts, geometry)
    assert image.dtype == smear.dtype == jnp.bfloat16
    exact = project(volume.astype(jnp.float32), geometry)
    np.testing.assert_array_equal(image, exact.astype(jnp.bfloat16))
