"""``Network(init, apply)``: the U-Net as two pure functions.

``apply`` returns the raw output F of the preconditioned denoiser (see
``diffusion.parameterisation``); it knows neither noise schedules nor files.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from temdiff_jax.model.unet3d import UNet3D

NUM_FEATURES = 4  # log half-range, log tilts, log thickness, log noise-to-signal


class Condition(NamedTuple):
    """What the network knows of the tilts.

    Attributes:
      volume: Normalised quadratic estimate, ``[b, z, x, y]``; zeros when dropped.
      coverage: Seen-ness in [0, 1], ``[b, z, x, y]``; zeros when dropped.
      features: Scalars ``[b, NUM_FEATURES]``, see ``condition.features``.
      present: 1 where the condition is given, 0 where it is dropped, ``[b]``.
    """

    volume: jax.Array
    coverage: jax.Array
    features: jax.Array
    present: jax.Array


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """Extents of the U-Net; everything a released prior needs to rebuild it.

    Attributes:
      channels: Features per level, finest first.
      blocks: Residual blocks per level on the way down; one on the way up.
      groups: Groups of the normalisation.
      embedding: Width of the embedding of the scalars.
      patch: Edge of the patches that the finest level works on, voxels.
    """

    channels: tuple[int, ...] = (32, 64, 128)
    blocks: tuple[int, ...] = (1, 2, 2)
    groups: int = 8
    embedding: int = 64
    patch: int = 2

    @property
    def multiple(self) -> int:
        """Extents of the input must be multiples of this."""
        return self.patch * 2 ** (len(self.channels) - 1)


class Network(NamedTuple):
    """``init(key) -> params`` and ``apply(params, x, noise_level, condition)``.

    ``apply`` takes x ``[b, z, x, y]``, already scaled to unit variance, the noise
    embedding ``[b]`` and a ``Condition``; it returns ``[b, z, x, y]``.
    """

    init: Callable[[jax.Array], dict]
    apply: Callable[[dict, jax.Array, jax.Array, Condition], jax.Array]
    config: NetworkConfig


@functools.lru_cache(maxsize=16)
def make_network(config: NetworkConfig) -> Network:
    """Builds the pure functions of one architecture.

    Equal configurations give the same object, so that programs compiled for one
    serve the other.
    """
    module = UNet3D(
        channels=tuple(config.channels),
        blocks=tuple(config.blocks),
        groups=config.groups,
        embedding=config.embedding,
        patch=config.patch,
    )

    def inputs(x, noise_level, condition):
        coverage = jnp.broadcast_to(condition.coverage, x.shape)
        fields = jnp.stack([x, condition.volume, coverage], axis=-1)
        present = condition.present[:, None]
        scalars = jnp.concatenate(
            [noise_level[:, None], present, condition.features * present], axis=-1
        )
        return fields, scalars

    def init(key):
        size = config.multiple
        zeros = jnp.zeros((1, size, size, size))
        dummy = Condition(zeros, zeros, jnp.zeros((1, NUM_FEATURES)), jnp.ones((1,)))
        fields, scalars = inputs(zeros, jnp.zeros((1,)), dummy)
        return module.init(key, fields, scalars)["params"]

    def apply(params, x, noise_level, condition):
        fields, scalars = inputs(x, noise_level, condition)
        return module.apply({"params": params}, fields, scalars)[..., 0]

    return Network(init, apply, config)
