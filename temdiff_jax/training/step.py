"""One optimisation step, and the state that it carries."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from temdiff_jax.diffusion import parameterisation, schedule, spectrum
from temdiff_jax.model import Condition, Network
from temdiff_jax.series.inputs import ResidualScale
from temdiff_jax.training import averages
from temdiff_jax.training.config import OptimConfig
from temdiff_jax.training.data import Batch
from temdiff_jax.training.optimiser import make_optimiser

# Examples whose target is weaker than this are not weighted up further.
MIN_POWER = 0.25
# Least error of the linear guess, in the units expected, by which losses are divided.
LEAST_ERROR = 0.25
# Noise level at which validation scores a network that sees no tilts.
PRIOR_SIGMA = 1.0


class TrainState(NamedTuple):
    """What a checkpoint holds: plain trees only.

    ``averages`` are those of ``OptimConfig.average_lengths``, by name; mostly none.
    """

    step: jax.Array
    params: dict
    ema_params: dict
    opt_state: optax.OptState
    averages: dict[str, dict] | tuple[()] = ()


class Metrics(NamedTuple):
    """Scalars of one step; ``loss_variance`` is 0 without a head for it.

    ``loss_mean`` and ``loss_noisy`` are NaN in a step that has no such crops.
    """

    loss: jax.Array
    loss_mean: jax.Array
    loss_noisy: jax.Array
    grad_norm: jax.Array
    accepted: jax.Array
    loss_variance: jax.Array


def init_state(key: jax.Array, network: Network, config: OptimConfig) -> TrainState:
    """Fresh parameters; the average starts as a copy of them."""
    params = network.init(key)
    opt_state = _optimiser(network, config).init(params)
    ema = jax.tree.map(jnp.copy, params)
    further = averages.begin(params, config.average_lengths) or ()
    return TrainState(jnp.int32(0), params, ema, opt_state, further)


def _optimiser(network: Network, config: OptimConfig) -> optax.GradientTransformation:
    return make_optimiser(config, variance_head=network.config.log_variance)


def make_targets(
    batch: Batch, scale: ResidualScale, present: jax.Array, target: str = "residual"
) -> tuple[jax.Array, Condition]:
    """Unit-variance target and condition of each crop.

    With the condition: the residual ``(truth - estimate) / scale``, of the regression's
    estimate where there is one.  Without it the
    same network is asked for the volume itself, ``truth / sqrt(1 + scale^2)``, and so
    is always a network whose ``target`` is "volume".
    """
    sigma = scale(batch.features)[:, None, None, None]
    wide = present[:, None, None, None]
    clean = batch.truth / jnp.sqrt(1.0 + sigma**2)
    if target == "residual":
        base = batch.estimate if batch.regression is None else batch.regression
        clean = jnp.where(wide > 0, (batch.truth - base) / sigma, clean)
    added = None
    if batch.regression is not None:
        added = (batch.regression - batch.estimate) * wide
    condition = Condition(
        batch.estimate * wide,
        batch.coverage * wide,
        batch.features,
        present,
        regression=added,
    )
    return clean, condition


def is_regressed(condition: Condition) -> jax.Array:
    """1 where a regression's estimate is shown, ``[b]``."""
    if condition.regression is None:
        return jnp.zeros_like(condition.present)
    there = jnp.any(condition.regression != 0.0, axis=(1, 2, 3))
    return there.astype(jnp.float32)


def power_of(law: Any, shape: tuple[int, ...], condition: Condition) -> jax.Array:
    """Power of the modes of crops ``[b, z, x, y]``, by what they are shown."""
    known = condition.features, condition.present, is_regressed(condition)
    return law(shape[1:], *known)


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


