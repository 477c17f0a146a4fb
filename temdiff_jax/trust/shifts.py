"""How far each tilt lies from where the others say it should, with its error.

A shift multiplies the coefficients of a tilt by a phase.  Given the other tilts the
likelihood of ``coherence`` in the shift of one is the correlation of its image with the
projection of the consistent estimate that the others make, so shifts are found by
projection matching, tilt after tilt, each against all the others.

A position of the specimen, ``(x cos + z sin, y)``, is no shift of a tilt and is taken
out.  Errors are those of the curvature of the likelihood with these gauges fixed.

Source: Dengler, Ultramicroscopy 30 (1989) 337 (projection matching); Guizar-Sicairos,
Thurman & Fienup, Opt. Lett. 33 (2008) 156 (a coarse grid, then a fine one).
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from temdiff_jax.trust import coherence
from temdiff_jax.trust.coherence import Fit, Slab, Spectra, Views

# Steps of the two grids, pixels, and Newton steps after them.
COARSE, FINE = 0.5, 0.05
STEPS = 5
SETTLED = 0.01
# No Newton step is longer, pixels: the phases of the highest frequency turn by pi / 2.
LONGEST = 1.0
# Unshared part while tilts are placed one after another.
_PLACING = 0.03


class Shifts(NamedTuple):
    """What was found.

    Attributes:
      shifts: (u, y), by which content lies too far, pixels, ``[n, 2]``.
      errors: Their standard deviations, ``[n, 2]``.
      fit: Of the series with them undone.
    """

    shifts: np.ndarray
    errors: np.ndarray
    fit: Fit


def measure(views: Views, thickness: float, farthest: float) -> Shifts:
    """Shifts of all tilts in a volume of a thickness, up to ``farthest`` pixels.

    The search begins where the tilts are and where they lie when placed one by one; the
    likelier end is taken.
    """
    cos = np.cos(views.angles_rad)[:, None] ** np.array([1, 0])
    starts = views, _place(views, thickness, farthest)
    ends = [_climb(start, thickness) for start in starts]
    placed, fit = max(ends, key=lambda end: end[1].gain)
    found = coherence.spectra(placed)
    spread = _curved(found, fit)[1]
    errors = np.sqrt(np.sum(spread**2, axis=1)).reshape(2, -1).T
    return Shifts(placed.shifts - views.shifts, errors * cos, fit)


def _climb(views: Views, thickness: float) -> tuple[Views, Fit]:
    """Newton steps from where the tilts are, while the likelihood rises."""
    found = coherence.spectra(views)
    fit = coherence.fit_within(found, thickness)
    for _ in range(STEPS):
        slope, spread = _curved(found, fit)
        step = (spread @ (spread.T @ slope)).reshape(2, -1).T
        step *= min(1.0, LONGEST / max(float(np.abs(step).max()), 1e-9))
        moved = _moved(views, step)
        there = coherence.spectra(moved)
        at = coherence.fit(there, [fit.slab])
        if at.gain <= fit.gain:
            break
        views, found, fit = moved, there, at
        if np.abs(step).max() < SETTLED:
            break
    return views, coherence.fit_within(found, thickness)


def gauge_free(shifts: np.ndarray, tangents: np.ndarray) -> np.ndarray:
    """Shifts (x', y) without what a position of the specimen explains, ``[n, 2]``."""
    place = np.stack([np.ones_like(tangents), tangents], axis=1)
    x = shifts[:, 0] - place @ np.linalg.lstsq(place, shifts[:, 0], rcond=None)[0]
    return np.stack([x, shifts[:, 1] - shifts[:, 1].mean()], axis=1)


def _moved(views: Views, by: np.ndarray) -> Views:
    """With further shifts (x', y) undone."""
    cos = np.cos(views.angles_rad)[:, None] ** np.array([1, 0])
    return dataclasses.replace(views, shifts=views.shifts + by * cos)


def _place(views: Views, thickness: float, farthest: float) -> Views:
    """Tilts placed from the middle outwards, each by those already placed."""
    found = coherence.spectra(views)
    slab = Slab(thickness)
    held = coherence.modes(found, slab)
    variance = coherence.variances(found, held, _PLACING)
    shared = np.einsum(
        "fkm,fmy,flm->fykl", held.vectors, variance, held.vectors, optimize=True
    )
    order = np.argsort(np.abs(found.tangents - np.median(found.tangents)))
    data, shifts = np.moveaxis(found.data, 0, -1).copy(), np.zeros(views.shifts.shape)
    for step, k in enumerate(order[1:], start=1):
        known = order[:step]
        weights = np.linalg.solve(
            shared[..., known[:, None], known], shared[..., known, k][..., None]
        )[..., 0]
        guess = np.sum(weights * data[..., known], axis=-1)
        shifts[k] = _best(found, data[..., k], guess, farthest)
        data[..., k] *= _phase(found, shifts[k])
    return _moved(views, gauge_free(shifts, found.tangents))


def _inverse(found: Spectra, fit: Fit) -> np.ndarray:
    """``C^-1``, ``[fx, fy, n, n]``."""
    held = coherence.modes(found, fit.slab)
    variance = coherence.variances(found, held, fit.unshared)
    return np.einsum(
        "fkm,fmy,flm->fykl", held.vectors, 1 / variance, held.vectors, optimize=True
    )


def _centred(found: Spectra, slab: Slab) -> np.ndarray:
    """Phases that bring the middle of a slab to zero, ``[fx, 1, n]``."""
    turn = slab.middle * np.outer(found.fx, found.tangents)
    return np.exp(2j * np.pi * turn)[:, None]


def _phase(found: Spectra, shift: np.ndarray) -> np.ndarray:
    """Undoes a shift (x', y), ``[fx, fy]``."""
    turn = np.add.outer(found.fx * shift[0], found.fy * shift[1])
    return np.exp(2j * np.pi * turn)


def _best(
    found: Spectra, own: np.ndarray, guess: np.ndarray, farthest: float
) -> np.ndarray:
    """The shift (x', y) by which an image lies off from a guess of it."""
    product = found.worth * np.conj(own) * guess

    def peak(middle: np.ndarray, reach: float, step: float) -> np.ndarray:
        ticks = step * np.arange(-round(reach / step), round(reach / step) + 1)
        x, y = middle[0] + ticks, middle[1] + ticks
        along_x = np.exp(-2j * np.pi * np.outer(x, found.fx))
        along_y = np.exp(-2j * np.pi * np.outer(found.fy, y))
        score = (along_x @ product @ along_y).real
        i, j = np.unravel_index(int(np.argmax(score)), score.shape)
        return np.array([x[i], y[j]])

    return peak(peak(np.zeros(2), farthest, COARSE), COARSE, FINE)


def _curved(found: Spectra, fit: Fit) -> tuple[np.ndarray, np.ndarray]:
    """Slope of the likelihood in the shifts (x', y) and a root of its covariance.

    Returns:
      ``[2 n]``, and ``[2 n, free]``: of the inverse of the curvature, gauges fixed.
    """
    data = np.moveaxis(found.data, 0, -1) * _centred(found, fit.slab)
    inverse = _inverse(found, fit)
    fx, fy = (2 * np.pi * f for f in np.meshgrid(found.fx, found.fy, indexing="ij"))
    count = data.shape[-1]
    product = np.einsum("fyk,fykl,fyl->fykl", np.conj(data), inverse, data)
    curvature = np.zeros((2, count, 2, count))
    slope = np.zeros((2, count))
    for i, first in enumerate((fx, fy)):
        turned = np.tensordot(found.worth * first, product, axes=2)
        slope[i] = -2 * turned.sum(axis=1).imag
        for j, second in enumerate((fx, fy)):
            link = 2 * np.tensordot(found.worth * first * second, product.real, axes=2)
            np.fill_diagonal(link, 0.0)
            curvature[i, :, j] = link - np.diag(link.sum(axis=1))
    gauges = np.zeros((2 * count, 3))
    gauges[:count, 0], gauges[:count, 1], gauges[count:, 2] = 1, found.tangents, 1
    free = np.linalg.qr(gauges, mode="complete")[0][:, 3:]
    inner = free.T @ curvature.reshape(2 * count, 2 * count) @ free
    values, vectors = np.linalg.eigh(0.5 * (inner + inner.T))
    floor = 1e-6 * max(float(values.max()), 1e-30)
    spread = free @ vectors / np.sqrt(np.maximum(np.abs(values), floor))
    return slope.ravel(), spread
