"""Pixels that say nothing: fill, hot pixels, saturation, rays beside the volume.

Found once, on the host, in the tilts as they came.  Masks have the core layout of the
tilts and are true where a pixel must *not* count.
"""

from __future__ import annotations

from concurrent import futures
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

from temdiff_jax.errors import InputError
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.projector import seen_at

# A value is fill if it repeats this often along the border of a tilt ...
MIN_RUN = 8
# ... and the pixels that share it and touch the border are this many.
MIN_AREA = 16
# ... unless nine tenths of the pixels beside them differ from it by less than this, in
# standard deviations of the rest of the tilt.
QUIET = 0.02
# A hot pixel stands this many robust standard deviations above or below the median of
# its 3 x 3 neighbourhood, and half as many beyond all but one of its neighbours.
HOT_THRESHOLD = 6.0
# Its four neighbours are no higher than this share of it: a gold bead of a pixel or two
# has the width of the optics and lifts them, an electron in one pixel does not ...
MAX_SPREAD = 0.15
# ... or than this many standard deviations, which is chance.
SPREAD_THRESHOLD = 1.5
RING = np.ones((5, 5), bool)
RING[1:4, 1:4] = False
NEAREST = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], bool)
# Tilts looked at together; each takes some ten copies in double precision.
THREADS = 4
# Edge of the tiles that have a scale of their own, pixels.
TILE = 16
NEIGHBOURS = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], bool)
# A detector clips where an extreme value repeats this often, and this many times as
# often as the next level: counts repeat by chance, but they do so at every level.
MIN_CLIPPED = 8
CLIP_RATIO = 3.0
# The lowest level is that of the empty beam, and right, where nine tenths of the pixels
# beside it are nearer than this, in standard deviations of all others.
FLOOR = 0.25
# A ray is outside if it meets less than this share of its path through the slab.
MIN_SHARE = 0.98


class Masks(NamedTuple):
    """Bool arrays ``[n_tilts, u, y]``, true where a pixel is masked; may overlap.

    Attributes:
      fill: Constant borders, as rotation and shifting leave them, and their rim.
      hot: Single pixels far from their neighbours, too bright or too dark.
      saturated: Where the detector clipped.
      outside: Rays that miss a part of the slab, ``[n_tilts, u, 1]`` or per pixel.
    """

    fill: np.ndarray
    hot: np.ndarray
    saturated: np.ndarray
    outside: np.ndarray

    @property
    def keep(self) -> np.ndarray:
        """1 where no mask is set, else 0, float32 ``[n_tilts, u, y]``."""
        masked = self.fill | self.hot | self.saturated | self.outside
        return np.where(masked, np.float32(0), np.float32(1))

    def shares(self) -> dict[str, float]:
        """Share of masked pixels by reason, and of all together: JSON-ready."""
        each = {name: float(np.mean(mask)) for name, mask in self._asdict().items()}
        return each | {"all": float(1 - np.mean(self.keep))}


