"""Filtered back-projection: ramp, Hann window, gaps between tilts as weights.

    x = sum_k dtheta_k A_k^T (h * y_k),   H(f) = |f| cos^2(pi f / 2 f_N),  f < f_N

with the ramp sampled in real space, so that its mean is right on a finite grid.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from temdiff_jax.baselines import _door
from temdiff_jax.geometry import TiltGeometry
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
    tilts, geometry = _door.enter(
        tilts, angles, thickness=thickness, lateral_margin=lateral_margin
    )
    return _door.leave(_reconstruct(tilts, geometry))


@jax.jit
def _reconstruct(tilts, geometry):
    return _door.solve(
        lambda normalised, weight, scaling: fbp_normalised(normalised, geometry),
        tilts,
        geometry,
    )


def fbp_normalised(tilts: jax.Array, geometry: TiltGeometry) -> jax.Array:
    """``[n_tilts, u, y]`` of mean zero to the wide volume ``[z, x, y]``."""
    weights = tilt_weights(geometry.angles_rad)[:, None, None]
    return backproject(weights * ramp_filter(tilts), geometry)


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


def tilt_weights(angles_rad: jax.Array) -> jax.Array:
    """Half the gap to each neighbour in angle, ``[n_tilts]`` radians.

    Tilts without any gap (one tilt, or one angle repeated) share a half turn.
    """
    count = angles_rad.shape[0]
    order = jnp.argsort(angles_rad)
    gap = jnp.diff(angles_rad[order])
    share = 0.5 * (jnp.pad(gap, (1, 0)) + jnp.pad(gap, (0, 1)))
    share = jnp.where(jnp.sum(gap) > 0, share, jnp.pi / count)
    return jnp.zeros_like(share).at[order].set(share)
