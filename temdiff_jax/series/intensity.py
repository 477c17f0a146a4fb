"""From detector intensities to line integrals in which dense matter is bright."""

from __future__ import annotations

from typing import Any

import numpy as np

from temdiff_jax.errors import InputError

LOG_CHOICES = ("auto", "off", "on")
CONTRAST_CHOICES = ("auto", "bright", "dark")
# Intensities at or below this fraction of the median are lifted to it before the
# logarithm: a stopped beam must not become an infinite line integral.
DARK_FRACTION = 1e-3
# Below this spread of 1/cos over the tilts, thickness cannot tell the two modes.
MIN_THICKNESS_SPREAD = 0.05


def looks_like_bright_field(tilts: np.ndarray, angles_deg: np.ndarray) -> bool:
    """Whether the mean intensity falls as the path 1/cos(theta) grows.

    Bright field loses electrons on a longer path, HAADF and line integrals gain
    signal.  Needs positive values and enough range; otherwise the answer is no.
    """
    if np.min(tilts) <= 0:
        return False
    path = 1.0 / np.cos(np.deg2rad(np.clip(angles_deg, -80, 80)))
    if path.max() - path.min() < MIN_THICKNESS_SPREAD:
        return False
    level = np.log(np.mean(tilts, axis=(1, 2), dtype=np.float64))
    slope = np.polyfit(path, level, 1)[0]
    return bool(slope < -0.02 and np.corrcoef(path, level)[0, 1] < -0.7)


def to_dense_bright(
    tilts: np.ndarray, angles_deg: np.ndarray, *, log: str, contrast: str
) -> tuple[np.ndarray, dict[str, Any]]:
    """Line integrals with dense matter bright, and a record of what was done.

    Args:
      tilts: ``[n_tilts, y, x]`` intensities or line integrals.
      angles_deg: Degrees.
      log: "off", "on" or "auto".
      contrast: "bright", "dark" or "auto".

    Returns:
      float32 tilts and the record; multiply volumes by ``record["sign"]`` to
      return to the sense of the (logged) input.

    Raises:
      InputError: Unknown choice, or a logarithm of data that are not positive.
    """
    for name, value, known in (
        ("log", log, LOG_CHOICES),
        ("contrast", contrast, CONTRAST_CHOICES),
    ):
        if value not in known:
            raise InputError(
                f"{name}: expected one of {list(known)}, got {value!r}; choose one"
            )
    take_log = log == "on" or (
        log == "auto" and looks_like_bright_field(tilts, angles_deg)
    )
    out = np.asarray(tilts, np.float32)
    reference, source = None, None
    if take_log:
        middle = float(np.median(out))
        if middle <= 0:
            raise InputError(
                f"log: expected positive intensities, got a median of {middle:g}; "
                "pass log='off' for line integrals"
            )
        reference, source = incident_intensity(
            np.maximum(out, DARK_FRACTION * middle), angles_deg
        )
        out = -np.log(np.maximum(out, DARK_FRACTION * middle) / reference)
        sense = "bright" if contrast == "auto" else contrast
    elif contrast == "auto":
        sense = "bright" if skewness(out) >= 0 else "dark"
    else:
        sense = contrast
    sign = 1.0 if sense == "bright" else -1.0
    record = {
        "log": "on" if take_log else "off",
        "log_chosen_by": "data" if log == "auto" else "caller",
        "log_reference": reference,
        "log_reference_from": source,
        "dense_is": sense,
        "dense_chosen_by": "data" if contrast == "auto" else "caller",
        "sign": sign,
    }
    return (sign * out).astype(np.float32), record


def incident_intensity(tilts: np.ndarray, angles_deg: np.ndarray) -> tuple[float, str]:
    """Intensity without a specimen, which no image of a wide slab shows.

    In a slab the mean of ln I falls in proportion to the path 1/cos(theta); its
    value at path zero is ln I0.  Where the range is too small for that, or the
    slope says otherwise, the brightest pixels stand in.

    Args:
      tilts: ``[n_tilts, y, x]`` positive intensities.
      angles_deg: Degrees.

    Returns:
      The intensity and where it comes from.
    """
    path = 1.0 / np.cos(np.deg2rad(np.clip(angles_deg, -80, 80)))
    if path.max() - path.min() >= MIN_THICKNESS_SPREAD:
        level = np.log(tilts).mean(axis=(1, 2), dtype=np.float64)
        slope, start = np.polyfit(path, level, 1)
        if slope < 0:
            return float(np.exp(start)), "fit of a slab"
    return float(np.percentile(tilts, 99.9)), "brightest pixels"


def skewness(tilts: np.ndarray) -> float:
    """Mean over tilts of the third standardised moment; dense grains are a tail."""
    values = np.asarray(tilts, np.float64).reshape(len(tilts), -1)
    centred = values - values.mean(axis=1, keepdims=True)
    spread = np.maximum(values.std(axis=1), 1e-30)
    return float(np.mean(np.mean(centred**3, axis=1) / spread**3))
