"""Voxel-space scores of a volume against the truth, on the host, in float64.

Volumes are ``[z, y, x]`` in any real dtype; every sum runs in float64. Masks are
boolean ``[z, y, x]``; ``None`` means every voxel. ``data_range`` is max - min of the
whole truth volume, never of a slice or of the masked part, so that PSNR and SSIM of
one volume can be compared between masks and ranges. Scores in Fourier space live in
`temdiff_jax.evaluation.fourier`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

SSIM_SIGMA = 1.5
SSIM_TRUNCATE = 3.5
SSIM_RADIUS = int(SSIM_TRUNCATE * SSIM_SIGMA + 0.5)
_PLANE_AXES = {"xy": (1, 2), "xz": (0, 2), "yz": (0, 1)}


class AffineMatch(NamedTuple):
    """Least-squares gain and offset, and the volume they give."""

    gain: float
    offset: float
    volume: NDArray[np.float64]


class BootstrapInterval(NamedTuple):
    """Mean of paired differences and its bootstrap interval."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies strictly outside ``[low, high]``."""
        return self.low > 0.0 or self.high < 0.0


def check_volumes(
    reconstruction: ArrayLike, truth: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both volumes as float64 ``[z, y, x]``.

    Raises:
        ValueError: a volume is not 3-D, shapes differ, or a voxel is not finite.
    """
    pair = []
    for name, volume in (("reconstruction", reconstruction), ("truth", truth)):
        array = np.asarray(volume, dtype=np.float64)
        if array.ndim != 3:
            raise ValueError(
                f"{name} is not a volume: expected [z, y, x], got shape "
                f"{list(array.shape)}; pass one 3-D array"
            )
        if not np.isfinite(array).all():
            count = int(array.size - np.isfinite(array).sum())
            raise ValueError(
                f"{name} has non-finite voxels: expected none, got {count} of "
                f"{array.size}; a diverged result cannot be scored"
            )
        pair.append(array)
    if pair[0].shape != pair[1].shape:
        raise ValueError(
            "reconstruction and truth disagree: expected equal shapes, got "
            f"{list(pair[0].shape)} and {list(pair[1].shape)}; crop both to one grid"
        )
    return pair[0], pair[1]


def check_mask(mask: ArrayLike | None, shape: Sequence[int]) -> NDArray[np.bool_]:
    """Return a boolean mask of ``shape``; ``None`` becomes all true.

    Raises:
        ValueError: shape or dtype differ from the volume's, or nothing is kept.
    """
    if mask is None:
        return np.ones(tuple(shape), dtype=bool)
    array = np.asarray(mask)
    if array.dtype != np.bool_ or array.shape != tuple(shape):
        raise ValueError(
            f"mask does not fit: expected bool of shape {list(shape)}, got "
            f"{array.dtype} of shape {list(array.shape)}; pass a boolean [z, y, x] mask"
        )
    if not array.any():
        raise ValueError(
            f"mask is empty: expected at least one of {array.size} voxels, got 0; "
            "widen the detector, narrow the angles, or reduce the margin"
        )
    return array


def data_range(truth: ArrayLike) -> float:
    """Return max - min over the whole truth volume.

    Raises:
        ValueError: the truth is constant, so PSNR and SSIM have no scale.
    """
    array = np.asarray(truth, dtype=np.float64)
    extent = float(array.max() - array.min())
    if not extent > 0.0:
        raise ValueError(
            f"truth is constant: expected max > min, got range {extent}; "
            "choose a block that contains structure"
        )
    return extent


def seen_by_all_views(
    shape: Sequence[int],
    angles_deg: ArrayLike,
    *,
    detector_width: int | None = None,
    margin: float = 0.0,
) -> NDArray[np.bool_]:
    """Mark the voxels whose ray falls on the detector in every view.

    The position on the detector is ``x cos(theta) + z sin(theta)`` with centred
    indices, so the mask does not depend on y.

    Args:
        shape: volume shape ``(z, y, x)`` in voxels.
        angles_deg: tilt angles in degrees, any order and any asymmetry.
        detector_width: detector columns; default: the volume's x extent.
        margin: voxels to stay away from the detector's edge.

    Returns:
        Boolean mask ``[z, y, x]``.
    """
    angles = np.atleast_1d(np.deg2rad(np.asarray(angles_deg, dtype=np.float64)))
    nz, ny, nx = (int(n) for n in shape)
    limit = ((nx if detector_width is None else detector_width) - 1) / 2 - margin
    z = np.arange(nz)[:, None] - (nz - 1) / 2
    x = np.arange(nx)[None, :] - (nx - 1) / 2
    seen = np.ones((nz, nx), dtype=bool)
    for angle in angles:
        # The tolerance keeps the outermost column at 0 degrees despite rounding.
        seen &= np.abs(x * np.cos(angle) + z * np.sin(angle)) <= limit + 1e-9
    return np.repeat(seen[:, None, :], ny, axis=1)


def affine_match(
    reconstruction: ArrayLike, truth: ArrayLike, mask: ArrayLike | None = None
) -> AffineMatch:
    """Fit ``gain * reconstruction + offset`` to the truth by least squares.

    The fit uses the masked voxels, the returned volume covers all of them. A constant
    reconstruction gets gain 0 and the mean of the truth. A negative gain is returned
    as found: inverted contrast is a fact about the method.
    """
    rec, ref = check_volumes(reconstruction, truth)
    keep = check_mask(mask, ref.shape)
    a, b = rec[keep], ref[keep]
    mean_a, mean_b = a.mean(), b.mean()
    centred = a - mean_a
    power = float(np.dot(centred, centred))
    scale = float(np.abs(a).max())
    flat = power <= a.size * (1e-12 * scale) ** 2
    gain = 0.0 if flat else float(np.dot(centred, b - mean_b)) / power
    offset = float(mean_b - gain * mean_a)
    return AffineMatch(gain, offset, gain * rec + offset)


def mean_spread(std: ArrayLike, gain: float, mask: ArrayLike | None = None) -> float:
    """Root mean square of a standard deviation over the mask, in units of the truth.

    Args:
      std: Of the samples, ``[z, y, x]``.
      gain: Of the match of their mean with the truth, see `affine_match`.
      mask: Voxels that count; default all.
    """
    values = np.asarray(std, np.float64)
    keep = check_mask(mask, values.shape)
    return float(abs(gain) * np.sqrt(np.mean(values[keep] ** 2)))


def tau(error: float, spread: float, samples: int) -> float:
    """Error of a mean of samples over what their spread announces; 1 is calibrated.

    If the truth is one more draw of the distribution that the samples have, the mean of
    S of them is off by sqrt(1 + 1 / S) standard deviations. Above 1 the spread is too
    small, below 1 too large.

    Args:
      error: Root mean square error of the mean.
      spread: Root mean square of the standard deviation (unbiased), same units.
      samples: S.

    Returns:
      The ratio; infinite without spread.
    """
    if spread == 0.0:
        return float("inf")
    return error / (spread * float(np.sqrt(1.0 + 1.0 / samples)))


def rmse(
    reconstruction: ArrayLike, truth: ArrayLike, mask: ArrayLike | None = None
) -> float:
    """Root mean squared error over the mask, in units of the truth."""
    rec, ref = check_volumes(reconstruction, truth)
    keep = check_mask(mask, ref.shape)
    return float(np.sqrt(np.mean((rec[keep] - ref[keep]) ** 2)))


def nrmse(
    reconstruction: ArrayLike, truth: ArrayLike, mask: ArrayLike | None = None
) -> float:
    """RMSE over the root mean square of the truth, both over the mask (0 is perfect).

    Raises:
        ValueError: the truth vanishes over the mask.
    """
    rec, ref = check_volumes(reconstruction, truth)
    keep = check_mask(mask, ref.shape)
    norm = float(np.sqrt(np.mean(ref[keep] ** 2)))
    if norm == 0.0:
        raise ValueError(
            "truth vanishes: expected a non-zero voxel in the mask, got none; "
            "choose another block or mask"
        )
    return rmse(rec, ref, keep) / norm


def psnr(
    reconstruction: ArrayLike, truth: ArrayLike, mask: ArrayLike | None = None
) -> float:
    """Peak signal-to-noise ratio in dB, ``20 log10(data_range / rmse)``.

    The range is that of the truth volume. A perfect reconstruction gives ``inf``.
    """
    error = rmse(reconstruction, truth, mask)
    extent = data_range(truth)
    return float("inf") if error == 0.0 else float(20.0 * np.log10(extent / error))


def ssim_map(
    reconstruction: ArrayLike, truth: ArrayLike, axes: Sequence[int] = (0, 1, 2)
) -> NDArray[np.float64]:
    """Local structural similarity, Gaussian window over ``axes`` only.

    Sigma 1.5 voxels cut at 3.5 sigma, population covariance, K1 = 0.01, K2 = 0.03,
    range of the truth volume (Wang et al. 2004, doi:10.1109/TIP.2003.819861, eq. 13;
    the window conventions are those of ``skimage.metrics.structural_similarity``).

    Returns:
        Map ``[z, y, x]``; values within `SSIM_RADIUS` of a border in ``axes`` rest
        on mirrored voxels and are left out of the means below.
    """
    rec, ref = check_volumes(reconstruction, truth)
    sigma = [SSIM_SIGMA if axis in axes else 0.0 for axis in range(3)]

    def blur(array: NDArray[np.float64]) -> NDArray[np.float64]:
        return ndimage.gaussian_filter(
            array, sigma, mode="reflect", truncate=SSIM_TRUNCATE
        )

    mean_a, mean_b = blur(rec), blur(ref)
    var_a = blur(rec * rec) - mean_a**2
    var_b = blur(ref * ref) - mean_b**2
    covariance = blur(rec * ref) - mean_a * mean_b
    extent = data_range(ref)
    c1, c2 = (0.01 * extent) ** 2, (0.03 * extent) ** 2
    top = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return top / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))


def _inner(
    keep: NDArray[np.bool_], axes: Sequence[int], what: str
) -> NDArray[np.bool_]:
    """Drop the borders along ``axes`` where the window leaves the volume."""
    inner = np.zeros_like(keep)
    window = tuple(
        slice(SSIM_RADIUS, n - SSIM_RADIUS) if axis in axes else slice(None)
        for axis, n in enumerate(keep.shape)
    )
    inner[window] = keep[window]
    if not inner.any():
        raise ValueError(
            f"{what} has no voxel to average: expected masked voxels at least "
            f"{SSIM_RADIUS} from the border, got none in shape {list(keep.shape)}; "
            f"use at least {2 * SSIM_RADIUS + 1} voxels along each axis and a wider "
            "mask"
        )
    return inner


def ssim3d(
    reconstruction: ArrayLike, truth: ArrayLike, mask: ArrayLike | None = None
) -> float:
    """Mean 3-D structural similarity over the mask, borders of 5 voxels left out."""
    values = ssim_map(reconstruction, truth)
    inner = _inner(check_mask(mask, values.shape), (0, 1, 2), "3-D SSIM")
    return float(values[inner].mean())


def ssim_slices(
    reconstruction: ArrayLike,
    truth: ArrayLike,
    plane: str,
    mask: ArrayLike | None = None,
) -> float:
    """Mean over slices of the 2-D structural similarity in one plane.

    Args:
        reconstruction, truth: volumes ``[z, y, x]``.
        plane: ``"xy"``, ``"xz"`` or ``"yz"``; the missing wedge shows in ``"xz"``.
        mask: voxels that count; a slice without any is skipped.

    Returns:
        The slice mean; every slice shares the range of the truth volume.

    Raises:
        ValueError: unknown plane, or no voxel left to average.
    """
    if plane not in _PLANE_AXES:
        raise ValueError(
            f"unknown plane: expected one of {sorted(_PLANE_AXES)}, got {plane!r}; "
            "name the two axes that span the slices"
        )
    axes = _PLANE_AXES[plane]
    values = ssim_map(reconstruction, truth, axes)
    inner = _inner(check_mask(mask, values.shape), axes, f"{plane} SSIM")
    counts = inner.sum(axis=axes)
    sums = np.where(inner, values, 0.0).sum(axis=axes)
    return float(np.mean(sums[counts > 0] / counts[counts > 0]))


def paired_bootstrap(
    differences: ArrayLike,
    seed: int,
    *,
    level: float = 0.95,
    num_resamples: int = 10_000,
) -> BootstrapInterval:
    """Percentile bootstrap interval of the mean of paired differences.

    Args:
        differences: one number per volume, method A minus method B on that volume.
        seed: seed of the resampling; the same seed gives the same interval.
        level: nominal coverage in (0, 1).
        num_resamples: bootstrap replicates (Efron and Tibshirani 1993, chapter 13).

    Returns:
        Mean, interval and number of pairs. The percentile interval is somewhat too
        narrow for few pairs: see `tables.MIN_PAIRS` for the rule on bold values.

    Raises:
        ValueError: fewer than two pairs, a non-finite one, or a level outside (0, 1).
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or values.size < 2 or not np.isfinite(values).all():
        raise ValueError(
            "differences cannot be resampled: expected two or more finite numbers in "
            f"one dimension, got shape {list(values.shape)}; score both methods on "
            "the same volumes"
        )
    if not 0.0 < level < 1.0:
        raise ValueError(
            f"level is no coverage: expected 0 < level < 1, got {level}; use 0.95"
        )
    generator = np.random.default_rng(seed)
    picks = generator.integers(0, values.size, size=(num_resamples, values.size))
    means = values[picks].mean(axis=1)
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return BootstrapInterval(float(values.mean()), float(low), float(high), values.size)
