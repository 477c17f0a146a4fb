"""A prepared series on several grids, each with the denoiser of one network."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from temdiff_jax.diffusion import spectrum
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.model import Condition, Network
from temdiff_jax.reconstruction import tiling
from temdiff_jax.series import inputs

# Voxel size whose logarithm is 0, as in training.
UNIT_NM = 10.0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Level:
    """A series on one grid.

    Attributes:
      ready: Data, weights and quadratic estimate on this grid.
      geometry: Rays.
      features: Scalars with the log of the voxel size, ``[f]``.
      unit: Normalised intensity of one unit of the residual.
    """

    ready: inputs.Prepared
    geometry: TiltGeometry
    features: jax.Array
    unit: jax.Array

    @property
    def contrast(self) -> jax.Array:
        """Input intensity of one unit of the residual."""
        return self.unit * self.ready.scaling.contrast

    @property
    def base(self) -> jax.Array:
        """Quadratic estimate over the field of view, input intensities."""
        units = self.ready.scaling
        inside = self.geometry.crop(self.ready.tikhonov)
        return inside * units.contrast + units.mean


def bin_tilts(tilts: jax.Array, factor: int) -> jax.Array:
    """Line integrals ``[n_tilts, u, y]`` on pixels ``factor`` times as large.

    In units of intensity times the larger voxel, so that volumes keep their intensity.
    """
    count, nu, ny = tilts.shape
    cells = tilts.reshape(count, nu // factor, factor, ny // factor, factor)
    return jnp.mean(cells, axis=(2, 4)) / factor


def make_level(
    ready: inputs.Prepared,
    geometry: TiltGeometry,
    scale: inputs.ResidualScale,
    voxel_nm: float,
) -> Level:
    """A prepared series as the network of a prior sees it."""
    features = jnp.append(ready.features, jnp.log(voxel_nm / UNIT_NM))
    return Level(ready, geometry, features, ready.level * scale(features))


def denoiser(
    network: Network,
    params: dict,
    level: Level,
    scale: inputs.ResidualScale,
    window: tuple[int, int, int] = (128, 128, 128),
):
    """``(x, sigma) -> x0`` of residuals ``[b, z, x, y]``, in windows where needed."""
    geometry, ready = level.geometry, level.ready
    estimate = geometry.crop(ready.tikhonov) / ready.level
    seen = jnp.broadcast_to(geometry.crop(ready.coverage), estimate.shape)

    def apply(x, sigma):
        batch = x.shape[0]
        features = jnp.broadcast_to(level.features, (batch, *level.features.shape))
        sigmas = jnp.full((batch,), sigma)

        def one_window(x, estimate, seen):
            here = Condition(estimate, seen, features, jnp.ones((batch,)))

            def refine(scaled, embedding, guess):
                shown = here._replace(guess=guess)
                return network.apply(params, scaled, embedding, shown)

            power = scale.spectrum(x.shape[1:], level.features[None], jnp.ones(1))
            power = jnp.broadcast_to(power, x.shape)
            return spectrum.denoise(refine, x, sigmas, power)

        fields = [x, *(jnp.broadcast_to(f, x.shape) for f in (estimate, seen))]
        return tiling.apply_windowed(
            one_window, fields, window=window, multiple=network.config.multiple
        )

    return apply
