"""What the mean grey of the tilts says: offset, logarithm and sense.

In a slab that fills the image the level of line integrals is ``m / cos(theta)``, m of
the sign of dense matter.  An offset adds a constant; intensities without their
logarithm fall along the path, and so does a logarithm of line integrals; a wrong sense
turns the slope round.  A specimen in vacuum has a level of its own, about the same in
every tilt, which is none of these.

The gain is ``n ln(RSS_0 / RSS_1) - ln n``, twice the logarithm of the likelihood ratio
of two straight lines (Schwarz, Ann. Stat. 6 (1978) 461).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from temdiff_jax.series import intensity
from temdiff_jax.trust.causes import Cause

# Gain above which a cause is named, and how much of the level it must explain.
LEAST_GAIN = 10.0
# Of the contrast of the images, what the slab is not asked to explain.
FLOOR = 0.05
LEAST_TILTS = 5


def causes(
    tilts: np.ndarray, angles_deg: np.ndarray, record: dict[str, Any]
) -> list[Cause]:
    """Those the levels speak for, likeliest first; none where they cannot tell.

    Args:
      tilts: Line integrals in which dense matter should be bright, ``[n, y, x]``, a
        constant found under them taken off.
      angles_deg: ``[n]``.
      record: Of ``intensity.to_dense_bright``.
    """
    path = intensity.paths(angles_deg)
    few = len(path) < LEAST_TILTS
    if few or np.ptp(path) < intensity.MIN_THICKNESS_SPREAD:
        return []
    constant = record["sign"] * record["constant"]
    level = intensity.levels(tilts) + constant
    size = float(np.median(tilts.std(axis=(1, 2))))
    if size == 0:
        return []
    design = np.stack([path, np.ones_like(path)], axis=1)
    (slope, offset), *_ = np.linalg.lstsq(design, level, rcond=None)
    line = level - design @ (slope, offset)
    flat = level - level.mean()
    slab = level - path * (level @ path) / (path @ path)
    trend = gain(flat, line, size)
    if trend <= LEAST_GAIN:
        return []  # a specimen in vacuum
    falls = slope * record["sign"] < 0  # in the sense of the input
    if falls and record["log"] == "off" and record["log_chosen_by"] == "caller":
        text = "bright-field intensities were taken as line integrals"
        return [Cause("logarithm", text, trend, "--log on")]
    if slope < 0 and record["log"] == "on":
        text = "a logarithm was taken of what grows with the path"
        return [Cause("logarithm", text, trend, "--log off")]
    excess = gain(slab, line, size)
    departs = np.sqrt(np.mean(slab**2)) > intensity.PEDESTAL_SHARE * size
    if excess > LEAST_GAIN and departs:
        text = f"a constant of {record['sign'] * offset:.4g} lies under all tilts"
        repair = "what was found was taken off; subtract the detector's dark level"
        return [Cause("offset", text, excess, repair)]
    return _sense(level @ path, trend, record)


def _sense(slope: float, found: float, record: dict[str, Any]) -> list[Cause]:
    """A slab of less than no matter has the wrong sense."""
    if slope >= 0:
        return []
    other = "dark" if record["dense_is"] == "bright" else "bright"
    text = f"by the path dense matter is {other}, not {record['dense_is']}"
    return [Cause("sense", text, found, f"--contrast {other}")]


def gain(before: np.ndarray, after: np.ndarray, size: float) -> float:
    """In chi2 of one model of the levels over another with one parameter more."""
    count, floor = len(before), (FLOOR * size) ** 2
    ratio = (np.mean(before**2) + floor) / (np.mean(after**2) + floor)
    return float(count * np.log(ratio) - np.log(count))
