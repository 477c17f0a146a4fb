"""Sliced Wasserstein distance between the patches of two sets of volumes.

Patches are compared along random directions, on which the distance of two sets of
numbers is the mean difference of their sorted values; over scales, by means over larger
cells.

Source: Rabin et al., SSVM 2011; patches at several scales: Karras et al., ICLR 2018.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

EDGE = 5  # of a patch, voxels
SCALES = (1, 2, 4)
PATCHES, DIRECTIONS = 4096, 256


def binned(volume: np.ndarray, factor: int) -> np.ndarray:
    """Means over cells of the last three axes; a rest that fills none is left out."""
    *batch, nz, nx, ny = volume.shape
    counts = [n // factor for n in (nz, nx, ny)]
    ends = [n * factor for n in counts]
    cut = volume[..., : ends[0], : ends[1], : ends[2]]
    cells = cut.reshape(*batch, *(m for n in counts for m in (n, factor)))
    return cells.mean(axis=(-5, -3, -1))


def _patches(rng: np.random.Generator, volumes: np.ndarray, count: int) -> np.ndarray:
    """Random patches ``[count, EDGE^3]`` of volumes ``[n, z, x, y]``."""
    windows = np.lib.stride_tricks.sliding_window_view(
        volumes, (EDGE, EDGE, EDGE), axis=(1, 2, 3)
    )
    places = [rng.integers(n, size=count) for n in windows.shape[:4]]
    return windows[tuple(places)].reshape(count, -1)


def distance(
    one: np.ndarray, other: np.ndarray, *, seed: int = 0, count: int = PATCHES
) -> list[float]:
    """Distance of two sets of volumes at each of ``SCALES`` that their extents allow.

    Args:
      one, other: ``[n, z, x, y]``, one unit of intensity.
      seed: Of patches and directions.
      count: Patches of each set.

    Returns:
      Mean absolute difference of the sorted projections, in that unit.
    """
    found = []
    for scale in SCALES:
        sets = [binned(np.asarray(v, np.float64), scale) for v in (one, other)]
        if min(min(v.shape[1:]) for v in sets) < EDGE:
            break
        rng = np.random.default_rng([seed, scale])
        directions = rng.standard_normal((EDGE**3, DIRECTIONS))
        directions /= np.linalg.norm(directions, axis=0)
        lines = [np.sort(_patches(rng, v, count) @ directions, axis=0) for v in sets]
        found.append(float(np.mean(np.abs(lines[0] - lines[1]))))
    return found


def relative(
    drawn: np.ndarray, real: Sequence[np.ndarray], *, seed: int = 0
) -> list[float]:
    """Distance of samples from real blocks over that of two halves of the real ones.

    Args:
      drawn: ``[n, z, x, y]``.
      real: At least two volumes of one shape, of different places.
      seed: Of patches and directions.

    Returns:
      A ratio at each scale; 1 where samples are as like real blocks as these are like
      one another.
    """
    blocks = np.stack(real)
    halves = blocks[::2], blocks[1::2]
    among = np.array(distance(*halves, seed=seed))
    apart = [np.array(distance(drawn, half, seed=seed + 1)) for half in halves]
    return [float(v) for v in np.mean(apart, axis=0) / among]
