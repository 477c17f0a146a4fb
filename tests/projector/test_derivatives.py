"""The pair knows its own derivatives, in intensities and in tilt angles."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.projector import backproject, project

pytestmark = pytest.mark.usefixtures("short_loops")

# No ray passes through the centre of a voxel to within the step of the difference
# quotients: there the interpolation has a kink and no derivative in the angle.
ANGLES = [-71.3, -23.7, 11.9, 52.1]
EXTENTS = (5, 8, 3)
NUM_U = 6


@pytest.fixture(params=[False, True], ids=["static steep", "traced steep"])
def geometry(request, x64):
    steep = None if request.param else tuple(abs(a) > 45 for a in ANGLES)
    return TiltGeometry(jnp.deg2rad(jnp.asarray(ANGLES)), EXTENTS, NUM_U, steep)


def data(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def projection(volume, angles, geometry):
    return project(volume, dataclasses.replace(geometry, angles_rad=angles))


def smearing(tilts, angles, geometry):
    return backproject(tilts, dataclasses.replace(geometry, angles_rad=angles))


OPERATIONS = {
    "project": (projection, EXTENTS),
    "backproject": (smearing, (len(ANGLES), NUM_U, EXTENTS[2])),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
def test_first_derivatives_in_intensities_and_angles(name, geometry):
    operation, shape = OPERATIONS[name]
    check_grads(
        functools.partial(operation, geometry=geometry),
        (data(shape), geometry.angles_rad),
        order=1,
        modes=("fwd", "rev"),
        atol=1e-6,
        rtol=1e-6,
    )


@pytest.mark.parametrize("name", OPERATIONS)
def test_second_derivatives_in_intensities(name, geometry):
    operation, shape = OPERATIONS[name]

    def curved(array):
        return jnp.sin(operation(jnp.tanh(array), geometry.angles_rad, geometry))

    check_grads(curved, (data(shape),), order=2, modes=("fwd", "rev"))


def loss(volume, angles, tilts, geometry):
    return 0.5 * jnp.sum((projection(volume, angles, geometry) - tilts) ** 2)


def test_gradient_of_least_squares_is_the_back_projected_residual(geometry):
    volume, tilts = data(EXTENTS), data(geometry.tilts_shape, 1)
    gradient = jax.grad(loss)(volume, geometry.angles_rad, tilts, geometry)
    residual = project(volume, geometry) - tilts
    np.testing.assert_allclose(gradient, backproject(residual, geometry), atol=1e-12)


def test_hessian_vector_product_is_the_normal_operator(geometry):
    volume, tilts = data(EXTENTS), data(geometry.tilts_shape, 1)
    direction = data(EXTENTS, 2)
    gradient = functools.partial(
        jax.grad(loss), angles=geometry.angles_rad, tilts=tilts, geometry=geometry
    )
    _, product = jax.jvp(gradient, (volume,), (direction,))
    expected = backproject(project(direction, geometry), geometry)
    np.testing.assert_allclose(product, expected, atol=1e-12)


def test_mixed_derivative_in_intensities_and_angles(geometry):
    """The angle gradient, differentiated along a volume, against a difference."""
    volume, tilts = data(EXTENTS), data(geometry.tilts_shape, 1)
    direction = data(EXTENTS, 2)

    def in_angles(v):
        return jax.grad(loss, argnums=1)(v, geometry.angles_rad, tilts, geometry)

    _, forward = jax.jvp(in_angles, (volume,), (direction,))
    # The loss is quadratic in the volume: a central difference is exact.
    quotient = 0.5 * (in_angles(volume + direction) - in_angles(volume - direction))
    np.testing.assert_allclose(forward, quotient, atol=1e-9)
    _, pull = jax.vjp(in_angles, volume)
    (backward,) = pull(jnp.ones(len(ANGLES)))
    np.testing.assert_allclose(jnp.vdot(backward, direction), jnp.sum(forward))


@pytest.mark.slow
def test_angle_gradient_finds_a_wrong_angle(x64):
    angles = jnp.deg2rad(jnp.asarray([-20.0, 15.0]))
    geometry = TiltGeometry(angles, (16, 16, 1), 16, None)
    places = np.arange(16) - 7.5
    blob = np.exp(-((places[:, None] - 4) ** 2 + (places[None, :] + 2) ** 2) / 8)
    volume = jnp.asarray(blob[:, :, None])
    tilts = project(volume, geometry)
    wrong = angles + jnp.deg2rad(jnp.asarray([0.5, -0.5]))
    slope = jax.grad(loss, argnums=1)(volume, wrong, tilts, geometry)
    assert slope[0] > 0 > slope[1]


def test_second_derivative_in_angles_is_refused(geometry):
    volume, tilts = data(EXTENTS), data(geometry.tilts_shape, 1)
    with pytest.raises(ValueError, match="second derivatives with respect to tilt"):
        jax.hessian(loss, argnums=1)(volume, geometry.angles_rad, tilts, geometry)


@pytest.mark.parametrize("axis", [0, 1, 3])
def test_vmap_over_volumes_equals_a_loop(axis, geometry):
    volumes = data((2, *EXTENTS))
    together = jax.vmap(lambda v: project(v, geometry), in_axes=axis)(
        jnp.moveaxis(volumes, 0, axis)
    )
    for image, volume in zip(together, volumes):
        np.testing.assert_allclose(image, project(volume, geometry), atol=1e-13)


def test_vmap_over_tilts_equals_a_loop(geometry):
    tilts = data((2, *geometry.tilts_shape))
    together = jax.vmap(lambda t: backproject(t, geometry))(tilts)
    for smear, one in zip(together, tilts):
        np.testing.assert_allclose(smear, backproject(one, geometry), atol=1e-13)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("dims", [(None, 0), (0, 0), (2, 1)])
def test_vmap_over_angles_equals_a_loop(name, dims, geometry):
    operation, shape = OPERATIONS[name]
    angles = geometry.angles_rad + jnp.asarray([[0.0], [0.01], [-0.02]])
    arrays = data((3, *shape))
    alone = functools.partial(operation, geometry=geometry)
    array_dim, angles_dim = dims
    together = jax.vmap(alone, in_axes=dims)(
        arrays[0] if array_dim is None else jnp.moveaxis(arrays, 0, array_dim),
        jnp.moveaxis(angles, 0, angles_dim),
    )
    for i in range(3):
        one = alone(arrays[0 if array_dim is None else i], angles[i])
        np.testing.assert_allclose(together[i], one, atol=1e-13)


@pytest.mark.slow
def test_vmap_of_gradients_equals_a_loop(geometry):
    volumes, tilts = data((2, *EXTENTS)), data(geometry.tilts_shape, 1)
    angles = geometry.angles_rad + jnp.asarray([[0.0], [0.01]])
    gradients = functools.partial(
        jax.grad(loss, (0, 1)), tilts=tilts, geometry=geometry
    )
    together = jax.vmap(gradients)(volumes, angles)
    for i in range(2):
        alone = gradients(volumes[i], angles[i])
        for many, one in zip(together, alone):
            np.testing.assert_allclose(many[i], one, atol=1e-12)


def test_nested_vmap_equals_loops(geometry):
    volumes = data((2, 3, *EXTENTS))
    together = jax.vmap(jax.vmap(lambda v: project(v, geometry)))(volumes)
    assert together.shape == (2, 3, *geometry.tilts_shape)
    np.testing.assert_allclose(
        together[1, 2], project(volumes[1, 2], geometry), atol=1e-13
    )


@pytest.mark.slow
def test_programs_of_gradients_hold_no_scatter(geometry):
    def everything(volume, angles, tilts):
        value = loss(volume, angles, tilts, geometry)
        return value + jnp.sum(smearing(tilts, angles, geometry) ** 2)

    gradient = jax.jit(jax.grad(everything, (0, 1, 2)))
    arguments = data(EXTENTS), geometry.angles_rad, data(geometry.tilts_shape, 1)
    assert "scatter" not in str(jax.make_jaxpr(gradient)(*arguments))
    lowered = gradient.lower(*arguments)
    for text in (lowered.as_text(), lowered.compile().as_text()):
        assert "gather" in text or "dynamic-slice" in text
        # Names of operations, not those of functions in the text's margins.
        assert not re.search(r"scatter\(|stablehlo\.\w*scatter", text)


@pytest.mark.parametrize("name", OPERATIONS)
def test_one_program_serves_every_angle_list_of_a_length(name, geometry):
    operation, shape = OPERATIONS[name]
    traces = []

    @jax.jit
    def program(array, angled):
        traces.append(angled)
        return operation(array, angled.angles_rad, angled)

    array = data(shape)
    first = program(array, geometry)
    other = dataclasses.replace(geometry, angles_rad=0.99 * geometry.angles_rad)
    second = program(array, other)
    assert len(traces) == 1
    assert np.max(np.abs(first - second)) > 1e-3
    expected = operation(array, other.angles_rad, other)
    np.testing.assert_allclose(second, expected, atol=1e-13)
