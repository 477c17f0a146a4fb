"""Fourier-space scores: measured region and missing wedge apart, shells, FSC.

A tilt at theta measures the plane ``k = kappa (cos theta, sin theta)`` in (kx, kz),
all ky (central slice theorem with ``x_det = x cos theta + z sin theta``). Frequencies
are in cycles per voxel and the last shell sits at Nyquist (0.5). The zero frequency is
left out of every score, since one number (the mean grey) would otherwise dominate.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft, ndimage

from temdiff_jax.evaluation import metrics

# Neighbouring tilts further apart than this many median steps bound a hole: one
# rejected tilt (2 steps) does not open the wedge, a skipped sector does. The cap in
# degrees keeps a handful of scattered views from claiming what lies between them.
_HOLE_IN_STEPS = 2.5
_HOLE_DEG = 15.0
# Below this share of the total power a Fourier region counts as empty: rounding of a
# float64 transform sits near 1e-30.
EMPTY_SHARE = 1e-24


class WedgeError(NamedTuple):
    """Relative squared Fourier error inside and outside the measured region."""

    e_in: float
    e_out: float
    frequency: NDArray[np.float64]
    e_in_shells: NDArray[np.float64]
    e_out_shells: NDArray[np.float64]
    measured_fraction: float


class SpectrumRatio(NamedTuple):
    """Power of the reconstruction over power of the truth, per shell."""

    frequency: NDArray[np.float64]
    inside: NDArray[np.float64]
    outside: NDArray[np.float64]


class ShellCorrelation(NamedTuple):
    """Fourier shell correlation and the centre frequency of its shells."""

    frequency: NDArray[np.float64]
    fsc: NDArray[np.float64]


class ShellGrid(NamedTuple):
    """Shell of every half-spectrum frequency, and how many of the full one it is."""

    multiplicity: NDArray[np.float64]
    shell: NDArray[np.intp]
    num_shells: int

    @property
    def frequency(self) -> NDArray[np.float64]:
        return (np.arange(self.num_shells) + 1) * 0.5 / self.num_shells


def shell_grid(shape: Sequence[int]) -> ShellGrid:
    """Shells of the half spectrum of a volume ``[z, y, x]``; zero has no weight."""
    nz, ny, nx = shape
    fz = np.fft.fftfreq(nz)[:, None, None]
    fy = np.fft.fftfreq(ny)[None, :, None]
    fx = np.fft.rfftfreq(nx)[None, None, :]
    count = np.full(fx.shape, 2.0)
    count[..., 0] = 1.0
    if nx % 2 == 0:
        count[..., -1] = 1.0
    num_shells = max(1, min(shape) // 2)
    radius = np.sqrt(fz**2 + fy**2 + fx**2)
    # Shell i holds radii around (i + 1) / (2 num_shells), for a cube the whole numbers
    # of periods; corners beyond Nyquist share one overflow bin that no curve shows.
    shell = np.rint(radius * 2 * num_shells).astype(np.intp) - 1
    shell = np.clip(shell, 0, num_shells)
    weights = np.broadcast_to(count, shell.shape).copy()
    weights[0, 0, 0] = 0.0
    return ShellGrid(weights, shell, num_shells)


def _wedges(angles_deg: ArrayLike) -> list[tuple[float, float]]:
    """Closed intervals of orientation (degrees) that the tilts cover, holes kept."""
    angles = np.asarray(angles_deg, dtype=np.float64)
    if angles.ndim != 1 or angles.size == 0 or not np.isfinite(angles).all():
        raise ValueError(
            "angle list is unusable: expected one or more finite degrees in one "
            f"dimension, got shape {list(angles.shape)}; pass the angle of each tilt"
        )
    ordered = np.unique(np.mod(angles, 180.0))
    if ordered.size == 1:
        return [(float(ordered[0]), float(ordered[0]))]
    gaps = np.diff(np.append(ordered, ordered[0] + 180.0))
    # The largest gap is the missing wedge itself, so it says nothing of the step.
    step = float(np.median(np.delete(gaps, np.argmax(gaps))))
    limit = min(_HOLE_IN_STEPS * step, _HOLE_DEG)
    return [
        (float(a), float(a + gap) if gap <= limit else float(a))
        for a, gap in zip(ordered, gaps, strict=True)
    ]


def measured_region(shape: Sequence[int], angles_deg: ArrayLike) -> NDArray[np.bool_]:
    """Mark the frequencies that the tilts measure.

    Everything between neighbouring tilts counts as measured, unless they are more than
    2.5 median steps (or 15 degrees) apart; the list may be asymmetric, have holes, or
    wrap around 180 degrees. A sample counts as well when the slice of some tilt cuts
    its cell, so even a single tilt has a region.

    Args:
        shape: volume shape ``(z, y, x)``.
        angles_deg: tilt angles in degrees.

    Returns:
        Boolean ``[z, y, x // 2 + 1]`` in the layout of ``rfftn``.

    Raises:
        ValueError: the angle list is empty or not finite.
    """
    nz, ny, nx = (int(n) for n in shape)
    fz = np.fft.fftfreq(nz)[:, None]
    fx = np.fft.rfftfreq(nx)[None, :]
    orientation = np.mod(np.rad2deg(np.arctan2(fz, fx)), 180.0)
    region = np.zeros(orientation.shape, dtype=bool)
    for low, high in _wedges(angles_deg):
        region |= np.mod(orientation - low, 180.0) <= high - low
        for edge in np.deg2rad([low, high]):
            sin, cos = np.sin(edge), np.cos(edge)
            reach = 0.5 * (abs(sin) / nx + abs(cos) / nz)
            region |= np.abs(fx * sin - fz * cos) <= reach
    return np.repeat(region[:, None, :], ny, axis=1)


def soft_mask(mask: ArrayLike, width: float = 4.0) -> NDArray[np.float64]:
    """Taper a boolean mask with a raised cosine of ``width`` voxels inside its edge.

    The border of the volume counts as an edge: a hard cut would spread power along the
    axes, among others from the measured region into the missing wedge.

    Returns:
        Weights in [0, 1], ``[z, y, x]``.
    """
    array = np.asarray(mask, dtype=bool)
    depth = ndimage.distance_transform_edt(np.pad(array, 1))[1:-1, 1:-1, 1:-1]
    return 0.5 - 0.5 * np.cos(np.pi * np.minimum(depth / (width + 1.0), 1.0))


def weighted_transform(
    volume: NDArray[np.float64], weight: NDArray[np.float64] | None
) -> NDArray[np.complex128]:
    """Transform of the (weighted) volume with its (weighted) mean taken away."""
    if weight is None:
        return fft.rfftn(volume - volume.mean())
    mean = float((weight * volume).sum() / weight.sum())
    return fft.rfftn(weight * (volume - mean))


def _sum(
    values: NDArray[np.float64], where: NDArray[np.bool_], grid: ShellGrid
) -> NDArray[np.float64]:
    """Sum per shell, overflow bin last, counting each conjugate pair twice."""
    sums = np.bincount(
        grid.shell.ravel(),
        weights=(values * grid.multiplicity * where).ravel(),
        minlength=grid.num_shells + 1,
    )
    return sums.astype(np.float64, copy=False)


def _ratio(top: ArrayLike, bottom: ArrayLike, total: float) -> NDArray[np.float64]:
    """Quotient with NaN where the truth has no power to compare with."""
    below = np.asarray(bottom, dtype=np.float64)
    out = np.full(below.shape, np.nan)
    solid = below > EMPTY_SHARE * total
    return np.divide(top, below, out=out, where=solid)


def wedge_split_error(
    reconstruction: ArrayLike,
    truth: ArrayLike,
    angles_deg: ArrayLike,
    *,
    weight: NDArray[np.float64] | None = None,
) -> WedgeError:
    """Compute ``|F(x - t)|^2 / |F t|^2`` over measured and over missing frequencies.

    Repeating the prior is bad inside, fitting only the data is bad outside; a blurred
    or empty wedge tends to 1, an invented one exceeds it.

    Args:
        reconstruction, truth: volumes ``[z, y, x]``.
        angles_deg: tilt angles in degrees; the region follows from this list.
        weight: taper ``[z, y, x]`` (see `soft_mask`); default: none, periodic volume.

    Returns:
        Totals over all frequencies except zero, and values per shell up to Nyquist;
        NaN where the truth has no power.
    """
    rec, ref = metrics.check_volumes(reconstruction, truth)
    grid = shell_grid(ref.shape)
    inside = measured_region(ref.shape, angles_deg)
    error = np.abs(weighted_transform(rec - ref, weight)) ** 2
    power = np.abs(weighted_transform(ref, weight)) ** 2
    total = float((power * grid.multiplicity).sum())
    parts = []
    for region in (inside, ~inside):
        top, bottom = _sum(error, region, grid), _sum(power, region, grid)
        whole = float(_ratio(top.sum(), bottom.sum(), total))
        parts.append((whole, _ratio(top, bottom, total)[:-1]))
    fraction = float((grid.multiplicity * inside).sum() / grid.multiplicity.sum())
    (e_in, in_shells), (e_out, out_shells) = parts
    return WedgeError(e_in, e_out, grid.frequency, in_shells, out_shells, fraction)


def spectrum_ratio(
    reconstruction: ArrayLike,
    truth: ArrayLike,
    angles_deg: ArrayLike,
    *,
    weight: NDArray[np.float64] | None = None,
) -> SpectrumRatio:
    """Compute ``P_x(k) / P_t(k)`` per shell, inside and outside the measured region.

    Blur shows as a ratio that falls with frequency; NaN where the truth has no power.
    """
    rec, ref = metrics.check_volumes(reconstruction, truth)
    grid = shell_grid(ref.shape)
    inside = measured_region(ref.shape, angles_deg)
    top = np.abs(weighted_transform(rec, weight)) ** 2
    bottom = np.abs(weighted_transform(ref, weight)) ** 2
    total = float((bottom * grid.multiplicity).sum())
    curves = [
        _ratio(_sum(top, region, grid), _sum(bottom, region, grid), total)[:-1]
        for region in (inside, ~inside)
    ]
    return SpectrumRatio(grid.frequency, curves[0], curves[1])


def power_spectrum(
    values: ArrayLike,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean power per shell of an image or a volume of unit variance.

    Borders are faded out by a Hann window along every axis, since a picture is not
    periodic; white noise has the power 1 at every frequency.

    Args:
        values: ``[y, x]`` or ``[z, y, x]``.

    Returns:
        Frequency in cycles per pixel, up to Nyquist, and power; both
        ``[min(shape) // 2]``.

    Raises:
        ValueError: constant or not finite.
    """
    array = np.asarray(values, np.float64)
    spread = array.std()
    if not np.isfinite(spread) or spread <= 0:
        raise ValueError(
            f"power spectrum: expected finite values that vary, got a standard "
            f"deviation of {spread}; leave constant volumes out"
        )
    window = np.ones(())
    for size in array.shape:
        window = np.multiply.outer(window, np.hanning(size + 2)[1:-1])
    transform = fft.fftn(window * (array - array.mean()) / spread)
    radius = np.sqrt(
        sum(f**2 for f in np.meshgrid(*map(np.fft.fftfreq, array.shape), indexing="ij"))
    )
    num_shells = max(1, min(array.shape) // 2)
    shell = np.rint(radius * 2 * num_shells).astype(np.intp).ravel()
    power = (np.abs(transform) ** 2 / np.sum(window**2)).ravel()
    count = np.bincount(shell, minlength=num_shells + 1)
    sums = np.bincount(shell, weights=power, minlength=num_shells + 1)
    inside = slice(1, num_shells + 1)
    frequency = (np.arange(num_shells) + 1) * 0.5 / num_shells
    return frequency, sums[inside] / np.maximum(count[inside], 1)


def fourier_shell_correlation(
    first: ArrayLike,
    second: ArrayLike,
    *,
    weight: NDArray[np.float64] | None = None,
    region: NDArray[np.bool_] | None = None,
) -> ShellCorrelation:
    """Normalised correlation of two volumes per Fourier shell.

    ``FSC = Re sum F1 conj(F2) / sqrt(sum |F1|^2 sum |F2|^2)`` (Harauz and van Heel
    1986). Blind to gain and offset. A hard mask inflates it: pass a taper as weight.

    Args:
        first, second: volumes ``[z, y, x]``, for instance a reconstruction and the
            truth. Two reconstructions that share a prior are not independent halves.
        weight: taper ``[z, y, x]``.
        region: frequencies to use, ``rfftn`` layout, e.g. `measured_region`.

    Returns:
        Shell centres in cycles per voxel and the correlation; NaN in empty shells.
    """
    a, b = metrics.check_volumes(first, second)
    grid = shell_grid(a.shape)
    where = np.ones(grid.multiplicity.shape, dtype=bool) if region is None else region
    fa, fb = weighted_transform(a, weight), weighted_transform(b, weight)
    cross = _sum((fa * fb.conj()).real, where, grid)[:-1]
    power_a = _sum(np.abs(fa) ** 2, where, grid)
    power_b = _sum(np.abs(fb) ** 2, where, grid)
    norm = np.sqrt(power_a * power_b)
    total = float(np.sqrt(power_a.sum() * power_b.sum()))
    return ShellCorrelation(grid.frequency, _ratio(cross, norm[:-1], total))


def crossing(curve: ShellCorrelation, threshold: float = 0.5) -> float:
    """Frequency (cycles per voxel) where the correlation first falls below a value.

    Linear between shell centres; 0.5 (Nyquist) when it never falls, 0 when the first
    shell is already below. Empty shells are skipped.
    """
    known = np.isfinite(curve.fsc)
    frequency, values = curve.frequency[known], curve.fsc[known]
    below = np.flatnonzero(values < threshold)
    if below.size == 0:
        return 0.5
    i = int(below[0])
    if i == 0:
        return 0.0
    share = (values[i - 1] - threshold) / (values[i - 1] - values[i])
    return float(frequency[i - 1] + share * (frequency[i] - frequency[i - 1]))
