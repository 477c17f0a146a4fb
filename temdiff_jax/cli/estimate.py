"""Quick looks at the images themselves: direction of the axis, shifts, wedge.

These are estimates for a reader's eye; nothing of them enters a reconstruction.
"""

import numpy as np
from scipy import ndimage

from temdiff_jax.io import binning, images
from temdiff_jax.io.alignment import record
from temdiff_jax.io.alignment.record import Alignment

# Sides of the images that are looked at, pixels, and the most tilts.
_AXIS_SIDE = 128
_SHIFT_SIDE = 256
_AXIS_TILTS = 31
# Standard deviations; the highest of a million pixels of noise has five.
_CLEAR_PEAK = 8.0
_AXIS_STEP_DEG = 2.0
# In noise the least of all directions still changes by more than this share of the
# median one.
_VISIBLE = 0.15
# Below this share, and this far from y, nobody could have meant y.
_CLEAR = 0.05
_NEAR_DEG = 15.0
_FEW_TILTS = 5
# Tilts and pixels a side below which nothing is looked for.
_FEWEST = 3
_SMALLEST = 6


def axis_angle(
    tilts: np.ndarray, alignment: Alignment | None = None
) -> tuple[float, float] | None:
    """Direction of the tilt axis, from the images alone, against where it is taken.

    Along the axis a tilt series repeats itself: the sum across a line at a right angle
    to the axis hardly depends on the tilt.  So the images are summed across every
    direction, and the profile that changes least between neighbouring tilts lies along
    the axis (common line; Radermacher, J. Electron Microsc. Tech. 9 (1988) 359).

    Args:
      tilts: [n_tilts, y, x].
      alignment: How they lie; None for aligned images, with their axis along y.

    Returns:
      Degrees from +y towards -x, in (-90, 90], and the change there as a share of that
      in the median direction; None for too few or too small images.
    """
    if len(tilts) < _FEWEST or min(tilts.shape[1:]) < _SMALLEST:
        return None
    few = np.unique(np.linspace(0, len(tilts) - 1, _AXIS_TILTS).round().astype(int))
    own = None if alignment is None else record.taken(alignment, few)
    small = _small(tilts[few], _AXIS_SIDE, own)
    small = small - small.mean(axis=(1, 2), keepdims=True)
    directions = np.arange(-90.0, 90.0, _AXIS_STEP_DEG)
    change = np.array([_change(small, angle) for angle in directions])
    best = int(np.argmin(change))
    found = float(directions[best])
    contrast = float(change[best] / max(np.median(change), 1e-30))
    return (90.0 if found == -90.0 else found), contrast


def _change(tilts: np.ndarray, psi_deg: float) -> float:
    """Mean squared change between neighbours of the profiles along an axis at psi."""
    _, height, width = tilts.shape
    y, x = np.indices((height, width), dtype=np.float64)
    y, x = y - (height - 1) / 2, x - (width - 1) / 2
    psi = np.deg2rad(psi_deg)
    along = -np.sin(psi) * x + np.cos(psi) * y
    radius = min(height, width) / 2 - 1
    inside = x * x + y * y <= radius * radius
    # Each pixel is shared by two bins: whole ones would prefer the grid's directions.
    at = along[inside] + radius
    low = np.floor(at).astype(np.int64)
    share = at - low
    size = int(low.max()) + 2

    def profile(values: np.ndarray) -> np.ndarray:
        near = np.bincount(low, values * (1 - share), minlength=size)
        return near + np.bincount(low + 1, values * share, minlength=size)

    weight = np.maximum(profile(np.ones_like(at)), 1)
    profiles = np.stack([profile(t[inside]) / weight for t in tilts])
    # Drifts of the beam, an offset and a gain, are no sign of an axis.
    profiles -= np.average(profiles, axis=1, weights=weight)[:, None]
    mean = profiles.mean(axis=0)
    gain = (profiles * weight) @ mean / max(float(weight @ mean**2), 1e-30)
    profiles -= gain[:, None] * mean
    squares = np.diff(profiles, axis=0) ** 2
    return float(np.average(squares.mean(axis=0), weights=weight))


