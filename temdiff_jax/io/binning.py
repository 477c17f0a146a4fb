"""Binning tilt images on the host, before anything is moved to a device."""

from __future__ import annotations

import numpy as np


def bin_stack(tilts: np.ndarray, factor: int) -> np.ndarray:
    """Average blocks of factor x factor pixels of every image.

    The tilts are line integrals in intensity x voxel. A mean over pixels keeps these
    numbers, while the voxel grows by `factor`: in units of the new voxel they are
    larger than they should be, so a caller who wants intensities on the old scale
    divides by `factor`, and multiplies the voxel size by it.

    Extents that `factor` does not divide lose their remainder evenly at both ends, so
    that the tilt axis stays in the middle: where it is odd, blocks begin in the middle
    of a pixel, half of which belongs to either.

    Args:
      tilts: [n_tilts, y, x], real.
      factor: Pixels per block along y and along x, 1 or more.

    Returns:
      [n_tilts, y // factor, x // factor], float32, C-contiguous.

    Raises:
      ValueError: not three axes, or a factor below 1 or beyond the image.
    """
    tilts = np.asarray(tilts)
    if tilts.ndim != 3:
        raise ValueError(
            f"tilts: expected [n_tilts, y, x], got shape {tilts.shape}; reshape them"
        )
    count, height, width = tilts.shape
    if int(factor) != factor or not 1 <= factor <= min(height, width):
        raise ValueError(
            f"factor: expected a whole number from 1 to {min(height, width)}, got "
            f"{factor}; choose another"
        )
    factor = int(factor)
    rows, columns = height // factor, width // factor
    top, left = (height % factor) // 2, (width % factor) // 2
    binned = np.empty((count, rows, columns), np.float32)
    # One image at a time in float64: exact enough for counts, small in memory.
    for index in range(count):
        image = tilts[index].astype(np.float64)
        if height % factor % 2:
            image = 0.5 * (image[1:] + image[:-1])
        if width % factor % 2:
            image = 0.5 * (image[:, 1:] + image[:, :-1])
        image = image[top : top + rows * factor, left : left + columns * factor]
        blocks = image.reshape(rows, factor, columns, factor)
        binned[index] = blocks.mean(axis=(1, 3), dtype=np.float64)
    return binned
