"""In-plane motions: exact adjoint, signs, orders of accuracy, derivatives."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from temdiff_jax.projector.stage import warp
from temdiff_jax.simulator import errors

# name: (shift_u, shift_v, rotation_rad, magnification) of three tilts.
MOTIONS = {
    "still": ([0.0] * 3, [0.0] * 3, [0.0] * 3, [1.0] * 3),
    "whole shifts": ([1.0, -2.0, 0.0], [0.0, 3.0, -1.0], [0.0] * 3, [1.0] * 3),
    "small": ([0.3, -0.7, 1.4], [-0.2, 0.9, 0.1], [2e-3, -2e-3, 0], [1.001, 1, 0.999]),
    "large": ([1.3, -0.4, 2.2], [0.2, -2.6, -0.5], [0.5, -0.7, 0], [1.1, 0.8, 1.45]),
    "all outside": ([40.0, -1e6, 0.0], [0.0, 1e12, -30.0], [0.1] * 3, [1.0] * 3),
}
# Unmoved [n_tilts, u, y] and moved columns.
SHAPES = [((3, 9, 7), 9), ((3, 14, 6), 8), ((3, 6, 11), 12), ((3, 1, 5), 1)]
SHAPES += [((3, 2, 1), 2), ((3, 3, 2), 1)]


def source(name, dtype=jnp.float64, count=3):
    return warp.source_map(*(jnp.asarray(f[:count], dtype) for f in MOTIONS[name]))


def data(shape, dtype=jnp.float64, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def mismatch(shape, num_u, maps, dtype):
    still, moved = data(shape, dtype), data((shape[0], num_u, shape[2]), dtype, 1)
    forward = np.asarray(warp.warp(still, maps, num_u=num_u), np.float64)
    back = np.asarray(warp.warp_adjoint(moved, maps, num_u=shape[1]), np.float64)
    assert forward.shape == moved.shape and back.shape == shape
    scale = np.linalg.norm(forward) * np.linalg.norm(moved)
    assert scale > 0
    return abs(np.vdot(forward, moved) - np.vdot(still, back)) / scale


@pytest.mark.parametrize("name", MOTIONS)
@pytest.mark.parametrize(("shape", "num_u"), SHAPES)
def test_dot_product_in_float64(shape, num_u, name, x64):
    assert mismatch(shape, num_u, source(name), jnp.float64) < 1e-12


@pytest.mark.parametrize("name", MOTIONS)
def test_dot_product_in_float32(name):
    maps = source(name, jnp.float32)
    assert mismatch((3, 14, 6), 8, maps, jnp.float32) < 1e-5


@pytest.mark.slow
def test_dot_product_of_one_tilt(x64):
    maps = source("large", count=1)
    assert mismatch((1, 8, 9), 8, maps, jnp.float64) < 1e-12


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("axis", [1, 2])
def test_lines_are_the_matrix_of_the_clamped_kernel_and_its_transpose(axis, order, x64):
    """Both directions and their derivatives against a matrix made by loops."""
    size, length, lines = 7, 5, 2
    coefficients = np.asarray([[-0.21, 0.3, 0.4], [0.08, -0.55, 2.3]])
    slope, skew, offset = coefficients.T[:, :, None, None]
    p = np.arange(length) - (length - 1) / 2
    line = np.arange(lines)[:, None] - (lines - 1) / 2
    q = p * (1 + slope) + skew * line + offset + (size - 1) / 2
    reach = np.arange(-9, 18)
    weights = np.asarray(warp._hat(jnp.asarray(q[..., None] - reach), order))
    matrix = np.zeros((2, lines, length, size))
    for k, weight in zip(np.clip(reach, 0, size - 1), np.moveaxis(weights, -1, 0)):
        matrix[..., k] += weight
    still, moved = data((2, lines, size)), data((2, lines, length), seed=1)
    expected = np.einsum("nlpk,nlk->nlp", matrix, still)
    adjoint = np.einsum("nlpk,nlp->nlk", matrix, moved)
    if axis == 1:
        still, moved, expected, adjoint = (
            a.swapaxes(1, 2) for a in (still, moved, expected, adjoint)
        )
    static = {"axis": axis, "order": order}
    coefficients = jnp.asarray(coefficients)
    got = warp._resample_p.bind(still, coefficients, length=length, **static)
    np.testing.assert_allclose(got, expected, atol=1e-13)
    got = warp._spread_p.bind(moved, coefficients, length=size, **static)
    np.testing.assert_allclose(got, adjoint, atol=1e-13)


def test_kernel_is_a_partition_of_unity_and_reproduces_parabolas(x64):
    fraction = jnp.linspace(0, 1, 11)[:, None]
    nodes = jnp.arange(-1.0, 3.0)
    weights = warp._hat(fraction - nodes, 0)
    for power in range(3):
        np.testing.assert_allclose(
            weights @ nodes**power, fraction[:, 0] ** power, atol=1e-14
        )


@pytest.mark.parametrize("order", [1, 2])
def test_derivatives_of_the_kernel(order, x64):
    inside, step = jnp.asarray([-1.7, -1.2, -0.4, 0.2, 0.9, 1.3]), 1e-5
    ahead, behind = (warp._hat(inside + s, order - 1) for s in (step, -step))
    np.testing.assert_allclose(
        (ahead - behind) / (2 * step), warp._hat(inside, order), atol=1e-9
    )


@pytest.mark.slow
def test_no_motion_changes_no_bit():
    tilts = data((3, 9, 12), jnp.float32)
    maps = source("still", jnp.float32)
    np.testing.assert_array_equal(warp.warp(tilts, maps), tilts)
    np.testing.assert_array_equal(warp.warp_adjoint(tilts, maps), tilts)


def test_whole_shifts_move_pixels_by_plus_the_shift(x64):
    tilts = data((3, 9, 12))
    moved = warp.warp(tilts, source("whole shifts"))
    np.testing.assert_array_equal(moved[0, 1:], tilts[0, :-1])
    np.testing.assert_array_equal(moved[1, :-2, 3:], tilts[1, 2:, :-3])
    np.testing.assert_array_equal(moved[2, :, :-1], tilts[2, :, 1:])


def test_wider_tilts_bring_content_in_from_outside(x64):
    tilts = data((3, 15, 6))
    zero = jnp.zeros(3)
    maps = warp.source_map(jnp.full(3, 2.0), zero, zero, zero + 1)
    moved = warp.warp(tilts, maps, num_u=9)
    np.testing.assert_array_equal(moved, tilts[:, 1:10])


def test_edges_are_continued():
    tilts = jnp.ones((3, 6, 8)) * jnp.asarray([1.0, 2.0, 3.0])[:, None, None]
    for name in ("large", "all outside"):
        moved = warp.warp(tilts, source(name, jnp.float32))
        np.testing.assert_allclose(moved, tilts, rtol=2e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_half_precision_sums_in_float32():
    tilts = data((3, 9, 12), jnp.bfloat16)
    maps = source("small", jnp.float32)
    along_u, _ = warp._passes(tilts, maps, 9)
    got = warp.resample_lines(tilts, along_u, axis=1, length=9)
    exact = warp.resample_lines(tilts.astype("float32"), along_u, axis=1, length=9)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, exact.astype(jnp.bfloat16))


def simulated(tilts, motion):
    zero = jnp.zeros_like(motion[0])
    none = errors.draw_errors(jax.random.key(0), zero, errors.ALIGNED)
    names = ("shift_u", "shift_v", "rotation_rad", "magnification")
    return errors.warp_tilts(tilts, none._replace(**dict(zip(names, motion))))


@pytest.mark.parametrize("name", ["whole shifts", "small", "large"])
def test_means_what_the_simulator_draws(name, x64):
    """The same numbers move the same content to the same place."""
    motion = [jnp.asarray(f) for f in MOTIONS[name]]
    tilts = blob(3.0, None, 3)
    ours, theirs = warp.warp(tilts, warp.source_map(*motion)), simulated(tilts, motion)
    # What is left is the linear interpolation of the simulator: along either axis
    # an eighth of the second derivative, sigma^-2.
    assert np.max(np.abs(ours - theirs)) < 2 / 8 / 3.0**2
    if name != "small":
        assert np.max(np.abs(ours - tilts)) > 0.2


def blob(sigma, maps, count=1, shape=(45, 41)):
    """A Gaussian off the centre, as the map moves it, ``[n_tilts, u, v]``."""
    u, v = (jnp.arange(n) - (n - 1) / 2 for n in shape)
    u, v = u[None, :, None], v[None, None, :]
    if maps is None:
        maps = warp.Affine(*(jnp.full(count, x) for x in (1.0, 0, 0, 1, 0, 0)))
    uu, uv, vu, vv, u0, v0 = (field[:, None, None] for field in maps)
    across, along = uu * u + uv * v + u0 - 1.3, vu * u + vv * v + v0 + 0.7
    return jnp.exp(-(across**2 + along**2) / (2 * sigma**2))


# shift_u, shift_v, rotation, magnification; the error at sigma = 4 and the order.
@pytest.mark.parametrize(
    "motion",
    [
        (0.3, -0.2, 0.0, 1.0),
        (0.0, 0.0, 0.2, 1.0),
        (0.0, 0.0, 0.0, 1.07),
        (0.3, -1.2, -0.35, 0.95),
    ],
    ids=["shift", "rotation", "magnification", "all"],
)
def test_values_are_of_third_order_and_slopes_of_second(motion, x64):
    """Halving the pixels: a Gaussian twice as wide, against its formula."""
    motion = tuple(jnp.asarray([x]) for x in motion)
    along = tuple(jnp.asarray([x]) for x in (1.0, 0.5, 0.1, 0.1))
    value_error, slope_error = [], []
    for sigma in (2.0, 4.0):
        got = jax.jvp(
            lambda *m, s=sigma: warp.warp(blob(s, None), warp.source_map(*m)),
            motion,
            along,
        )
        true = jax.jvp(lambda *m, s=sigma: blob(s, warp.source_map(*m)), motion, along)
        value_error.append(np.max(np.abs(got[0] - true[0])))
        slope_error.append(np.max(np.abs(got[1] - true[1])) / np.max(np.abs(true[1])))
    for name, error in (("value", value_error), ("slope", slope_error)):
        order = np.log2(error[0] / error[1])
        print(f"{name} {error[0]:.1e} {error[1]:.1e} order {order:.1f}")
    assert value_error[1] < 1e-3 and slope_error[1] < 0.02
    assert np.log2(value_error[0] / value_error[1]) > 2.7
    assert np.log2(slope_error[0] / slope_error[1]) > 1.6


def from_motion(tilts, *motion):
    return warp.warp(tilts, warp.source_map(*motion))


def to_motion(tilts, *motion):
    return warp.warp_adjoint(tilts, warp.source_map(*motion))


@pytest.mark.slow
@pytest.mark.parametrize("operation", [from_motion, to_motion])
@pytest.mark.parametrize("name", ["small", "large"])
def test_first_derivatives_in_the_image_and_every_motion(operation, name, x64):
    motion = tuple(jnp.asarray(f) for f in MOTIONS[name])
    arguments = (data((3, 7, 6)), *motion)
    modes = ("fwd", "rev")
    check_grads(operation, arguments, 1, modes=modes, atol=2e-6, rtol=2e-6)


@pytest.mark.slow
def test_derivative_at_rest_is_the_central_difference(x64):
    tilts = data((1, 9, 6))
    zero, one = jnp.zeros(1), jnp.ones(1)
    along = (jnp.zeros_like(tilts), one, zero, zero, zero)
    _, slope = jax.jvp(from_motion, (tilts, zero, zero, zero, one), along)
    expected = -(tilts[:, 2:] - tilts[:, :-2]) / 2
    np.testing.assert_allclose(slope[:, 1:-1], expected, atol=1e-14)


@pytest.mark.slow
def test_second_derivatives_of_a_shift(x64):
    motion = tuple(jnp.asarray(f) for f in MOTIONS["small"])

    def energy(tilts, *motion):
        return jnp.sum(jnp.sin(from_motion(tilts, *motion)))

    arguments = (data((3, 7, 6)), *motion)
    check_grads(energy, arguments, 2, modes=("fwd", "rev"), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_third_derivatives_in_the_motion_are_refused(x64):
    tilts = data((1, 5, 4))

    def along(shift):
        return warp.warp(tilts, warp.source_map(shift, zero, zero, one)).sum()

    zero, one = jnp.zeros(1), jnp.ones(1)
    with pytest.raises(ValueError, match="at most 2 differentiations"):
        jax.hessian(jax.grad(along))(zero)


@pytest.mark.slow
def test_adjoint_beyond_its_reach_is_no_number_rather_than_a_wrong_one():
    tilts = jnp.ones((3, 9, 9))
    zero, one = jnp.zeros(3), jnp.ones(3)
    good = warp.source_map(zero, zero, jnp.deg2rad(jnp.asarray([48.0, -47, 0])), one)
    assert np.all(np.isfinite(warp.warp_adjoint(tilts, good)))
    bad = warp.source_map(zero, zero, zero, jnp.asarray([1.0, 1.6, 1.0]))
    got = warp.warp_adjoint(tilts, bad)
    assert np.all(np.isfinite(got[::2])) and np.all(np.isnan(got[1, 1:-1, 1:-1]))


@pytest.mark.slow
@pytest.mark.parametrize("operation", [from_motion, to_motion])
def test_vmap_equals_a_loop(operation, x64):
    motion = tuple(jnp.asarray(f) for f in MOTIONS["small"])
    many = data((2, 3, 7, 6))
    together = jax.vmap(lambda t: operation(t, *motion))(many)
    for one, tilts in zip(together, many):
        np.testing.assert_allclose(one, operation(tilts, *motion), atol=1e-14)
    shifts = motion[0] + jnp.asarray([[0.0], [0.4], [-3.0]])
    together = jax.vmap(lambda s: operation(many[0], s, *motion[1:]))(shifts)
    for one, shift in zip(together, shifts):
        np.testing.assert_allclose(
            one, operation(many[0], shift, *motion[1:]), atol=1e-14
        )


def test_covered_tells_content_from_continued_edges(x64):
    zero, one = jnp.zeros(2), jnp.ones(2)
    still = warp.source_map(zero, zero, zero, one)
    assert np.all(warp.covered(still, 8, 5))
    moved = warp.source_map(jnp.asarray([2.0, -0.5]), zero, zero, one)
    mask = np.asarray(warp.covered(moved, 8, 5))
    np.testing.assert_array_equal(mask[0, :, 0], np.arange(8) >= 2)
    np.testing.assert_array_equal(mask[1, :, 0], np.arange(8) < 7)


@pytest.mark.slow
def test_programs_hold_no_scatter(x64):
    motion = tuple(jnp.asarray(f) for f in MOTIONS["small"])

    def everything(tilts, motion):
        moved = from_motion(tilts, *motion)
        return jnp.sum(jnp.sin(moved)) + jnp.sum(to_motion(tilts, *motion) ** 2)

    arguments = data((3, 7, 6)), motion
    gradient = jax.jit(jax.grad(everything, (0, 1)))
    assert "scatter" not in str(jax.make_jaxpr(gradient)(*arguments))
    lowered = gradient.lower(*arguments)
    for text in (lowered.as_text(), lowered.compile().as_text()):
        assert "gather" in text
        assert not re.search(r"scatter\(|stablehlo\.\w*scatter", text)


def test_a_motion_of_another_series_is_refused():
    with pytest.raises(ValueError, match="one map per tilt"):
        warp.warp(jnp.zeros((2, 5, 5)), source("still", jnp.float32))
    with pytest.raises(ValueError, match="one map per tilt"):
        warp.warp(jnp.zeros((5, 5)), source("still", jnp.float32))
    with pytest.raises(ValueError, match="share their centre"):
        warp.warp(jnp.zeros((3, 5, 5)), source("still", jnp.float32), num_u=6)
