import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.projector import backproject, normal_op, operator_norm, project

pytestmark = pytest.mark.usefixtures("short_loops")


def array(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


@pytest.mark.parametrize(
    "name", ["every kind", "narrow detector", "thick", "one voxel"]
)
def test_operator_norm_is_the_largest_singular_value(name, named, dense, x64):
    geometry = named(name, jnp.float64)
    largest = np.linalg.svd(dense(geometry), compute_uv=False)[0]
    estimate = float(operator_norm(geometry))
    assert estimate <= largest * (1 + 1e-12)  # power iteration comes from below
    assert estimate == pytest.approx(largest, rel=2e-3)
    more = float(operator_norm(geometry, num_iters=300))
    assert more == pytest.approx(largest, rel=1e-6)


def test_operator_norm_of_an_untilted_series_is_known():
    geometry = TiltGeometry.from_degrees([0.0] * 4, thickness=9, width=5, height=3)
    # Every ray sums 9 voxels, and every voxel is met by four tilts.
    assert float(operator_norm(geometry)) == pytest.approx(6.0, rel=1e-6)


def test_normal_op_is_the_adjoint_after_the_projection(named, x64):
    geometry = named("every kind", jnp.float64)
    volume = array(geometry.volume_shape)
    expected = backproject(project(volume, geometry), geometry)
    np.testing.assert_array_equal(normal_op(volume, geometry), expected)


@pytest.mark.parametrize("shape", [(), (9, 1, 1), (9, 14, 1), (9, 14, 4)])
def test_weighted_normal_op_equals_dense_algebra(shape, named, dense, x64):
    geometry = named("every kind", jnp.float64)
    nz, nx, ny = geometry.volume_shape
    weight = jnp.abs(array(shape, 1)) + 0.1
    volume = array(geometry.volume_shape)
    matrix = dense(geometry)
    image = matrix @ np.asarray(volume).reshape(nz * nx, ny)
    image = image.reshape(geometry.tilts_shape) * np.asarray(weight)
    expected = (matrix.T @ image.reshape(-1, ny)).reshape(volume.shape)
    np.testing.assert_allclose(
        normal_op(volume, geometry, weight), expected, atol=1e-10
    )


def test_normal_op_is_symmetric_and_never_negative(named, x64):
    geometry = named("repeated tilts", jnp.float64)
    nz, nx, _ = geometry.volume_shape
    weight = jnp.asarray([1.0, 0.5, 2.0, 0.0])[:, None, None]
    units = jnp.eye(nz * nx).reshape(nz * nx, nz, nx, 1)
    rows = jax.vmap(lambda v: normal_op(v, geometry, weight))(units)
    matrix = np.asarray(rows).reshape(nz * nx, nz * nx)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-13)
    assert np.linalg.eigvalsh(matrix)[0] > -1e-12
