"""Detector pixels that are not as wide as voxels: the mean over each pixel.

The projector makes one ray a voxel.  A pixel ``ratio`` voxels wide sees the mean of
the rays that fall on it, partly covered ones in proportion:

    P[j] = (1 / ratio) * integral of p over [(j - n / 2) ratio, (j + 1 - n / 2) ratio]

counted from the common centre of both grids, along u and along y.  Inside a column p
is taken as linear, with the mean that the column has and the slope of its neighbours'
difference.  So nothing is lost or made (the integral over covered columns is kept), a
ratio of 1 changes no number, a whole ratio on fitting grids is the plain mean of
blocks, and a fractional one is as exact for smooth images as the rays themselves.

Numbers stay line integrals in intensity x voxel, whatever the ratio.  The weights are
a band matrix for either axis, so both directions are matrix products: the pair is an
exact transpose, has all derivatives, also in the ratio, and needs no scatter.

Source: van Leer, J. Comput. Phys. 23 (1977) 276, for the conservative linear step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import core, lax
from jax.typing import ArrayLike

from temdiff_jax.errors import InputError
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.projector.project import backproject, project

# Columns that a rounding error of the ratio may seem to need beyond the last one.
_SLACK = 1e-6


def columns_for(num_pixels: int, ratio: float) -> int:
    """Columns of rays that cover ``num_pixels`` pixels of ``ratio`` voxels each.

    Raises:
      InputError: No pixel, or a ratio that is not positive.
    """
    _check(ratio, (num_pixels,))
    return math.ceil(num_pixels * float(ratio) - _SLACK)


def rebin(tilts: jax.Array, ratio: ArrayLike, shape: Sequence[int]) -> jax.Array:
    """Means over detector pixels of images that have one ray a voxel.

    Args:
      tilts: ``[n_tilts, u, y]``, float, one column and row a voxel.
      ratio: Voxels per pixel, positive, whole or not, above or below 1; may be traced.
      shape: Pixels ``(nu, ny)``; with the ratio they must lie inside the images.

    Returns:
      ``[n_tilts, nu, ny]``, dtype of the tilts, unit of the tilts.

    Raises:
      InputError: A ratio that is not positive, pixels that the images do not cover.

    Adjoint: ``rebin_adjoint``, exact.
    """
    _check(ratio, shape, tilts.shape[-2:])
    return _contract(tilts, ratio, tuple(shape), adjoint=False)


def rebin_adjoint(
    pixels: jax.Array, ratio: ArrayLike, shape: Sequence[int]
) -> jax.Array:
    """The exact adjoint of ``rebin``.

    Args:
      pixels: ``[n_tilts, nu, ny]``, float.
      ratio: As for ``rebin``.
      shape: Columns and rows ``(u, y)`` of what ``rebin`` was given.

    Raises:
      InputError: As ``rebin``.
    """
    _check(ratio, pixels.shape[-2:], shape)
    return _contract(pixels, ratio, tuple(shape), adjoint=True)


def project_pixels(
    volume: jax.Array,
    geometry: TiltGeometry,
    ratio: ArrayLike,
    shape: Sequence[int],
) -> jax.Array:
    """Integrates a volume along the beam and over the pixels of a detector.

    Args:
      volume: ``[z, x, y]``, float.
      geometry: Rays, one a voxel; ``columns_for`` tells how many.
      ratio: Voxels per pixel.
      shape: Pixels ``(nu, ny)``.

    Returns:
      ``[n_tilts, nu, ny]``, intensity x voxel.

    Raises:
      InputError: As ``rebin``.

    Adjoint: ``backproject_pixels``, exact.
    """
    _check(ratio, shape, (geometry.num_u, volume.shape[2]))
    return rebin(project(volume, geometry), ratio, shape)


def backproject_pixels(
    pixels: jax.Array, geometry: TiltGeometry, ratio: ArrayLike
) -> jax.Array:
    """The exact adjoint of ``project_pixels``: a volume ``[z, x, y]``."""
    shape = (geometry.num_u, geometry.volume_shape[2])
    return backproject(rebin_adjoint(pixels, ratio, shape), geometry)


def footprint(
    num_pixels: int, num_columns: int, ratio: ArrayLike, dtype=jnp.float32
) -> jax.Array:
    """The weights of one axis, ``[num_pixels, num_columns]``; rows sum to 1."""
    whole, part, width = _edges(num_pixels, num_columns, ratio, dtype)
    column = jnp.arange(num_columns, dtype=jnp.int32)
    # Whole columns are counted apart from the fraction, which float32 keeps sharp.
    below = (whole[:, None] - column).astype(dtype) + part[:, None]
    first, last = jnp.clip(below, 0, 1), jnp.clip(below + width, 0, 1)
    overlap = last - first
    # First moment about the middle of the column; its slope is half the difference
    # of its neighbours, none at the two ends.
    moment = 0.5 * overlap * (first + last - 1)
    inner = (column > 0) & (column < num_columns - 1)
    moment = 0.5 * jnp.where(inner, moment, 0)
    to_next = jnp.pad(moment[:, :-1], ((0, 0), (1, 0)))
    to_last = jnp.pad(moment[:, 1:], ((0, 0), (0, 1)))
    return (overlap + to_next - to_last) / width


def _edges(num_pixels, num_columns, ratio, dtype):
    """First edge of every pixel as whole columns and fraction, and the width."""
    if isinstance(ratio, core.Tracer):
        centred = jnp.arange(num_pixels, dtype=dtype) - num_pixels / 2
        edge = centred * ratio + num_columns / 2
        whole = jnp.floor(lax.stop_gradient(edge))
        return whole.astype(jnp.int32), edge - whole, jnp.asarray(ratio, dtype)
    width = float(np.asarray(ratio))
    edge = (np.arange(num_pixels) - num_pixels / 2) * width + num_columns / 2
    whole = np.floor(edge)
    part = jnp.asarray(edge - whole, dtype)
    return jnp.asarray(whole, jnp.int32), part, jnp.asarray(width, dtype)


def _contract(images, ratio, shape, *, adjoint):
    """Applies the weights, or their transpose, along both axes of the images."""
    dtype = jnp.promote_types(images.dtype, jnp.float32)
    out = images.astype(dtype)
    for axis in (-2, -1):
        given, wanted = out.shape[axis], shape[axis]
        pixels, columns = (given, wanted) if adjoint else (wanted, given)
        if not isinstance(ratio, core.Tracer) and float(np.asarray(ratio)) == 1.0:
            if pixels == columns:
                continue
        weights = footprint(pixels, columns, ratio, dtype)
        weights = weights if adjoint else weights.T
        out = jnp.swapaxes(out, axis, -1)
        out = jnp.matmul(out, weights, precision=lax.Precision.HIGHEST)
        out = jnp.swapaxes(out, axis, -1)
    return out.astype(images.dtype)


def _check(ratio, pixels, columns=None):
    if isinstance(ratio, core.Tracer):
        return
    value = np.asarray(ratio)
    if value.ndim or not np.isfinite(value) or value <= 0:
        raise InputError(
            f"detector: expected a positive number of voxels per pixel, got {ratio}; "
            "pass pixel size over voxel size"
        )
    if min(pixels) < 1:
        raise InputError(
            f"detector: expected at least one pixel along either axis, got "
            f"{list(pixels)}; pass the shape of the images"
        )
    if columns is None:
        return
    needed = [math.ceil(n * float(value) - _SLACK) for n in pixels]
    if any(have < need for have, need in zip(columns, needed)):
        raise InputError(
            f"detector: expected {needed} columns and rows of rays for {list(pixels)} "
            f"pixels of {float(value):g} voxels, got {list(columns)}; widen the volume "
            "or cut the images"
        )
