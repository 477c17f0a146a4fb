"""Proof, on every run, that a peer's operator is the one that ``harness`` speaks of.

``operator`` is a ``harness.Operator`` throughout; numpy alone is needed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# A wrong sense of rotation moves the test blob by many pixels, a coarse footprint
# by a fraction of one.
MAX_CENTROID_ERROR_PX = 0.75


def centroid_error(
    operator: Any, shape: tuple[int, int, int], angles_deg: np.ndarray
) -> float:
    """Largest distance, pixels, between a blob's projected and predicted centre.

    The blob, a Gaussian, sits above the centre and off the tilt axis, so that a
    wrong sign of the angle, a mirrored axis or a shifted centre all show.
    """
    offset = np.array([shape[0] / 5, -shape[1] / 7, shape[2] / 6])
    centre = (np.array(shape) - 1) / 2
    grids = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij", sparse=True)
    squares = sum(
        ((grid - c - o) / max(1.2, n / 24)) ** 2
        for grid, c, o, n in zip(grids, centre, offset, shape, strict=True)
    )
    volume = np.exp(-0.5 * squares).astype(np.float32)
    tilts = operator.tilts_from_native(
        operator.forward(operator.volume_to_native(volume))
    ).astype(np.float64)
    mass = tilts.sum(axis=(1, 2))
    measured_x = tilts.sum(axis=1) @ (np.arange(shape[2]) - centre[2]) / mass
    measured_y = tilts.sum(axis=2) @ (np.arange(shape[1]) - centre[1]) / mass
    theta = np.deg2rad(angles_deg)
    predicted_x = offset[2] * np.cos(theta) + offset[0] * np.sin(theta)
    return float(
        max(
            np.abs(measured_x - predicted_x).max(),
            np.abs(measured_y - offset[1]).max(),
        )
    )


def adjoint_mismatch(operator: Any, volume: np.ndarray, tilts: np.ndarray) -> float:
    """``|<A x, p> - <x, A* p>| / (|A x| |p|)`` in double precision sums."""
    projected = operator.tilts_from_native(
        operator.forward(operator.volume_to_native(volume))
    ).astype(np.float64)
    spread = operator.volume_from_native(
        operator.adjoint(operator.tilts_to_native(tilts))
    ).astype(np.float64)
    gap = np.vdot(projected, tilts) - np.vdot(volume, spread)
    return float(abs(gap) / (np.linalg.norm(projected) * np.linalg.norm(tilts)))


def check(
    operator: Any,
    shape: tuple[int, int, int],
    angles_deg: np.ndarray,
    volume: np.ndarray,
    tilts: np.ndarray,
) -> dict[str, float]:
    """The two checks; refuses a geometry that is not the one of this module."""
    error = centroid_error(operator, shape, angles_deg)
    limit = getattr(operator, "centroid_tolerance_px", MAX_CENTROID_ERROR_PX)
    if error > limit:
        raise SystemExit(
            f"{operator.peer}: expected a projected centre within {limit} px of "
            f"x cos + z sin, got {error:.2f} px; the package's geometry differs "
            "from the adapter's: install the pinned version"
        )
    mismatch = adjoint_mismatch(operator, volume, tilts)
    return {
        "centroid_error_px": round(error, 4),
        "adjoint_mismatch": float(f"{mismatch:.3g}"),
    }
