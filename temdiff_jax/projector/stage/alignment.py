"""The motion of a series whose alignment is known, from degrees and pixels."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from temdiff_jax.errors import InputError
from temdiff_jax.projector.stage.motion import Motion


def motion_from_degrees(
    num_tilts: int,
    *,
    shifts_px: ArrayLike = 0.0,
    rotations_deg: ArrayLike = 0.0,
    magnifications: ArrayLike = 1.0,
    tilt_errors_deg: ArrayLike = 0.0,
    axis_offset_px: ArrayLike = 0.0,
    x_tilt_deg: ArrayLike | None = None,
) -> Motion:
    """Fills a ``Motion``, float32; ``**alignment.motion_fields()`` fits.

    Args:
      num_tilts: Number of tilts.
      shifts_px: t as (u, v), ``[n_tilts, 2]``, or what broadcasts to it.
      rotations_deg, magnifications, tilt_errors_deg: psi, m and d theta, ``[n_tilts]``
        or one number.
      axis_offset_px, x_tilt_deg: a and chi, scalars; ``None`` is no x-tilt.

    Raises:
      InputError: Numbers that do not fit the tilts or are not finite, a
        magnification that is not positive, an x-tilt of 90 degrees or more.
    """
    shift = _finite("shifts_px", shifts_px, (num_tilts, 2))
    psi = np.deg2rad(_finite("rotations_deg", rotations_deg, (num_tilts,)))
    scale = _finite("magnifications", magnifications, (num_tilts,))
    tilt = np.deg2rad(_finite("tilt_errors_deg", tilt_errors_deg, (num_tilts,)))
    offset = _finite("axis_offset_px", axis_offset_px, ())
    chi = _finite("x_tilt_deg", 0.0 if x_tilt_deg is None else x_tilt_deg, ())
    if scale.min() <= 0 or abs(chi) >= 90:
        raise InputError(
            "motion: expected positive magnifications and an x-tilt within 90 degrees, "
            f"got {scale.min():g} and {chi:g}; correct the alignment"
        )
    u, v, psi, scale, tilt, offset = (
        jnp.asarray(field, jnp.float32)
        for field in (shift[:, 0], shift[:, 1], psi, scale, tilt, offset)
    )
    turned = None if x_tilt_deg is None else jnp.float32(np.deg2rad(chi))
    return Motion(u, v, psi, scale, tilt, offset, turned)


def _finite(name, values, shape):
    array = np.asarray(values, np.float64)
    if not np.isfinite(array).all() or array.ndim > len(shape):
        raise InputError(
            f"motion: expected finite {name} of shape {list(shape)}, got "
            f"{array.tolist() if array.size < 3 else list(array.shape)}; correct them"
        )
    try:
        return np.broadcast_to(array, shape)
    except ValueError:
        raise InputError(
            f"motion: expected {name} of shape {list(shape)}, got "
            f"{list(array.shape)}; give one entry a tilt"
        ) from None
