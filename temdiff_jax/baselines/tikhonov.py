"""The quadratic estimate (``inverse.tikhonov``) of line integrals."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
from numpy.typing import ArrayLike

from temdiff_jax.baselines import shared
from temdiff_jax.inverse.tikhonov import (
    TikhonovSettings,
    settings_for,
    tikhonov_normalised,
)
from temdiff_jax.series.checks import check_count, check_number


def tikhonov(
    tilts: ArrayLike,
    angles: ArrayLike,
    *,
    thickness: int | None = None,
    lateral_margin: int | str = "auto",
    smoothness: float | None = None,
    ridge: float | None = None,
    iterations: int | None = None,
) -> np.ndarray:
    """Quadratic smoothness estimate of a tilt series.

    Args:
      tilts: Line integrals ``[n_tilts, y, x]``, intensity x voxel.
      angles: ``[n_tilts]`` degrees, any order.
      thickness: Voxels along the beam at zero tilt; default the detector's width.
      lateral_margin: Columns beyond the field of view, or ``"auto"``.
      smoothness: Prior precision of the gradient in normalised units, zero or
        more; ``None`` takes the tuned value.
      ridge: Prior precision of the intensity, likewise.
      iterations: Conjugate-gradient steps; ``None`` takes the default.

    Returns:
      Volume ``[z, y, x]`` float32, intensity.

    Raises:
      InputError: Tilts, angles, extents or options cannot be used.
    """
    tilts, geometry = shared.check_series(
        tilts, angles, thickness=thickness, lateral_margin=lateral_margin
    )
    settings = settings_for(angles)
    smoothness = settings.smoothness if smoothness is None else smoothness
    ridge = settings.ridge if ridge is None else ridge
    iterations = settings.num_iters if iterations is None else iterations
    check_number("smoothness", smoothness, zero=True)
    check_number("ridge", ridge, zero=True)
    check_count("iterations", iterations)
    volume = _reconstruct(
        tilts, geometry, float(smoothness), float(ridge), num_iters=int(iterations)
    )
    return shared.on_host(volume)


@partial(jax.jit, static_argnames="num_iters")
def _reconstruct(tilts, geometry, smoothness, ridge, *, num_iters):
    settings = TikhonovSettings(smoothness, ridge, num_iters)
    return shared.solve(
        lambda problem: tikhonov_normalised(problem, settings), tilts, geometry
    )
