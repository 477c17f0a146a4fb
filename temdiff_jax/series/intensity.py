"""From detector intensities to line integrals in which dense matter is bright."""

from __future__ import annotations

from collections.abc import Iterator
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
# Share of pixels that may be zero or less in counts: dead ones, and those that saw no
# electron by chance.
MOST_DARK = 0.01
# Side of the images that levels are taken of; more pixels would not change them.
LARGEST_SIDE = 512
# Where the outermost pixels of a tilt are cut, percentiles.
CUT_PERCENT = (0.1, 99.9)
# A constant under the tilts is looked for where levels depart from those of a slab by
# this share of the contrast, and is one if it is more than this share of the level and
# leaves less than this share of the departure.
PEDESTAL_SHARE = 0.3
FEW_TILTS = 4
# A slab tells the sense of the tilts where their levels follow the path, by ranks, and
# either change by this share of the contrast or are proportional to it.
SAME_RANKS = 0.9
SLAB_SHARE = 0.3
PROPORTIONAL = (0.7, 1.4)
LEAST_SPREAD = 0.002


def looks_like_bright_field(tilts: np.ndarray, angles_deg: np.ndarray) -> bool:
    """Whether the mean intensity falls as the path 1/cos(theta) grows.

    Bright field loses electrons on a longer path, HAADF and line integrals gain
    signal.  Needs positive values, dead pixels apart, and enough range; otherwise the
    answer is no.
    """
    if np.mean(np.asarray(tilts) <= 0) > MOST_DARK:
        return False
    path = paths(angles_deg)
    if np.ptp(path) < MIN_THICKNESS_SPREAD:
        return False
    level = np.log(np.maximum(levels(tilts), 1e-30))
    together = np.corrcoef(_ranks(path), _ranks(level))[0, 1]
    return bool(median_line(path, level)[0] < -0.02 and together < -0.7)


