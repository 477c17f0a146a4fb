"""The three lowerings of one convolution, and the patches that halve the extents."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.model import conv

LOWERINGS = [conv.conv3d_native, conv.conv3d_planes, conv.conv3d_stacked, conv.conv3d]


def arrays(channels_in: int, channels_out: int) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 5, 4, channels_in))
    kernel = rng.normal(size=(3, 3, 3, channels_in, channels_out))
    return jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32)


def direct(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """The definition, tap by tap in float64: out[i] = sum_k x[i + k - 1] kernel[k]."""
    b, nz, nx, ny, _ = x.shape
    padded = np.pad(np.float64(x), ((0, 0), (1, 1), (1, 1), (1, 1), (0, 0)))
    out = np.zeros((b, nz, nx, ny, kernel.shape[-1]))
    for i, j, k in np.ndindex(3, 3, 3):
        out += padded[:, i : i + nz, j : j + nx, k : k + ny] @ kernel[i, j, k]
    return out


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_value_is_the_definition(lowering):
    x, kernel = arrays(3, 4)
    expected = direct(np.asarray(x), np.asarray(kernel, np.float64))
    np.testing.assert_allclose(lowering(x, kernel), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("lowering", LOWERINGS[1:])
def test_gradients_agree_with_the_native_one(lowering):
    x, kernel = arrays(3, 4)
    probe = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 5, 4, 4)))

    def loss(function):
        return lambda x, kernel: jnp.sum(probe * function(x, kernel))

    native = jax.grad(loss(conv.conv3d_native), (0, 1))(x, kernel)
    other = jax.grad(loss(lowering), (0, 1))(x, kernel)
    for got, expected in zip(other, native, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_many_channels_take_the_stacked_form_and_agree():
    x, kernel = arrays(conv.STACK_FROM_CHANNELS, 2)
    np.testing.assert_allclose(
        conv.conv3d(x, kernel), conv.conv3d_native(x, kernel), rtol=1e-3, atol=1e-3
    )


def test_convolution_keeps_the_dtype_of_its_input():
    x, kernel = arrays(3, 4)
    assert conv.conv3d(x.astype(jnp.bfloat16), kernel).dtype == jnp.bfloat16


def test_space_to_depth_keeps_each_patch_together():
    x = jnp.arange(2 * 4 * 6 * 8 * 3, dtype=jnp.float32).reshape(2, 4, 6, 8, 3)
    folded = conv.space_to_depth(x)
    assert folded.shape == (2, 2, 3, 4, 24)
    patch = x[1, 2:4, 0:2, 6:8]
    np.testing.assert_array_equal(folded[1, 1, 0, 3], patch.reshape(-1))
    np.testing.assert_array_equal(conv.depth_to_space(folded), x)


def test_larger_patches_fold_and_unfold():
    x = jnp.arange(2 * 4 * 8 * 12 * 3, dtype=jnp.float32).reshape(2, 4, 8, 12, 3)
    folded = conv.space_to_depth(x, 4)
    assert folded.shape == (2, 1, 2, 3, 192)
    np.testing.assert_array_equal(folded[1, 0, 1, 2], x[1, :, 4:8, 8:12].reshape(-1))
    np.testing.assert_array_equal(conv.depth_to_space(folded, 4), x)
