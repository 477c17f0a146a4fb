"""Gain and offset of every tilt, against the reprojection of an estimate."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class TiltGain(NamedTuple):
    """``measured = gain * projected + offset`` for each tilt.

    Attributes:
      gain: ``[n_tilts]``, 1 is none.
      offset: ``[n_tilts]``, units of the tilts.
      covariance: Of (gain, offset), ``[n_tilts, 2, 2]``: the noise and the priors.
    """

    gain: jax.Array
    offset: jax.Array
    covariance: jax.Array

    def correct(self, tilts: jax.Array) -> jax.Array:
        """Tilts without their gain and offset, ``[n_tilts, u, y]``."""
        return (tilts - self.offset[:, None, None]) / self.gain[:, None, None]


def fit_gain_offset(
    tilts: jax.Array,
    projected: jax.Array,
    weight: Any,
    *,
    gain_std: jax.Array | float = 0.03,
    offset_std: jax.Array | float = 0.0,
) -> TiltGain:
    """Weighted least squares per tilt with priors N(1, gain_std^2), N(0, offset_std^2).

    A standard deviation of 0 holds its parameter.  An estimate made from the same tilts
    has followed their errors in part, so one fit finds less than the whole error:
    correct, reconstruct and fit again.  What all tilts have in common is a property of
    the volume; only the priors decide about it.

    Args:
      tilts: Measured, ``[n_tilts, u, y]``.
      projected: Reprojection of an estimate in the same units, background included.
      weight: Data precision, an array that broadcasts to the tilts or a ``Precision``
        that does not hold gain and offset already.
      gain_std: Of the gain, scalar or ``[n_tilts]``.
      offset_std: Of the offset, units of the tilts, scalar or ``[n_tilts]``.
    """
    count = tilts.shape[0]
    std = jnp.stack(
        [
            jnp.broadcast_to(jnp.asarray(s, tilts.dtype), (count,))
            for s in (gain_std, offset_std)
        ],
        axis=1,
    )
    images = jnp.stack([projected, jnp.ones_like(projected)])
    weighted = jnp.stack([weight * image for image in images])
    curvature = jnp.einsum("ikuy,jkuy->kij", images, weighted, precision="highest")
    slope = jnp.einsum("ikuy,kuy->ki", weighted, tilts - projected, precision="highest")
    # In units of the priors the matrix is I + S M S: safe for a spread of zero.
    matrix = jnp.eye(2, dtype=tilts.dtype) + (
        std[:, :, None] * curvature * std[:, None, :]
    )
    inverse = jnp.linalg.inv(matrix)
    covariance = std[:, :, None] * inverse * std[:, None, :]
    error = jnp.einsum("kij,kj->ki", covariance, slope, precision="highest")
    return TiltGain(1 + error[:, 0], error[:, 1], covariance)
