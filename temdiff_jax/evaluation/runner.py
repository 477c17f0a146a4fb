"""Simulated series of known volumes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
from numpy.typing import ArrayLike

from temdiff_jax import layout
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.simulator import ALIGNED, ErrorConfig, ImagingConfig, simulate_series

# One fixed imaging condition, so that tables compare: 5000 electrons per pixel and
# tilt, resin t / Lambda 0.8, standard deviation of the stain's -ln T 0.3, no blur.
PROTOCOL_IMAGING = ImagingConfig(
    dose=(5000.0, 5000.0),
    resin_path=(0.8, 0.8),
    contrast=(0.3, 0.3),
    blur_px=(0.0, 0.0),
)

Simulate = Callable[[np.ndarray, ArrayLike, int], np.ndarray]


def make_simulate(
    imaging: ImagingConfig = PROTOCOL_IMAGING, errors: ErrorConfig = ALIGNED
) -> Simulate:
    """A function ``(truth [z, y, x], angles_deg, seed) -> tilts [n_tilts, y, x]``.

    The truth is taken as stain density after scaling to [0, 1]; outside the field
    of view the slab continues by mirroring, as far as the largest tilt sees.
    """
    config = dataclasses.replace(imaging, errors=errors)

    def simulate(truth: np.ndarray, angles_deg: ArrayLike, seed: int) -> np.ndarray:
        nz, ny, nx = truth.shape
        geometry = TiltGeometry.from_degrees(
            angles_deg, thickness=nz, width=nx, height=ny
        )
        low, high = float(truth.min()), float(truth.max())
        stain = (np.asarray(truth, np.float32) - low) / max(high - low, 1e-12)
        margin = geometry.margin
        stain = np.pad(stain, ((0, 0), (0, 0), (margin, margin)), mode="symmetric")
        series = _simulate(
            jax.random.key(seed), layout.volume_to_core(stain), geometry, config
        )
        return np.asarray(layout.tilts_from_core(series.tilts))

    return simulate


_simulate = jax.jit(simulate_series, static_argnums=3)

# The aligned protocol of the result tables.
simulate_case = make_simulate()
