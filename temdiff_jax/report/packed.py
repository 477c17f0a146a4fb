"""Arrays as a page in a browser takes them: 8-bit volumes, thumbnails, a spectrum.

A volume is reduced to bytes on a given grey scale, then to differences along z modulo
256, which a narrow tilt range keeps small, then deflated (RFC 1950), which a browser
undoes by itself.
"""

import base64
import io
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

LEVELS = 255
# Edge of a spectrum, pixels; the slices it is made of are twice as long.
SPECTRUM = 128
_MOST_SLICES = 48
# Percentiles of the log power that are shown black and white.
_POWER_PERCENTILES = (1.0, 99.9)


def to_bytes(array: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """An array on a grey scale, uint8: black is the first limit, white the second."""
    low, high = limits
    scaled = (np.asarray(array, np.float32) - low) * (LEVELS / (high - low))
    return np.clip(np.rint(scaled), 0, LEVELS).astype(np.uint8)


def packed(volume: np.ndarray) -> str:
    """A volume uint8 [z, y, x], deflated, as text of base64."""
    steps = np.diff(volume, axis=0, prepend=np.uint8(0))
    return base64.b64encode(zlib.compress(steps.tobytes(), 6)).decode("ascii")


def binned(volume: np.ndarray, factor: int) -> np.ndarray:
    """Means over cubes of `factor` voxels; those at the far ends may be smaller."""
    for axis, extent in enumerate(volume.shape):
        starts = np.arange(0, extent, factor)
        counts = np.diff(starts, append=extent)
        shape = [1] * volume.ndim
        shape[axis] = -1
        total = np.add.reduceat(volume, starts, axis=axis, dtype=np.float32)
        volume = total / counts.reshape(shape).astype(np.float32)
    return volume


def log_power(volume: np.ndarray, tilt_axis: str) -> np.ndarray:
    """Log10 of the mean power of the planes across the tilt axis.

    Args:
      volume: [z, y, x].
      tilt_axis: "y" for planes (z, x), "x" for planes (z, y).

    Returns:
      [SPECTRUM, SPECTRUM] float32: frequencies along z and along the other axis, from
      minus the Nyquist frequency on; zero is at SPECTRUM / 2.
    """
    length = 2 * SPECTRUM
    planes = np.moveaxis(np.asarray(volume), 1 if tilt_axis == "y" else 2, 0)
    planes = planes[:: -(-len(planes) // _MOST_SLICES)]
    _, depth, width = planes.shape
    planes = planes[:, _middle(depth, length), _middle(width, length)]
    taper = np.outer(*(np.hanning(n + 2)[1:-1] for n in planes.shape[1:]))
    total = np.zeros((length, length))
    for plane in planes:
        spectrum = np.fft.fft2((plane - plane.mean()) * taper, s=(length, length))
        total += np.abs(np.fft.fftshift(spectrum)) ** 2
    for axis in (0, 1):  # halves the frequencies; zero stays in the middle of one
        total = 2 * total + np.roll(total, 1, axis) + np.roll(total, -1, axis)
    total = total[::2, ::2]
    return np.log10(total + total.max() * 1e-12 + 1e-30).astype(np.float32)


def power_limits(spectra: Sequence[np.ndarray]) -> tuple[float, float]:
    """Black and white of several spectra on one scale."""
    low, high = np.percentile(np.stack(spectra), _POWER_PERCENTILES)
    return float(low), float(max(high, low + 1e-3))


def thumbnail(
    image: np.ndarray,
    limits: tuple[float, float],
    edge: int,
    colours: np.ndarray | None = None,
) -> str:
    """A tilt [y, x], at most `edge` pixels long, as a PNG in text of base64.

    Args:
      image: Any unit; row 0 comes out at the bottom.
      limits: Of the scale.
      edge: Longer side, pixels.
      colours: [256, 3] uint8; None is grey.
    """
    factor = max(1, -(-max(image.shape) // edge))
    small = Image.fromarray(to_bytes(binned(image, factor)[::-1], limits))
    if colours is not None:
        small.putpalette(colours.tobytes())
    buffer = io.BytesIO()
    small.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _middle(extent: int, most: int) -> slice:
    start = max(0, (extent - most) // 2)
    return slice(start, start + min(extent, most))
