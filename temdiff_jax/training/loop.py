"""The training loop: phases of simulated blocks, steps, checkpoints, validation."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from temdiff_jax import condition
from temdiff_jax.model import Network, make_network
from temdiff_jax.priors import Prior
from temdiff_jax.training.checkpoint import Checkpoints
from temdiff_jax.training.config import TrainConfig
from temdiff_jax.training.data import (
    Batch,
    Block,
    BlockSource,
    central,
    cut_batch,
)
from temdiff_jax.training.step import TrainState, init_state, mean_ratio, train_step
from temdiff_jax.types import InputError

VALIDATION_PHASE = 2**31 - 1
MAX_BAD_STEPS = 20
LOG_EVERY = 48


def measure_residual_scale(blocks: list[Block]) -> condition.ResidualScale:
    """Fits the residual's spread to the blocks' features."""
    scales = [np.std(b.truth - b.estimate) for b in blocks]
    features = np.stack([b.features for b in blocks])
    return condition.fit_residual_scale(jnp.asarray(features), jnp.asarray(scales))


def train(
    config: TrainConfig,
    *,
    data_dir: str,
    workdir: str,
    log: Callable[[str], None] = print,
    max_minutes: float | None = None,
    initial: Prior | None = None,
) -> TrainState:
    """Trains, or goes on training, until ``optim.num_steps``.

    Order of resumption: the newest checkpoint of ``workdir``; else the weights of
    ``initial``; else from scratch.

    Args:
      config: The run.
      data_dir: Folder of the source volumes.
      workdir: Checkpoints go to ``workdir/checkpoints``.
      log: Receives one line at a time.
      max_minutes: Save and stop after this long.
      initial: Released prior whose weights and residual scale a new run starts from.

    Returns:
      The last state.

    Raises:
      RuntimeError: More than ``MAX_BAD_STEPS`` non-finite batches in a row.
    """
    started = time.monotonic()
    network = make_network(config.network)
    source = BlockSource.from_files(
        data_dir, config.data.sources, config.data, config.seed
    )
    blocks_of = Phases(source, config.data.phases_kept)
    validation = _validation_batches(config, data_dir)
    checkpoints = Checkpoints(f"{workdir}/checkpoints", keep=config.keep_checkpoints)
    state, scale = _begin(config, network, blocks_of, checkpoints, log, initial)
    key = jax.random.key(config.seed + 1)
    history: list[list[float]] = []
    bad = 0
    for step in range(int(state.step), config.optim.num_steps):
        batch = _batch(config, blocks_of, step)
        state, metrics = train_step(
            state, key, batch, scale, network=network, config=config.optim
        )
        history.append([float(m) for m in metrics])
        bad = 0 if metrics.accepted else bad + 1
        if bad > MAX_BAD_STEPS:
            raise RuntimeError(f"{bad} non-finite batches in a row at step {step}")
        done = step + 1
        minutes = (time.monotonic() - started) / 60
        if done % LOG_EVERY == 0:
            log(_summary(done, history, minutes))
            history = []
        out_of_time = max_minutes is not None and minutes > max_minutes
        stop = out_of_time or done == config.optim.num_steps
        if done % config.validate_every == 0 or stop:
            log(_validate(state, validation, scale, network, config))
        if done % config.checkpoint_every == 0 or stop:
            checkpoints.save(done, state, _meta(config, scale))
        if out_of_time:
            log(f"time is up at step {done}: saved")
            break
    blocks_of.close()
    checkpoints.close()
    return state


class Phases:
    """Blocks of the newest phases, the next one being simulated meanwhile.

    Consecutive steps share a phase; a phase depends on nothing but its number, so
    looking ahead changes no example.
    """

    def __init__(self, source: BlockSource, kept: int = 1):
        self._source = source
        self._kept = kept
        self._pool = concurrent.futures.ThreadPoolExecutor(max_workers=1)
        self._pending: dict[int, concurrent.futures.Future[list[Block]]] = {}

    def __call__(self, phase: int) -> list[Block]:
        """Blocks of ``phase`` and of up to ``kept - 1`` phases before it.

        An error of the simulation is raised here.
        """
        first = max(0, phase - self._kept + 1)
        wanted = range(first, phase + 2)
        for old in [p for p in self._pending if p not in wanted]:
            self._pending.pop(old).cancel()
        for number in wanted:
            if number not in self._pending:
                task = self._pool.submit(self._source.phase, number)
                self._pending[number] = task
        return [b for p in range(first, phase + 1) for b in self._pending[p].result()]

    def close(self) -> None:
        """Gives up looking ahead."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def _begin(
    config: TrainConfig,
    network: Network,
    blocks_of: Callable[[int], list[Block]],
    checkpoints: Checkpoints,
    log: Callable[[str], None],
    initial: Prior | None,
) -> tuple[TrainState, condition.ResidualScale]:
    """The newest checkpoint, else initial weights, else a fresh state.

    A fresh state has its residual scale measured on the blocks of phase 0.
    """
    fresh = functools.partial(init_state, network=network, config=config.optim)
    key = jax.random.key(config.seed)
    latest = checkpoints.latest()
    if latest is None and initial is not None:
        if initial.network.config != config.network:
            raise InputError(
                f"initial weights: expected the network {config.network}, got "
                f"{initial.network.config}; use a configuration with that network"
            )
        log(f"no checkpoint: starting from the prior {initial.card.get('name')}")
        # Copies, since a step gives its input away and the prior may be shared.
        params = jax.tree.map(jnp.copy, initial.params)
        ema = jax.tree.map(jnp.copy, initial.params)
        state = fresh(key)._replace(params=params, ema_params=ema)
        scale = initial.residual_scale
    elif latest is None:
        log("no checkpoint: training from scratch")
        state = fresh(key)
        scale = measure_residual_scale(blocks_of(0))
    else:
        log(f"resuming from step {latest}")
        state = checkpoints.restore(latest, jax.eval_shape(fresh, key))
        saved = checkpoints.meta(latest)["residual_scale"]
        scale = condition.ResidualScale(
            jnp.float32(saved["intercept"]), jnp.asarray(saved["slopes"], jnp.float32)
        )
    log(f"residual scale: {float(scale.intercept):.3f} {np.asarray(scale.slopes)}")
    count = sum(a.size for a in jax.tree.leaves(state.params))
    log(f"parameters: {count / 1e6:.2f} M")
    return state, scale


