"""One optimisation step, and the state that it carries."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from temdiff_jax.condition import ResidualScale
from temdiff_jax.diffusion import parameterisation, schedule
from temdiff_jax.model import Condition, Network
from temdiff_jax.training.config import OptimConfig
from temdiff_jax.training.data import Batch
from temdiff_jax.training.optimiser import make_optimiser

# Examples whose target is weaker than this are not weighted up further.
MIN_POWER = 0.25


class TrainState(NamedTuple):
    """What a checkpoint holds: plain trees only."""

    step: jax.Array
    params: dict
    ema_params: dict
    opt_state: optax.OptState


class Metrics(NamedTuple):
    """Scalars of one step."""

    loss: jax.Array
    loss_mean: jax.Array
    loss_noisy: jax.Array
    grad_norm: jax.Array
    accepted: jax.Array


def init_state(key: jax.Array, network: Network, config: OptimConfig) -> TrainState:
    """Fresh parameters; the average starts as a copy of them."""
    params = network.init(key)
    opt_state = make_optimiser(config).init(params)
    ema = jax.tree.map(jnp.copy, params)
    return TrainState(jnp.int32(0), params, ema, opt_state)


def make_targets(
    batch: Batch, scale: ResidualScale, present: jax.Array
) -> tuple[jax.Array, Condition]:
    """Unit-variance target and condition of each crop.

    With the condition: the residual ``(truth - estimate) / scale``.  Without it the
    same network is asked for the volume itself, ``truth / sqrt(1 + scale^2)``.
    """
    sigma = scale(batch.features)[:, None, None, None]
    wide = present[:, None, None, None]
    residual = (batch.truth - batch.estimate) / sigma
    whole = batch.truth / jnp.sqrt(1.0 + sigma**2)
    target = jnp.where(wide > 0, residual, whole)
    condition = Condition(
        batch.estimate * wide, batch.coverage * wide, batch.features, present
    )
    return target, condition


def batch_losses(
    params: dict, key: jax.Array, batch: Batch, network: Network, config, scale
) -> tuple[jax.Array, jax.Array]:
    """Losses ``[b]`` and which of them are of the conditional mean, ``[b]``."""
    keys = jax.random.split(key, 3)
    size = batch.truth.shape[0]
    index = jnp.arange(size)
    is_mean = index < round(config.mean_fraction * size)
    drop = jax.random.bernoulli(keys[0], config.drop_condition, (size,)) & ~is_mean
    target, condition = make_targets(batch, scale, 1.0 - drop)
    sigma = schedule.training_sigma(keys[1], (size,))
    sigma = jnp.where(is_mean, parameterisation.SIGMA_MEAN, sigma)
    noise = jax.random.normal(keys[2], target.shape)

    def apply(x, level):
        return network.apply(params, x, level, condition)

    losses = parameterisation.loss_per_example(apply, target, sigma, noise)
    # Specimens that the scale fit misses must not dominate the gradient.
    power = jnp.mean(target**2, axis=(1, 2, 3))
    return losses / jnp.maximum(power, MIN_POWER), is_mean


@functools.partial(jax.jit, static_argnames=("network", "config"), donate_argnums=0)
def train_step(
    state: TrainState,
    key: jax.Array,
    batch: Batch,
    scale: ResidualScale,
    *,
    network: Network,
    config: OptimConfig,
) -> tuple[TrainState, Metrics]:
    """One update; a batch with a non-finite loss or gradient changes nothing.

    ``key`` is folded with the step, so that a resumed run draws the same noise.
    """
    key = jax.random.fold_in(key, state.step)

    def objective(params):
        losses, is_mean = batch_losses(params, key, batch, network, config, scale)
        return jnp.mean(losses), (losses, is_mean)

    (loss, (losses, is_mean)), grads = jax.value_and_grad(objective, has_aux=True)(
        state.params
    )
    norm = optax.tree.norm(grads)
    accepted = jnp.isfinite(loss) & jnp.isfinite(norm)
    optimiser = make_optimiser(config)

    def update(_):
        updates, opt_state = optimiser.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        count = state.step.astype(jnp.float32)
        decay = jnp.minimum(config.ema_decay, (1.0 + count) / (10.0 + count))
        ema = jax.tree.map(
            lambda old, new: decay * old + (1 - decay) * new, state.ema_params, params
        )
        return params, ema, opt_state

    def keep(_):
        return state.params, state.ema_params, state.opt_state

    params, ema, opt_state = jax.lax.cond(accepted, update, keep, None)
    metrics = Metrics(
        loss,
        _masked_mean(losses, is_mean),
        _masked_mean(losses, ~is_mean),
        norm,
        accepted,
    )
    return TrainState(state.step + 1, params, ema, opt_state), metrics


def _masked_mean(values, mask):
    return jnp.sum(jnp.where(mask, values, 0.0)) / jnp.maximum(jnp.sum(mask), 1)


@functools.partial(jax.jit, static_argnames=("network",))
def mean_ratio(
    params: dict, batch: Batch, scale: ResidualScale, *, network: Network
) -> jax.Array:
    """``|truth - mean estimate|^2 / |truth - condition|^2`` of each crop, ``[b]``."""
    size = batch.truth.shape[0]
    target, condition = make_targets(batch, scale, jnp.ones(size))
    sigma = jnp.full((size,), parameterisation.SIGMA_MEAN)

    def apply(x, level):
        return network.apply(params, x, level, condition)

    guess = parameterisation.denoise(apply, jnp.zeros_like(target), sigma)
    axes = (1, 2, 3)
    return jnp.sum((guess - target) ** 2, axes) / jnp.sum(target**2, axes)
