"""Convolutions of 3x3x3 and 3x3 taps, the former with a lowering per platform.

On XLA:CPU a 3-D convolution written as 2-D convolutions over the depth taps runs
two to four times faster than the native one; elsewhere the native one is used.
Depth means z, which is never sharded, so that only y needs a halo.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# From this many input channels on, stacking the three depth taps as channels of
# one 2-D convolution beats three of them (launch/benchmark.py, case conv3d).
STACK_FROM_CHANNELS = 64

# jaxlib 0.10 hands convolutions on a CPU to YNNPACK, whose gradient with respect to a
# kernel takes two to four times as long as XLA's own, and whose 3 x 3 x 3 convolutions
# are slower too; its matrix products are faster (docs/training.md).
_OPTION = "xla_cpu_experimental_ynn_fusion_type"
_VALUE = "individual_dot"


def prefer_own(environ: MutableMapping[str, str]) -> None:
    """Adds to XLA_FLAGS what makes convolutions on a CPU faster.

    For programs, before jax computes anything; a value of the option that is there
    stays.

    Args:
      environ: The process's environment.
    """
    given = environ.get("XLA_FLAGS", "")
    if _OPTION not in given:
        environ["XLA_FLAGS"] = f"{given} --{_OPTION}={_VALUE}".strip()


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Zero-padded, of slices ``[b, z, x, c]`` or of volumes ``[b, z, x, y, c]``.

    Args:
      x: Features, channels last.
      kernel: ``[3, 3, c_in, c_out]`` or ``[3, 3, 3, c_in, c_out]``.

    Returns:
      The extents of ``x`` with ``c_out`` channels, dtype of ``x``.
    """
    if x.ndim == 4:
        return _conv2d(x, kernel.astype(x.dtype))
    return conv3d(x, kernel)


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
    """``[b, z, x, y, c]`` to ``1/patch`` of the extents, ``patch^3`` the channels.

    The same of a slice ``[b, z, x, c]`` with ``patch^2``.
    """
    batch, *extents, channels = x.shape
    rank = len(extents)
    split = [n for extent in extents for n in (extent // patch, patch)]
    x = x.reshape(batch, *split, channels)
    coarse, fine = range(1, 2 * rank, 2), range(2, 2 * rank + 1, 2)
    x = x.transpose(0, *coarse, *fine, 2 * rank + 1)
    return x.reshape(batch, *(n // patch for n in extents), patch**rank * channels)


def depth_to_space(x: jax.Array, patch: int = 2) -> jax.Array:
    """Inverse of ``space_to_depth``."""
    batch, *extents, channels = x.shape
    rank = len(extents)
    channels //= patch**rank
    x = x.reshape(batch, *extents, *[patch] * rank, channels)
    pairs = [axis for i in range(1, rank + 1) for axis in (i, rank + i)]
    x = x.transpose(0, *pairs, 2 * rank + 1)
    return x.reshape(batch, *(patch * n for n in extents), channels)
