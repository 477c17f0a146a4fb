"""Tilts that were left out, predicted from the rest: the test that needs no truth.

An outermost tilt asks for what lies beyond the others, a middle one only for what lies
between them.  The prediction is compared with that of the quadratic estimate from the
same tilts, and the *power* says what the test can see: the part of the prediction that
the other tilts do not measure, in units of the noise.  Where it is below one, a volume
could hold anything there and this test would not notice.

Source: Cardone, Grunewald & Steven, J. Struct. Biol. 151 (2005) 117 (leaving one out).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from temdiff_jax.inverse.problem import Problem
from temdiff_jax.inverse.quadratic import Metric, proximal_update
from temdiff_jax.inverse.tikhonov import TikhonovSettings
from temdiff_jax.projector import project
from temdiff_jax.series import inputs
from temdiff_jax.trust import residuals

# Fewer tilts than this leave too little to predict from.
FEWEST = 5
# Below this correlation of rings an image is not predicted.
AGREES = 0.5


class Heldout(NamedTuple):
    """How well tilts were predicted, one value each, ``[m]``.

    Attributes:
      rows: Which tilts, by ascending angle.
      z: Root mean square of the error over its standard deviation, which is that of the
        noise of the images and of the samples, where there are some; 1 is expected.
      skill: ``1 - MSE / MSE`` of the quadratic estimate's prediction.
      frequency: Up to which the Fourier ring correlation stays above 0.5, cycles per
        pixel.
      linear: The same of the quadratic estimate's prediction.
      power: Root mean square of what the other tilts do not measure of the prediction,
        over the noise.
    """

    rows: np.ndarray
    z: np.ndarray
    skill: np.ndarray
    frequency: np.ndarray
    linear: np.ndarray
    power: np.ndarray

    def record(self, angles_deg: np.ndarray) -> dict[str, Any]:
        """JSON-ready, with the angles of the tilts."""
        angles = np.asarray(angles_deg)[self.rows]
        fields = {"angles_deg": angles, **self._asdict()}
        return {name: np.round(v, 4).tolist() for name, v in fields.items()}


def chosen(used: np.ndarray) -> np.ndarray:
    """Rows to leave out: both outermost tilts that are used, and one in the middle.

    Args:
      used: Whether a tilt counts, ``[n]``; by ascending angle.
    """
    rows = np.flatnonzero(used)
    if len(rows) < FEWEST:
        return np.array([], np.intp)
    return np.unique([rows[0], rows[len(rows) // 2], rows[-1]])


def without(problem: Problem, rows: np.ndarray, settings: TikhonovSettings) -> Problem:
    """The problem in which some tilts weigh nothing, of the same shapes."""
    factors = jnp.ones(problem.tilts.shape[0]).at[jnp.asarray(rows)].set(0.0)
    precision = problem.precision.scaled(factors)
    fewer = dataclasses.replace(problem, precision=precision, inputs=None)
    metric = Metric(jnp.float32(settings.smoothness), jnp.float32(settings.ridge))
    return _weighed(fewer, metric, num_iters=settings.num_iters)


@functools.partial(jax.jit, static_argnames="num_iters")
def _weighed(problem: Problem, metric: Any, *, num_iters: int) -> Problem:
    settings = TikhonovSettings(metric.smoothness, metric.ridge, num_iters)
    return inputs.with_inputs(problem, settings)


@functools.partial(jax.jit, static_argnames="num_iters")
def _unseen(
    problem: Problem, volume: jax.Array, metric: Metric, *, num_iters: int
) -> jax.Array:
    """What of a volume the tilts of a problem do not measure."""
    geometry = problem.geometry
    again, _ = proximal_update(
        jnp.zeros_like(volume),
        project(volume, geometry),
        geometry,
        problem.precision,
        metric,
        num_iters=num_iters,
    )
    return volume - again


_project = jax.jit(project)


def compare(
    problem: Problem,
    rows: np.ndarray,
    volume: jax.Array,
    settings: TikhonovSettings,
    samples: jax.Array | None = None,
) -> Heldout:
    """Judges the prediction of the tilts that a volume has not seen.

    Args:
      problem: Of ``without``.
      rows: The tilts left out.
      volume: Of the method from the others, wide and normalised ``[z, x, y]``.
      settings: Of the quadratic estimate.
      samples: ``[s, z, x, y]``, wide and normalised.
    """
    geometry = problem.geometry
    measured = np.asarray(problem.tilts[rows], np.float64)
    sigma = residuals.measure_noise(measured).sigma
    metric = Metric(jnp.float32(settings.smoothness), jnp.float32(settings.ridge))
    bare = dataclasses.replace(problem, inputs=None)
    unseen = _unseen(bare, volume, metric, num_iters=settings.num_iters)

    def at(wide: jax.Array) -> np.ndarray:
        return np.asarray(_project(wide, geometry)[rows], np.float64)

    predicted, linear, guessed = map(at, (volume, problem.shown.tikhonov, unseen))
    variance = np.broadcast_to(sigma[:, None, None] ** 2, measured.shape)
    if samples is not None and len(samples) > 1:
        each = np.stack([at(sample) for sample in samples])
        variance = variance + each.var(axis=0, ddof=1)
    error = measured - predicted
    mean_square = np.mean(error**2, axis=(1, 2))
    beside = np.mean((measured - linear) ** 2, axis=(1, 2))
    return Heldout(
        np.asarray(rows),
        np.sqrt(np.mean(error**2 / np.maximum(variance, 1e-30), axis=(1, 2))),
        1 - mean_square / np.maximum(beside, 1e-30),
        np.array([agreement(a, b) for a, b in zip(predicted, measured, strict=True)]),
        np.array([agreement(a, b) for a, b in zip(linear, measured, strict=True)]),
        np.sqrt(np.mean(guessed**2, axis=(1, 2))) / np.maximum(sigma, 1e-30),
    )


def agreement(first: np.ndarray, second: np.ndarray) -> float:
    """Frequency up to which two images ``[u, y]`` correlate, cycles per pixel."""
    window = np.outer(*(np.hanning(n + 2)[1:-1] for n in first.shape))
    spectra = [
        np.fft.fft2(window * (image - image.mean())) for image in (first, second)
    ]
    radius = np.hypot(*np.meshgrid(*map(np.fft.fftfreq, first.shape), indexing="ij"))
    edges = np.linspace(0, 0.5, max(2, min(first.shape) // 4) + 1)
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        ring = (radius > low) & (radius <= high)
        a, b = (spectrum[ring] for spectrum in spectra)
        size = np.sqrt(np.sum(np.abs(a) ** 2) * np.sum(np.abs(b) ** 2))
        if np.sum(a * np.conj(b)).real < AGREES * max(size, 1e-30):
            return float(low)
    return 0.5