def find_masks(
    tilts: ArrayLike,
    geometry: TiltGeometry | None = None,
    *,
    hot_threshold: float = HOT_THRESHOLD,
    grow: int = 1,
) -> Masks:
    """All masks of a series.

    Args:
      tilts: Finite line integrals or counts, ``[n_tilts, u, y]``, before anything
        smoothed or scaled them: fill and clipping are known by exact repetition.
      geometry: Rays; ``None`` looks for none outside the slab.
      hot_threshold: Robust standard deviations.
      grow: Pixels added around fill, which interpolation has mixed with it.

    Raises:
      InputError: Not a stack of images, or pixels that are not finite.
    """
    array = np.asarray(tilts)
    if array.ndim != 3 or array.dtype.kind not in "fiub":
        raise InputError(
            "masks: expected real tilts [n_tilts, u, y], got "
            f"{array.dtype} of shape {list(array.shape)}; stack the tilts along the "
            "first axis"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(
            f"masks: expected finite tilts, got {int((~np.isfinite(array)).sum())} "
            "pixels that are not; replace them by a constant"
        )

    def each(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        fill = fill_mask(image, grow=grow)
        saturated = saturated_mask(image) & ~fill
        hot = hot_mask(image, fill | saturated, threshold=hot_threshold)
        return fill, hot, saturated

    # Sorting and filters of numpy and scipy run side by side.
    with futures.ThreadPoolExecutor(THREADS) as threads:
        fill, hot, saturated = map(np.stack, zip(*threads.map(each, array)))
    if geometry is None:
        outside = np.zeros((*array.shape[:2], 1), bool)
    else:
        outside = outside_mask(geometry)
    return Masks(fill, hot, saturated, outside)


def fill_mask(image: np.ndarray, *, grow: int = 1) -> np.ndarray:
    """Constant regions that touch the border of one tilt ``[u, y]``.

    A region counts if its value repeats along the border and its connected pixels are
    many.  Fill that goes on at the level of quiet vacuum beside it is right, whatever
    put it there, and stays.
    """
    border = np.concatenate([image[0], image[-1], image[1:-1, 0], image[1:-1, -1]])
    values, counts = np.unique(border, return_counts=True)
    found = np.zeros(image.shape, bool)
    for value in values[counts >= MIN_RUN]:
        labels, number = ndimage.label(image == value)
        if not number:
            continue
        edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
        areas = np.bincount(labels.ravel())
        chosen = [k for k in np.unique(edge) if k and areas[k] >= MIN_AREA]
        region = np.isin(labels, chosen)
        beside = image[ndimage.binary_dilation(region, iterations=3) & ~region]
        if beside.size:
            apart = np.quantile(np.abs(beside - value), 0.9)
            if apart < QUIET * float(np.std(image[~region])):
                continue
        found |= region
    if grow and found.any():
        found = ndimage.binary_dilation(found, np.ones((3, 3), bool), iterations=grow)
    return found


def hot_mask(
    image: np.ndarray,
    known: np.ndarray | None = None,
    *,
    threshold: float = HOT_THRESHOLD,
) -> np.ndarray:
    """Pixels of one tilt ``[u, y]`` far from the median of their neighbourhood.

    The scale is the median absolute deviation, noise and common texture, over the tilt
    or around the pixel, whichever is larger: most of a tilt can be quiet vacuum.
    Corners and fine lines of the specimen can be as far from the median, but have
    neighbours of their own level; a hot pixel has one at most, another hot one.
    ``known`` pixels are masked already and neither judged nor asked.
    """
    values = np.asarray(image, np.float64)
    if known is None:
        known = np.zeros(values.shape, bool)
    if known.all():
        return np.zeros(values.shape, bool)
    values = _nearest(values, known)
    apart = values - median_of_nine(values)
    scale = 1.4826 * np.median(np.abs(apart[~known]))
    # A tilt without noise has a scale near zero and would be hot wherever it bends.
    scale = max(scale, 1e-3 * float(np.std(values[~known])))
    scale = np.maximum(scale, 1.4826 * _around(np.abs(apart)))
    far = (np.abs(apart) > threshold * scale) & ~known
    # Only those few are compared with their neighbours, pixel by pixel.
    at = np.argwhere(far)
    around = np.pad(values, 2, mode="reflect" if min(values.shape) > 2 else "edge")
    steps = np.arange(5)
    boxes = around[at[:, :1, None] + steps[:, None], at[:, 1:, None] + steps]
    beside = np.sort(boxes[:, 1:4, 1:4][:, NEIGHBOURS], axis=1)
    own, noise, away = values[far], scale[far], apart[far]
    alone = np.maximum(own - beside[:, -2], beside[:, 1] - own)
    hot = (alone > 0.5 * threshold * noise) & ~_spread(boxes, away, noise)
    far[tuple(at.T)] = hot
    return far


def median_of_nine(image: np.ndarray) -> np.ndarray:
    """Median of each pixel ``[u, y]`` and its eight neighbours, edges mirrored.

    Three sorted rows leave three candidates (Paeth, Graphics Gems (1990) 171), which in
    whole arrays takes a fifth of the time of `scipy.ndimage.median_filter`.
    """
    rows, columns = image.shape
    wide = np.pad(image, 1, mode="reflect" if min(image.shape) > 1 else "edge")
    a, b, c = (wide[:, k : k + columns] for k in range(3))
    low, high = np.minimum(a, b), np.maximum(a, b)
    middle = np.maximum(low, np.minimum(high, c))
    low, high = np.minimum(low, c), np.maximum(high, c)
    a, b, c = (low[k : k + rows] for k in range(3))
    low = np.maximum(np.maximum(a, b), c)
    a, b, c = (high[k : k + rows] for k in range(3))
    high = np.minimum(np.minimum(a, b), c)
    a, b, c = (middle[k : k + rows] for k in range(3))
    middle = np.maximum(np.minimum(a, b), np.minimum(np.maximum(a, b), c))
    return np.maximum(
        np.minimum(low, middle), np.minimum(np.maximum(low, middle), high)
    )


def _spread(boxes: np.ndarray, apart: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Which pixels that stand out lift their four neighbours with them, as beads do.

    These are compared with the ring around them, two pixels away.

    Args:
      boxes: 5 x 5 pixels around each, ``[k, 5, 5]``.
      apart, scale: Of each, ``[k]``.
    """
    near = boxes[:, 1:4, 1:4][:, NEAREST].mean(axis=1)
    ring = np.sort(boxes[:, RING], axis=1)[:, RING.sum() // 2]
    lifted = (near - ring) * np.sign(apart)
    # The mean of four is half as uncertain as one.
    chance = SPREAD_THRESHOLD * 0.5 * scale
    return lifted > np.maximum(MAX_SPREAD * np.abs(apart), chance)


def _around(values: np.ndarray) -> np.ndarray:
    """The largest median of the tiles at and beside each pixel ``[u, y]``."""
    count = [max(1, round(n / TILE)) for n in values.shape]
    size = [n // c for n, c in zip(values.shape, count)]
    parts = [np.array_split(np.arange(n), c) for n, c in zip(values.shape, count)]
    if [n * c for n, c in zip(size, count)] == list(values.shape):
        tiles = values.reshape(count[0], size[0], count[1], size[1])
        tiles = tiles.swapaxes(1, 2).reshape(*count, -1)
        medians = np.median(tiles, axis=2)
    else:
        medians = np.array(
            [[np.median(values[np.ix_(u, y)]) for y in parts[1]] for u in parts[0]]
        )
    medians = ndimage.maximum_filter(medians, 3, mode="nearest")
    rows, columns = (np.repeat(np.arange(len(p)), [len(i) for i in p]) for p in parts)
    return medians[np.ix_(rows, columns)]


def saturated_mask(image: np.ndarray) -> np.ndarray:
    """Pixels of one tilt at an extreme value that piles up, as where a detector clips.

    A constant tilt has no other level and is masked whole.
    """
    values, counts = np.unique(image, return_counts=True)
    found = np.zeros(image.shape, bool)
    for end, inner in ((0, 1), (-1, -2)):
        beside = counts[inner] if len(values) > 1 else 0
        if counts[end] >= MIN_CLIPPED and counts[end] > CLIP_RATIO * beside:
            region = image == values[end]
            if end or not _is_floor(image, region):
                found |= region
    return found


def _is_floor(image: np.ndarray, region: np.ndarray) -> bool:
    """Whether the lowest level goes on beside its pixels, as in the empty beam."""
    if region.all():
        return False
    beside = image[ndimage.binary_dilation(region) & ~region]
    apart = np.quantile(beside - image[region][0], 0.9)
    return bool(apart < FLOOR * float(np.std(image[~region])))


def outside_mask(geometry: TiltGeometry, *, min_share: float = MIN_SHARE) -> np.ndarray:
    """Rays ``[n_tilts, u, 1]`` that leave the modelled volume before the slab ends.

    ``[n_tilts, u, y]`` where the tilts have a motion: what looks beside the field of
    view is outside, too.

    A slab is thought to continue sideways.  The path of a ray between its faces is
    ``thickness / cos(theta)`` long; what lies beyond the modelled columns adds to the
    data but is not in the volume.  Meant for slabs: a specimen that ends inside the
    volume has no such rays.
    """
    angles = np.asarray(geometry.angles_rad, np.float64)[:, None, None]
    u = (np.arange(geometry.num_u) - (geometry.num_u - 1) / 2)[:, None]
    if geometry.motion is None:
        return _share_inside(u, angles, geometry) < min_share
    columns, _, inside = seen_at(geometry)
    angles = angles + np.asarray(geometry.motion.tilt_rad)[:, None, None]
    return ~inside | (_share_inside(columns, angles, geometry) < min_share)


def _share_inside(
    u: np.ndarray, angles: np.ndarray, geometry: TiltGeometry
) -> np.ndarray:
    """Share of its path through the slab that a ray has in the modelled columns."""
    nz, nx, _ = geometry.volume_shape
    cos, sin = np.cos(angles), np.sin(angles)
    # Where the ray crosses the depth z it lies at x = (u - z sin) / cos.
    steep = np.abs(cos) < 1e-6
    safe = np.where(steep, 1.0, cos)
    ends = [(u + side * 0.5 * nz * sin) / safe for side in (-1.0, 1.0)]
    low, high = np.minimum(*ends), np.maximum(*ends)
    inside = np.minimum(high, 0.5 * nx) - np.maximum(low, -0.5 * nx)
    inside = np.maximum(inside, 0.0)
    span = high - low
    upright = span < 1e-9  # a beam along z: inside or not
    share = np.where(
        upright, np.abs(low) <= 0.5 * nx, inside / np.where(upright, 1, span)
    )
    return np.where(steep, 0.0, share)


def repair(tilts: ArrayLike, keep: ArrayLike) -> np.ndarray:
    """Tilts with every masked pixel replaced by its nearest unmasked one.

    For what looks at the tilts without their weights: mean, contrast, noise level.  A
    tilt with nothing left takes the median of the others.

    Args:
      tilts: ``[n_tilts, u, y]``.
      keep: 0 where masked, broadcastable to the tilts.

    Raises:
      InputError: No pixel is left at all.
    """
    array = np.array(tilts)
    masked = np.broadcast_to(np.asarray(keep) <= 0, array.shape)
    if masked.all():
        raise InputError(
            f"masks: expected some pixel that is not masked, got all {masked.size} "
            "masked; look at the tilts, or leave the masks out"
        )
    for image, known in zip(array, masked, strict=True):
        image[...] = (
            np.median(array[~masked]) if known.all() else _nearest(image, known)
        )
    return array


def _nearest(image: np.ndarray, known: np.ndarray) -> np.ndarray:
    if not known.any():
        return image
    at = ndimage.distance_transform_edt(
        known, return_distances=False, return_indices=True
    )
    return image[tuple(at)]
