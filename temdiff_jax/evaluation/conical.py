"""Conical Fourier shell correlation: how well each direction is resolved.

The correlation of `fourier.fourier_shell_correlation` is taken once per direction, over
the frequencies inside a double cone about it. Isotropic resolution gives the same curve
everywhere; a missing wedge takes the curve of the cones inside it to zero. One number
says how uneven the curves are: the smallest area below a curve over the largest, after
the conical FSC area ratio (cFAR) of CryoSPARC, https://guide.cryosparc.com, job
"Orientation Diagnostics", where values below 0.5 count as anisotropic. There the areas
are those of two half maps; here they are against the truth and reach to Nyquist.
"""

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from temdiff_jax.evaluation import fourier, metrics

NUM_AXES = 256
HALF_ANGLE_DEG = 20.0
# Fewer frequencies of a shell in a cone are no sample to correlate over.
_MIN_SAMPLES = 5


class ConicalCorrelation(NamedTuple):
    """Correlation per direction and shell.

    Attributes:
      axes: Unit vectors ``[n, 3]``, order (z, y, x), one per pair of opposite cones.
      frequency: Shell centres, cycles per voxel, ``[shells]``.
      fsc: ``[n, shells]``; NaN where a cone holds too few frequencies, or the truth
        no power.
      area: Mean over shells of the positive part of each curve, ``[n]``.
      ratio: Smallest area over the largest, in [0, 1]; 1 is isotropic.
    """

    axes: NDArray[np.float64]
    frequency: NDArray[np.float64]
    fsc: NDArray[np.float64]
    area: NDArray[np.float64]
    ratio: float

    def along(self, direction: ArrayLike) -> NDArray[np.float64]:
        """Curve of the cone whose axis is nearest to a direction (z, y, x)."""
        return self.fsc[int(np.argmax(np.abs(self.axes @ np.asarray(direction))))]


def hemisphere(count: int) -> NDArray[np.float64]:
    """Directions (z, y, x) evenly over half a sphere, ``[count, 3]``.

    Points on a spiral that turns by the golden angle (Gonzalez 2010,
    doi:10.1007/s11004-009-9257-x).
    """
    index = np.arange(count)
    height = (index + 0.5) / count
    turn = index * np.pi * (3.0 - np.sqrt(5.0))
    radius = np.sqrt(1.0 - height**2)
    return np.stack([height, radius * np.sin(turn), radius * np.cos(turn)], axis=1)


@functools.lru_cache(maxsize=2)
def _cones(
    shape: tuple[int, int, int], num_axes: int, half_angle_deg: float
) -> tuple[NDArray[np.float64], list[NDArray[np.int32]]]:
    """Axes, and for each the flat half-spectrum indices inside its double cone."""
    axes = hemisphere(num_axes)
    grid = fourier.shell_grid(shape)
    nz, ny, nx = shape
    usable = np.flatnonzero(
        (grid.shell.ravel() < grid.num_shells) & (grid.multiplicity.ravel() > 0)
    ).astype(np.int32)
    k = np.stack(
        np.broadcast_arrays(
            np.fft.fftfreq(nz)[:, None, None],
            np.fft.fftfreq(ny)[None, :, None],
            np.fft.rfftfreq(nx)[None, None, :],
        ),
        axis=-1,
    ).reshape(-1, 3)[usable]
    k /= np.linalg.norm(k, axis=1, keepdims=True)
    limit = np.cos(np.deg2rad(half_angle_deg))
    return axes, [usable[np.abs(k @ axis) >= limit] for axis in axes]


def conical_correlation(
    reconstruction: ArrayLike,
    truth: ArrayLike,
    *,
    weight: NDArray[np.float64] | None = None,
    num_axes: int = NUM_AXES,
    half_angle_deg: float = HALF_ANGLE_DEG,
) -> ConicalCorrelation:
    """Correlate two volumes per shell inside each of many cones.

    A cone in which the reconstruction is empty, but the truth is not, scores 0: an
    unfilled wedge is not resolved. Blind to gain and offset.

    Args:
        reconstruction, truth: volumes ``[z, y, x]``.
        weight: taper ``[z, y, x]``, see `fourier.soft_mask`.
        num_axes: directions over half the sphere.
        half_angle_deg: half the opening of a cone.

    Returns:
        Curves, their areas and the ratio of the areas; NaN for a truth without power.
    """
    rec, ref = metrics.check_volumes(reconstruction, truth)
    grid = fourier.shell_grid(ref.shape)
    nz, ny, nx = ref.shape
    axes, members = _cones((nz, ny, nx), num_axes, half_angle_deg)
    a = fourier.weighted_transform(rec, weight)
    b = fourier.weighted_transform(ref, weight)
    pairs = grid.multiplicity
    cross = ((a * b.conj()).real * pairs).ravel()
    power_a = (np.abs(a) ** 2 * pairs).ravel()
    power_b = (np.abs(b) ** 2 * pairs).ravel()
    shell = grid.shell.ravel()
    empty = fourier.EMPTY_SHARE * np.array([power_a.sum(), power_b.sum()])
    curves = np.full((len(axes), grid.num_shells), np.nan)
    for curve, inside in zip(curves, members, strict=True):
        where = shell[inside]

        count, both, pa, pb = (
            np.bincount(where, values[inside], grid.num_shells)
            for values in (pairs.ravel(), cross, power_a, power_b)
        )
        known = (count >= _MIN_SAMPLES) & (pb > empty[1])
        norm = np.sqrt(np.where(pa > empty[0], pa * pb, 1.0))
        found = np.where(pa > empty[0], both / norm, 0.0)
        curve[known] = found[known]
    area = _areas(curves)
    top = float(np.nanmax(area)) if np.isfinite(area).any() else float("nan")
    ratio = float(np.nanmin(area)) / top if top > 0 else float("nan")
    return ConicalCorrelation(axes, grid.frequency, curves, area, ratio)


def _areas(curves: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of the positive parts over known shells, NaN for a cone without any."""
    known = np.isfinite(curves)
    count = known.sum(axis=1)
    total = np.where(known, np.maximum(curves, 0.0), 0.0).sum(axis=1)
    out = np.full(len(curves), np.nan)
    return np.divide(total, count, out=out, where=count > 0)