def _batch(
    config: TrainConfig, blocks_of: Callable[[int], list[Block]], step: int
) -> Batch:
    return cut_batch(
        blocks_of(step // config.data.steps_per_phase),
        seed=config.seed,
        step=step,
        batch=config.optim.batch,
        crop=config.data.crop,
    )


def _summary(done: int, history: list[list[float]], minutes: float) -> str:
    """One line about the steps since the last one; rejected ones leave the means."""
    accepted = [row for row in history if row[-1]]
    loss, mean, noisy, norm, _ = np.mean(accepted or history, axis=0)
    return (
        f"step {done} loss {loss:.4f} mean {mean:.4f} noisy {noisy:.4f} grad "
        f"{norm:.3f} rejected {len(history) - len(accepted)} minutes {minutes:.1f}"
    )


def _meta(config: TrainConfig, scale: condition.ResidualScale) -> dict:
    return {
        "config": dataclasses.asdict(config),
        "residual_scale": {
            "intercept": float(scale.intercept),
            "slopes": [float(s) for s in np.asarray(scale.slopes)],
        },
    }


def _validation_batches(config: TrainConfig, data_dir: str) -> list[Batch]:
    data = dataclasses.replace(config.data, phantom_fraction=0.0, blocks_per_scenario=2)
    source = BlockSource.from_files(data_dir, data.validation, data, config.seed)
    blocks = source.phase(VALIDATION_PHASE)
    return [central(block, config.network.multiple) for block in blocks]


def _validate(state, batches, scale, network, config) -> str:
    params = state.ema_params
    ratio = [
        float(mean_ratio(params, batch, scale, network=network)[0]) for batch in batches
    ]
    count = len(config.data.scenarios)
    gains = [-10 * np.log10(np.mean(ratio[i::count])) for i in range(count)]
    text = " ".join(f"{g:+.2f}" for g in gains)
    return f"validation step {int(state.step)}: gain of the mean call, dB: {text}"