def median_line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope and intercept by medians of pairs (Theil 1950; Sen 1968).

    What `scipy.stats` has of it costs a third of the time in which a command starts.
    """
    one, other = np.triu_indices(len(x), 1)
    run = x[other] - x[one]
    slope = float(np.median((y[other] - y[one])[run != 0] / run[run != 0]))
    return slope, float(np.median(y) - slope * np.median(x))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Rank of each value; equal ones share the mean of theirs."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]


def paths(angles_deg: np.ndarray) -> np.ndarray:
    """Path through a slab over its thickness, 1/cos(theta), ``[n_tilts]``."""
    return 1.0 / np.cos(np.deg2rad(np.clip(angles_deg, -80, 80)))


def levels(tilts: np.ndarray) -> np.ndarray:
    """Mean of each tilt ``[n_tilts]``, its few highest and lowest pixels cut."""
    return np.array([image.mean(dtype=np.float64) for image in _cut(tilts)])


def _cut(tilts: np.ndarray) -> Iterator[np.ndarray]:
    """Tilts one by one, thinned, their outermost thousandths replaced by the limits."""
    step = max(1, -(-max(tilts.shape[1:]) // LARGEST_SIDE))
    for image in tilts[:, ::step, ::step]:
        low, high = np.percentile(image, CUT_PERCENT)
        yield np.clip(image, low, high)


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
      return to the sense of the (logged) input.  A constant that lies under all tilts
      is taken off, ``record["constant"]`` in the sense of the input.

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
        sense = "bright" if (of_slab(out, angles_deg) or skewness(out)) >= 0 else "dark"
    else:
        sense = contrast
    sign = 1.0 if sense == "bright" else -1.0
    out = (sign * out).astype(np.float32)
    constant = pedestal(out, angles_deg)
    if constant:
        out -= np.float32(constant)
    record = {
        "log": "on" if take_log else "off",
        "log_chosen_by": "data" if log == "auto" else "caller",
        "log_reference": reference,
        "log_reference_from": source,
        "dense_is": sense,
        "dense_chosen_by": "data" if contrast == "auto" else "caller",
        "sign": sign,
        "constant": sign * constant,
    }
    return out, record


def of_slab(tilts: np.ndarray, angles_deg: np.ndarray) -> float:
    """Change of the level with the path 1/cos(theta), 0 where that tells nothing.

    A slab adds to a tilt in proportion to the path through it, whatever the shape of
    what is dense in it; the tail of the grey values is that of grains alone.

    Args:
      tilts: ``[n_tilts, y, x]``, line integrals of either sign.
      angles_deg: Degrees.
    """
    path = paths(angles_deg)
    if np.ptp(path) < LEAST_SPREAD or len(path) < FEW_TILTS:
        return 0.0
    level = levels(tilts)
    slope = median_line(path, level)[0]
    contrast = float(np.median([image.std(dtype=np.float64) for image in _cut(tilts)]))
    together = abs(np.corrcoef(_ranks(path), _ranks(level))[0, 1])
    low, high = np.sort(np.array(PROPORTIONAL) * float(np.median(level / path)))
    clear = abs(slope) * np.ptp(path) > SLAB_SHARE * contrast or low < slope < high
    return slope if clear and together > SAME_RANKS else 0.0


def said(record: dict[str, Any]) -> list[str]:
    """What was decided, a line each, for the terminal and the page."""
    who = {"data": "by the images", "caller": "as asked"}
    line = f"logarithm {record['log']} ({who[record['log_chosen_by']]})"
    if record["log"] == "on":
        line += f", of {record['log_reference']:.4g} over the intensity"
    dense = "; dense matter is {} in the {} ({}) and in the volume".format(
        record["dense_is"],
        "logarithm" if record["log"] == "on" else "tilts",
        who[record["dense_chosen_by"]],
    )
    lines = [line + dense]
    if record["constant"]:
        lines.append(
            f"warning: a constant of {record['constant']:.4g} lies under all tilts, "
            "which no specimen projects to; it was taken off"
        )
    return lines


def pedestal(tilts: np.ndarray, angles_deg: np.ndarray) -> float:
    """A constant that lies under all tilts, 0 where none can be told.

    What a slab adds to the tilts grows with the path 1/cos(theta), what a detector adds
    does not: the level of the tilts is ``c + m / cos(theta)``.  A specimen in vacuum
    has a constant level of its own, so c is no higher than the darkest pixels.  It is
    reported where no slab comes near the levels without it and one does with it.

    Args:
      tilts: ``[n_tilts, y, x]``, dense matter bright.
      angles_deg: Degrees.
    """
    path = paths(angles_deg)
    if np.ptp(path) < MIN_THICKNESS_SPREAD or len(path) < FEW_TILTS:
        return 0.0
    each = [(i.mean(dtype=np.float64), i.std(dtype=np.float64)) for i in _cut(tilts)]
    level, spread = np.array(each).T
    contrast = float(np.median(spread))

    def misfit(constant: float) -> float:
        rest = level - constant
        rest = rest - path * (rest @ path) / (path @ path)
        return float(np.sqrt(np.mean(rest**2)))

    before = misfit(0.0)
    if before <= PEDESTAL_SHARE * contrast:
        return 0.0
    constant = min(median_line(path, level)[1], _darkest(tilts))
    small = abs(constant) <= PEDESTAL_SHARE * float(np.median(np.abs(level)))
    if small or misfit(constant) > PEDESTAL_SHARE * before:
        return 0.0
    return float(constant)


def _darkest(tilts: np.ndarray) -> float:
    """Level of the darkest twentieth of the pixels, noise apart; median over tilts."""
    found = []
    for image in tilts:
        values = np.asarray(image, np.float64)
        # Second differences along both axes see the noise alone (Immerkaer 1996).
        both = np.diff(np.diff(values, 2, axis=0), 2, axis=1)
        noise = np.median(np.abs(both)) / (0.6745 * 6.0)
        low, middle = np.percentile(values, [5, 50])
        found.append(min(low + 1.64 * noise, middle))
    return float(np.median(found))


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
    path = paths(angles_deg)
    if np.ptp(path) >= MIN_THICKNESS_SPREAD:
        # A median of slopes: nearly dark views at high tilt do not set it for all.
        slope, intercept = median_line(path, levels(np.log(tilts)))
        if slope < 0:
            return float(np.exp(intercept)), "fit of a slab"
    return float(np.percentile(tilts, 99.9)), "brightest pixels"


def skewness(tilts: np.ndarray) -> float:
    """Mean over tilts of the third standardised moment; dense grains are a tail.

    Single pixels, dead or hot, are none.
    """
    found = []
    for image in _cut(tilts):
        centred = np.asarray(image, np.float64) - image.mean(dtype=np.float64)
        spread = max(float(centred.std()), 1e-30)
        found.append(np.mean(centred**3) / spread**3)
    return float(np.mean(found))
