"""Depth gauge: the shift and scale along z that a narrow range cannot fix.

A narrow tilt range determines where a feature lies along the beam, and how long it is,
only weakly: a tilt offset or a scale error of the tilts moves and stretches everything
at no cost in the data. The evaluation therefore fits both to the truth and reports the
scores before and after, with the fitted numbers as an error of their own.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize

from temdiff_jax.evaluation import metrics

SCALE_RANGE = (0.7, 1.4)


class DepthGauge(NamedTuple):
    """Fitted depth error of a reconstruction and the volume without it.

    ``scale`` > 1: the reconstruction is stretched along z. ``shift`` > 0: its content
    lies ``shift`` voxels above (at larger z than) the truth's.
    """

    shift: float
    scale: float
    correlation: float
    volume: NDArray[np.float64]


def depth_taps(
    size: int, shift: float, scale: float
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Slices and weights that undo a depth error.

    Slice z reads position ``c + scale (z - c) + shift``, c the centre.

    Cubic convolution (Keys 1981, a = -1/2), positions outside the volume clamped to
    its first or last slice; weights sum to one, so a constant stays constant.

    Returns:
        Slice indices and weights, both ``[size, 4]``.
    """
    centre = (size - 1) / 2
    position = centre + scale * (np.arange(size) - centre) + shift
    position = np.clip(position, 0, size - 1)[:, None]
    tap = np.floor(position).astype(np.intp) + np.arange(-1, 3)
    d = np.abs(position - tap)
    near = 1.5 * d**3 - 2.5 * d**2 + 1.0
    far = -0.5 * d**3 + 2.5 * d**2 - 4.0 * d + 2.0
    return np.clip(tap, 0, size - 1), np.where(d < 1, near, np.where(d < 2, far, 0.0))


def fit_depth_gauge(
    reconstruction: ArrayLike, truth: ArrayLike, mask: ArrayLike | None = None
) -> DepthGauge:
    """Fit depth shift and scale by maximal correlation with the truth.

    The correlation of every candidate follows from two ``[z, z]`` matrices of inner
    products, so the search never touches the volumes: a grid of 15 scales in
    [0.7, 1.4] by whole-voxel shifts up to a quarter of the depth, then Nelder-Mead.

    Args:
        reconstruction, truth: volumes ``[z, y, x]``.
        mask: columns (y, x) that are true at every z are used; all if there is none.

    Returns:
        The fitted errors, the correlation reached and the corrected volume. The
        identity is kept when no candidate beats it.
    """
    rec, ref = metrics.check_volumes(reconstruction, truth)
    keep = metrics.check_mask(mask, ref.shape).all(axis=0)
    keep = keep if keep.any() else np.ones_like(keep)
    a, b = rec[:, keep], ref[:, keep]
    # Weights sum to one, so one grey value per volume may be removed beforehand; what
    # resampling adds to the mean is taken out below.
    a, b = a - a.mean(), b - b.mean()
    nz, columns = a.shape
    cross, gram, plane_mean = b @ a.T / columns, a @ a.T / columns, a.mean(axis=1)
    norm_b = float(np.mean(b * b))

    def correlation(shift: float, scale: float) -> float:
        tap, w = depth_taps(nz, shift, scale)
        mean = float(np.mean(w * plane_mean[tap])) * 4
        pairs = gram[tap[:, :, None], tap[:, None, :]]
        power = float(np.sum(w[:, :, None] * w[:, None, :] * pairs)) / nz - mean**2
        if power <= 0.0 or norm_b <= 0.0:
            return 0.0
        overlap = float(np.sum(w * np.take_along_axis(cross, tap, axis=1))) / nz
        return overlap / float(np.sqrt(power * norm_b))

    reach = max(1, nz // 4)
    candidates = [(0.0, 1.0)] + [
        (float(shift), float(scale))
        for scale in np.linspace(*SCALE_RANGE, 15)
        for shift in range(-reach, reach + 1)
    ]
    best = max(candidates, key=lambda pair: correlation(*pair))
    simplex = _simplex(best, float(reach))
    found = optimize.minimize(
        lambda pair: -correlation(*pair),
        best,
        method="Nelder-Mead",
        bounds=[(-float(reach), float(reach)), SCALE_RANGE],
        options={"xatol": 1e-3, "fatol": 1e-10, "initial_simplex": simplex},
    )
    shift, scale = (float(v) for v in found.x)
    if correlation(shift, scale) <= correlation(0.0, 1.0):
        shift, scale = 0.0, 1.0
    return DepthGauge(
        shift, scale, correlation(shift, scale), _resampled(rec, shift, scale)
    )


def _resampled(
    volume: NDArray[np.float64], shift: float, scale: float
) -> NDArray[np.float64]:
    tap, w = depth_taps(volume.shape[0], shift, scale)
    out = np.zeros_like(volume)
    for t in range(4):
        out += w[:, t, None, None] * volume[tap[:, t]]
    return out


def _simplex(best: tuple[float, float], reach: float) -> NDArray[np.float64]:
    """Start triangle of half a voxel and 2.5 %, folded back into the bounds."""
    shift, scale = best
    step = -0.5 if shift + 0.5 > reach else 0.5
    stretch = -0.025 if scale + 0.025 > SCALE_RANGE[1] else 0.025
    return np.array([best, (shift + step, scale), (shift, scale + stretch)])
