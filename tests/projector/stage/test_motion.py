"""A stage that is not aligned: signs, exact adjoints, derivatives, Gauss-Newton."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.test_util import check_grads

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.projector import (
    Motion,
    backproject,
    backproject_moving,
    linearize_motion,
    no_motion,
    project,
    project_moving,
)
from temdiff_jax.simulator import errors

pytestmark = pytest.mark.usefixtures("short_loops")

PER_TILT = ("shift_u", "shift_v", "rotation_rad", "magnification", "tilt_rad")
# Spread of each drawn number around no motion.
SPREAD = (1.5, 1.5, 0.05, 0.03, 0.01, 0.7, 0.08)


forward_jit = jax.jit(project_moving, static_argnames="border")
backward_jit = jax.jit(backproject_moving, static_argnames="border")


def data(shape, dtype=jnp.float64, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def drawn(num_tilts, dtype=jnp.float64, *, x_tilt=True, seed=2):
    rng = np.random.default_rng(seed)
    still = no_motion(num_tilts, x_tilt=True, dtype=dtype)
    moved = Motion(
        *(
            value + jnp.asarray(sigma * rng.standard_normal(value.shape), dtype)
            for value, sigma in zip(still, SPREAD)
        )
    )
    return moved if x_tilt else moved._replace(chi_rad=None)


def mismatch(geometry, motion, dtype, border=0):
    volume = data(geometry.volume_shape, dtype)
    tilts = data(geometry.tilts_shape, dtype, 1)
    image = np.asarray(forward_jit(volume, geometry, motion, border=border))
    smear = np.asarray(backward_jit(tilts, geometry, motion, border=border))
    assert image.shape == geometry.tilts_shape
    assert smear.shape == geometry.volume_shape
    forward = np.vdot(image.astype(np.float64), tilts)
    backward = np.vdot(np.asarray(volume, np.float64), smear)
    scale = np.linalg.norm(image) * np.linalg.norm(tilts)
    assert scale > 0
    return abs(forward - backward) / scale


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["one tilt", "upright", "every kind", "narrow detector", "one voxel", "thick"],
)
def test_dot_product_in_float64(named, name, x64):
    geometry = named(name, jnp.float64, traced_steep=name != "every kind")
    motion = drawn(geometry.num_tilts)
    assert mismatch(geometry, motion, jnp.float64) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one tilt", "odd and even"])
@pytest.mark.parametrize("x_tilt", [False, True])
def test_dot_product_in_float32(named, name, x_tilt):
    geometry = named(name, jnp.float32, traced_steep=True)
    motion = drawn(geometry.num_tilts, jnp.float32, x_tilt=x_tilt)
    assert mismatch(geometry, motion, jnp.float32) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(("border", "x_tilt"), [(1, True), (4, False)])
def test_dot_product_with_a_border(named, border, x_tilt, x64):
    geometry = named("narrow detector", jnp.float64, traced_steep=True)
    motion = drawn(geometry.num_tilts, x_tilt=x_tilt)
    assert mismatch(geometry, motion, jnp.float64, border) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("steep", [(False, False, True), None])
def test_dot_product_when_tilts_cross_45_degrees(steep, x64):
    """Planes stay those of the nominal angles, in both directions."""
    angles = jnp.deg2rad(jnp.asarray([45.0, -44.9, 45.1]))
    geometry = TiltGeometry(angles, (7, 11, 2), 9, steep)
    moved = jnp.deg2rad(jnp.asarray([0.3, -0.4, -0.5]))
    motion = no_motion(3, dtype=jnp.float64)._replace(tilt_rad=moved)
    assert mismatch(geometry, motion, jnp.float64) < 1e-12
    believed = dataclasses.replace(geometry, angles_rad=angles + moved)
    volume = data(geometry.volume_shape)
    image = forward_jit(volume, geometry, motion)
    np.testing.assert_allclose(image, project(volume, believed), atol=1e-13)


@pytest.mark.slow
def test_nominal_planes_serve_beyond_45_degrees(x64):
    """Largest error on a Gaussian: planes of the wrong kind over the right ones."""
    size = 48
    axis = jnp.arange(size) - (size - 1) / 2
    for width in (1.5, 3.0):
        squares = (axis[:, None] - 3) ** 2 + (axis[None, :] + 4) ** 2
        volume = jnp.exp(-0.5 * squares / width**2)[..., None]
        for degrees in (45.0, 46.0, 47.0, 50.0, 55.0):
            angle = np.deg2rad(degrees)
            centre = -4 * np.cos(angle) + 3 * np.sin(angle)
            exact = np.exp(-0.5 * (axis - centre) ** 2 / width**2)
            exact *= np.sqrt(2 * np.pi) * width
            errors = []
            for steep in (False, True):
                geometry = TiltGeometry(
                    jnp.asarray([angle]), (size, size, 1), size, (steep,)
                )
                image = project(volume, geometry)[0, :, 0]
                errors.append(float(jnp.max(jnp.abs(image - exact)) / exact.max()))
            print(f"width {width}, {degrees:g} degrees: {errors[0] / errors[1]:.2f}")
            assert errors[0] < 1.1 * errors[1]


@pytest.mark.slow
@pytest.mark.parametrize(("border", "x_tilt"), [(0, False), (2, True)])
def test_no_motion_is_the_projector_itself(named, border, x_tilt):
    geometry = named("every kind", jnp.float32)
    motion = no_motion(geometry.num_tilts, x_tilt=x_tilt)
    volume = data(geometry.volume_shape, jnp.float32)
    tilts = data(geometry.tilts_shape, jnp.float32, 1)
    for moving, aligned, array in (
        (forward_jit, project, volume),
        (backward_jit, backproject, tilts),
    ):
        expected = np.asarray(aligned(array, geometry))
        got = moving(array, geometry, motion, border=border)
        atol = 1e-6 * np.max(np.abs(expected))
        np.testing.assert_allclose(got, expected, rtol=0, atol=atol)


@pytest.mark.slow
def test_written_adjoint_equals_the_automatic_transpose(named, x64):
    geometry = named("odd and even", jnp.float64)
    motion, tilts = drawn(2), data(geometry.tilts_shape)
    shape = jax.ShapeDtypeStruct(geometry.volume_shape, jnp.float64)
    forward = functools.partial(project_moving, geometry=geometry, motion=motion)
    (automatic,) = jax.linear_transpose(forward, shape)(tilts)
    written = backproject_moving(tilts, geometry, motion)
    np.testing.assert_allclose(automatic, written, rtol=0, atol=1e-13)


# A Gaussian ball off the centre stays one, wherever the stage takes it.
CENTRE = (2.0, -3.0, 2.5)
ANGLES = [-57.0, -20.0, 33.0]


def ball(sigma, angles=ANGLES):
    """The ball as a volume, and its geometry."""
    size = int(12 * sigma + 12)
    geometry = TiltGeometry.from_degrees(
        angles,
        thickness=size,
        width=size + 2,
        height=size - 1,
        lateral_margin=0,
        dtype=jnp.float64,
    )
    z, x, y = (np.arange(n) - (n - 1) / 2 for n in geometry.volume_shape)
    square = (x[:, None] - CENTRE[0]) ** 2 + (y - CENTRE[1]) ** 2
    square = square + (z[:, None, None] - CENTRE[2]) ** 2
    return jnp.asarray(np.exp(-square / (2 * sigma**2))), geometry


def ball_seen(sigma, geometry, motion):
    """Its projections by the formula of the conventions, in float64 NumPy."""
    theta = np.asarray(geometry.angles_rad + motion.tilt_rad)
    chi, psi = float(motion.chi_rad), np.asarray(motion.rotation_rad)
    x, y, z = CENTRE
    y, z = y * np.cos(chi) - z * np.sin(chi), y * np.sin(chi) + z * np.cos(chi)
    x = x * np.cos(theta) + z * np.sin(theta) + float(motion.axis_offset)
    m = np.asarray(motion.magnification)
    at_u = m * (x * np.cos(psi) - y * np.sin(psi)) + np.asarray(motion.shift_u)
    at_v = m * (x * np.sin(psi) + y * np.cos(psi)) + np.asarray(motion.shift_v)
    _, num_u, num_y = geometry.tilts_shape
    u = np.arange(num_u)[:, None] - (num_u - 1) / 2
    v = np.arange(num_y) - (num_y - 1) / 2
    square = (u - at_u[:, None, None]) ** 2 + (v - at_v[:, None, None]) ** 2
    width = (sigma * m)[:, None, None]
    return np.sqrt(2 * np.pi) * sigma * np.exp(-square / (2 * width**2))


MOVES = {
    "nothing": {},
    "shift_u": {"shift_u": [1.2, -0.7, 0.4]},
    "shift_v": {"shift_v": [-0.5, 0.8, 1.1]},
    "rotation_rad": {"rotation_rad": [0.3, -0.15, 0.05]},
    "magnification": {"magnification": [1.15, 0.9, 1.0]},
    "tilt_rad": {"tilt_rad": [0.15, -0.1, 0.2]},
    "axis_offset": {"axis_offset": 0.8},
    "chi_rad": {"chi_rad": 0.35},
}
MOVES["everything"] = {k: v for move in MOVES.values() for k, v in move.items()}


def moved_by(name):
    still = no_motion(3, x_tilt=True, dtype=jnp.float64)
    return still._replace(**{k: jnp.asarray(v) for k, v in MOVES[name].items()})


def relative_error(got, expected):
    return np.max(np.abs(got - expected)) / np.max(np.abs(expected))


@pytest.mark.parametrize("name", MOVES)
def test_a_ball_is_seen_where_the_formula_says(name, x64):
    sigma, motion = 2.0, moved_by(name)
    volume, geometry = ball(sigma)
    expected = ball_seen(sigma, geometry, motion)
    got = forward_jit(volume, geometry, motion)
    assert relative_error(got, expected) < 0.025
    if name != "nothing":
        still = ball_seen(sigma, geometry, moved_by("nothing"))
        assert relative_error(got, still) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nothing", "everything"])
def test_the_error_is_of_second_order_like_that_of_the_projector_alone(name, x64):
    found = []
    for sigma in (1.5, 3.0):
        volume, geometry = ball(sigma)
        motion = moved_by(name)
        got = forward_jit(volume, geometry, motion)
        found.append(relative_error(got, ball_seen(sigma, geometry, motion)))
    print(f"{found[0]:.1e} {found[1]:.1e} order {np.log2(found[0] / found[1]):.1f}")
    assert found[1] < 0.012
    assert np.log2(found[0] / found[1]) > 1.6


@pytest.mark.slow
def test_means_what_the_simulator_draws(x64):
    config = errors.ErrorConfig(
        shift_px=1.5, drift_px=1.0, tilt_deg=2.0, rotation_deg=3.0, magnification=0.03
    )
    sigma = 3.0
    volume, geometry = ball(sigma)
    truth = errors.draw_errors(jax.random.key(3), geometry.angles_rad, config)
    truth = jax.tree.map(lambda x: x.astype(jnp.float64), truth)
    motion = no_motion(3, dtype=jnp.float64)
    motion = motion._replace(**{name: getattr(truth, name) for name in PER_TILT})
    tilted = dataclasses.replace(
        geometry, angles_rad=geometry.angles_rad + truth.tilt_rad
    )
    simulated = errors.warp_tilts(project(volume, tilted), truth)
    got = forward_jit(volume, geometry, motion)
    # The simulator's interpolation is linear: an eighth of the curvature, twice.
    assert relative_error(got, simulated) < 2 / 8 / sigma**2
    still = forward_jit(volume, geometry, no_motion(3, dtype=jnp.float64))
    assert relative_error(got, still) > 0.2


@pytest.mark.slow
def test_a_border_brings_in_what_lies_beside_the_detector(x64):
    volume = data((5, 17, 3))
    geometry = TiltGeometry(jnp.zeros(2), (5, 17, 3), 9, None)
    motion = no_motion(2, dtype=jnp.float64)
    motion = motion._replace(shift_u=jnp.asarray([3.0, -2.0]))
    wide = volume.sum(axis=0)
    got = forward_jit(volume, geometry, motion, border=3)
    np.testing.assert_allclose(got[0], wide[1:10], atol=1e-13)
    np.testing.assert_allclose(got[1], wide[6:15], atol=1e-13)
    edge = forward_jit(volume, geometry, motion)
    np.testing.assert_allclose(edge[0, 3:], got[0, 3:], atol=1e-13)
    np.testing.assert_allclose(edge[0, :3], np.stack([wide[4]] * 3), atol=1e-13)


# Derivatives, on a smooth volume; no ray meets a voxel's centre, where the
# projector's interpolation has a kink in the angle.
@pytest.fixture
def smooth(x64):
    angles = jnp.deg2rad(jnp.asarray([-52.1, 11.9, 31.3]))
    geometry = TiltGeometry(angles, (6, 9, 5), 8, None)
    z, x, y = (np.linspace(-1, 1, n) for n in geometry.volume_shape)
    volume = np.cos(2 * z[:, None, None] + 1.5 * x[:, None] - y) + z[:, None, None]
    return jnp.asarray(volume), geometry


@pytest.mark.slow
@pytest.mark.parametrize("operation", [project_moving, backproject_moving])
def test_first_derivatives_in_the_array_and_every_motion(operation, smooth):
    volume, geometry = smooth
    array = volume if operation is project_moving else data(geometry.tilts_shape)
    check_grads(
        jax.jit(lambda array, motion: operation(array, geometry, motion, border=1)),
        (array, drawn(3)),
        order=1,
        modes=("fwd", "rev"),
        atol=1e-6,
        rtol=1e-6,
    )


@pytest.mark.slow
def test_derivative_in_each_number_against_a_difference(smooth):
    volume, geometry = smooth
    motion, step = drawn(3), 1e-5
    moving = jax.jit(lambda motion: project_moving(volume, geometry, motion))
    product = jax.jit(lambda d: linearize_motion(volume, geometry, motion).product(d))
    for field in Motion._fields:
        along = jax.tree.map(jnp.zeros_like, motion)
        along = along._replace(**{field: jnp.ones_like(getattr(motion, field))})
        ahead, behind = (
            moving(jax.tree.map(lambda m, d, s=s: m + s * d, motion, along))
            for s in (step, -step)
        )
        slope = product(along)
        assert np.max(np.abs(slope)) > 1e-2
        np.testing.assert_allclose(
            slope, (ahead - behind) / (2 * step), atol=1e-7, err_msg=field
        )


@pytest.mark.slow
@pytest.mark.parametrize("x_tilt", [False, True])
def test_jacobian_products_are_transposes_and_linearized_once(x_tilt, smooth):
    volume, geometry = smooth
    motion = drawn(3, x_tilt=x_tilt)
    along = jax.tree.map(lambda x: data(x.shape, seed=5), motion)
    residual = data(geometry.tilts_shape)

    @jax.jit
    def once(along, residual):
        jacobian = linearize_motion(volume, geometry, motion)
        products = jacobian.product(along), jacobian.transpose(residual)
        return jacobian.tilts, *products

    tilts, product, transpose = once(along, residual)
    expected = forward_jit(volume, geometry, motion)
    np.testing.assert_allclose(tilts, expected, atol=1e-13)
    forward = jax.jvp(
        functools.partial(project_moving, volume, geometry), (motion,), (along,)
    )
    np.testing.assert_allclose(product, forward[1], atol=1e-12)
    pairs = zip(*map(jax.tree.leaves, (along, transpose)))
    paired = sum(jnp.vdot(a, b) for a, b in pairs)
    np.testing.assert_allclose(jnp.vdot(product, residual), paired, rtol=1e-12)


def count(jaxpr, found):
    """Adds how often each primitive of this package stands in a program."""
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name.startswith("tilt_"):
            found[name] = found.get(name, 0) + 1
        for value in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                count(inner, found)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("x_tilt", [False, True])
def test_products_cost_what_their_docstrings_say(x_tilt, smooth):
    volume, geometry = smooth
    motion = drawn(3, x_tilt=x_tilt)

    def once(volume, geometry, motion, along):
        return linearize_motion(volume, geometry, motion).product(along)

    operations = {"value": (project_moving, ()), "product": (once, (motion,))}
    found = {}
    for name, (operation, more) in operations.items():
        program = jax.jit(lambda v, m, *a, f=operation: f(v, geometry, m, *a))
        jaxpr = jax.make_jaxpr(program)(volume, motion, *more)
        found[name] = count(jaxpr.jaxpr, {})
    if x_tilt:
        assert found["value"] == {"tilt_resample": 3, "tilt_project": 1}
        assert found["product"] == {"tilt_resample": 8, "tilt_project": 3}
    else:
        assert found["value"] == {"tilt_resample": 2, "tilt_project": 1}
        assert found["product"] == {"tilt_resample": 6, "tilt_project": 2}


@pytest.mark.slow
def test_gauss_newton_finds_the_motion_of_a_known_volume(x64):
    """Three blobs, three tilts, 2 px and 5 degrees off: to 1e-4 px in nine steps."""
    volume, geometry = ball(1.5)
    volume = volume + jnp.roll(volume, (5, -4, 6), (0, 1, 2))
    volume = volume + 0.5 * jnp.roll(volume, (-6, 7, -3), (0, 1, 2))
    truth = drawn(3, x_tilt=False)._replace(axis_offset=jnp.asarray(0.0))
    tilts = project_moving(volume, geometry, truth)
    start = no_motion(3, dtype=jnp.float64)
    # The offset of the axis is the mean of the shifts: one of the two is enough.
    flat, unravel = ravel_pytree(start._replace(axis_offset=None))

    def as_motion(flat):
        return unravel(flat)._replace(axis_offset=jnp.asarray(0.0))

    @jax.jit
    def step(flat):
        jacobian = linearize_motion(volume, geometry, as_motion(flat))

        def product(d):
            d = unravel(d)._replace(axis_offset=jnp.asarray(0.0))
            return jacobian.product(d)

        columns = jax.vmap(product)(jnp.eye(flat.size)).reshape(flat.size, -1)
        residual = (jacobian.tilts - tilts).ravel()
        down = jnp.linalg.solve(columns @ columns.T, columns @ residual)
        return flat - down

    for _ in range(9):
        flat = step(flat)
    for name in PER_TILT:
        scale = 1.0 if name.startswith("shift") else 16.0  # px at the edge
        error = scale * (getattr(as_motion(flat), name) - getattr(truth, name))
        np.testing.assert_allclose(error, 0, atol=1e-4, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("operation", [project_moving, backproject_moving])
def test_vmap_equals_a_loop(operation, smooth):
    volume, geometry = smooth
    shape = volume.shape if operation is project_moving else geometry.tilts_shape
    arrays, motion = data((2, *shape)), drawn(3)
    alone = jax.jit(lambda a, m: operation(a, geometry, m))
    together = jax.jit(jax.vmap(lambda a: operation(a, geometry, motion)))(arrays)
    for one, array in zip(together, arrays):
        expected = alone(array, motion)
        np.testing.assert_allclose(one, expected, atol=1e-12)
    motions = jax.tree.map(lambda x: jnp.stack([x, 0.9 * x]), motion)
    together = jax.jit(jax.vmap(lambda m: operation(arrays[0], geometry, m)))(motions)
    for i, one in enumerate(together):
        expected = alone(arrays[0], jax.tree.map(lambda x, i=i: x[i], motions))
        np.testing.assert_allclose(one, expected, atol=1e-12)


@pytest.mark.slow
def test_programs_of_gradients_hold_no_scatter(smooth):
    volume, geometry = smooth

    def everything(volume, tilts, motion):
        residual = project_moving(volume, geometry, motion) - tilts
        back = backproject_moving(tilts, geometry, motion)
        return jnp.sum(residual**2) + jnp.sum(back**2)

    gradient = jax.jit(jax.grad(everything, (0, 1, 2)))
    lowered = gradient.lower(volume, data(geometry.tilts_shape), drawn(3))
    for text in (lowered.as_text(), lowered.compile().as_text()):
        assert "gather" in text or "dynamic-slice" in text
        assert not re.search(r"scatter\(|stablehlo\.\w*scatter", text)


def test_a_motion_that_does_not_fit_is_refused(named):
    geometry = named("every kind", jnp.float32)
    volume = jnp.zeros(geometry.volume_shape)
    with pytest.raises(ValueError, match="shift_u with one number per tilt"):
        project_moving(volume, geometry, no_motion(4))
    uneven = no_motion(9)._replace(tilt_rad=jnp.zeros(()))
    with pytest.raises(ValueError, match="tilt_rad with one number per tilt"):
        backproject_moving(jnp.zeros(geometry.tilts_shape), geometry, uneven)
    with pytest.raises(ValueError, match="border of zero columns"):
        project_moving(volume, geometry, no_motion(9), border=-1)
