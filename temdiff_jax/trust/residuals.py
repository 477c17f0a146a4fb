"""What a fit leaves over, against the noise of the images themselves.

``Result.chi2`` is divided by the variance that the weighting assumed: it holds a floor,
the misalignment allowed for, and no factor.  Here the noise is measured in the images
and nothing else counts.

Source: Rust & O'Leary, Inverse Problems 24 (2008) 034005 (cumulative periodogram of the
residual); Immerkaer, Comput. Vis. Image Underst. 64 (1996) 300 (noise).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Rings of spatial frequency, cycles per pixel, in which white noise has one power.
RINGS = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.71))
# Above this ratio of the first ring to the last the spectrum still falls: what is there
# is no white noise, and its level is not known.
STILL_FALLS = 1.5
# Share of the independent coefficients of a windowed image, both axes.
_WORTH = (18 / 35) ** 2


class Noise(NamedTuple):
    """Noise of each tilt, ``[n]``.

    Attributes:
      sigma: Standard deviation by the outermost ring of the spectrum.
      flat: Whether the spectrum has become flat there; where not, sigma is a guess.
    """

    sigma: np.ndarray
    flat: np.ndarray


class Judged(NamedTuple):
    """Residuals against the noise of the images, ``[n]``.

    Attributes:
      chi2: Mean squared residual over the measured variance; 1 is noise alone, less is
        noise that was fitted.
      excess: By how much the power of the residual below some frequency exceeds that of
        white noise, as a share of all: the one-sided Kolmogorov-Smirnov distance.
      p: Probability of as much in white noise.
    """

    chi2: np.ndarray
    excess: np.ndarray
    p: np.ndarray


def measure_noise(tilts: np.ndarray) -> Noise:
    """The noise of images ``[n, u, y]``, their content apart."""
    power, radius, scale = _spectra(tilts)
    levels = np.stack(
        [
            np.median(power[:, (radius >= low) & (radius < high)], axis=1)
            for low, high in RINGS
        ],
        axis=1,
    )
    # The median of an exponential law is ln 2 of its mean.
    variance = levels[:, -1] / np.log(2) / scale
    flat = levels[:, 0] < STILL_FALLS * np.maximum(levels[:, -1], 1e-30)
    return Noise(np.sqrt(variance), flat & (variance > 0))


def judge(residual: np.ndarray, sigma: np.ndarray, keep: np.ndarray) -> Judged:
    """Size and whiteness of the residuals of all tilts.

    Args:
      residual: ``[n, u, y]``.
      sigma: Of the noise, ``[n]``, same unit.
      keep: False where masked, ``[n, u, y]``.
    """
    kept = np.where(keep, residual, 0.0)
    count = np.maximum(keep.sum(axis=(1, 2)), 1)
    chi2 = np.sum(kept**2, axis=(1, 2)) / count / np.maximum(sigma, 1e-30) ** 2
    power, radius, _ = _spectra(kept)
    inside = (radius > 0) & (radius <= 0.5)
    order = np.argsort(radius[inside], kind="stable")
    ordered = power[:, inside][:, order]
    total = np.maximum(ordered.sum(axis=1, keepdims=True), 1e-30)
    share = np.cumsum(ordered, axis=1) / total
    uniform = np.arange(1, share.shape[1] + 1) / share.shape[1]
    excess = np.maximum((share - uniform).max(axis=1), 0.0)
    # One of each pair of conjugates, and neighbours that the window ties together.
    independent = 0.5 * _WORTH * share.shape[1]
    return Judged(chi2, excess, np.exp(-2 * independent * excess**2))


def _spectra(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Power ``[n, u, y]`` of windowed images, radii, and the power of unit noise."""
    _, nu, ny = images.shape
    window = np.hanning(nu + 2)[1:-1, None] * np.hanning(ny + 2)[None, 1:-1]
    centred = images - np.average(
        images, axis=(1, 2), weights=np.broadcast_to(window, images.shape)
    ).reshape(-1, 1, 1)
    power = np.abs(np.fft.fft2(window * centred)) ** 2
    radius = np.hypot(np.fft.fftfreq(nu)[:, None], np.fft.fftfreq(ny))
    return power, radius, float(np.sum(window**2))
