import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.projector import backproject, normal_op, operator_norm, project

pytestmark = pytest.mark.usefixtures("short_loops")


def array(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


@pytest.mark.slow
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


@pytest.mark.usefixtures("optimised")
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


@pytest.mark.slow
def test_normal_op_is_symmetric_and_never_negative(named, x64):
    geometry = named("repeated tilts", jnp.float64)
    nz, nx, _ = geometry.volume_shape
    weight = jnp.asarray([1.0, 0.5, 2.0, 0.0])[:, None, None]
    units = jnp.eye(nz * nx).reshape(nz * nx, nz, nx, 1)
    rows = jax.vmap(lambda v: normal_op(v, geometry, weight))(units)
    matrix = np.asarray(rows).reshape(nz * nx, nz * nx)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-13)
    assert np.linalg.eigvalsh(matrix)[0] > -1e-12


def test_one_tilt_couples_every_plane_with_every_other(x64, dense):
    """Why A^T A of a tilt is no short band: some 3 nz numbers a voxel, not 4."""
    counts = []
    for extent in (8, 16, 32):
        geometry = TiltGeometry(
            jnp.asarray([0.4]), (extent, extent, 1), 2 * extent, (False,)
        )
        matrix = dense(geometry)
        product = matrix.T @ matrix
        middle = (extent // 2) * extent + extent // 2
        planes = product[middle].reshape(extent, extent)
        assert np.sum(matrix[:, middle] != 0) <= 2
        assert np.max(np.sum(planes != 0, axis=1)) <= 4
        reached = np.any(planes != 0, axis=1)
        counts.append(np.sum(planes != 0) / np.sum(reached))
        # Every plane that a ray through the voxel still meets inside the volume.
        assert np.sum(reached) == extent
    assert min(counts) > 3
    print("numbers per voxel and plane:", np.round(counts, 2))


@pytest.mark.slow
def test_weights_do_not_change_the_dtype():
    geometry = TiltGeometry.from_degrees([10.0, -50.0], thickness=5, width=6, height=2)
    volume = jnp.ones(geometry.volume_shape, jnp.bfloat16)
    weight = jnp.full((2, 1, 1), 0.5, jnp.float32)
    half = normal_op(volume, geometry, weight)
    assert half.dtype == jnp.bfloat16
    full = normal_op(volume.astype(jnp.float32), geometry, weight)
    np.testing.assert_allclose(half.astype(jnp.float32), full, rtol=0.02, atol=0.02)
