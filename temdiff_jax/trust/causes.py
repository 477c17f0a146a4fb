"""Why tilts contradict each other: the causes that explain it, compared by evidence.

Each cause is a changed hypothesis about the same images (``coherence``): other angles,
shifts, axis or thickness, or some tilts that show something else.  Its *gain* is twice
the logarithm of the likelihood ratio to the series as given, less ``k ln N`` for k
parameters and N data (Schwarz, Ann. Stat. 6 (1978) 461): a gain in chi2.

The sign of all angles is none of them: a series of parallel projections about one axis
and its mirror image along the beam show the same.  Nor is a constant added to all
angles, which turns the specimen, nor, where the steps are equal, their order turned
round, which is both.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from temdiff_jax.inverse.problem import Problem
from temdiff_jax.projector import Motion
from temdiff_jax.series import noise
from temdiff_jax.trust import coherence, shifts
from temdiff_jax.trust.coherence import Fit, Slab, Views

# Images are averaged to at most so many pixels a side.
SIDE = 64
# A cause is named above this gain, and above this share of what it leaves agreeing.
LEAST_GAIN = 50.0
LEAST_SHARE = 0.05
# Fewer tilts, or independent data, say nothing.
FEWEST = 4
LEAST_DATA = 50.0
# Shifts below this many standard deviations, or pixels, are none.
SIGNIFICANT = 4.0
VISIBLE_PX = 0.3
# Other scales of the shifts of an alignment.
SCALES = (0.0, 0.25, 0.5, 2.0, 4.0)
# Shifts that are planted to see which could be told, pixels root mean square.
POWERS_PX = (0.25, 0.5, 1.0, 2.0, 4.0)
_QUICK = (1.0, 0.4)


class Cause(NamedTuple):
    """One explanation.

    Attributes:
      kind: "shifts", "tilts", "axis", "order", "alike", "thickness" or "binning"; of
        ``levels`` also "logarithm", "sense" and "offset".
      text: What it is, with its figures.
      gain: In chi2, its parameters paid for.
      repair: What to do, with an option of the command.
    """

    kind: str
    text: str
    gain: float
    repair: str


class Evidence(NamedTuple):
    """What was compared.

    Attributes:
      agreement: Twice the log likelihood ratio of the series as given against images
        that have nothing in common.
      causes: Those above the threshold, likeliest first.
      threshold: Gain above which a cause is named.
      shifts_px, errors_px: Of each tilt (u, y) and their standard deviations,
        ``[n, 2]`` pixels of the images; None where they cannot be measured.
      rows: Which tilts these are, by ascending angle.
      visible_px: The least shifts of all tilts, root mean square, that would have been
        told; infinity where none would.
    """

    agreement: float
    causes: tuple[Cause, ...]
    threshold: float
    shifts_px: np.ndarray | None
    errors_px: np.ndarray | None
    rows: np.ndarray | None
    visible_px: float


@dataclasses.dataclass(frozen=True)
class Given:
    """A series as given, on coarse pixels.

    Attributes:
      views: Images at their angles.
      thickness: Of the volume, coarse pixels.
      factor: Pixels of the images per coarse pixel.
      rows: Which tilts of the problem.
      lying: Shifts (u, y) of an alignment, coarse pixels ``[n, 2]``; None without.
    """

    views: Views
    thickness: float
    factor: int
    rows: np.ndarray
    lying: np.ndarray | None = None


def given(problem: Problem, side: int = SIDE) -> Given:
    """The used tilts of a problem that are not too steep, on coarse pixels."""
    lying = problem.geometry.motion
    aligned = problem.straightened()[0]
    factor = max(1, -(-max(aligned.tilts.shape[1:]) // side))
    fine = np.asarray(noise.noise_per_tilt(aligned.tilts), np.float64)
    coarse = aligned.binned(factor)
    angles = np.asarray(aligned.geometry.angles_rad, np.float64)
    seen = np.asarray(aligned.precision.seen())
    used = np.broadcast_to(seen, aligned.tilts.shape).any(axis=(1, 2))
    rows = np.flatnonzero(used & (np.abs(angles) <= np.deg2rad(coherence.STEEPEST_DEG)))
    tilts = coarse.tilts[rows]
    # The mean of a block of white noise, over the factor; more where it is not white.
    sigma = np.maximum(fine[rows] / factor**2, np.asarray(noise.noise_per_tilt(tilts)))
    images = np.asarray(tilts, np.float64)
    views = Views(images, angles[rows], sigma, np.zeros((len(rows), 2)))
    moved = None
    if lying is not None:
        moved = _unturned(lying)[rows] / factor
    return Given(views, problem.geometry.volume_shape[0] / factor, factor, rows, moved)


def _unturned(lying: Motion) -> np.ndarray:
    """Shifts of an alignment in the axes of the aligned images, ``[n, 2]`` pixels."""
    u, v, psi = (
        np.asarray(field, np.float64)
        for field in (lying.shift_u, lying.shift_v, lying.rotation_rad)
    )
    cos, sin = np.cos(psi), np.sin(psi)
    return np.stack([cos * u + sin * v, cos * v - sin * u], axis=1)


def compare(series: Given) -> Evidence:
    """The evidence of every cause, from the images alone."""
    views, thickness = series.views, series.thickness
    nothing = Evidence(0.0, (), LEAST_GAIN, None, None, None, np.inf)
    if len(views.images) < FEWEST:
        return nothing
    found = coherence.spectra(views)
    data = float(found.worth.sum()) * len(views.images)
    if data < LEAST_DATA:
        return nothing
    base = coherence.fit_within(found, thickness)
    look = _Look(series, base, data)
    farthest = max(4.0, max(views.images.shape[1:]) / 8)
    measured = shifts.measure(views, thickness, farthest)
    bad, without = _worst(look)
    causes = [
        _shifted(look, measured),
        _bad_tilts(look, bad, without),
        _thicker(look),
        *_other_angles(look, bad),
        _turned(look),
        *_rescaled(look),
    ]
    real = [cause for cause in causes if cause is not None]
    best = max([base.gain, *(base.gain + 0.5 * c.gain for c in real)])
    threshold = max(LEAST_GAIN, LEAST_SHARE * 2 * best)
    named = ranked(c for c in real if c.gain > threshold)
    return Evidence(
        2 * base.gain,
        tuple(named),
        threshold,
        measured.shifts * series.factor,
        measured.errors * series.factor,
        series.rows,
        _visible(look, threshold) * series.factor,
    )


def ranked(causes: Iterable[Cause]) -> list[Cause]:
    """Likeliest first; one number for all shifts before as many as there are tilts.

    Where an alignment of another size explains nine tenths of what free shifts do, the
    rest is what resampling by wrong shifts has lost.
    """
    fair = {"binning": 1 / 0.9}
    return sorted(causes, key=lambda cause: -cause.gain * fair.get(cause.kind, 1.0))


@dataclasses.dataclass(frozen=True)
class _Look:
    """A series, the fit to it as given, and how many data it has."""

    series: Given
    base: Fit
    data: float

    @property
    def views(self) -> Views:
        return self.series.views

    def fit(self, views: Views) -> Fit:
        return coherence.fit_within(coherence.spectra(views), self.series.thickness)

    def quick(self, views: Views) -> Fit:
        """With fewer slabs, for what is looked at many times."""
        slabs = [Slab(share * self.series.thickness) for share in _QUICK]
        return coherence.fit(coherence.spectra(views), slabs)

    def gain(self, fit: Fit, parameters: float, base: Fit | None = None) -> float:
        """In chi2 over the series as given, parameters paid for."""
        before = self.base if base is None else base
        return 2 * (fit.gain - before.gain) - parameters * float(np.log(self.data))


def _shifted(look: _Look, found: shifts.Shifts) -> Cause | None:
    """Shifts of the tilts, of those only that are significant."""
    pixels = found.shifts * look.series.factor
    far = np.abs(found.shifts) > SIGNIFICANT * found.errors
    far = np.any(far & (np.abs(pixels) > VISIBLE_PX), axis=1)
    if not far.any():
        return None
    count, fit = len(far), found.fit
    parameters = 2 * count - 3
    if far.sum() < count // 2:
        some = np.where(far[:, None], found.shifts, 0.0)
        fit = look.fit(dataclasses.replace(look.views, shifts=some))
        parameters = 2 * int(far.sum())
    size = float(np.sqrt(np.mean(pixels[far] ** 2)))
    error = float(np.sqrt(np.mean(found.errors[far] ** 2))) * look.series.factor
    whose = f"{int(far.sum())} of {count}" if far.sum() < count else f"all {count}"
    return Cause(
        "shifts",
        f"{whose} tilts lie {size:.1f} +- {error:.1f} pixels from where the others "
        "say they should",
        look.gain(fit, parameters),
        "align the series and pass its shifts with --alignment",
    )


def _bad_tilts(look: _Look, bad: list[int], fit: Fit) -> Cause | None:
    """Tilts that show something else; the fit is that of the others."""
    if not bad:
        return None
    angles = np.rad2deg(look.views.angles_rad[bad])
    names = ", ".join(f"{a:g}" for a in sorted(np.round(angles, 1)))
    low, high = f"{min(angles) - 0.05:.2f}", f"{max(angles) + 0.05:.2f}"
    one = f"--exclude {low}:{high}deg" if len(bad) == 1 else "--exclude"
    return Cause(
        "tilts",
        f"{'tilt' if len(bad) == 1 else 'tilts'} at {names} degrees show something "
        "else than the others",
        look.gain(fit, len(bad) * 2),
        f"leave {'it' if len(bad) == 1 else 'them'} out with {one}",
    )


def _worst(look: _Look) -> tuple[list[int], Fit]:
    """Rows of tilts without which the others agree better, at most a third."""
    rows, fit = np.arange(len(look.views.images)), look.base
    bad: list[int] = []
    for _ in range(len(rows) // 3):
        found = coherence.spectra(look.views.taken(rows))
        k = int(np.argmin(_heldout_gain(found, fit)))
        rest = np.delete(rows, k)
        there = look.fit(look.views.taken(rest))
        if 2 * (there.gain - fit.gain) < 2 * np.log(look.data) or len(rest) < FEWEST:
            break
        bad, rows, fit = [*bad, int(rows[k])], rest, there
    return bad, fit


def _heldout_gain(found: coherence.Spectra, fit: Fit) -> np.ndarray:
    """Gain of each tilt given all the others, ``[n]``."""
    held = coherence.modes(found, fit.slab)
    variance = coherence.variances(found, held, fit.unshared)
    own = np.einsum("fkm,fmy->fky", held.vectors**2, 1 / variance)
    pull = np.einsum("fkm,fmy->fky", held.vectors, held.amplitudes / variance)
    alone = np.einsum("fkm,fmy->fky", held.vectors, held.amplitudes)
    each = np.log(own) - np.abs(pull) ** 2 / own + np.abs(alone) ** 2
    return np.einsum("fy,fky->k", found.worth, each)


def _thicker(look: _Look) -> Cause | None:
    """Matter beyond the thickness of the volume."""
    box = look.series.thickness
    found = coherence.spectra(look.views)
    reaches = [Slab(box * share) for share in (1.2, 1.5, 2.0, 3.0, 4.0)]
    base = look.base.slab
    off = [Slab(base.thickness, side * box) for side in (-1.0, -0.5, 0.5, 1.0)]
    fit = coherence.fit(found, reaches + off)
    needed = int(np.ceil(2 * fit.slab.reach * look.series.factor))
    return Cause(
        "thickness",
        f"the specimen reaches beyond the volume, about {needed} voxels are needed",
        look.gain(fit, 2),
        f"--thickness {needed}",
    )


def _other_angles(look: _Look, bad: list[int]) -> list[Cause]:
    """Angles in another order, or of images that are all alike."""
    angles = look.views.angles_rad
    middle = float(np.median(angles))
    count = len(angles)

    def under(other: np.ndarray) -> Fit:
        return look.fit(dataclasses.replace(look.views, angles_rad=other))

    causes = [
        Cause(
            "alike",
            "the images show no tilting: all are alike",
            look.gain(under(np.full(count, middle)), 0),
            "look for the right stack, or the right --angles",
        )
    ]
    order = _best_order(look, bad)
    if order is not None:
        fit = under(angles[order])
        moved = int(np.sum(np.abs(angles[order] - angles) > 1e-6))
        causes.append(
            Cause(
                "order",
                f"{moved} of {count} tilts have the angle of another one",
                look.gain(fit, moved),
                "pass the angles in the order of the images with --angles",
            )
        )
    return causes


def _best_order(look: _Look, bad: list[int]) -> np.ndarray | None:
    """Rows whose angle each image should have, from the likeness of images."""
    views, count = look.views, len(look.views.images)
    identity = np.arange(count)
    orders = [identity[::-1], *_interleaved(count)]
    orders += [o for line in _by_likeness(views) for o in (line, line[::-1])]
    if 2 <= len(bad) <= 4:
        for places in itertools.permutations(bad):
            swapped = identity.copy()
            swapped[bad] = places
            orders.append(swapped)
    slabs = [Slab(share * look.series.thickness) for share in _QUICK]

    def gain(order: np.ndarray) -> float:
        angles = views.angles_rad[order]
        there = dataclasses.replace(views, angles_rad=angles)
        return coherence.fit(coherence.spectra(there), slabs).gain

    best = max(orders, key=gain)
    top = gain(best)
    if top < look.base.gain:
        return None
    for k in range(count - 1):  # neighbours that noise has put the wrong way round
        swapped = best.copy()
        swapped[[k, k + 1]] = swapped[[k + 1, k]]
        if (here := gain(swapped)) > top:
            best, top = swapped, here
    return best


def _interleaved(count: int) -> list[np.ndarray]:
    """Dose-symmetric orders: images 0, +1, -1, ... or 0, -1, +1, ..."""
    place = np.arange(count)
    out = np.where(place % 2 == 1, (place + 1) // 2, -(place // 2))
    return [np.argsort(np.argsort(sign * out)) for sign in (1, -1)]


def _by_likeness(views: Views) -> list[np.ndarray]:
    """Ranks of the images along the line on which alike ones are neighbours.

    Source: Atkins, Boman & Hendrickson, SIAM J. Comput. 28 (1998) 297 (the second
    eigenvector of the Laplacian of the likeness).
    """
    found = coherence.spectra(views)
    lines = []
    for band in (0.08, 0.15):
        inside = np.hypot(found.fx[:, None], found.fy[None]) <= band
        weight = found.worth * inside * (1 - found.noise)
        data = found.data * np.sqrt(weight)
        like = np.einsum("kfy,lfy->kl", np.conj(data), data).real
        size = np.sqrt(np.maximum(np.diag(like), 1e-30))
        like = np.maximum(like / np.outer(size, size), 0.0) ** 2
        laplacian = np.diag(like.sum(axis=1)) - like
        second = np.linalg.eigh(laplacian)[1][:, 1]
        lines.append(np.argsort(np.argsort(second)))
    return lines


def _turned(look: _Look) -> Cause | None:
    """A tilt axis along another direction of the images."""

    def at(psi: float) -> Fit:
        return look.quick(turned(look.views, psi))

    fits = {psi: at(psi) for psi in np.arange(-75.0, 91.0, 15.0)}
    straight = fits[0.0]
    for step in (7.5, 3.75):
        best = max(fits, key=lambda psi: fits[psi].gain)
        fits |= {best + s: at(best + s) for s in (-step, step)}
    best = max(fits, key=lambda psi: fits[psi].gain)
    if abs(best) < 3.0:
        return None
    side = "-x" if best > 0 else "+x"
    repair = f"--axis-angle {best:g}" if abs(abs(best) - 90) > 5 else "--tilt-axis x"
    return Cause(
        "axis",
        f"the tilt axis lies {abs(best):g} degrees from y towards {side}",
        look.gain(fits[best], 1, straight),
        f"{repair} (with an alignment: add it to its rotation)",
    )


def turned(views: Views, psi_deg: float) -> Views:
    """The middle square of images with their axis, psi from +y towards -x, along y."""
    _, nu, ny = views.images.shape
    side = min(nu, ny)
    cos, sin = np.cos(np.deg2rad(psi_deg)), np.sin(np.deg2rad(psi_deg))
    turn = np.array([[cos, -sin], [sin, cos]])
    middle = (np.array([nu, ny]) - 1) / 2 - turn @ np.full(2, (side - 1) / 2)
    images = np.stack(
        [
            ndimage.affine_transform(
                image, turn, middle, (side, side), order=3, mode="nearest"
            )
            for image in views.images
        ]
    )
    return dataclasses.replace(views, images=images)


def _rescaled(look: _Look) -> list[Cause]:
    """The shifts of an alignment of images of another size."""
    lying = look.series.lying
    if lying is None or np.abs(lying).max() * look.series.factor < VISIBLE_PX:
        return []
    fits = {
        scale: look.fit(dataclasses.replace(look.views, shifts=(scale - 1) * lying))
        for scale in SCALES
    }
    best = max(fits, key=lambda scale: fits[scale].gain)
    text = f"the shifts of the alignment fit when taken times {best:g}"
    if best == 0:
        text = "the images agree better without the shifts of the alignment"
    return [
        Cause(
            "binning",
            f"{text}: it belongs to images of another size",
            look.gain(fits[best], 1),
            "pass the alignment of these very images with --alignment",
        )
    ]


def _visible(look: _Look, threshold: float) -> float:
    """The least planted shifts that cost more than the threshold, coarse pixels."""
    rng = np.random.default_rng(0)
    count = len(look.views.images)
    drawn = shifts.gauge_free(
        rng.standard_normal((count, 2)), np.tan(look.views.angles_rad)
    )
    drawn /= np.sqrt(np.mean(drawn**2))
    paid = (2 * count - 3) * np.log(look.data)
    found = coherence.spectra(look.views)
    across = np.cos(look.views.angles_rad)[:, None] ** np.array([1, 0])
    for size in POWERS_PX:
        moved = np.exp(
            2j
            * np.pi
            * size
            * (
                np.multiply.outer(drawn[:, 0] / across[:, 0], found.fx)[:, :, None]
                + np.multiply.outer(drawn[:, 1], found.fy)[:, None]
            )
        )
        lost = coherence.fit(found._replace(data=found.data * moved), [look.base.slab])
        if 2 * (look.base.gain - lost.gain) - paid > threshold:
            return size
    return float("inf")
