"""What a network is shown of a tilt series, the same in training and in use.

From tilts to a ``Problem``: normalised data and weights, the quadratic estimate,
coverage, and the scalars (range, number of tilts, thickness, noise) that a per-voxel
channel cannot express.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.inverse.problem import UNIT_NM, Inputs, Problem
from temdiff_jax.inverse.quadratic import Metric
from temdiff_jax.inverse.tikhonov import TikhonovSettings, tikhonov_normalised
from temdiff_jax.projector import project, ray_lengths
from temdiff_jax.series import noise, weighting


def features(
    problem: Problem, weight: jax.Array, chi2: jax.Array, level: jax.Array
) -> jax.Array:
    """Logs of range, tilts, thickness, noise, misfit, voxel size and level; centred.

    Of half the range, the number of tilts and the noise over the signal.  The misfit is
    the mean of ``chi2 [n_tilts]`` of the quadratic estimate: large where tilts
    contradict each other, as those of a misaligned series do.  The level is the
    deviation of the quadratic estimate, in units of the contrast.  Tilts of zero weight
    do not count.
    """
    geometry, tilts = problem.geometry, problem.tilts
    used = (weight[:, 0, 0] > 0).astype(tilts.dtype)
    angles = jnp.rad2deg(geometry.angles_rad)
    top = jnp.max(jnp.where(used > 0, angles, -90.0))
    bottom = jnp.min(jnp.where(used > 0, angles, 90.0))
    half_range = jnp.maximum(0.5 * (top - bottom), 1.0)
    count = jnp.maximum(jnp.sum(used), 1.0)
    variance = jnp.sum(used / jnp.maximum(weight[:, 0, 0], 1e-12)) / count
    signal = jnp.sum(used * jnp.var(tilts, axis=(1, 2))) / count
    ratio = jnp.sqrt(variance / jnp.maximum(signal, 1e-12))
    return jnp.stack(
        [
            jnp.log(half_range / 15.0),
            jnp.log(count / 15.0),
            jnp.log(geometry.volume_shape[0] / 64.0),
            jnp.log(jnp.maximum(ratio, 1e-3) / 0.1),
            jnp.log(jnp.clip(jnp.sum(used * chi2) / count, 0.05, 100.0)),
            jnp.log(jnp.float32(problem.voxel_nm) / UNIT_NM),
            jnp.log(jnp.clip(level, 0.05, 20.0)),
        ]
    )


def prepare(
    tilts: jax.Array,
    geometry: TiltGeometry,
    settings: TikhonovSettings,
    valid: jax.Array | None = None,
    voxel_nm: jax.Array | float = UNIT_NM,
    seen: jax.Array | None = None,
) -> Problem:
    """Normalises and weighs tilts and estimates what a network is shown.

    Args:
      tilts: Line integrals ``[n_tilts, u, y]``, any unit.
      geometry: Rays.
      settings: Of the quadratic estimate.
      valid: Per tilt weight ``[n_tilts]`` in [0, 1]; 0 leaves a tilt out.
      voxel_nm: Voxel size.
      seen: 0 where a pixel shows nothing of the volume, ``[n_tilts, u, y]``.
    """
    problem = normalise(tilts, geometry, valid)
    if seen is not None:
        weight = problem.precision.weight * seen
        problem = dataclasses.replace(problem, precision=weight)
    return with_inputs(dataclasses.replace(problem, voxel_nm=voxel_nm), settings)


def normalise(
    tilts: jax.Array, geometry: TiltGeometry, valid: jax.Array | None = None
) -> Problem:
    """A problem of normalised tilts and one noise level per tilt, without inputs."""
    units = noise.estimate_units(tilts, geometry, valid)
    normalised = noise.normalise_tilts(tilts, geometry, units)
    weight = noise.data_precision(normalised, valid)
    return Problem(geometry, normalised, weight, units)


def with_inputs(problem: Problem, settings: TikhonovSettings) -> Problem:
    """A problem with the quadratic estimate and what else a network is shown of it."""
    tilts, geometry, precision = problem.tilts, problem.geometry, problem.precision
    weight = precision.weight
    if precision.modes is not None or weight.shape[1:] != (1, 1):
        weight = precision.per_tilt(geometry.tilts_shape)
    if geometry.motion is not None:  # pixels beside the volume are no noise of a tilt
        seen = jnp.broadcast_to(precision.seen(), tilts.shape).astype(tilts.dtype)
        share = jnp.mean(seen, axis=(1, 2), keepdims=True)
        weight = weight / jnp.maximum(share, 1e-6)
    estimate = tikhonov_normalised(problem, settings)
    chi2 = weighting.chi2_per_tilt(project(estimate, geometry) - tilts, precision)
    level = jnp.maximum(jnp.std(geometry.crop(estimate)), 1e-6)
    inputs = Inputs(
        estimate,
        level,
        noise.coverage(geometry, weight),
        features(problem, weight, chi2, level),
    )
    return dataclasses.replace(problem, inputs=inputs)


def reweigh(
    problem: Problem,
    settings: TikhonovSettings,
    *,
    form: str,
    spread: weighting.Spread | None = None,
    keep: jax.Array | None = None,
) -> tuple[Problem, weighting.Weighted]:
    """A prepared series under uncertainty weighting, and what that found.

    The features stay those of the plain weights, as priors are trained with them.

    Args:
      problem: Of ``prepare``, masked pixels repaired before.
      settings: As for ``prepare``.
      form: One of ``weighting.FORMS``.
      spread: Of the uncertain parameters, see ``weighting.weigh``.
      keep: 0 where masked, ``[n_tilts, u, y]``.
    """
    geometry = problem.geometry
    found = weighting.weigh(
        problem,
        Metric(jnp.float32(settings.smoothness), jnp.float32(settings.ridge)),
        form=form,
        spread=spread,
        keep=keep,
        num_iters=settings.num_iters,
    )
    per_tilt = found.precision.per_tilt(geometry.tilts_shape)
    inputs = problem.shown._replace(
        tikhonov=found.volume,
        level=jnp.maximum(jnp.std(geometry.crop(found.volume)), 1e-6),
        coverage=noise.coverage(geometry, per_tilt),
    )
    weighed = dataclasses.replace(problem, precision=found.precision, inputs=inputs)
    return weighed, found


def judge(volume: jax.Array, problem: Problem) -> tuple[jax.Array, jax.Array]:
    """Reprojection in input units ``[n_tilts, u, y]`` and chi2 per tilt.

    ``volume`` is wide and normalised, ``[z, x, y]``.  Masked pixels do not count.
    """
    units, precision = problem.units, problem.precision
    offset = units.mean * ray_lengths(problem.geometry)
    projected = project(volume, problem.geometry)
    chi2 = weighting.chi2_per_tilt(
        projected - problem.tilts, precision, precision.weight
    )
    return projected * units.contrast + offset, chi2


class ResidualScale(NamedTuple):
    """Standard deviation of ``(truth - estimate) / level`` by a log-linear fit.

    ``log scale = intercept + slopes . features``; measured once on simulated
    series before training and kept in the prior's card.

    Attributes:
      intercept, slopes: Of the fit.
      spectrum: Power of every mode of the scaled residual, ``diffusion.spectrum``, or
        None for a prior that takes it as white.
    """

    intercept: jax.Array | float
    slopes: jax.Array
    spectrum: Any = None

    def __call__(self, values: jax.Array) -> jax.Array:
        """Scale for features ``[..., NUM_FEATURES]``, the first as many as slopes."""
        slopes = jnp.asarray(self.slopes)
        known = values[..., : slopes.shape[-1]]
        log = self.intercept + jnp.sum(slopes * known, axis=-1)
        return jnp.exp(jnp.clip(log, -3.0, 3.0))


def fit_residual_scale(values: jax.Array, scales: jax.Array) -> ResidualScale:
    """Least-squares fit of ``ResidualScale`` to measured scales ``[n]``.

    A small ridge keeps slopes of features that hardly vary at zero.
    """
    design = jnp.concatenate([jnp.ones((values.shape[0], 1)), values], axis=1)
    ridge = 1e-2 * values.shape[0] * jnp.eye(design.shape[1]).at[0, 0].set(0.0)
    normal = design.T @ design + ridge
    solution = jnp.linalg.solve(normal, design.T @ jnp.log(scales))
    return ResidualScale(solution[0], solution[1:])
