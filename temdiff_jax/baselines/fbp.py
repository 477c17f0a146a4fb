"""Filtered back-projection: ramp, Hann window, gaps between tilts as weights.

    x = sum_k dtheta_k A_k^T (h * y_k),   H(f) = |f| cos^2(pi f / 2 f_N),  f < f_N

with the ramp sampled in real space, so that its mean is right on a finite grid.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from temdiff_jax.baselines import shared
from temdiff_jax.inverse.problem import Problem
from temdiff_jax.projector import backproject


def fbp(
    tilts: ArrayLike,
    angles: ArrayLike,
    *,
    thickness: int | None = None,
    lateral_margin: int | str = "auto",
) -> np.ndarray:
    """Filtered back-projection of a tilt series, slice by slice.

    The mean slab is subtracted before filtering and added after it, so a section
    that fills the field of view has no bright rim.  Intensities are those of the
    specimen for a full range; for a limited one, in the measured part of Fourier
    space.

    Args:
      tilts: Line integrals ``[n_tilts, y, x]``, intensity x voxel.
      angles: ``[n_tilts]`` degrees, any order.
      thickness: Voxels along the beam at zero tilt; default the detector's width.
      lateral_margin: Columns beyond the field of view, or ``"auto"``.

    Returns:
      Volume ``[z, y, x]`` float32, intensity.

    Raises:
      InputError: Tilts, angles or extents cannot be used.

    Source: Kak and Slaney, Principles of Computerized Tomographic Imaging (1988),
    section 3.3, equation 61 for the ramp.
    """
    tilts, geometry = shared.check_series(
        tilts, angles, thickness=thickness, lateral_margin=lateral_margin
    )
    return shared.on_host(_reconstruct(tilts, geometry))


@jax.jit
def _reconstruct(tilts, geometry):
    return shared.solve(fbp_normalised, tilts, geometry)


def fbp_normalised(problem: Problem) -> jax.Array:
    """Wide normalised volume ``[z, x, y]``; a tilt without weight leaves a gap."""
    geometry = problem.geometry
    used = jnp.broadcast_to(problem.precision.seen(), problem.tilts.shape)
    used = jnp.any(used, axis=(1, 2))
    weights = tilt_weights(geometry.angles_rad, used)[:, None, None]
    return backproject(weights * ramp_filter(problem.tilts), geometry)


def ramp_filter(tilts: jax.Array) -> jax.Array:
    """Ramp times Hann along u of ``[n_tilts, u, y]``, zero-padded to twice u."""
    num_u = tilts.shape[1]
    size = 2 * num_u
    offset = np.arange(size)
    offset = np.minimum(offset, size - offset)
    odd = offset % 2 == 1
    kernel = np.where(odd, -1.0 / (np.pi * np.where(odd, offset, 1)) ** 2, 0.0)
    kernel[0] = 0.25
    window = np.cos(0.5 * np.pi * np.arange(num_u + 1) / num_u) ** 2
    response = np.fft.rfft(kernel).real * window
    response = jnp.asarray(response[None, :, None], tilts.dtype)
    spectrum = jnp.fft.rfft(tilts, n=size, axis=1)
    return jnp.fft.irfft(spectrum * response, n=size, axis=1)[:, :num_u]


def tilt_weights(angles_rad: jax.Array, used: jax.Array | None = None) -> jax.Array:
    """Half the gap to each neighbour in angle, ``[n_tilts]`` radians.

    Tilts without any gap (one tilt, or one angle repeated) share a half turn; those
    that are not ``used``, ``[n_tilts]``, weigh nothing and bound no gap.
    """
    used = jnp.ones(angles_rad.shape, bool) if used is None else used
    # Behind the last of those in use, where they open no gap.
    last = jnp.max(jnp.where(used, angles_rad, -jnp.inf))
    placed = jnp.where(used, angles_rad, last)
    order = jnp.lexsort((~used, placed))
    gap = jnp.diff(placed[order])
    share = 0.5 * (jnp.pad(gap, (1, 0)) + jnp.pad(gap, (0, 1)))
    share = jnp.where(jnp.sum(gap) > 0, share, jnp.pi / jnp.sum(used))
    return jnp.zeros_like(share).at[order].set(share) * used
