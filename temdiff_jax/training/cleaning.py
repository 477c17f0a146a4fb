"""From a volume to uint8 blocks for training.

A volume is looked at slice by slice, what an acquisition spoils is found, and what is
left is brought to isotropic voxels and 8 bits with heavy stain dark.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from temdiff_jax.errors import InputError
from temdiff_jax.simulator.stain import CLIP_PERCENTILES

# A slice is missing below this share of the usual deviation, or where this much more
# of it than usual has its lowest value; saturated from this much more at an extreme.
MISSING_DEVIATION = 0.1
MISSING_SHARE = 0.25
SATURATED_SHARE = 0.05
# Neighbours are apart where 1 - correlation is this many times what is usual within
# `BASELINE_SLICES` and this much above it: no slice of the intact blocks in
# docs/data.md is, and several of the badly registered one.
APART_RATIO = 2.0
APART_DROP = 0.05
BASELINE_SLICES = 21
# The stack has jumped there if a shift regains this part of the drop, or if the
# distance is this many times the usual one, as where sections were lost.
JUMP_REGAINED = 0.5
JUMP_RATIO = 4.0
# The whole stack is suspect where the same distance between neighbouring sections is
# this many times that between neighbouring pixels.
SHAKY_RATIO = 2.0
NEARLY_CUBIC = 1.25
# Between these scores, on either side of zero, the polarity is not judged: volumes
# whose stain is dark score on both sides of zero (docs/data.md).
POLARITY_UNSURE = 0.1

_WINDOW = 1024  # pixels along each axis in which slices are correlated
_SHIFT_WINDOW = 256  # and in which shifts are searched for
_SAMPLES = 2**22  # grey values kept for the percentiles


class Profile(NamedTuple):
    """Numbers of every slice of a stack of n.

    Attributes:
      deviation: Standard deviation, ``[n]``.
      low, high: Share of the pixels at the slice's lowest (or not finite) and highest
        value, ``[n]``.
      near: Correlation with the next slice, ``[n - 1]``.
      far: Correlation with the one after it, ``[n - 2]``.
      regained: What the best shift adds to the correlation with the next slice, in
        the middle of both, ``[n - 1]``.
      plane: Correlation of neighbouring pixels, ``[n]``.
      sample: Grey values on a grid, ``[n, m]`` float32.
    """

    deviation: np.ndarray
    low: np.ndarray
    high: np.ndarray
    near: np.ndarray
    far: np.ndarray
    regained: np.ndarray
    plane: np.ndarray
    sample: np.ndarray


class BadSlice(NamedTuple):
    """A slice that is left out.

    Attributes:
      number: Of the slice.
      kind: "missing", "saturated" or "jittered".
      value: What gave it away: the deviation, the share at an extreme, or the larger
        correlation with a neighbour.
    """

    number: int
    kind: str
    value: float


@dataclasses.dataclass(frozen=True)
class Defects:
    """What splits a stack.

    Attributes:
      bad: Slices that are left out, in order.
      jumps: Slices before which the stack jumps sideways; nothing is left out.
      warnings: One line per doubt that removes nothing.
    """

    bad: tuple[BadSlice, ...]
    jumps: tuple[int, ...]
    warnings: tuple[str, ...] = ()


def profile_slices(slabs: Iterable[np.ndarray], num_slices: int) -> Profile:
    """Measures slices that come in slabs, one pass, two slices kept.

    Args:
      slabs: Parts of a stack in order, each ``[z, y, x]``, any real dtype.
      num_slices: Sum of their first extents.

    Returns:
      The profile.
    """
    rows, samples = [], []
    last: list[np.ndarray] = []
    spectrum = None
    for slab in slabs:
        for image in np.asarray(slab, np.float32):
            finite = np.isfinite(image)
            inside = image[finite] if finite.any() else np.zeros(1, np.float32)
            low, high = inside.min(), inside.max()
            image = np.where(finite, image, low)
            unit, plane = _unit_window(image)
            near = np.vdot(unit, last[-1]) if last else np.nan
            far = np.vdot(unit, last[-2]) if len(last) > 1 else np.nan
            spectrum, regained = _regained(image, spectrum)
            shares = np.mean((image == low) | ~finite), np.mean(image == high)
            deviation = np.std(image, dtype=np.float64)
            rows.append((deviation, *shares, near, far, regained, plane))
            samples.append(_grid(image, max(_SAMPLES // num_slices, 64)))
            last = [*last[-1:], unit]
    deviation, low, high, near, far, regained, plane = np.array(rows, np.float64).T
    return Profile(
        *(deviation, low, high, near[1:], far[2:], regained[1:], plane),
        sample=np.stack(samples),
    )


def _middle(image: np.ndarray, edge: int) -> np.ndarray:
    """The middle of a slice with zero mean and unit norm."""
    margins = [max(n - edge, 0) // 2 for n in image.shape]
    window = image[tuple(slice(m, m + edge) for m in margins)].astype(np.float64)
    window -= window.mean()
    # A constant slice resembles nothing: zero, not NaN.
    return window / max(float(np.linalg.norm(window)), 1e-30)


def _unit_window(image: np.ndarray) -> tuple[np.ndarray, float]:
    """The middle of a slice, and the correlation of its neighbouring pixels."""
    unit = _middle(image, _WINDOW)
    pairs = [(unit[1:], unit[:-1]), (unit[:, 1:], unit[:, :-1])]
    found = [
        np.vdot(a, b) / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12)
        for a, b in pairs
    ]
    return unit.astype(np.float32), float(np.mean(found))


def _regained(image: np.ndarray, before: np.ndarray | None) -> tuple[np.ndarray, float]:
    """Spectrum of a slice; best correlation with the one before less the plain one."""
    unit = _middle(image, _SHIFT_WINDOW)
    spectrum = np.fft.rfft2(unit)
    if before is None:
        return spectrum, np.nan
    shifted = np.fft.irfft2(spectrum * np.conj(before), s=unit.shape)
    return spectrum, float(shifted.max() - shifted[0, 0])


def _grid(image: np.ndarray, count: int) -> np.ndarray:
    step = max(1, int(np.ceil(np.sqrt(image.size / count))))
    return image[step // 2 :: step, step // 2 :: step].ravel().copy()


def find_defects(profile: Profile, voxel_nm: Sequence[float]) -> Defects:
    """Finds missing, saturated and displaced slices.

    A displaced slice resembles neither neighbour while these resemble each other; at a
    jump the stack goes on beside where it was.

    Args:
      profile: Of the stack.
      voxel_nm: (z, y, x); only of near cubes can z and plane be compared.

    Returns:
      The defects.
    """
    n = len(profile.deviation)
    usual = _median(profile.deviation)
    missing = profile.deviation <= MISSING_DEVIATION * usual
    present = ~missing
    low, high = (
        share - (np.median(share[present]) if present.any() else 0.0)
        for share in (profile.low, profile.high)
    )
    missing |= low > MISSING_SHARE
    saturated = ~missing & (np.maximum(low, high) > SATURATED_SHARE)
    apart, jumped = _apart(profile, missing | saturated)
    jittered = np.zeros(n, bool)
    for k in range(1, n - 1):
        closer = max(profile.near[k - 1], profile.near[k])
        jittered[k] = apart[k - 1] and apart[k] and profile.far[k - 1] > closer
    values = {
        "missing": (missing, profile.deviation),
        "saturated": (saturated, np.maximum(profile.low, profile.high)),
        "jittered": (jittered, np.fmax(_before(profile.near), _after(profile.near))),
    }
    bad = [
        BadSlice(int(k), kind, round(float(value[k]), 4))
        for kind, (flags, value) in values.items()
        for k in np.flatnonzero(flags)
    ]
    jumps = [
        int(k) + 1 for k in np.flatnonzero(jumped) if not jittered[[k, k + 1]].any()
    ]
    return Defects(tuple(sorted(bad)), tuple(jumps), _doubts(profile, voxel_nm, apart))


def _median(deviation: np.ndarray) -> float:
    """Median of what is not constant: a box may hold more empty slices than full."""
    positive = deviation[deviation > 0]
    return float(np.median(positive)) if positive.size else 0.0


def _before(near: np.ndarray) -> np.ndarray:
    return np.concatenate([[np.nan], near])


def _after(near: np.ndarray) -> np.ndarray:
    return np.concatenate([near, [np.nan]])


def _apart(profile: Profile, spoiled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intact neighbours farther apart than usual; those where the stack has jumped."""
    distance = 1.0 - profile.near
    valid = ~(spoiled[1:] | spoiled[:-1])
    apart, jumped = np.zeros((2, len(distance)), bool)
    reach = BASELINE_SLICES // 2
    for k in map(int, np.flatnonzero(valid)):
        start = min(max(k - reach, 0), max(len(distance) - BASELINE_SLICES, 0))
        window = slice(start, start + BASELINE_SLICES)
        usual = np.median(distance[window][valid[window]])
        excess = distance[k] - usual
        apart[k] = distance[k] > APART_RATIO * usual and excess > APART_DROP
        regained = profile.regained[k] > JUMP_REGAINED * excess
        jumped[k] = apart[k] and (regained or distance[k] > JUMP_RATIO * usual)
    return apart, jumped