def neighbour_shifts(
    tilts: np.ndarray, alignment: Alignment | None = None
) -> np.ndarray:
    """Shift (x, y) of every tilt against the one before it, pixels, [n - 1, 2].

    Of what an alignment leaves over, if there is one.

    The largest peak of the phase correlation of windowed images, which sees the strong
    features move; NaN where no peak stands out.
    """
    small = _small(tilts, _SHIFT_SIDE, alignment)
    scale = tilts.shape[2] / small.shape[2]
    _, height, width = small.shape
    window = np.hanning(height)[:, None] * np.hanning(width)[None]
    spectra = np.fft.fft2((small - small.mean(axis=(1, 2), keepdims=True)) * window)
    found = []
    for before, after in zip(spectra[:-1], spectra[1:], strict=True):
        cross = after * np.conj(before)
        peak = np.fft.ifft2(cross / np.maximum(np.abs(cross), 1e-30)).real
        peak = ndimage.gaussian_filter(peak, 1.0, mode="wrap")
        if peak.max() - peak.mean() < _CLEAR_PEAK * peak.std():
            found.append((np.nan, np.nan))
            continue
        row, column = np.unravel_index(int(np.argmax(peak)), peak.shape)
        found.append(
            (
                (column + width // 2) % width - width // 2,
                (row + height // 2) % height - height // 2,
            )
        )
    return np.asarray(found, np.float64).reshape(-1, 2) * scale


def axis_doubt(axis: tuple[float, float] | None, count: int) -> list[str]:
    """A line when the images clearly have their axis elsewhere than it is taken to be.

    Args:
      axis: Of `axis_angle`.
      count: Of the tilts.
    """
    if axis is None or count < _FEW_TILTS:
        return []
    found, contrast = axis
    if contrast > _CLEAR or abs(found) <= _NEAR_DEG:
        return []
    return [
        f"by the images themselves the tilt axis lies {found:g} degrees from where it "
        "is taken to be; see temdiff inspect, --axis-angle, --tilt-axis and --alignment"
    ]


def axis_line(axis: tuple[float, float] | None, range_deg: float) -> str:
    """A line about the axis that the images themselves suggest, see `axis_angle`."""
    if axis is None:
        return "too few or too small tilts to see their axis"
    found, contrast = axis
    if contrast > _VISIBLE:
        return f"not visible in the images over {range_deg:g} degrees"
    verdict = "as assumed" if abs(found) <= 10 else "NOT where it is taken to be"
    return f"{found:g} degrees from the one assumed by the images, {verdict}"


def shift_line(shifts: np.ndarray) -> str:
    """A line about the shifts of `neighbour_shifts`."""
    if not len(shifts):
        return "one tilt"
    lengths = np.hypot(*shifts.T)
    lengths = lengths[np.isfinite(lengths)]
    if 2 * lengths.size < len(shifts):
        return "not visible in the images"
    return (
        f"{np.median(lengths):.1f} pixels between neighbouring tilts in the median, "
        f"{lengths.max():.1f} at most"
    )


def wedge(low_deg: float, high_deg: float) -> str:
    """The measured directions as 18 characters of 10 degrees from -90 to 90."""
    centres = np.arange(-85, 90, 10)
    measured = (centres >= low_deg - 5) & (centres <= high_deg + 5)
    return "[" + "".join("#" if m else "." for m in measured) + "]"


def _small(
    tilts: np.ndarray, largest: int, alignment: Alignment | None = None
) -> np.ndarray:
    """Aligned blocks of pixels, averaged to at most so many a side, float64."""
    step = max(1, -(-max(tilts.shape[1:]) // largest))
    if step > 1:
        tilts = binning.bin_stack(tilts, step)
        if alignment is not None:
            alignment = record.binned(alignment, step)
    return images.aligned(tilts, alignment).astype(np.float64)