def draw(
    key: jax.Array, batch: Batch, config: OptimConfig, *, refines: bool = False
) -> Draws:
    """Draws for a batch; a pure function of ``key``, whatever devices hold it.

    With ``refines`` those of a network that refines a linear guess.
    """
    keys = jax.random.split(key, 3)
    size = batch.truth.shape[0]
    index = jnp.arange(size)
    noise = jax.random.normal(keys[2], batch.truth.shape)
    if refines:
        # Stratified over the batch: one quantile in each of equal parts.
        share = (
            jax.random.permutation(keys[0], size) + jax.random.uniform(keys[1])
        ) / size
        is_mean = share < config.mean_fraction
        rest = (share - config.mean_fraction) / (1.0 - config.mean_fraction)
        sigma = spectrum.training_levels(jnp.where(is_mean, 0.5, rest))
        sigma = jnp.where(is_mean, spectrum.SIGMA_MEAN, sigma)
        again = jax.random.fold_in(keys[0], 1)
        drop = jax.random.bernoulli(again, config.drop_condition, (size,)) & ~is_mean
        return Draws(drop, sigma, noise, is_mean)
    is_mean = index < round(config.mean_fraction * size)
    drop = jax.random.bernoulli(keys[0], config.drop_condition, (size,)) & ~is_mean
    sigma = schedule.training_noise(config.noise)(keys[1], (size,))
    sigma = jnp.where(is_mean, parameterisation.SIGMA_MEAN, sigma)
    return Draws(drop, sigma, noise, is_mean)


def batch_losses(
    params: dict, batch: Batch, draws: Draws, network: Network, scale: ResidualScale
) -> tuple[jax.Array, jax.Array]:
    """Losses of the crops, and those of the variance (or zeros), ``[b]`` each."""
    target, condition = make_targets(
        batch, scale, 1.0 - draws.drop, network.config.target
    )

    if network.config.refines:
        return _refined_losses(
            params, target, condition, draws, network, scale.spectrum
        )

    def both(x, level):
        assert network.apply_both is not None
        return network.apply_both(params, x, level, condition)

    def apply(x, level):
        return network.apply(params, x, level, condition)

    given = (target, draws.sigma, draws.noise)
    if network.config.log_variance:
        losses, spread = parameterisation.losses_per_example(both, *given)
    else:
        losses = parameterisation.loss_per_example(apply, *given)
        spread = jnp.zeros_like(losses)
    # Specimens that the scale fit misses must not dominate the gradient.
    power = jnp.mean(target**2, axis=(1, 2, 3))
    return losses / jnp.maximum(power, MIN_POWER), spread


def refiner(network: Network, params: dict, condition: Condition, *, both: bool):
    """A network that refines a linear guess, as ``spectrum.denoise_with`` takes it."""
    apply = network.apply_both if both else network.apply
    assert apply is not None

    def refine(x, level, guess):
        return apply(params, x, level, condition._replace(guess=guess))

    return refine


def _refined_losses(params, target, condition, draws, network, prior_spectrum):
    """As `batch_losses`, in units of what the linear guess leaves."""
    power = power_of(prior_spectrum, target.shape, condition)
    noisy = target + draws.sigma[:, None, None, None] * draws.noise
    both = network.config.log_variance
    refine = refiner(network, params, condition, both=both)
    output, guess, left = spectrum.denoise_with(refine, noisy, draws.sigma, power)
    raw, spread = output if both else (output, None)
    linear = (guess - target) / left[:, None, None, None]
    error = raw + linear
    losses = jnp.mean(error**2, axis=(1, 2, 3))
    # Specimens whose spectrum is far from the expected one must not dominate; divided
    # by the whole error of the linear guess, the weak ones would.
    found = jnp.mean(linear**2, axis=(1, 2, 3))
    losses = losses / jnp.sqrt(jnp.maximum(found, LEAST_ERROR))
    if spread is None:
        return losses, jnp.zeros_like(losses)
    return losses, parameterisation.variance_loss(error, spread)


