"""What the network is told of a tilt series, the same in training and use.

From tilts to: normalised data, weights, the quadratic estimate, coverage, and the
scalars (range, number of tilts, thickness, noise) that a per-voxel channel cannot
express.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.inverse.precision import Precision
from temdiff_jax.inverse.quadratic import Metric
from temdiff_jax.inverse.tikhonov import TikhonovSettings, tikhonov_normalised
from temdiff_jax.projector import backproject, project, ray_lengths
from temdiff_jax.series import noise, weighting


class Prepared(NamedTuple):
    """A tilt series ready for the sampler; volumes are wide ``[z, x, y]``.

    Attributes:
      scaling: Affine map to input intensities.
      tilts: Normalised tilts ``[n_tilts, u, y]``.
      weight: Data precision in normalised units, ``[n_tilts, 1, 1]`` or a
        ``Precision``.
      tikhonov: Quadratic estimate in normalised units.
      level: Standard deviation of the estimate over the field of view; the network
        sees volumes divided by it.
      coverage: Seen-ness ``[z, x, 1]``.
      features: Scalars ``[NUM_FEATURES]``.
      moments: ``[NUM_MOMENTS, z, x, y]`` over the field of view, see ``with_moments``.
    """

    scaling: noise.Scaling
    tilts: jax.Array
    weight: Any  # whatever multiplies a residual
    tikhonov: jax.Array
    level: jax.Array
    coverage: jax.Array
    features: jax.Array
    moments: jax.Array | None = None


def features(
    geometry: TiltGeometry, tilts: jax.Array, weight: jax.Array, chi2: jax.Array
) -> jax.Array:
    """Logs of half-range, number of tilts, thickness, noise-to-signal, misfit; centred.

    The misfit is the mean of ``chi2 [n_tilts]`` of the quadratic estimate: large where
    tilts contradict each other, as those of a misaligned series do.  Tilts of zero
    weight do not count.
    """
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
        ]
    )


def prepare(
    tilts: jax.Array,
    geometry: TiltGeometry,
    settings: TikhonovSettings,
    valid: jax.Array | None = None,
) -> Prepared:
    """Normalises tilts and computes the condition.

    Args:
      tilts: Line integrals ``[n_tilts, u, y]``, any unit.
      geometry: Rays.
      settings: Of the quadratic estimate.
      valid: Per tilt weight ``[n_tilts]`` in [0, 1]; 0 leaves a tilt out.

    Returns:
      Everything the sampler needs.
    """
    scaling = noise.estimate_scaling(tilts, geometry, valid)
    normalised = noise.normalise_tilts(tilts, geometry, scaling)
    weight = noise.data_precision(normalised, valid)
    estimate = tikhonov_normalised(normalised, geometry, weight, settings)
    chi2 = noise.chi2_per_tilt(estimate, normalised, geometry, weight)
    level = jnp.maximum(jnp.std(geometry.crop(estimate)), 1e-6)
    return Prepared(
        scaling,
        normalised,
        weight,
        estimate,
        level,
        noise.coverage(geometry, weight),
        features(geometry, normalised, weight, chi2),
    )


def reweigh(
    ready: Prepared,
    geometry: TiltGeometry,
    settings: TikhonovSettings,
    *,
    form: str,
    spread: weighting.Spread | None = None,
    keep: jax.Array | None = None,
) -> tuple[Prepared, weighting.Weighted]:
    """A prepared series under uncertainty weighting, and what that found.

    The features stay those of the plain weights, as priors are trained with them.

    Args:
      ready: Of ``prepare``, masked pixels repaired before.
      geometry, settings: As for ``prepare``.
      form: One of ``weighting.FORMS``.
      spread: Of the uncertain parameters, see ``weighting.weigh``.
      keep: 0 where masked, ``[n_tilts, u, y]``.
    """
    units = ready.scaling
    found = weighting.weigh(
        ready.tilts,
        geometry,
        ready.weight,
        Metric(jnp.float32(settings.smoothness), jnp.float32(settings.ridge)),
        form=form,
        spread=spread,
        background=units.mean * ray_lengths(geometry) / units.contrast,
        keep=keep,
        num_iters=settings.num_iters,
    )
    per_tilt = found.precision.per_tilt(geometry.tilts_shape)
    level = jnp.maximum(jnp.std(geometry.crop(found.volume)), 1e-6)
    weighted = ready._replace(
        weight=found.precision,
        tikhonov=found.volume,
        level=level,
        coverage=noise.coverage(geometry, per_tilt),
    )
    return weighted, found


def judge(
    volume: jax.Array, ready: Prepared, geometry: TiltGeometry
) -> tuple[jax.Array, jax.Array]:
    """Reprojection in input units ``[n_tilts, u, y]`` and chi2 per tilt.

    ``volume`` is wide and normalised, ``[z, x, y]``.  Masked pixels do not count.
    """
    units, weight = ready.scaling, ready.weight
    offset = units.mean * noise.ray_lengths(geometry)
    projected = project(volume, geometry)
    keep = weight.weight if isinstance(weight, Precision) else weight
    chi2 = weighting.chi2_per_tilt(projected - ready.tilts, weight, keep)
    return projected * units.contrast + offset, chi2


def moments(tilts: jax.Array, geometry: TiltGeometry, weight: jax.Array) -> jax.Array:
    """Mean, slope in the angle and deviation of the tilts along a voxel's rays.

    What multi-view stereo calls a plane sweep: where a voxel holds what it seems to
    hold, its rays agree.  The slope changes its sign in a mirror image along z or x.

    Args:
      tilts: Normalised, ``[n_tilts, u, y]``.
      geometry: Rays.
      weight: ``[n_tilts, 1, 1]``; tilts of zero weight do not count.

    Returns:
      ``[NUM_MOMENTS, z, x, y]`` over the field of view, in units of the tilts' standard
      deviation; the slope is that over half the range.
    """
    used = (weight[:, 0, 0] > 0).astype(tilts.dtype)
    count = jnp.maximum(jnp.sum(used), 1.0)
    spread = jnp.sqrt(jnp.sum(used * jnp.var(tilts, axis=(1, 2))) / count)
    angles = geometry.angles_rad
    middle = jnp.sum(used * angles) / count
    extent = jnp.maximum(jnp.max(jnp.abs(used * (angles - middle))), 1e-6)
    along = (angles - middle) / extent
    nz, nx, ny = geometry.volume_shape
    zeros = jnp.zeros((3, nz, geometry.num_u, ny), tilts.dtype)

    def add(total, row):
        tilt, angle, factor, position = row
        here = dataclasses.replace(geometry, angles_rad=angle[None], steep=None)
        ones = jnp.ones((1, geometry.num_u, 1), tilts.dtype)
        hits = jnp.maximum(backproject(ones, here), 1e-3)
        seen = geometry.crop(backproject(tilt[None] / spread, here) / hits)
        terms = jnp.stack([seen, position * seen, seen**2])
        return total + factor * terms, None

    (total, first, second), _ = jax.lax.scan(add, zeros, (tilts, angles, used, along))
    mean = total / count
    slope = first / jnp.maximum(jnp.sum(used * along**2), 1e-6)
    deviation = jnp.sqrt(jnp.maximum(second / count - mean**2, 0.0))
    return jnp.stack([mean, slope, deviation])


def with_moments(ready: Prepared, geometry: TiltGeometry) -> Prepared:
    """A prepared series with the moments of its tilts, for networks that see them."""
    weight = ready.weight
    if isinstance(weight, Precision):
        weight = weight.per_tilt(geometry.tilts_shape)
    return ready._replace(moments=moments(ready.tilts, geometry, weight))


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
