"""Unusual input works, or is refused in one clear line."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.errors import InputError
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.projector import backproject, normal_op, project, sharding

pytestmark = pytest.mark.usefixtures("short_loops")

EXTENTS = {"thickness": 5, "width": 8, "height": 3}


def geometry(degrees=(-50.0, 10.0), **kwargs):
    return TiltGeometry.from_degrees(degrees, **(EXTENTS | kwargs))


def one_line(error):
    text = str(error.value)
    assert "\n" not in text and "expected" in text and "got" in text and ";" in text
    return text


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool", "complex64"])
def test_data_that_are_no_floats_are_refused(dtype):
    rays = geometry()
    with pytest.raises(ValueError) as error:
        project(jnp.ones(rays.volume_shape, dtype), rays)
    assert f"got {dtype}" in one_line(error)
    with pytest.raises(ValueError) as error:
        backproject(jnp.ones(rays.tilts_shape, dtype), rays)
    assert f"got {dtype}" in one_line(error)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_every_float_keeps_its_dtype(dtype, x64):
    rays = geometry(oversample=2)
    volume = jnp.asarray(np.random.default_rng(0).random(rays.volume_shape), dtype)
    image = project(volume, rays)
    smear = backproject(image, rays)
    normal = normal_op(volume, rays, jnp.ones((2, 1, 1)))
    gradient = jax.grad(lambda v: jnp.sum(project(v, rays)))(volume)
    assert {a.dtype for a in (image, smear, normal, gradient)} == {jnp.dtype(dtype)}
    # In the dtype's own precision, of angles in float32 here.
    limit = 4 * max(float(jnp.finfo(dtype).eps), 1e-7)
    exact = project(volume.astype("float64"), rays)
    scale = float(jnp.max(jnp.abs(exact)))
    assert np.max(np.abs(image.astype("float64") - exact)) < limit * scale


@pytest.mark.parametrize("degree", [math.nan, math.inf])
@pytest.mark.parametrize("steep", [None, (False, True, False)])
def test_angles_that_are_no_numbers_give_none(degree, steep):
    """A geometry built by hand is not checked: no zeros that pass for a tilt."""
    angles = jnp.deg2rad(jnp.asarray([10.0, degree, -20.0]))
    rays = TiltGeometry(angles, (4, 6, 2), 6, steep)
    image = np.asarray(project(jnp.ones((4, 6, 2)), rays))
    assert np.all(np.isnan(image[1])) and np.all(np.isfinite(image[::2]))
    assert np.all(np.isnan(backproject(jnp.ones((3, 6, 2)), rays)))


def test_flags_of_another_number_of_tilts_are_refused():
    rays = dataclasses.replace(geometry(), steep=(False,))
    for function, shape in (
        (project, rays.volume_shape),
        (backproject, rays.tilts_shape),
    ):
        with pytest.raises(ValueError) as error:
            function(jnp.ones(shape), rays)
        assert "each of 2 angles, got 1" in one_line(error)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"degrees": [0.0, 91.0]}, "within [-90, 90], got 91 for tilt 1"),
        ({"degrees": [0.0, math.nan]}, "finite degrees, got nan for tilt 1"),
        ({"thickness": math.nan}, "thickness of at least one voxel, got nan"),
        ({"thickness": 4.5}, "thickness of at least one voxel, got 4.5"),
        ({"width": -3}, "width of at least one voxel, got -3"),
        ({"height": None}, "height of at least one voxel, got None"),
        ({"lateral_margin": math.inf}, "margin"),
        ({"lateral_margin": 1.5}, "margin"),
        ({"oversample": 0}, "rays per detector pixel, of at least one, got 0"),
    ],
)
def test_an_impossible_geometry_is_refused(change, what):
    with pytest.raises(InputError) as error:
        geometry(**change)
    assert what in one_line(error)


def test_whole_numbers_of_any_type_are_sizes():
    rays = geometry(
        thickness=np.int64(5), width=8.0, lateral_margin=np.float32(2), oversample=2.0
    )
    assert rays.volume_shape == (5, 12, 3) and rays.oversample == 2
    assert all(type(n) is int for n in (*rays.volume_shape, rays.num_u))


@pytest.mark.parametrize("num_u", [1, 3, 30])
def test_a_detector_of_any_width_sees_the_middle_of_the_same_image(num_u, x64):
    volume = jnp.asarray(np.random.default_rng(1).random((5, 8, 2)))
    angles = jnp.deg2rad(jnp.asarray([-70.0, 20.0]))
    wide = project(volume, TiltGeometry(angles, (5, 8, 2), 31, (True, False)))
    some = project(volume, TiltGeometry(angles, (5, 8, 2), num_u, (True, False)))
    if num_u % 2:
        start = (31 - num_u) // 2
        np.testing.assert_allclose(some, wide[:, start : start + num_u], atol=1e-12)
    else:
        # Pixels half-way between those of the other: nothing is lost beside it.
        assert np.all(np.asarray(some)[:, [0, -1]] == 0)
        assert np.all(np.asarray(jnp.sum(some, axis=1)) > 0)


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_a_repeated_tilt_counts_twice(x64):
    once, twice = geometry([10.0]), geometry([10.0, 10.0])
    volume = jnp.asarray(np.random.default_rng(2).random(once.volume_shape))
    image = project(volume, twice)
    np.testing.assert_array_equal(image[0], image[1])
    np.testing.assert_allclose(
        normal_op(volume, twice), 2 * normal_op(volume, once), rtol=1e-12
    )


@pytest.mark.parametrize(("rows", "devices", "full"), [(21, 8, 24), (24, 8, 24)])
def test_rows_are_padded_to_the_next_that_divide(rows, devices, full):
    array = jnp.ones((2, 3, rows))
    padded = sharding.pad_rows(array, devices)
    assert padded.shape == (2, 3, full)
    np.testing.assert_array_equal(padded[:, :, :rows], array)
    assert np.all(np.asarray(padded)[:, :, rows:] == 0)
    sharding.check_rows(full, devices)
    if rows != full:
        with pytest.raises(InputError) as error:
            sharding.check_rows(rows, devices)
        assert f"pad to {full} with sharding.pad_rows(array, {devices})" in one_line(
            error
        )