def _doubts(
    profile: Profile, voxel_nm: Sequence[float], apart: np.ndarray
) -> tuple[str, ...]:
    along, plane = profile.near[~apart], profile.plane[profile.deviation > 0]
    cubic = max(voxel_nm) < NEARLY_CUBIC * min(voxel_nm)
    if not (cubic and along.size and plane.size):
        return ()
    z, yx = float(np.median(along)), float(np.median(plane))
    if 1 - z <= SHAKY_RATIO * (1 - yx) or yx - z <= APART_DROP:
        return ()
    return (
        f"sections resemble each other less (correlation {z:.3f}) than pixels do "
        f"({yx:.3f}): the stack may be shifted from section to section throughout",
    )


def clean_slabs(
    num_slices: int, defects: Defects, min_slices: int
) -> list[tuple[int, int]]:
    """Runs of slices between defects, ``(start, stop)``, at least ``min_slices``."""
    edges = {0, num_slices, *defects.jumps}
    removed = {bad.number for bad in defects.bad}
    edges |= removed | {number + 1 for number in removed}
    ordered = sorted(edges)
    return [
        (start, stop)
        for start, stop in zip(ordered, ordered[1:], strict=False)
        if start not in removed and stop - start >= min_slices
    ]


def grey_limits(sample: np.ndarray) -> tuple[float, float]:
    """Grey levels that become stain 1 and 0: the percentiles of the simulator.

    Raises:
      InputError: The sample is constant.
    """
    low, high = (float(v) for v in np.percentile(sample, CLIP_PERCENTILES))
    if not high > low:
        raise InputError(
            f"grey levels: expected contrast, got {low:g} at both percentiles "
            f"{CLIP_PERCENTILES}; choose a box that holds tissue"
        )
    return low, high


