"""Profiles across membranes that lie flat: elongation along the beam shows here first.

Where the truth has a thin bright sheet whose normal is near z, the grey levels of truth
and reconstruction are averaged along z about the sheet. A blurred reconstruction has a
wider peak; one that fills the wedge by smearing has shallower troughs beside it.

Sheets are bright, as in a stain density; negate both volumes for dark ones.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from temdiff_jax.evaluation import metrics

REACH = 10
# Below so many places an average profile is that of its noise.
MIN_SITES = 20
_SCALE = 1.5  # voxels, of the derivatives that find sheets
_NORMAL_DEG = 25.0
# A sheet curves across and not along: the second strongest curvature at most half.
_FLATNESS = 0.5
# Of the curvature that the clearest 5 % of the places have.
_CLEAR_SHARE = 0.5
_CLEAR_PERCENTILE = 95.0


class Profile(NamedTuple):
    """A mean profile along z about the sheets of the truth.

    Attributes:
      values: Grey level at offsets ``-REACH ... REACH`` voxels.
      width: Full width at half height between peak and troughs, voxels; NaN when the
        middle is not above the troughs.
      depth: Middle minus the mean of the lowest value on either side.
    """

    values: NDArray[np.float64]
    width: float
    depth: float


def find_sheets(
    truth: ArrayLike, mask: ArrayLike | None = None
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Voxels on the crest of bright sheets whose normal is within 25 degrees of z.

    A crest is a maximum along z of the truth smoothed by 1.5 voxels; the normal is the
    eigenvector of the strongest negative curvature (Frangi et al. 1998,
    doi:10.1007/BFb0056195, section 2), and the other curvatures are at most half as
    strong. On the two lines where a rod's other curvature changes its sign, the rod
    passes for a sheet.

    Args:
        truth: volume ``[z, y, x]``.
        mask: voxels that may be used, bool ``[z, y, x]``; a place counts when all of
            its profile lies inside.

    Returns:
        Indices (z, y, x).
    """
    ref, _ = metrics.check_volumes(truth, truth)
    keep = metrics.check_mask(mask, ref.shape)
    if ref.shape[0] < 2 * REACH + 1:
        none = np.zeros(0, np.intp)
        return none, none, none

    def derivative(*order: int) -> NDArray[np.float64]:
        return ndimage.gaussian_filter(ref, _SCALE, order=order, mode="nearest")

    smooth, zz = derivative(0, 0, 0), derivative(2, 0, 0)
    crest = np.zeros(ref.shape, bool)
    crest[1:-1] = (smooth[1:-1] > smooth[:-2]) & (smooth[1:-1] >= smooth[2:])
    # The profile's ends must be seen as well; a mask is convex along z.
    inside = np.zeros(ref.shape, bool)
    inside[REACH:-REACH] = keep[: -2 * REACH] & keep[2 * REACH :] & keep[REACH:-REACH]
    span = float(np.ptp(ref))
    sites = np.nonzero(crest & inside & (-zz > 1e-6 * span))
    if sites[0].size == 0:
        return sites[0], sites[1], sites[2]
    strength = -zz[sites]
    clear = strength >= _CLEAR_SHARE * np.percentile(strength, _CLEAR_PERCENTILE)
    sites = tuple(index[clear] for index in sites)
    hessian = np.empty((sites[0].size, 3, 3))
    for row in range(3):
        for column in range(row, 3):
            order = np.zeros(3, int)
            order[row] += 1
            order[column] += 1
            values = derivative(*order.tolist())[sites]
            hessian[:, row, column] = hessian[:, column, row] = values
    curvature, vectors = np.linalg.eigh(hessian)  # ascending: the crest comes first
    upright = np.abs(vectors[:, 0, 0]) >= np.cos(np.deg2rad(_NORMAL_DEG))
    flat = np.abs(curvature[:, 1:]).max(axis=1) <= _FLATNESS * -curvature[:, 0]
    z, y, x = (index[upright & flat] for index in sites)
    return z, y, x


def mean_profile(
    volume: ArrayLike,
    sites: tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]],
) -> Profile:
    """Average a volume along z about the places of `find_sheets`.

    Returns:
        The profile; NaN throughout with fewer than `MIN_SITES` places.
    """
    array = np.asarray(volume, np.float64)
    z, y, x = sites
    if z.size < MIN_SITES:
        nothing = np.full(2 * REACH + 1, np.nan)
        return Profile(nothing, float("nan"), float("nan"))
    offsets = np.arange(-REACH, REACH + 1)
    values = array[z[:, None] + offsets, y[:, None], x[:, None]].mean(axis=0)
    middle = values[REACH]
    low = [values[:REACH].min(), values[REACH + 1 :].min()]
    depth = float(middle - np.mean(low))
    if not all(middle > trough for trough in low):
        return Profile(values, float("nan"), depth)
    left = _half_way(values[REACH::-1], 0.5 * (middle + low[0]))
    right = _half_way(values[REACH:], 0.5 * (middle + low[1]))
    return Profile(values, left + right, depth)


def _half_way(side: NDArray[np.float64], level: float) -> float:
    """Distance from the middle to the first fall below a level, linear between."""
    i = int(np.flatnonzero(side < level)[0])
    return i - 1 + float((side[i - 1] - level) / (side[i - 1] - side[i]))
