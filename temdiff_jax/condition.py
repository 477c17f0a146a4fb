"""What the network is told of a tilt series, the same in training and use.

From tilts to: normalised data, weights, the quadratic estimate, coverage, and the
scalars (range, number of tilts, thickness, noise) that a per-voxel channel cannot
express.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from temdiff_jax import noise, weighting
from temdiff_jax.baselines.tikhonov import TikhonovSettings, tikhonov_normalised
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.projector import project, ray_lengths
from temdiff_jax.projector.quadratic import Metric


class Prepared(NamedTuple):
    """A tilt series ready for the sampler; volumes are wide ``[z, x, y]``.

    Attributes:
      scaling: Affine map to input intensities.
      tilts: Normalised tilts ``[n_tilts, u, y]``.
      weight: Data precision in normalised units, ``[n_tilts, 1, 1]`` or a
        ``weighting.Precision``.
      tikhonov: Quadratic estimate in normalised units.
      level: Standard deviation of the estimate over the field of view; the network
        sees volumes divided by it.
      coverage: Seen-ness ``[z, x, 1]``.
      features: Scalars ``[NUM_FEATURES]``.
    """

    scaling: noise.Scaling
    tilts: jax.Array
    weight: Any  # whatever multiplies a residual
    tikhonov: jax.Array
    level: jax.Array
    coverage: jax.Array
    features: jax.Array


def features(geometry: TiltGeometry, tilts: jax.Array, weight: jax.Array) -> jax.Array:
    """Log half-range, number of tilts, thickness and noise-to-signal, centred.

    Tilts of zero weight do not count.
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
    level = jnp.maximum(jnp.std(geometry.crop(estimate)), 1e-6)
    return Prepared(
        scaling,
        normalised,
        weight,
        estimate,
        level,
        noise.coverage(geometry, weight),
        features(geometry, normalised, weight),
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

    ``volume`` is wide and normalised, ``[z, x, y]``.
    """
    units = ready.scaling
    offset = units.mean * noise.ray_lengths(geometry)
    chi2 = noise.chi2_per_tilt(volume, ready.tilts, geometry, ready.weight)
    return project(volume, geometry) * units.contrast + offset, chi2


class ResidualScale(NamedTuple):
    """Standard deviation of ``(truth - estimate) / level`` by a log-linear fit.

    ``log scale = intercept + slopes . features``; measured once on simulated
    series before training and kept in the prior's card.
    """

    intercept: jax.Array | float
    slopes: jax.Array

    def __call__(self, values: jax.Array) -> jax.Array:
        """Scale for features ``[..., NUM_FEATURES]``."""
        log = self.intercept + jnp.sum(jnp.asarray(self.slopes) * values, axis=-1)
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