def to_uint8(
    block: np.ndarray, limits: tuple[float, float], *, stain_is_dark: bool
) -> np.ndarray:
    """Grey levels between the limits as 0-255, heavy stain dark, same shape."""
    low, high = limits
    scaled = (np.asarray(block, np.float32) - low) * np.float32(255.0 / (high - low))
    grey = np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
    return grey if stain_is_dark else 255 - grey


def stain_score(block: np.ndarray) -> float:
    """Between -1 and 1, positive where thin structures are dark.

    Heavy stain sits in membranes: a closing fills thin dark structures, an opening
    removes thin bright ones, and the score compares how much each of them changes.  A
    weak witness: take several cubes, see `POLARITY_UNSURE`.

    Args:
      block: ``[z, y, x]``, grey levels.
    """
    smooth = ndimage.gaussian_filter(np.asarray(block, np.float32), 1.0)
    dark = np.mean(ndimage.grey_closing(smooth, size=(5, 5, 5)) - smooth)
    bright = np.mean(smooth - ndimage.grey_opening(smooth, size=(5, 5, 5)))
    return float((dark - bright) / max(dark + bright, 1e-12))


def polarity_warning(score: float, *, stain_is_dark: bool) -> str | None:
    """One line where a stain score speaks against the declaration, else None."""
    if abs(score) <= POLARITY_UNSURE or (score > 0) == stain_is_dark:
        return None
    names = ("dark", "bright") if stain_is_dark else ("bright", "dark")
    return (
        f"stain was declared {names[0]}, but thin structures look {names[1]} "
        f"(score {score:+.2f}): look at a slice and check the declaration"
    )


