"""Tilts that do not agree with the rest weigh less."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

# Factors below this are worth a line in the report.
SUSPECT = 0.5


def chi2_per_tilt(
    residual: jax.Array, weight: Any, keep: jax.Array | None = None
) -> jax.Array:
    """``r^T Sigma^-1 r / nu`` of each tilt, ``[n_tilts]``; 1 is what was expected.

    Args:
      residual: ``[n_tilts, u, y]``.
      weight: Data precision, an array or a ``Precision``.
      keep: 0 where masked, broadcastable to the tilts; nu counts the others.
    """
    total = jnp.sum(residual * (weight * residual), axis=(1, 2))
    seen = jnp.ones(()) if keep is None else (keep > 0)
    count = jnp.sum(jnp.broadcast_to(seen, residual.shape), axis=(1, 2))
    return total / jnp.maximum(count, 1)


def tilt_factors(chi2: jax.Array, expected: jax.Array | float = 1.0) -> jax.Array:
    """``min(1, expected / chi2)``, ``[n_tilts]``: factors on the precision of a tilt.

    Args:
      chi2: Per tilt and pixel, of an estimate.
      expected: What a good tilt has: 1, or the median of all where the level of the
        noise is not trusted.
    """
    return jnp.minimum(1.0, expected / jnp.maximum(chi2, 1e-30))


def unreliable(
    factors: ArrayLike,
    angles_deg: ArrayLike,
    chi2: ArrayLike | None = None,
    *,
    below: float = SUSPECT,
) -> list[dict[str, float]]:
    """Every tilt that disagrees with the rest, worst first, JSON-ready.

    Its factor lies below ``below``, and the estimate that hardly heeds it does not show
    it: the outermost tilts often get a small factor and are shown well all the same.

    Args:
      factors: ``[n_tilts]``.
      angles_deg: ``[n_tilts]`` degrees.
      chi2: ``[n_tilts]`` of the last estimate under the precision without factors.

    Returns:
      Records of ``tilt`` (index), ``angle_deg`` and ``factor``.
    """
    each = np.asarray(factors, np.float64)
    angles = np.asarray(angles_deg, np.float64)
    shown = np.zeros(each.shape, bool)
    if chi2 is not None:
        shown = np.asarray(chi2) < 1.0 / below
    order = np.argsort(each, kind="stable")
    return [
        {"tilt": int(k), "angle_deg": float(angles[k]), "factor": float(each[k])}
        for k in order
        if each[k] < below and not shown[k]
    ]
