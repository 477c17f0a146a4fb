"""Detector pixels of another width than voxels: adjoint, mass, order, derivatives."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.test_util import check_grads
from scipy import special

from temdiff_jax.errors import InputError
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.io import binning
from temdiff_jax.projector import project
from temdiff_jax.projector.stage import pixels

# Each of these compiles for seconds.
pytestmark = pytest.mark.usefixtures("short_loops")

RATIOS = [1, 3.0, 1.37, 0.4]


def data(shape, dtype=jnp.float64, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def loops(image, ratio, num_pixels):
    """One axis in plain Python: partial columns, conserving linear pieces."""
    columns = len(image)
    slope = [0.0] * columns
    for i in range(1, columns - 1):
        slope[i] = 0.5 * (image[i + 1] - image[i - 1])
    out = []
    for j in range(num_pixels):
        low = (j - num_pixels / 2) * ratio + columns / 2
        total = 0.0
        for i in range(columns):
            a, b = max(low, i), min(low + ratio, i + 1)
            if b > a:
                middle = 0.5 * (a + b) - (i + 0.5)
                total += (b - a) * (image[i] + slope[i] * middle)
        out.append(total / ratio)
    return out


@pytest.mark.parametrize("ratio", RATIOS)
def test_weights_are_those_of_a_plain_loop(ratio, x64):
    image = data((9,))
    for num_pixels in (1, int(9 / ratio)):
        weights = pixels.footprint(num_pixels, 9, ratio, jnp.float64)
        expected = loops(np.asarray(image), ratio, num_pixels)
        np.testing.assert_allclose(weights @ image, expected, atol=1e-12)
        np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "limit"), [("float32", 1e-5), ("float64", 1e-12)])
@pytest.mark.parametrize("ratio", RATIOS)
def test_dot_product(ratio, kind, limit, x64):
    geometry = TiltGeometry(
        jnp.deg2rad(jnp.asarray([-70.0, 0.0, 33.0], kind)), (5, 14, 11), 13, None
    )
    shape = int(13 / ratio), int(11 / ratio)
    volume, image = data((5, 14, 11), kind), data((3, *shape), kind, 1)
    seen = jax.jit(lambda v: pixels.project_pixels(v, geometry, ratio, shape))(volume)
    back = jax.jit(lambda t: pixels.backproject_pixels(t, geometry, ratio))(image)
    assert seen.shape == (3, *shape) and seen.dtype == volume.dtype
    assert back.shape == volume.shape and back.dtype == image.dtype
    forward = np.vdot(np.asarray(seen, np.float64), image)
    backward = np.vdot(np.asarray(volume, np.float64), back)
    scale = np.linalg.norm(seen) * np.linalg.norm(image)
    assert abs(forward - backward) / scale < limit


@pytest.mark.parametrize("ratio", [2, 1.5, 0.75, 0.5])
def test_the_integral_is_kept_when_pixels_cover_the_image(ratio, x64):
    image = data((2, 12, 6))
    shape = round(12 / ratio), round(6 / ratio)
    seen = pixels.rebin(image, ratio, shape)
    np.testing.assert_allclose(
        seen.sum(axis=(1, 2)) * ratio**2, image.sum(axis=(1, 2)), atol=1e-12
    )


@pytest.mark.slow
def test_ratio_one_changes_nothing_and_whole_ratios_are_means_of_blocks():
    image = data((2, 12, 18), jnp.float32)
    np.testing.assert_array_equal(pixels.rebin(image, 1, (12, 18)), image)
    np.testing.assert_allclose(pixels.rebin(image, 1, (6, 8)), image[:, 3:9, 5:13])
    binned = binning.bin_stack(np.asarray(image), 3)
    np.testing.assert_allclose(
        pixels.rebin(image, 3, (4, 6)), binned, rtol=0, atol=1e-6
    )


@pytest.mark.slow
def test_a_narrower_image_keeps_the_common_centre(x64):
    ramp = jnp.broadcast_to(jnp.arange(20.0)[:, None], (1, 20, 5))
    for num_pixels in (3, 6):
        seen = pixels.rebin(ramp, 2.7, (num_pixels, 1))
        expected = 9.5 + 2.7 * (np.arange(num_pixels) - (num_pixels - 1) / 2)
        np.testing.assert_allclose(seen[0, :, 0], expected, atol=1e-12)


def gaussian_pixels(centre, sigma, ratio, num_pixels):
    """Mean over each pixel of exp(-x^2 / 2 sigma^2), by the error function."""
    edge = (np.arange(num_pixels + 1) - num_pixels / 2) * ratio - centre
    integral = sigma * np.sqrt(np.pi / 2) * special.erf(edge / sigma / np.sqrt(2))
    return np.diff(integral) / ratio


def error_at(fine, *, alone):
    """Largest error of one Gaussian ball on one detector; voxels shrink with fine."""
    ratio, sigma, size = 1.37 * fine, 1.6 * fine, 24 * fine
    centre = np.array([1.3, -0.7, 0.9]) * fine  # x, y, z
    num_pixels = int(size / ratio)
    theta = np.deg2rad(27.0)
    middle = centre[0] * np.cos(theta) + centre[2] * np.sin(theta)
    expected = np.outer(
        gaussian_pixels(middle, sigma, ratio, num_pixels),
        gaussian_pixels(centre[1], sigma, ratio, num_pixels),
    )
    if alone:
        columns = gaussian_pixels(middle, sigma, 1.0, size)
        rows = gaussian_pixels(centre[1], sigma, 1.0, size)
        image = jnp.asarray(np.outer(columns, rows))[None]
        seen = pixels.rebin(image, ratio, (num_pixels, num_pixels))[0]
    else:
        x, y, z = (np.arange(size) - (size - 1) / 2 - c for c in centre)
        square = x[:, None] ** 2 + y**2 + z[:, None, None] ** 2
        volume = jnp.asarray(np.exp(-square / 2 / sigma**2))
        geometry = TiltGeometry(jnp.asarray([theta]), volume.shape, size, (False,))
        shape = (num_pixels, num_pixels)
        seen = pixels.project_pixels(volume, geometry, ratio, shape)[0]
        expected = expected * np.sqrt(2 * np.pi) * sigma
    return np.max(np.abs(seen - expected)) / np.max(expected)


@pytest.mark.slow
@pytest.mark.parametrize(("alone", "order"), [(True, 2.7), (False, 1.8)])
def test_order_of_the_error_on_a_gaussian(alone, order, x64):
    coarse, fine = (error_at(n, alone=alone) for n in (1, 2))
    print(f"{coarse:.1e} {fine:.1e} order {np.log2(coarse / fine):.1f}")
    assert np.log2(coarse / fine) > order
    assert fine < (1e-3 if alone else 1e-2)


@pytest.mark.slow
def test_derivatives_in_images_and_in_the_ratio(x64):
    image = data((1, 9, 7))
    check_grads(
        jax.jit(lambda image, ratio: pixels.rebin(image, ratio, (5, 3)) ** 2),
        (image, jnp.asarray(1.63)),
        order=1,
        modes=("fwd", "rev"),
        atol=1e-6,
        rtol=1e-6,
    )
    traced = jax.jit(lambda r: pixels.rebin(image, r, (5, 3)))(jnp.asarray(1.63))
    np.testing.assert_allclose(traced, pixels.rebin(image, 1.63, (5, 3)), atol=1e-12)


@pytest.mark.slow
def test_written_adjoint_is_the_automatic_one_and_vmap_a_loop(x64):
    image = data((2, 5, 4))
    shape = jax.ShapeDtypeStruct((2, 9, 7), jnp.float64)
    (automatic,) = jax.linear_transpose(lambda t: pixels.rebin(t, 1.6, (5, 4)), shape)(
        image
    )
    written = pixels.rebin_adjoint(image, 1.6, (9, 7))
    np.testing.assert_allclose(automatic, written, atol=1e-13)
    batch = data((3, 2, 9, 7))
    alone = jax.jit(lambda t: pixels.rebin(t, 1.6, (5, 4)))
    for one, images in zip(jax.vmap(alone)(batch), batch):
        np.testing.assert_allclose(one, alone(images), atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_programs_hold_no_scatter(platform):
    def loss(volume, angles, image):
        geometry = TiltGeometry(angles, (6, 10, 8), 9, (True, False))
        seen = pixels.project_pixels(volume, geometry, 1.5, (6, 5))
        return jnp.sum((seen - image) ** 2)

    shapes = [(6, 10, 8), (2,), (2, 6, 5)]
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    program = jax.jit(jax.grad(loss, (0, 1)))
    text = export.export(program, platforms=[platform])(*arrays).mlir_module()
    assert "dot_general" in text
    assert not re.search(r"stablehlo\.\w*scatter|custom_call", text)


def test_columns_cover_the_detector():
    assert pixels.columns_for(10, 1.5) == 15
    assert pixels.columns_for(3, 1.4) == 5
    assert pixels.columns_for(30, 0.1) == 3  # not 4, for 0.1 is no binary number
    for ratio in (0.3, 1.0, 2.2):
        columns = pixels.columns_for(7, ratio)
        weights = pixels.footprint(7, columns, ratio)
        np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-6)


@pytest.mark.parametrize("ratio", [0, -1.5, np.nan, np.inf, [1.0, 2.0]])
def test_a_ratio_that_is_none_is_refused(ratio):
    with pytest.raises(InputError, match="positive number of voxels per pixel") as bad:
        pixels.rebin(jnp.zeros((1, 4, 4)), ratio, (2, 2))
    assert "\n" not in str(bad.value)


def test_pixels_without_rays_are_refused():
    with pytest.raises(InputError, match=r"\[6, 3\] columns and rows of rays"):
        pixels.rebin(jnp.zeros((1, 5, 4)), 1.5, (4, 2))
    with pytest.raises(InputError, match="at least one pixel"):
        pixels.rebin_adjoint(jnp.zeros((1, 0, 4)), 1.5, (4, 8))
    geometry = TiltGeometry(jnp.zeros(1), (2, 4, 4), 4, None)
    with pytest.raises(InputError, match=r"got \[4, 4\]; widen the volume"):
        pixels.project_pixels(jnp.zeros((2, 4, 4)), geometry, 2, (3, 2))


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_half_precision_sums_in_float32():
    image = data((1, 12, 12), jnp.bfloat16)
    seen = pixels.rebin(image, 2.4, (5, 5))
    exact = pixels.rebin(image.astype(jnp.float32), 2.4, (5, 5))
    np.testing.assert_array_equal(seen, exact.astype(jnp.bfloat16))


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_rebinning_is_after_projection(x64):
    geometry = TiltGeometry(jnp.asarray([0.3]), (4, 9, 6), 8, None)
    volume = data((4, 9, 6))
    expected = pixels.rebin(project(volume, geometry), 2, (4, 3))
    seen = pixels.project_pixels(volume, geometry, 2, (4, 3))
    np.testing.assert_array_equal(seen, expected)