def resample(
    block: np.ndarray, voxel_nm: Sequence[float], target_nm: float
) -> np.ndarray:
    """Brings a block to cubic voxels, its faces staying where they are.

    Along an axis that becomes finer, linear interpolation between voxel centres; along
    one that becomes coarser, means over the new voxels, since interpolation would
    alias.

    Args:
      block: ``[z, y, x]``.
      voxel_nm: (z, y, x).
      target_nm: Edge of the new voxels.

    Returns:
      float32, every extent at least 1 and at most what the old one fills.
    """
    result = np.asarray(block, np.float32)
    for axis, voxel in enumerate(voxel_nm):
        ratio = target_nm / voxel
        if abs(ratio - 1) < 1e-3:
            continue
        line = np.moveaxis(result, axis, 0)
        n = line.shape[0]
        count = max(1, int(np.floor(n / ratio + 1e-6)))
        if ratio < 1:
            line = _interpolate(line, (np.arange(count) + 0.5) * ratio - 0.5)
        else:
            total = np.cumsum(line, axis=0, dtype=np.float64)
            total = np.concatenate([np.zeros_like(total[:1]), total])
            edges = np.minimum(np.arange(count + 1) * ratio, n)
            width = np.diff(edges).reshape(-1, *[1] * (line.ndim - 1))
            line = np.diff(_interpolate(total, edges), axis=0) / width
        result = np.moveaxis(line, 0, axis).astype(np.float32)
    return np.ascontiguousarray(result)


def _interpolate(line: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Linear along the first axis, clamped at the ends."""
    where = np.clip(where, 0, line.shape[0] - 1)
    below = np.minimum(np.floor(where).astype(int), max(line.shape[0] - 2, 0))
    part = (where - below).reshape(-1, *[1] * (line.ndim - 1))
    above = np.minimum(below + 1, line.shape[0] - 1)
    return line[below] * (1 - part) + line[above] * part


def pieces(shape: Sequence[int], max_voxels: int) -> list[tuple[slice, slice, slice]]:
    """Splits a box into nearly equal blocks of at most ``max_voxels``, near cubes.

    Args:
      shape: Extents (z, y, x).
      max_voxels: At least 1.
    """
    counts = [1, 1, 1]

    def edges() -> list[int]:
        return [-(-n // c) for n, c in zip(shape, counts, strict=True)]

    while np.prod(edges(), dtype=np.int64) > max_voxels:
        counts[int(np.argmax(edges()))] += 1
    cuts = [
        np.linspace(0, n, c + 1).round().astype(int)
        for n, c in zip(shape, counts, strict=True)
    ]
    spans = [[slice(int(a), int(b)) for a, b in zip(c, c[1:])] for c in cuts]
    return [(z, y, x) for z in spans[0] for y in spans[1] for x in spans[2]]
