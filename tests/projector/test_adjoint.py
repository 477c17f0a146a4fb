"""Back-projection is the exact adjoint of projection, whatever the geometry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.projector import backproject, kernels, project


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


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_written_adjoint_equals_the_automatic_transpose(named, x64):
    geometry = named("every kind", jnp.float64)
    _, tilts = random_pair(geometry, jnp.float64)
    shape = jax.ShapeDtypeStruct(geometry.volume_shape, jnp.float64)
    (automatic,) = jax.linear_transpose(lambda v: project(v, geometry), shape)(tilts)
    np.testing.assert_array_equal(automatic, backproject(tilts, geometry))


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_adjoint_of_the_adjoint_is_the_projection(named, x64):
    geometry = named("every kind", jnp.float64)
    volume, _ = random_pair(geometry, jnp.float64)
    shape = jax.ShapeDtypeStruct(geometry.tilts_shape, jnp.float64)
    (automatic,) = jax.linear_transpose(lambda t: backproject(t, geometry), shape)(
        volume
    )
    np.testing.assert_array_equal(automatic, project(volume, geometry))


@pytest.mark.usefixtures("short_loops")
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", ["thick", "every kind", "one voxel"])
def test_half_precision_sums_in_float32(name, dtype, named):
    geometry = named(name, jnp.float32)
    volume, tilts = random_pair(geometry, dtype)
    image, smear = project(volume, geometry), backproject(tilts, geometry)
    assert image.dtype == smear.dtype == dtype
    exact = project(volume.astype(jnp.float32), geometry).astype(dtype)
    # Sums of the same numbers, in parts: a last bit of float32 may turn a rounding.
    limit = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(
        image.astype(jnp.float32), exact.astype(jnp.float32), rtol=limit, atol=1e-5
    )
    exact = backproject(tilts.astype(jnp.float32), geometry).astype(dtype)
    np.testing.assert_allclose(
        smear.astype(jnp.float32), exact.astype(jnp.float32), rtol=limit, atol=1e-5
    )


@pytest.mark.slow
@pytest.mark.usefixtures("short_loops", "optimised")
@pytest.mark.parametrize("degree", [44.0, 46.0, 52.0, 70.0])
@pytest.mark.parametrize("flag", [False, True])
def test_the_pair_is_exact_whatever_the_flag_says(degree, flag, x64):
    """Flags may be those of nominal angles while the true ones cross 45 degrees."""
    angles = jnp.deg2rad(jnp.asarray([degree, -degree]))
    geometry = TiltGeometry(angles, (9, 11, 2), 13, (flag, flag))
    assert mismatch(geometry, jnp.float64) < 1e-12
    volume, tilts = random_pair(geometry, jnp.float64)
    shape = jax.ShapeDtypeStruct(geometry.volume_shape, jnp.float64)
    (automatic,) = jax.linear_transpose(lambda v: project(v, geometry), shape)(tilts)
    np.testing.assert_array_equal(automatic, backproject(tilts, geometry))
    right = TiltGeometry(angles, (9, 11, 2), 13, None)
    assert (flag == (degree > 45)) == np.allclose(
        project(volume, geometry), project(volume, right), atol=1e-12
    )


@pytest.mark.slow
@pytest.mark.usefixtures("short_loops", "optimised")
def test_tilts_in_any_order_are_the_sorted_ones_reordered(x64):
    """A series that changes kind often is sorted inside; nobody may notice."""
    degrees = np.asarray([0.0, 60, -3, -61, 7, 58, 50, -20, 70, 20, -70, 44, 80.0])
    order = np.argsort(degrees)
    shape = (6, 9, 2)

    def of(list_of_degrees):
        angles = jnp.deg2rad(jnp.asarray(list_of_degrees))
        steep = tuple(bool(abs(d) > 45) for d in list_of_degrees)
        return TiltGeometry(angles, shape, 10, steep)

    mixed, ordered = of(degrees), of(degrees[order])
    flags = np.asarray(mixed.steep)
    assert len(kernels._runs_of(flags)) > kernels.MAX_RUNS
    assert len(kernels._runs_of(flags[order])) == 3
    volume, _ = random_pair(mixed, jnp.float64)
    np.testing.assert_array_equal(
        project(volume, mixed)[order], project(volume, ordered)
    )
    assert mismatch(mixed, jnp.float64) < 1e-12


@pytest.mark.parametrize("length", [1, 3, 4, 5, 9, 31])
@pytest.mark.parametrize("share", [1, 4, 11])
def test_shares_fill_every_row_of_a_run_and_no_other(length, share):
    first = 2
    out = kernels._fill(
        jnp.full((length + 5, 2), -1.0),
        first,
        first + length,
        share,
        lambda start, count: jnp.broadcast_to(
            (start + jnp.arange(count))[:, None], (count, 2)
        ).astype(jnp.float32),
    )
    rows = np.arange(length + 5)
    inside = (rows >= first) & (rows < first + length)
    np.testing.assert_array_equal(out[:, 0], np.where(inside, rows, -1))
