"""How well tilts agree that they show one slab, as a likelihood in Fourier space.

A slab of thickness T about depth b whose content is random with a smooth power spectrum
makes the tilts jointly Gaussian.  In the coordinate ``x' = u / cos(theta)`` the
coefficients of all tilts at a frequency (fx, fy) are slices through one depth profile,

    Y_k = integral V(fx, fy, z) exp(-2 pi i fx z tan(theta_k)) dz + noise,

so that, over their standard deviation, their covariance is

    C_kl = (1 - nu) (1/T) integral rho(z d) exp(-2 pi i fx z d) dz + nu [k = l],

with ``d = tan(theta_k) - tan(theta_l)`` and rho the autocorrelation of the window on
the images: what leaves the window agrees with nothing.  nu is the share of noise,
measured from the images, and a share ``eta`` of the rest on which no model insists
(gain, grid, content that is no Gaussian), which is chosen by the likelihood.  One small
matrix for each frequency gives the likelihood of any angles, shifts, axis or thickness
without a reconstruction; its conditional mean is the projection of the quadratic
estimate with the same spectrum.

All figures are relative to tilts that have nothing in common (``C = 1``): the *gain*,
a logarithm of a likelihood ratio, twice which is a gain in chi2.

Source: Rasmussen & Williams, Gaussian Processes for Machine Learning (2006), ch. 2
and 5 (evidence, leaving one out); Whittle, J. R. Stat. Soc. B 15 (1953) 125
(frequencies as independent data); the central slice theorem.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import numpy as np
from scipy import ndimage

# Highest frequency that is looked at, cycles per pixel.
HIGHEST = 0.25
# Tilts beyond this show too little of the common field of view.
STEEPEST_DEG = 65.0
# Shares of the signal on which the model does not insist.
UNSHARED = (0.003, 0.01, 0.03, 0.06, 0.1, 0.2, 0.35, 0.6)
# Frequencies with less signal than this share of the noise say nothing.
FAINT = 0.05


@dataclasses.dataclass(frozen=True)
class Views:
    """Images at their angles; what a hypothesis about a series changes.

    Attributes:
      images: ``[n, u, y]``, line integrals, any unit.
      angles_rad: ``[n]``.
      sigma: Standard deviation of the noise of each image, ``[n]``.
      shifts: (u, y) by which content lies too far, pixels, ``[n, 2]``.
    """

    images: np.ndarray
    angles_rad: np.ndarray
    sigma: np.ndarray
    shifts: np.ndarray

    def taken(self, rows: np.ndarray) -> Views:
        """Some of the tilts."""
        fields = (self.images, self.angles_rad, self.sigma, self.shifts)
        return Views(*(field[rows] for field in fields))


class Spectra(NamedTuple):
    """Coefficients over their standard deviation, and what they are worth.

    Attributes:
      data: ``[n, fx, fy]`` complex, of mean power 1.
      fx, fy: Cycles per pixel; fy is not negative.
      noise: Share of the power that is noise, ``[fx, fy]``.
      worth: Of each coefficient as an independent datum, ``[fx, fy]``; 0 leaves out.
      tangents: ``[n]``.
      width: Of the window along x', pixels.
    """

    data: np.ndarray
    fx: np.ndarray
    fy: np.ndarray
    noise: np.ndarray
    worth: np.ndarray
    tangents: np.ndarray
    width: float


def spectra(views: Views) -> Spectra:
    """Coefficients of windowed images in the coordinate ``u / cos(theta)``."""
    _, nu, ny = views.images.shape
    u, y = (np.arange(m) - (m - 1) / 2 for m in (nu, ny))
    fx = np.arange(-int(HIGHEST * nu), int(HIGHEST * nu) + 1) / nu
    fy = np.arange(int(HIGHEST * ny) + 1) / ny
    row = _hann(y / ny)
    along_y = row[:, None] * np.exp(-2j * np.pi * np.outer(y, fy))
    data = np.empty((len(views.images), len(fx), len(fy)), np.complex128)
    level = np.zeros(len(views.images))
    for k, image in enumerate(views.images):
        across = u / np.cos(views.angles_rad[k])
        column = _hann(across / nu)
        weight = column[:, None] * row
        flat = image - np.sum(weight * image) / np.sum(weight)
        along_x = column * np.exp(-2j * np.pi * np.outer(fx, across))
        found = along_x @ flat @ along_y
        shift_x = views.shifts[k, 0] / np.cos(views.angles_rad[k])
        back = np.outer(fx * shift_x, np.ones_like(fy)) + fy * views.shifts[k, 1]
        data[k] = found * np.exp(2j * np.pi * back)
        level[k] = views.sigma[k] ** 2 * np.sum(weight**2)
    power = ndimage.gaussian_filter(np.mean(np.abs(data) ** 2, axis=0), 1.0)
    power = np.maximum(power, 1e-30 + 1e-12 * power.max())
    noise = np.clip(np.mean(level) / power, 0.0, 1.0)
    # Coefficients of a Hann window: independent ones to those computed, per axis.
    worth = np.full(power.shape, (18 / 35) ** 2)
    worth[(fx <= 0)[:, None] & (fy == 0)[None]] = 0.0  # conjugates, and the mean
    worth[noise > 1 / (1 + FAINT)] = 0.0
    worth[np.hypot(fx[:, None], fy[None]) > HIGHEST] = 0.0
    tangents = np.tan(views.angles_rad)
    return Spectra(data / np.sqrt(power), fx, fy, noise, worth, tangents, float(nu))


def _hann(place: np.ndarray) -> np.ndarray:
    """Window over places in (-1/2, 1/2), zero beyond."""
    return np.where(np.abs(place) < 0.5, np.cos(np.pi * place) ** 2, 0.0)


def _overlap(lag: np.ndarray) -> np.ndarray:
    """Autocorrelation of the window over lags in widths, 1 at zero."""
    x = np.minimum(np.abs(lag), 1.0)
    turn = 2 * np.pi * x
    return (1 - x) * (2 + np.cos(turn)) / 3 + np.sin(turn) / (2 * np.pi)


@dataclasses.dataclass(frozen=True)
class Slab:
    """Where the specimen is along the beam, pixels: thickness, and its middle."""

    thickness: float
    middle: float = 0.0

    @property
    def reach(self) -> float:
        """Half the thickness of a volume about zero that holds it."""
        return 0.5 * self.thickness + abs(self.middle)


@functools.cache
def _quadrature(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights in [-1, 1]; enough for ``count / 2`` turns of a cosine."""
    return np.polynomial.legendre.leggauss(count)


