"""Least squares with a quadratic anchor: tikhonov, P2 and P4 are one solve.

    x = argmin 0.5 |A x - y|_W^2 + 0.5 (x - x0)^T (g (-Laplacian) + e) (x - x0)

With ``g = 0`` it is the weighted proximal update (P2); with ``g > 0`` the error
of the guess is modelled as a Gaussian with a falling spectrum (P4); around a
constant it is the quadratic smoothness estimate (``baselines.tikhonov``).  Where some
voxels of the guess are less sure than others by a known factor, the error is that
factor times such a Gaussian.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.inverse import cg
from temdiff_jax.projector import backproject, project


class Metric(NamedTuple):
    """Precision operator ``smoothness * (-Laplacian) + ridge`` of a guess's error.

    Both are inverse squared intensities, in voxel units; scalars or arrays that
    broadcast to the volume are allowed for ``ridge``.
    """

    smoothness: jax.Array | float
    ridge: jax.Array | float


def negative_laplacian(volume: jax.Array) -> jax.Array:
    """Seven-point ``-Laplacian`` with reflecting (zero-flux) borders, ``[z, x, y]``."""
    total = jnp.zeros_like(volume)
    for axis in range(3):
        if volume.shape[axis] == 1:
            continue
        step = jnp.diff(volume, axis=axis)
        pad = [(0, 0)] * 3
        pad[axis] = (1, 0)
        forward = jnp.pad(step, pad)
        pad[axis] = (0, 1)
        backward = jnp.pad(step, pad)
        total = total + forward - backward
    return total


def apply_metric(volume: jax.Array, metric: Metric) -> jax.Array:
    """``(g (-Laplacian) + e) v`` for ``[z, x, y]``."""
    return metric.smoothness * negative_laplacian(volume) + metric.ridge * volume


def proximal_update(
    guess: jax.Array,
    tilts: jax.Array,
    geometry: TiltGeometry,
    weight: jax.Array,
    metric: Metric,
    *,
    num_iters: int,
    spread: jax.Array | float = 1.0,
) -> tuple[jax.Array, cg.CGInfo]:
    """Pulls a guess to the tilts: the minimiser above, by conjugate gradients.

    With ``spread`` d the error of the guess is ``d`` times a Gaussian of the metric M:
    ``x = x0 + d u``, ``u = argmin 0.5 |A (x0 + d u) - y|_W^2 + 0.5 u^T M u``.

    Args:
      guess: x0, ``[z, x, y]``, the wide volume of ``geometry``.
      tilts: y, ``[n_tilts, u, y]``.
      geometry: Rays.
      weight: W, data precision, broadcastable to the tilts.
      metric: g and e.
      num_iters: Conjugate-gradient steps from the guess.
      spread: d, relative standard deviation of the guess, broadcastable to it.

    Returns:
      The updated volume and the solver's residual trace.
    """

    def operator(step):
        data = backproject(weight * project(spread * step, geometry), geometry)
        return spread * data + apply_metric(step, metric)

    residual = tilts - project(guess, geometry)
    rhs = spread * backproject(weight * residual, geometry)
    step, info = cg.conjugate_gradient(
        operator, rhs, jnp.zeros_like(guess), num_iters=num_iters
    )
    return guess + spread * step, info
