"""A problem on several grids, each with the denoiser of one network."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from temdiff_jax.diffusion import spectrum
from temdiff_jax.inverse.problem import Frame, Problem
from temdiff_jax.inverse.tikhonov import TikhonovSettings
from temdiff_jax.model import Condition
from temdiff_jax.priors import Prior
from temdiff_jax.reconstruction import tiling
from temdiff_jax.series import inputs

# Voxel size whose logarithm is 0, as in training.
UNIT_NM = 10.0


class Level(NamedTuple):
    """A series on one grid.

    Attributes:
      problem: Binned, with the inputs of this grid.
      features: Scalars with the log of the voxel size, ``[f]``.
      frame: Of the residual, normalised.
    """

    problem: Problem
    features: jax.Array
    frame: Frame

    @property
    def base(self) -> jax.Array:
        """Quadratic estimate over the field of view, input intensities."""
        return self.problem.to_input_units(self.frame.base)

    @property
    def unit(self) -> jax.Array:
        """Input intensity of one unit of the residual."""
        return self.frame.unit * self.problem.units.contrast


def make_level(
    problem: Problem,
    prior: Prior,
    factor: int,
    voxel_nm: float,
    settings: TikhonovSettings,
) -> Level:
    """The series on voxels ``factor`` times as large as those of ``voxel_nm``."""
    coarse = problem.binned(factor)
    coarse = inputs.with_inputs(coarse, settings)
    size = jnp.log(jnp.float32(factor * voxel_nm / UNIT_NM))
    shown = coarse.shown
    features = jnp.append(shown.features, size)
    unit = shown.level * prior.residual_scale(features)
    return Level(coarse, features, Frame(shown.tikhonov, unit))


def denoiser(
    prior: Prior, level: Level, window: tuple[int, int, int] = (128, 128, 128)
):
    """``(x, sigma) -> x0`` of residuals ``[b, z, x, y]``, in windows where needed."""
    network, params = prior.network, prior.params
    power_of = prior.residual_scale.spectrum
    geometry, shown = level.problem.geometry, level.problem.shown
    estimate = geometry.crop(shown.tikhonov) / shown.level
    seen = jnp.broadcast_to(geometry.crop(shown.coverage), estimate.shape)

    def apply(x, sigma):
        batch = x.shape[0]
        features = jnp.broadcast_to(level.features, (batch, *level.features.shape))
        sigmas = jnp.full((batch,), sigma)

        def one_window(x, estimate, seen):
            here = Condition(estimate, seen, features, jnp.ones((batch,)))

            def refine(scaled, embedding, guess):
                shown = here._replace(guess=guess)
                return network.apply(params, scaled, embedding, shown)

            power = power_of(x.shape[1:], level.features[None], jnp.ones(1))
            power = jnp.broadcast_to(power, x.shape)
            return spectrum.denoise(refine, x, sigmas, power)

        fields = [x, *(jnp.broadcast_to(f, x.shape) for f in (estimate, seen))]
        return tiling.apply_windowed(
            one_window, fields, window=window, multiple=network.config.multiple
        )

    return apply