def gradients(
    params: dict,
    key: jax.Array,
    batch: Batch,
    scale: ResidualScale,
    network: Network,
    config: OptimConfig,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array], jax.Array, dict]:
    """Mean loss, losses of ``batch_losses``, which are of the mean ``[b]``, gradients.

    The gradients are also those of the variance, whose head and the rest share none.
    With ``accumulate`` passes the crops go through the network in as many parts.  The
    draws are those of the whole batch, so the result does not depend on the parts.
    """

    def total_loss(losses):
        loss = jnp.mean(losses[0])
        return loss + jnp.mean(losses[1]) if network.config.log_variance else loss

    if config.accumulate == 1:

        def objective(params):
            draws = draw(key, batch, config, refines=network.config.refines)
            losses = batch_losses(params, batch, draws, network, scale)
            return total_loss(losses), (losses, draws.is_mean)

        grad = jax.value_and_grad(objective, has_aux=True)
        (_, (losses, is_mean)), grads = grad(params)
        return jnp.mean(losses[0]), losses, is_mean, grads

    draws = draw(key, batch, config, refines=network.config.refines)
    parts = jax.tree.map(
        functools.partial(_parts, count=config.accumulate), (batch, draws)
    )

    def add(total, part):
        def objective(params):
            losses = batch_losses(params, *part, network, scale)
            return total_loss(losses), losses

        grad = jax.grad(objective, has_aux=True)
        grads, losses = grad(params)
        return jax.tree.map(jnp.add, total, grads), losses

    total, losses = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), parts)
    grads = jax.tree.map(lambda leaf: leaf / config.accumulate, total)
    # Back in the order of the batch.
    losses = jax.tree.map(lambda rows: rows.T.reshape(-1), losses)
    return jnp.mean(losses[0]), losses, draws.is_mean, grads


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
    optimiser = _optimiser(network, config)

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
    further = state.averages
    if further:
        further = averages.update(
            further, params, state.step + 1, config.average_lengths
        )
    metrics = Metrics(
        loss,
        _masked_mean(losses[0], is_mean),
        _masked_mean(losses[0], ~is_mean),
        norm,
        accepted,
        jnp.mean(losses[1]),
    )
    return TrainState(state.step + 1, params, ema, opt_state, further), metrics


# On one device; `placement` compiles the same function for a mesh.
train_step = jax.jit(advance, static_argnames=("network", "config"), donate_argnums=0)


def _masked_mean(values, mask):
    """NaN where no crop is meant, as in a step of one."""
    return jnp.sum(jnp.where(mask, values, 0.0)) / jnp.sum(mask)


def best_guess(
    params: dict,
    batch: Batch,
    scale: ResidualScale,
    *,
    network: Network,
    sigma: float | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What the network makes of crops, what was asked for, and what was known before.

    Each ``[b, z, x, y]`` in the units of ``make_targets``.  ``sigma`` is the noise
    level of what it is shown; by default that is noise alone for a conditional network,
    the nearest that one of volumes has learned being the largest level, and
    ``PRIOR_SIGMA`` for an unconditional one.  What was known before is the quadratic
    estimate or, unconditionally, the best linear denoiser of white data,
    ``x / (s^2 + 1)``.
    """
    size, config = batch.truth.shape[0], network.config
    target, condition = make_targets(batch, scale, jnp.ones(size), config.target)
    residual = config.target == "residual"
    if config.refines:
        return _refined_guess(params, target, condition, scale.spectrum, network, sigma)
    if sigma is None and not config.conditional:
        sigma = PRIOR_SIGMA
    elif sigma is None:
        sigma = parameterisation.SIGMA_MEAN if residual else schedule.SIGMA_MAX
    noisy = target + sigma * jax.random.normal(jax.random.key(0), target.shape)
    if not config.conditional:
        known = noisy / (sigma**2 + 1.0)
    elif residual:
        known = jnp.zeros_like(target)
    else:
        unit = jnp.sqrt(1.0 + scale(batch.features) ** 2)[:, None, None, None]
        known = batch.estimate / unit

    def apply(x, level):
        return network.apply(params, x, level, condition)

    guess = parameterisation.denoise(apply, noisy, jnp.full((size,), sigma))
    return guess, target, known


def _refined_guess(params, target, condition, prior_spectrum, network, sigma):
    """``best_guess`` of a network that refines a linear guess: what is known."""
    size = target.shape[0]
    power = power_of(prior_spectrum, target.shape, condition)
    level = jnp.full((size,), spectrum.SIGMA_MEAN if sigma is None else sigma)
    noise = jax.random.normal(jax.random.key(0), target.shape)
    noisy = target + level[:, None, None, None] * noise
    refine = refiner(network, params, condition, both=False)
    raw, known, left = spectrum.denoise_with(refine, noisy, level, power)
    return known + left[:, None, None, None] * raw, target, known


def ratio_of_mean(
    params: dict,
    batch: Batch,
    scale: ResidualScale,
    *,
    network: Network,
    sigma: float | None = None,
) -> jax.Array:
    """``|truth - guess|^2 / |truth - known|^2`` of each crop, ``[b]``; `best_guess`."""
    guess, target, known = best_guess(
        params, batch, scale, network=network, sigma=sigma
    )
    axes = (1, 2, 3)
    return jnp.sum((guess - target) ** 2, axes) / jnp.sum((known - target) ** 2, axes)


mean_ratio = jax.jit(ratio_of_mean, static_argnames=("network", "sigma"))
