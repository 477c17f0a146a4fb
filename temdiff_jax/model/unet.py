"""A U-Net with patchified input and a modulation by scalar features.

Of volumes or of slices: it has as many dimensions as its input.  The finest level
works on patches (edges of 2 or 4 voxels, as channels): few wide convolutions use a
processor better than many narrow ones.  Scalars (noise level,
tilt range, number of tilts, ...) scale and shift the features of every residual block.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from temdiff_jax.model import conv

NORMS = ("group", "rms", "soft")
DTYPES = {"float32": None, "bfloat16": jnp.bfloat16}


class Conv3(nn.Module):
    """Zero-padded convolution of three taps along every axis of space."""

    features: int
    zero: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.zeros if self.zero else nn.initializers.he_normal()
        shape = (*[3] * (x.ndim - 2), x.shape[-1], self.features)
        kernel = self.param("kernel", init, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return conv.convolve(x, kernel) + bias.astype(x.dtype)


def normalisation(kind: str, groups: int, dtype: Any, name: str) -> nn.Module:
    """Over space and the channels of a group ("group"), or of a voxel alone.

    ``x / sqrt(mean x^2 + e)`` over the channels of a voxel: "rms" with e near 0 leaves
    nothing of how strong the features are, "soft" with e = 1 keeps it where they are
    weak, which a denoiser needs to know.  Neither depends on the extent of the field.
    """
    if kind in ("rms", "soft"):
        epsilon = 1.0 if kind == "soft" else 1e-6
        return nn.RMSNorm(epsilon=epsilon, dtype=dtype, name=name)
    return nn.GroupNorm(groups, dtype=dtype, name=name)


class ResBlock(nn.Module):
    """Two convolutions with normalisation and feature-wise modulation.

    Attributes:
      features: Of the output.
      groups: Of the normalisation, whose statistics are float32 whatever ``dtype``.
      dtype: Of what is computed; None for that of the input and the parameters.
      norm: See ``normalisation``.
    """

    features: int
    groups: int
    dtype: Any = None
    norm: str = "group"

    @nn.compact
    def __call__(self, x: jax.Array, embedding: jax.Array) -> jax.Array:
        norm = functools.partial(normalisation, self.norm, self.groups, self.dtype)
        h = nn.silu(norm("norm_in")(x))
        h = Conv3(self.features, name="conv_in")(h)
        h = norm("norm_mid")(h)
        film = nn.Dense(2 * self.features, name="film")(embedding).astype(h.dtype)
        film = jnp.expand_dims(film, range(1, x.ndim - 1))
        scale, shift = jnp.split(film, 2, axis=-1)
        h = nn.silu(h * (1 + scale) + shift)
        h = Conv3(self.features, zero=True, name="conv_out")(h)
        if x.shape[-1] != self.features:
            x = self._skip(x)
        return x + h

    def _skip(self, x):
        layer = nn.Dense(self.features, use_bias=False, dtype=self.dtype, name="skip")
        return layer(x)


class UNet(nn.Module):
    """U-Net on patches.

    Attributes:
      channels: Features per level, finest first.
      blocks: Residual blocks per level on the way down; one on the way up.
      groups: Groups of the normalisation.
      embedding: Width of the scalar embedding.
      patch: Edge of a patch, voxels.
      remat: Levels whose residual blocks are computed again on the way back instead
        of being remembered.
      dtype: Of the features between stem and head; None for that of the input.
        Parameters, the embedding, the head and the output are float32.
      norm: See ``ResBlock``.
      filters: Linear filters of the noisy patches that are added to the answer.
      log_variance: Whether a second head, which does not reach the features through
        its gradient, adds a channel.
    """

    channels: tuple[int, ...]
    blocks: tuple[int, ...]
    groups: int = 8
    embedding: int = 64
    patch: int = 2
    remat: tuple[int, ...] = ()
    dtype: Any = None
    log_variance: bool = False
    norm: str = "group"
    filters: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, scalars: jax.Array) -> jax.Array:
        """Maps ``[b, z, x, y, c]`` and ``[b, f]`` to ``[b, z, x, y, 1]``.

        Slices ``[b, z, x, c]`` to ``[b, z, x, 1]``; two channels with ``log_variance``.
        """
        rank = x.ndim - 2
        e = nn.silu(nn.Dense(self.embedding, name="embed_in")(scalars))
        e = nn.silu(nn.Dense(self.embedding, name="embed_out")(e))
        h = conv.space_to_depth(x, self.patch)
        if self.dtype is not None:
            h = h.astype(self.dtype)
        if self.patch > 2:  # A patch is a neighbourhood already.
            h = self._dense(self.channels[0], "stem")(h)
        else:
            h = Conv3(self.channels[0], name="stem")(h)
        skips = []
        for level, (features, count) in enumerate(
            zip(self.channels, self.blocks, strict=True)
        ):
            if level:
                h = self._dense(features, f"down_{level}")(conv.space_to_depth(h))
            for block in range(count):
                h = self._block(level, f"down_{level}_{block}")(h, e)
            skips.append(h)
        h = skips.pop()
        for level in reversed(range(len(self.channels) - 1)):
            features = self.channels[level]
            h = self._dense(2**rank * features, f"up_{level}")(h)
            h = conv.depth_to_space(h)
            h = self._dense(features, f"merge_{level}")(
                jnp.concatenate([h, skips.pop()], axis=-1)
            )
            h = self._block(level, f"up_{level}_0")(h, e)
        # Without a dtype the norm returns float32, the type of its parameters.
        h = nn.silu(normalisation(self.norm, self.groups, None, "norm_out")(h))
        out = Conv3(self.patch**rank, zero=True, name="head")(h)
        if self.filters:
            out = out + self._filtered(x[..., :1], e)
        out = conv.depth_to_space(out, self.patch)
        if not self.log_variance:
            return out
        h = jax.lax.stop_gradient(h)
        spread = Conv3(self.patch**rank, zero=True, name="head_variance")(h)
        spread = conv.depth_to_space(spread, self.patch)
        return jnp.concatenate([out, spread], axis=-1)

    def _filtered(self, x: jax.Array, embedding: jax.Array) -> jax.Array:
        """The noisy patches through linear filters, mixed by the scalars.

        At low noise the answer is most of all the noise itself, as many numbers as
        there are voxels, which need not pass through the features.
        """
        patches = conv.space_to_depth(x, self.patch)
        size = patches.shape[-1]
        layer = nn.Dense(
            self.filters * size,
            use_bias=False,
            kernel_init=nn.initializers.zeros,
            name="head_filters",
        )
        terms = layer(patches).reshape(*patches.shape[:-1], self.filters, size)
        shares = nn.Dense(self.filters, name="embed_filters")(embedding)
        shares = jnp.expand_dims(shares, (*range(1, x.ndim - 1), x.ndim))
        return jnp.sum(terms * shares, axis=-2)

    def _dense(self, features: int, name: str) -> nn.Dense:
        return nn.Dense(features, dtype=self.dtype, name=name)

    def _block(self, level: int, name: str) -> nn.Module:
        block = nn.remat(ResBlock) if level in self.remat else ResBlock
        features = self.channels[level]
        return block(features, self.groups, self.dtype, self.norm, name=name)


def from_config(config: Any) -> UNet:
    """The U-Net of a ``NetworkConfig``."""
    return UNet(
        channels=tuple(config.channels),
        blocks=tuple(config.blocks),
        groups=config.groups,
        embedding=config.embedding,
        patch=config.patch,
        remat=tuple(config.remat),
        dtype=DTYPES[config.dtype],
        log_variance=config.log_variance,
        norm=config.norm,
        filters=config.filters,
    )
