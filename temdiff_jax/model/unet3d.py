"""A 3-D U-Net with patchified input and a modulation by scalar features.

The finest level works on patches (2x2x2 or 4x4x4 voxels as channels): few wide
convolutions use a processor better than many narrow ones.  Scalars (noise level,
tilt range, number of tilts, ...) scale and shift the features of every residual block.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from temdiff_jax.model import conv


class Conv3x3x3(nn.Module):
    """Zero-padded 3x3x3 convolution."""

    features: int
    zero: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.zeros if self.zero else nn.initializers.he_normal()
        shape = (3, 3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", init, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return conv.conv3d(x, kernel) + bias.astype(x.dtype)


class ResBlock(nn.Module):
    """Two convolutions with group normalisation and feature-wise modulation."""

    features: int
    groups: int

    @nn.compact
    def __call__(self, x: jax.Array, embedding: jax.Array) -> jax.Array:
        h = nn.silu(nn.GroupNorm(self.groups, name="norm_in")(x))
        h = Conv3x3x3(self.features, name="conv_in")(h)
        h = nn.GroupNorm(self.groups, name="norm_mid")(h)
        film = nn.Dense(2 * self.features, name="film")(embedding)
        scale, shift = jnp.split(film[:, None, None, None, :], 2, axis=-1)
        h = nn.silu(h * (1 + scale) + shift)
        h = Conv3x3x3(self.features, zero=True, name="conv_out")(h)
        if x.shape[-1] != self.features:
            x = nn.Dense(self.features, use_bias=False, name="skip")(x)
        return x + h


class UNet3D(nn.Module):
    """U-Net on patches.

    Attributes:
      channels: Features per level, finest first.
      blocks: Residual blocks per level on the way down; one on the way up.
      groups: Groups of the normalisation.
      embedding: Width of the scalar embedding.
      patch: Edge of a patch, voxels.
    """

    channels: tuple[int, ...]
    blocks: tuple[int, ...]
    groups: int = 8
    embedding: int = 64
    patch: int = 2

    @nn.compact
    def __call__(self, x: jax.Array, scalars: jax.Array) -> jax.Array:
        """Maps ``[b, z, x, y, c]`` and ``[b, f]`` to ``[b, z, x, y, 1]``."""
        e = nn.silu(nn.Dense(self.embedding, name="embed_in")(scalars))
        e = nn.silu(nn.Dense(self.embedding, name="embed_out")(e))
        h = conv.space_to_depth(x, self.patch)
        if self.patch > 2:  # A patch is a neighbourhood already.
            h = nn.Dense(self.channels[0], name="stem")(h)
        else:
            h = Conv3x3x3(self.channels[0], name="stem")(h)
        skips = []
        for level, (features, count) in enumerate(
            zip(self.channels, self.blocks, strict=True)
        ):
            if level:
                h = nn.Dense(features, name=f"down_{level}")(conv.space_to_depth(h))
            for block in range(count):
                name = f"down_{level}_{block}"
                h = ResBlock(features, self.groups, name=name)(h, e)
            skips.append(h)
        h = skips.pop()
        for level in reversed(range(len(self.channels) - 1)):
            features = self.channels[level]
            h = nn.Dense(8 * features, name=f"up_{level}")(h)
            h = conv.depth_to_space(h)
            h = nn.Dense(features, name=f"merge_{level}")(
                jnp.concatenate([h, skips.pop()], axis=-1)
            )
            h = ResBlock(features, self.groups, name=f"up_{level}_0")(h, e)
        h = nn.silu(nn.GroupNorm(self.groups, name="norm_out")(h))
        h = Conv3x3x3(self.patch**3, zero=True, name="head")(h)
        return conv.depth_to_space(h, self.patch)
