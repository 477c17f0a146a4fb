"""``Network(init, apply)``: the U-Net as two pure functions.

``apply`` returns the raw output F of the preconditioned denoiser (see
``diffusion.parameterisation``); it knows neither noise schedules nor files.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from temdiff_jax.errors import InputError
from temdiff_jax.model import unet

# Of a series: logs of half-range, tilts, thickness, noise-to-signal and misfit.
NUM_SERIES = 5
# These, the log of the voxel size, which is known without tilts too, and the log of the
# quadratic estimate's deviation, for the residual's scale.
NUM_FEATURES = NUM_SERIES + 2
TARGETS = ("residual", "volume")


class Condition(NamedTuple):
    """What the network knows of the tilts.

    Attributes:
      volume: Normalised quadratic estimate, ``[b, z, x, y]``; zeros when dropped.
      coverage: Seen-ness in [0, 1], ``[b, z, x, y]``; zeros when dropped.
      features: Scalars ``[b, NUM_FEATURES]``, see ``condition.features``; a network of
        fewer sees the first ones, and fewer may be given if it does.
      present: 1 where the condition is given, 0 where it is dropped, ``[b]``.
      guess: The linear guess of the clean data, ``[b, z, x, y]``, see
        ``diffusion.spectrum``; for networks that refine one.
      regression: What a regression network adds to ``volume``, ``[b, z, x, y]``; zeros
        where there is none; for networks with ``NetworkConfig.regression``.
    """

    volume: jax.Array
    coverage: jax.Array
    features: jax.Array
    present: jax.Array
    guess: jax.Array | None = None
    regression: jax.Array | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """The U-Net; everything a released prior needs to rebuild and to use it.

    Attributes:
      kind: Architecture, a name in ``KINDS``; what the next six mean is up to it.
      channels: Features per level, finest first.
      blocks: Residual blocks per level on the way down; one on the way up.
      groups: Groups of the normalisation.
      embedding: Width of the embedding of the scalars.
      patch: Edge of the patches that the finest level works on, voxels.
      planar: Whether it is a 2-D network: slices of constant y, the planes that hold
        the beams, one by one.
      conditional: Whether it is shown the tilts, through the condition.
      target: What it is asked for: "residual", what the quadratic estimate leaves
        over (the volume itself where the condition is dropped), or "volume" always.
      dtype: What features are computed in, "float32" or "bfloat16"; parameters,
        statistics of the normalisation, head and output are float32.
      remat: Levels, 0 the finest, whose residual blocks are computed again for the
        gradient instead of being remembered.
      log_variance: Whether a second head tells the logarithm of the variance of F.
      norm: "group", "rms" or "soft", see ``unet.normalisation``.
      filters: Linear filters of the noisy patches, see ``unet.UNet``.
      features: How many of the scalars it is shown.
      refines: Whether it refines a linear guess, see ``diffusion.spectrum``.
      regression: Whether it is shown the estimate of a regression network too.
    """

    kind: str = "unet"
    channels: tuple[int, ...] = (32, 64, 128)
    blocks: tuple[int, ...] = (1, 2, 2)
    groups: int = 8
    embedding: int = 64
    patch: int = 2
    planar: bool = False
    conditional: bool = True
    target: str = "residual"
    dtype: str = "float32"
    remat: tuple[int, ...] = ()
    log_variance: bool = False
    norm: str = "group"
    filters: int = 0
    features: int = 4
    refines: bool = False
    regression: bool = False

    @property
    def architecture(self) -> NetworkConfig:
        """What decides the weights and what they mean, and not how it is computed."""
        return dataclasses.replace(self, dtype="float32", remat=())

    @property
    def multiple(self) -> int:
        """Extents of the input, y of a 2-D network apart, must be multiples of this."""
        return self.patch * 2 ** (len(self.channels) - 1)


class Network(NamedTuple):
    """``init(key) -> params`` and ``apply(params, x, noise_level, condition)``.

    ``apply`` takes x ``[b, z, x, y]``, already scaled to unit variance, the noise
    embedding ``[b]`` and a ``Condition``; it returns ``[b, z, x, y]``, float32.
    ``apply_both`` returns that and the logarithm of its variance; None without
    ``config.log_variance``.
    """

    init: Callable[[jax.Array], dict]
    apply: Callable[[dict, jax.Array, jax.Array, Condition], jax.Array]
    config: NetworkConfig
    apply_both: Callable[..., tuple[jax.Array, jax.Array]] | None = None


@functools.lru_cache(maxsize=16)
def make_network(config: NetworkConfig) -> Network:
    """Builds the pure functions of one architecture.

    Equal configurations give the same object, so that programs compiled for one
    serve the other.

    Raises:
      InputError: A target that does not exist, or that needs a condition; another
        dtype; a level that does not exist, or without its number of blocks.
    """
    _check(config)
    module = KINDS[config.kind](config)

    def inputs(x, noise_level, condition):
        if not config.conditional:
            return x[..., None], noise_level[:, None]
        # The voxel size is not part of what can be dropped.
        kept = jnp.arange(config.features) >= NUM_SERIES
        coverage = jnp.broadcast_to(condition.coverage, x.shape)
        fields = jnp.stack([x, condition.volume, coverage], axis=-1)
        if config.refines:
            fields = jnp.concatenate([fields, condition.guess[..., None]], axis=-1)
        if config.regression:
            given = condition.regression
            added = jnp.zeros_like(x) if given is None else given
            fields = jnp.concatenate([fields, added[..., None]], axis=-1)
        present = condition.present[:, None]
        known = condition.features[:, : config.features]
        known = known * jnp.where(kept, 1.0, present)
        scalars = jnp.concatenate([noise_level[:, None], present, known], axis=-1)
        return fields, scalars

    def init(key):
        size = config.multiple
        zeros = jnp.zeros((1, size, size, size))
        dummy = Condition(
            zeros,
            zeros,
            jnp.zeros((1, NUM_FEATURES)),
            jnp.ones((1,)),
            zeros,
        )
        fields, scalars = inputs(zeros, jnp.zeros((1,)), dummy)
        if config.planar:
            fields = fields[:, :, :, 0]
        return module.init(key, fields, scalars)["params"]

    def outputs(params, x, noise_level, condition):
        fields, scalars = inputs(x, noise_level, condition)
        if config.planar:
            fields, scalars = _to_slices(fields, scalars)
        return module.apply({"params": params}, fields, scalars)

    def channel(out, index, shape):
        out = out[..., index]
        return _from_slices(out, shape) if config.planar else out

    def apply(params, x, noise_level, condition):
        return channel(outputs(params, x, noise_level, condition), 0, x.shape)

    def apply_both(params, x, noise_level, condition):
        out = outputs(params, x, noise_level, condition)
        return channel(out, 0, x.shape), channel(out, 1, x.shape)

    return Network(init, apply, config, apply_both if config.log_variance else None)


def widened(params: dict, config: NetworkConfig) -> dict:
    """Weights of a network that is shown no regression, for one that is.

    Args:
      params: Of a U-Net with ``config`` but ``regression`` false.
      config: Its own, or that of the new network.

    Returns:
      Weights of the new network, which answers as the old one whatever it is shown.
    """
    kernel = params["stem"]["kernel"]
    *taps, inside, features = kernel.shape
    size = config.patch ** (2 if config.planar else 3)
    old = kernel.reshape(*taps, size, inside // size, features)
    wide = jnp.pad(old, [(0, 0)] * (old.ndim - 2) + [(0, 1), (0, 0)])
    stem = params["stem"] | {"kernel": wide.reshape(*taps, -1, features)}
    return params | {"stem": stem}


# Kind -> (config) -> module of ``(fields [b, z, x, y, c], scalars [b, f])`` to one
# channel, or two with ``log_variance``; extents are multiples of ``config.multiple``.
# A new kind is a file beside unet.py and a row here.
KINDS: dict[str, Callable[[NetworkConfig], Any]] = {"unet": unet.from_config}


def _check(config: NetworkConfig) -> None:
    if config.kind not in KINDS:
        raise InputError(
            f"network.kind: expected one of {sorted(KINDS)}, got {config.kind!r}; "
            "correct the configuration"
        )
    if config.target not in TARGETS or not (
        config.conditional or config.target == "volume"
    ):
        raise InputError(
            "network.target: expected 'volume', or 'residual' if network.conditional "
            f"holds, got {config.target!r}; correct the configuration"
        )
    if len(config.blocks) != len(config.channels):
        raise InputError(
            f"network.blocks: expected {len(config.channels)} numbers, one a level of "
            f"{config.channels}, got {config.blocks}; correct the configuration"
        )
    if config.dtype not in unet.DTYPES:
        raise InputError(
            f"network.dtype: expected one of {sorted(unet.DTYPES)}, got "
            f"{config.dtype!r}; correct the configuration"
        )
    if config.norm not in unet.NORMS:
        raise InputError(
            f"network.norm: expected one of {unet.NORMS}, got {config.norm!r}; correct "
            "the configuration"
        )
    levels = range(len(config.channels))
    if not set(config.remat) <= set(levels):
        raise InputError(
            f"network.remat: expected levels among {list(levels)}, got "
            f"{list(config.remat)}; the finest level is 0"
        )


def _to_slices(fields: jax.Array, scalars: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``[b, z, x, y, c]`` as ``[b y, z, x, c]`` and ``[b, f]`` as ``[b y, f]``."""
    batch, nz, nx, ny, channels = fields.shape
    slices = fields.transpose(0, 3, 1, 2, 4).reshape(batch * ny, nz, nx, channels)
    return slices, jnp.repeat(scalars, ny, axis=0)


def _from_slices(slices: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """``[b y, z, x]`` as a volume ``[b, z, x, y]`` of the given shape."""
    batch, nz, nx, ny = shape
    return slices.reshape(batch, ny, nz, nx).transpose(0, 2, 3, 1)
