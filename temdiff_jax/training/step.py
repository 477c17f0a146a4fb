"""One optimisation step, and the state that it carries."""

from __future__ import annotations

import functools
from collections.abc import Callable
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


class Draws(NamedTuple):
    """Random numbers of a batch, and which crops train the conditional mean.

    Attributes:
      drop: Crops shown without their condition, ``[b]``.
      sigma: Noise levels, ``[b]``.
      noise: Of unit variance, ``[b, z, x, y]``.
      is_mean: ``[b]``.
    """

    drop: jax.Array
    sigma: jax.Array
    noise: jax.Array
    is_mean: jax.Array


def draw(key: jax.Array, batch: Batch, config: OptimConfig) -> Draws:
    """Draws for a batch; a pure function of ``key``, whatever devices hold it."""
    keys = jax.random.split(key, 3)
    size = batch.truth.shape[0]
    index = jnp.arange(size)
    is_mean = index < round(config.mean_fraction * size)
    drop = jax.random.bernoulli(keys[0], config.drop_condition, (size,)) & ~is_mean
    sigma = schedule.training_sigma(keys[1], (size,))
    sigma = jnp.where(is_mean, parameterisation.SIGMA_MEAN, sigma)
    noise = jax.random.normal(keys[2], batch.truth.shape)
    return Draws(drop, sigma, noise, is_mean)


def batch_losses(
    params: dict, batch: Batch, draws: Draws, network: Network, scale: ResidualScale
) -> jax.Array:
    """Losses of the crops, ``[b]``."""
    target, condition = make_targets(batch, scale, 1.0 - draws.drop)

    def apply(x, level):
        return network.apply(params, x, level, condition)

    losses = parameterisation.loss_per_example(apply, target, draws.sigma, draws.noise)
    # Specimens that the scale fit misses must not dominate the gradient.
    power = jnp.mean(target**2, axis=(1, 2, 3))
    return losses / jnp.maximum(power, MIN_POWER)


def gradients(
    params: dict,
    key: jax.Array,
    batch: Batch,
    scale: ResidualScale,
    network: Network,
    config: OptimConfig,
) -> tuple[jax.Array, jax.Array, jax.Array, dict]:
    """Mean loss, losses ``[b]``, which are of the mean ``[b]``, and gradients.

    With ``accumulate`` passes the crops go through the network in as many parts.  The
    draws are those of the whole batch, so the result does not depend on the parts.
    """
    if config.accumulate == 1:

        def objective(params):
            draws = draw(key, batch, config)
            losses = batch_losses(params, batch, draws, network, scale)
            return jnp.mean(losses), (losses, draws.is_mean)

        grad = jax.value_and_grad(objective, has_aux=True)
        (loss, (losses, is_mean)), grads = grad(params)
        return loss, losses, is_mean, grads

    draws = draw(key, batch, config)
    parts = jax.tree.map(
        functools.partial(_parts, count=config.accumulate), (batch, draws)
    )

    def add(total, part):
        def objective(params):
            losses = batch_losses(params, *part, network, scale)
            return jnp.mean(losses), losses

        grad = jax.grad(objective, has_aux=True)
        grads, losses = grad(params)
        return jax.tree.map(jnp.add, total, grads), losses

    total, losses = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), parts)
    grads = jax.tree.map(lambda leaf: leaf / config.accumulate, total)
    losses = losses.T.reshape(-1)  # back in the order of the batch
    return jnp.mean(losses), losses, draws.is_mean, grads


def _parts(array: jax.Array, count: int) -> jax.Array:
    """``[b, ...]`` as ``[count, b / count, ...]``, part i the rows i, i + count, ...

    Rows that are neighbours go to different parts, so that each device of a sharded
    batch holds its share of every part and nothing moves between devices.
    """
    if array.shape[0] % count:
        raise ValueError(
            f"optim.accumulate: expected a divisor of the {array.shape[0]} crops of a "
            f"step, got {count}; cut batch * accumulate crops"
        )
    rows = array.reshape(array.shape[0] // count, count, *array.shape[1:])
    return jnp.swapaxes(rows, 0, 1)


def _same(tree: dict) -> dict:
    return tree


def advance(
    state: TrainState,
    key: jax.Array,
    batch: Batch,
    scale: ResidualScale,
    *,
    network: Network,
    config: OptimConfig,
    gather: Callable[[dict], dict] = _same,
    share: Callable[[dict], dict] = _same,
) -> tuple[TrainState, Metrics]:
    """One update; a batch with a non-finite loss or gradient changes nothing.

    ``key`` is folded with the step, so that a resumed run draws the same noise.  Where
    parameters are shared out over devices, ``gather`` brings them together for the
    network and ``share`` shares out their gradients.
    """
    key = jax.random.fold_in(key, state.step)
    loss, losses, is_mean, grads = gradients(
        gather(state.params), key, batch, scale, network, config
    )
    grads = share(grads)
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


# On one device; `placement` compiles the same function for a mesh.
train_step = jax.jit(advance, static_argnames=("network", "config"), donate_argnums=0)


def _masked_mean(values, mask):
    return jnp.sum(jnp.where(mask, values, 0.0)) / jnp.maximum(jnp.sum(mask), 1)


def ratio_of_mean(
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


mean_ratio = jax.jit(ratio_of_mean, static_argnames=("network",))
