"""Data consistency: pulls a guessed volume to the measured tilts.

P2 and P4 of the documentation are one proximal update with a different metric:
``Metric(0, ridge)`` treats the guess's error as white (P2), ``Metric(smoothness,
ridge)`` as smooth (P4).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from temdiff_jax.diffusion import algebra
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.projector.quadratic import Metric
from temdiff_jax.projector.quadratic import proximal_update as proximal_update


class ResidualFrame(NamedTuple):
    """How sampler variables stand for volumes.

    ``volume = base + unit * residual`` inside the field of view; the margin keeps
    ``base``.

    Attributes:
      base: Quadratic estimate over the wide volume, ``[z, x, y]``, normalised.
      unit: Intensity of one unit of the residual, scalar.
      tilts: Normalised tilts ``[n_tilts, u, y]``.
      weight: Data precision.
    """

    base: jax.Array
    unit: jax.Array
    tilts: jax.Array
    weight: jax.Array


def to_volume(
    residual: jax.Array, frame: ResidualFrame, geometry: TiltGeometry
) -> jax.Array:
    """Wide normalised volume of a residual ``[z, x, y]`` over the field of view."""
    return frame.base + frame.unit * geometry.pad_lateral(residual)


def to_residual(
    volume: jax.Array, frame: ResidualFrame, geometry: TiltGeometry
) -> jax.Array:
    """Inverse of ``to_volume`` inside the field of view."""
    return geometry.crop(volume - frame.base) / frame.unit


def proximal_consistency(
    frame: ResidualFrame,
    geometry: TiltGeometry,
    metric: Metric,
    *,
    num_iters: int,
) -> algebra.Constraint:
    """Weighted proximal update around every guess (P2, P4).

    The metric is the precision of a guess made without knowing the residual; at
    noise level s the guess is sharper by ``r^2 = s^2 / (s^2 + 1)``, and the metric
    is divided by it.

    Args:
      frame: Data and units.
      geometry: Rays.
      metric: g and e at infinite noise, inverse squared normalised intensity.
      num_iters: Conjugate-gradient steps.

    Returns:
      A constraint on residuals ``[b, z, x, y]``.
    """

    def one(residual, sigma):
        spread = sigma**2 / (sigma**2 + 1.0)
        here = Metric(metric.smoothness / spread, metric.ridge / spread)
        volume = to_volume(residual, frame, geometry)
        volume, _ = proximal_update(
            volume, frame.tilts, geometry, frame.weight, here, num_iters=num_iters
        )
        return to_residual(volume, frame, geometry)

    def apply(x0, sigma):
        return jax.vmap(one, (0, None))(x0, jnp.asarray(sigma, x0.dtype))

    return algebra.constraint(apply)