class Modes(NamedTuple):
    """Covariances of all frequencies, diagonalised.

    Attributes:
      values: ``[fx, n]``, of the part that the tilts share.
      amplitudes: Data in the modes, ``[fx, n, fy]``.
      vectors: ``[fx, n, n]``, columns.
    """

    values: np.ndarray
    amplitudes: np.ndarray
    vectors: np.ndarray


def modes(of: Spectra, slab: Slab) -> Modes:
    """The shared covariance of a slab at every frequency, and the data in its modes."""
    lag = of.tangents[:, None] - of.tangents[None]
    turns = of.fx.max() * slab.thickness * np.ptp(of.tangents)
    nodes, weights = _quadrature(9 + int(2 * turns))
    depth = 0.5 * slab.thickness * nodes
    seen = 0.5 * weights * _overlap(lag[..., None] * depth / of.width)
    half = of.fx[of.fx >= 0]
    phase = 2 * np.pi * half[:, None, None, None] * (lag[..., None] * depth)
    shared = np.einsum("klz,fklz->fkl", seen, np.cos(phase))
    values, vectors = np.linalg.eigh(shared)
    # The covariance is even in fx.
    at = np.rint(np.abs(of.fx) * of.width).astype(int)
    values, vectors = np.maximum(values[at], 0.0), vectors[at]
    centre = np.exp(2j * np.pi * slab.middle * np.outer(of.tangents, of.fx))
    data = np.moveaxis(of.data * centre[..., None], 0, 1)
    return Modes(values, np.swapaxes(vectors, 1, 2) @ data, vectors)


def variances(of: Spectra, found: Modes, unshared: float) -> np.ndarray:
    """Eigenvalues of C, ``[fx, n, fy]``."""
    rest = of.noise + unshared * (1 - of.noise)
    return (1 - rest)[:, None] * found.values[..., None] + rest[:, None]


def gains(of: Spectra, found: Modes) -> np.ndarray:
    """Gain for every share of ``UNSHARED``."""
    power = np.abs(found.amplitudes) ** 2
    result = []
    for unshared in UNSHARED:
        variance = variances(of, found, unshared)
        each = np.sum(power * (1 - 1 / variance) - np.log(variance), axis=1)
        result.append(np.sum(of.worth * each))
    return np.array(result)


class Fit(NamedTuple):
    """The likeliest slab: its gain, itself, and the unshared part."""

    gain: float
    slab: Slab
    unshared: float


def fit(of: Spectra, slabs: list[Slab]) -> Fit:
    """The best of some slabs."""
    best = Fit(-np.inf, slabs[0], UNSHARED[-1])
    for slab in slabs:
        each = gains(of, modes(of, slab))
        top = int(np.argmax(each))
        if each[top] > best.gain:
            best = Fit(float(each[top]), slab, UNSHARED[top])
    return best


# Thicknesses of the specimen as shares of the volume's.
SHARES = (1.0, 0.7, 0.5, 0.35, 0.2, 0.1)


def fit_within(of: Spectra, thickness: float) -> Fit:
    """The likeliest slab inside a volume of a thickness, its middle free."""
    first = fit(of, [Slab(share * thickness) for share in SHARES])
    room = 0.5 * (thickness - first.slab.thickness)
    if room <= 0.5:
        return first
    middles = room * np.linspace(-1, 1, 7)
    return fit(of, [Slab(first.slab.thickness, float(m)) for m in middles])
