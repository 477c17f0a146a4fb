"""One 3x3x3 convolution, with a lowering chosen per platform.

On XLA:CPU a 3-D convolution written as 2-D convolutions over the depth taps runs
two to four times faster than the native one; elsewhere the native one is used.
Depth means z, which is never sharded, so that only y needs a halo.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# From this many input channels on, stacking the three depth taps as channels of
# one 2-D convolution beats three of them (launch/benchmark.py, case conv3d).
STACK_FROM_CHANNELS = 64


def conv3d(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves ``[b, z, x, y, c_in]`` with ``[3, 3, 3, c_in, c_out]``, zero padded.

    Returns:
      ``[b, z, x, y, c_out]``, dtype of the input.
    """
    kernel = kernel.astype(x.dtype)
    on_cpu = conv3d_stacked if x.shape[-1] >= STACK_FROM_CHANNELS else conv3d_planes
    return lax.platform_dependent(x, kernel, cpu=on_cpu, default=conv3d_native)


def conv3d_native(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The platform's own 3-D convolution."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, 1, 1),
        "SAME",
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )


def _conv2d(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def conv3d_planes(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Sum of three 2-D convolutions, one per depth tap."""
    batch, nz, nx, ny, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)))
    total: Any = 0.0
    for tap in range(3):
        plane = padded[:, tap : tap + nz].reshape(batch * nz, nx, ny, channels)
        total = total + _conv2d(plane, kernel[tap])
    return total.reshape(batch, nz, nx, ny, kernel.shape[-1])


def conv3d_stacked(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """One 2-D convolution over the three depth taps stacked as channels."""
    batch, nz, nx, ny, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)))
    stacked = jnp.concatenate([padded[:, t : t + nz] for t in range(3)], axis=-1)
    stacked = stacked.reshape(batch * nz, nx, ny, 3 * channels)
    flat_kernel = jnp.concatenate([kernel[t] for t in range(3)], axis=-2)
    out = _conv2d(stacked, flat_kernel)
    return out.reshape(batch, nz, nx, ny, kernel.shape[-1])


def space_to_depth(x: jax.Array, patch: int = 2) -> jax.Array:
    """``[b, z, x, y, c]`` to ``1/patch`` of the extents, ``patch^3`` the channels."""
    b, nz, nx, ny, c = x.shape
    p = patch
    x = x.reshape(b, nz // p, p, nx // p, p, ny // p, p, c)
    x = x.transpose(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(b, nz // p, nx // p, ny // p, p**3 * c)


def depth_to_space(x: jax.Array, patch: int = 2) -> jax.Array:
    """Inverse of ``space_to_depth``."""
    b, nz, nx, ny, c = x.shape
    p = patch
    x = x.reshape(b, nz, nx, ny, p, p, p, c // p**3)
    x = x.transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(b, p * nz, p * nx, p * ny, c // p**3)
