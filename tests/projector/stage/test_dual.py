"""Two tilt axes that move: the adjoint, the aligned case and the formula."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.errors import InputError
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.projector import no_motion, project_dual
from temdiff_jax.projector.stage import dual
from temdiff_jax.projector.stage.alignment import motion_from_degrees

# Each of these compiles for seconds.
pytestmark = pytest.mark.usefixtures("short_loops")

project_jit = jax.jit(dual.project_dual_moving, static_argnames="border")
backproject_jit = jax.jit(dual.backproject_dual_moving, static_argnames="border")


def geometries(dtype):
    first = jnp.deg2rad(jnp.asarray([-60.0, 0.0, 20.0], dtype))
    second = jnp.deg2rad(jnp.asarray([30.0, -50.0], dtype))
    return (
        TiltGeometry(first, (5, 12, 9), 8, None),
        TiltGeometry(second, (5, 9, 12), 7, None),
    )


def motions(dtype):
    common = {"axis_offset_px": 0.7, "x_tilt_deg": 3.0, "dtype": dtype}
    return (
        motion_from_degrees(3, shifts_px=[0.4, -1.2], rotations_deg=5.0, **common),
        motion_from_degrees(
            2, shifts_px=[1.1, 0.3], magnifications=1.05, tilt_errors_deg=2.0, **common
        ),
    )


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "limit"), [("float32", 1e-5), ("float64", 1e-12)])
def test_dot_product(kind, limit, x64):
    places = *geometries(kind), *motions(kind)
    rng = np.random.default_rng(0)
    volume, first, second = (
        jnp.asarray(rng.standard_normal(shape), kind)
        for shape in ((5, 12, 9), (3, 8, 9), (2, 7, 12))
    )
    images = project_jit(volume, *places, border=2)
    back = backproject_jit(first, second, *places, border=2)
    assert [image.shape for image in images] == [(3, 8, 9), (2, 7, 12)]
    forward = sum(float(jnp.vdot(a, b)) for a, b in zip(images, (first, second)))
    scale = sum(float(jnp.linalg.norm(a)) for a in (*images, first, second))
    assert abs(forward - float(jnp.vdot(volume, back))) / scale < limit


def test_without_motion_it_is_the_aligned_pair():
    places = geometries("float32")
    volume = jnp.asarray(np.random.default_rng(0).random((5, 12, 9)), jnp.float32)
    still = no_motion(3), no_motion(2)
    for got, expected in zip(
        project_jit(volume, *places, *still), project_dual(volume, *places)
    ):
        np.testing.assert_allclose(got, expected, atol=2e-6 * float(expected.max()))


def test_geometries_of_two_volumes_are_refused():
    first, second = geometries("float32")
    wrong = dataclasses.replace(second, volume_shape=(4, 9, 12))
    with pytest.raises(InputError, match="x and y exchanged") as error:
        dual.project_dual_moving(
            jnp.zeros((5, 12, 9)), first, wrong, no_motion(3), no_motion(2)
        )
    assert "\n" not in str(error.value)
