"""The training loop: phases of simulated blocks, steps, checkpoints, validation."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from temdiff_jax import parallel
from temdiff_jax.diffusion import spectrum
from temdiff_jax.errors import InputError
from temdiff_jax.model import make_network
from temdiff_jax.model.network import widened
from temdiff_jax.priors import Prior
from temdiff_jax.series import inputs
from temdiff_jax.training import averages, flops
from temdiff_jax.training.checkpoint import Checkpoints
from temdiff_jax.training.config import TrainConfig
from temdiff_jax.training.data import (
    FIRST_RESERVED,
    Batch,
    Block,
    BlockSource,
    central,
    cut_batch,
)
from temdiff_jax.training.meter import Meter
from temdiff_jax.training.optimiser import learning_rate
from temdiff_jax.training.placement import Placement, make_placement
from temdiff_jax.training.pool import StoredBlocks
from temdiff_jax.training.preview import Preview, make_previewer
from temdiff_jax.training.step import (
    Metrics,
    TrainState,
    init_state,
    is_regressed,
    make_targets,
)

VALIDATION_PHASE = FIRST_RESERVED
MAX_BAD_STEPS = 20
LOG_EVERY = 48
# Batches, and voxels of each, to which the spectrum of the residual is fitted.
SPECTRUM_BATCHES, SPECTRUM_VOXELS = 192, 131072
# Noise levels at which a network that refines a linear guess is compared with it.
LEVELS = (0.3, 1.0, 3.0, 10.0, 30.0)
ACCEPTED = Metrics._fields.index("accepted")


def measure_residual_scale(
    blocks: list[Block], *, by_series: bool = True
) -> inputs.ResidualScale:
    """Fits the residual's spread to the blocks' features, or takes their mean."""
    scales = [np.std(b.truth - b.estimate) for b in blocks]
    features = np.stack([b.features for b in blocks])
    if not by_series:
        features = np.zeros_like(features)
    return inputs.fit_residual_scale(jnp.asarray(features), jnp.asarray(scales))


def fit_spectrum(
    scale: inputs.ResidualScale, blocks: list[Block], config: TrainConfig
) -> inputs.ResidualScale:
    """The scale with the power of the scaled residual in every mode.

    Fitted to crops as a training is shown them, once given their tilts and once not.
    """
    voxels = config.optim.batch_voxels and SPECTRUM_VOXELS
    optim = dataclasses.replace(config.optim, batch_voxels=voxels)
    config = dataclasses.replace(config, optim=optim)
    groups: dict[tuple[int, ...], list[tuple]] = {}
    for step in range(SPECTRUM_BATCHES):
        batch = _cut(config, blocks, step)
        for present in (1.0, 0.0):
            shown = jnp.full(batch.truth.shape[0], present)
            target, condition = make_targets(batch, scale, shown)
            power = spectrum.to_modes(target) ** 2
            features = jnp.asarray(batch.features)
            found = (power, features, shown, is_regressed(condition))
            groups.setdefault(target.shape[1:], []).append(found)
    parts = []
    for rows in groups.values():
        power, *known = (jnp.concatenate(column) for column in zip(*rows))
        parts.append((power, known[0], known[1], known[2]))
    return scale._replace(spectrum=spectrum.fit(jax.random.key(config.seed), parts))


class Watch(NamedTuple):
    """What a run hands out besides its log.

    Attributes:
      record: Receives the numbers of the periodic line and of the validation by name,
        with the steps done: ``telemetry.EventFiles.scalars``, for example.
      show: Receives, at every validation, a block of each scenario to look at.
      peak_flops: Operations a second of all devices of the run; the periodic line then
        says what it reaches of them, see ``meter.product_peak``.
    """

    record: Callable[[int, dict[str, float]], None] | None = None
    show: Callable[[int, list[Preview]], None] | None = None
    peak_flops: float | None = None


NOBODY = Watch()


class Diverged(RuntimeError):
    """Too many non-finite batches in a row; the weights are the last good ones."""


def train(
    config: TrainConfig,
    *,
    data_dir: str,
    workdir: str,
    log: Callable[[str], None] = print,
    max_minutes: float | None = None,
    initial: Prior | None = None,
    should_stop: Callable[[int], str | None] | None = None,
    watch: Watch = NOBODY,
    blocks: str | None = None,
) -> TrainState:
    """Trains, or goes on training, until ``optim.num_steps``.

    Order of resumption: the newest valid checkpoint of ``workdir``; else the weights
    of ``initial``; else from scratch.

    Args:
      config: The run.
      data_dir: Folder of the source volumes.
      workdir: Checkpoints go to ``workdir/checkpoints``.
      log: Receives one line at a time.
      max_minutes: Save and stop after this long.
      initial: Released prior whose weights and residual scale a new run starts from.
      should_stop: ``steps done -> why to save and stop now, or None``; see ``signals``.
      watch: Who sees more of the run than the log.
      blocks: Folder where simulated blocks are kept, see ``pool``; None keeps none.

    Returns:
      The last state.

    Raises:
      Diverged: More than ``MAX_BAD_STEPS`` non-finite batches in a row.
      checkpoint.SaveError: A checkpoint could not be written; noticed at the next step.
    """
    started = time.monotonic()
    place = _place(config)
    folder, keep = f"{workdir}/checkpoints", config.keep_checkpoints
    with (
        contextlib.closing(_phases(config, data_dir, blocks)) as blocks_of,
        Checkpoints(folder, keep=keep, log=log) as checkpoints,
    ):
        inspect = _Inspection(config, place, data_dir, watch, blocks)
        state, scale = _begin(config, place, blocks_of, checkpoints, log, initial)
        key, scale_there = place.key(config.seed + 1), place.put_scale(scale)
        journal = _Journal(config, log, started, watch)
        for done in range(int(state.step) + 1, config.optim.num_steps + 1):
            batch = _batch(config, blocks_of, done - 1)
            given = (state, key, place.put_batch(batch), scale_there)
            state = journal.step(place.step, given, done - 1, batch.truth.size)
            checkpoints.poll()
            asked = should_stop(done) if should_stop else None
            reason = asked or _out_of_time(started, max_minutes)
            stop = reason is not None or done == config.optim.num_steps
            if done % config.optim.average_every == 0 or stop:
                _save_averages(state, f"{workdir}/averages", done)
            if done % config.checkpoint_every == 0 or stop:
                checkpoints.save(done, state, _meta(config, scale))
            # Saved before, and whoever asks to stop does not wait for a validation.
            if (done % config.validate_every == 0 or stop) and asked is None:
                log(inspect(state, scale_there))
            if reason is not None:
                checkpoints.wait()
                log(f"{reason} at step {done}: saved")
                break
    return state


def _save_averages(state: TrainState, folder: str, done: int) -> None:
    """A snapshot of the averages, if there are any; all processes call it."""
    whole = state.averages
    if not whole:
        return
    if jax.process_count() > 1:
        whole = multihost_utils.process_allgather(whole, tiled=True)
    if jax.process_index() == 0:
        averages.save(folder, done, whole)


def _place(config: TrainConfig) -> Placement:
    network = make_network(config.network)
    init = functools.partial(init_state, network=network, config=config.optim)
    return make_placement(config, network, init)


def _phases(config: TrainConfig, data_dir: str, folder: str | None) -> Phases:
    names = config.data.sources
    source = BlockSource.from_files(data_dir, names, config.data, config.seed)
    return Phases(_stored(source, folder), config.data.phases_kept)


def _stored(source: BlockSource, folder: str | None) -> BlockSource | StoredBlocks:
    return source if folder is None else StoredBlocks(source, folder)


class Phases:
    """Blocks of several phases, the next one being simulated meanwhile.

    Consecutive steps share a phase; a phase depends on nothing but its number, so
    looking ahead changes no example.
    """

    def __init__(self, source: BlockSource | StoredBlocks, kept: int = 1):
        self._source = source
        self._kept = kept
        self._pool = concurrent.futures.ThreadPoolExecutor(max_workers=1)
        self._pending: dict[int, concurrent.futures.Future[list[Block]]] = {}

    def __call__(self, phase: int) -> list[Block]:
        """Blocks of ``phase`` and of the ``kept - 1`` phases after it.

        So the first step draws from as many specimens as the last.  An error of the
        simulation is raised here, even that of the phase ahead.
        """
        wanted = range(phase, phase + self._kept + 1)
        for old in [p for p in self._pending if p not in wanted]:
            self._pending.pop(old).cancel()
        for number in wanted:
            if number not in self._pending:
                task = self._pool.submit(self._source.phase, number)
                self._pending[number] = task
        for task in self._pending.values():
            if task.done():
                task.result()
        return [b for p in wanted[:-1] for b in self._pending[p].result()]

    def close(self) -> None:
        """Gives up looking ahead; what is being simulated ends unheard."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class _Journal:
    """The periodic line, and the count of rejected batches in a row."""

    def __init__(
        self,
        config: TrainConfig,
        log: Callable[[str], None],
        started: float,
        watch: Watch = NOBODY,
    ) -> None:
        self._config = config
        self._log = log
        self._record = watch.record
        self._started = started
        self._meter = Meter(watch.peak_flops)
        self._counts = watch.peak_flops is not None
        self._counted: dict[tuple[int, ...], float] = {}
        self._operations: float | None = None
        self._bad = 0

    def step(self, run: Callable, given: tuple, number: int, voxels: int) -> TrainState:
        """``run(*given)``, noted; its operations are counted once per shape."""
        shape = given[2].truth.shape
        if self._counts and shape not in self._counted:
            self._counted[shape] = flops.count(run, *given)
        self._operations = self._counted.get(shape)
        state, metrics = run(*given)
        self.note(number, metrics, voxels)
        return state

    def note(self, step: int, metrics: Metrics, voxels: int) -> None:
        """One step's metrics; raises ``Diverged``, after a last line."""
        row = [float(m) for m in metrics]
        self._meter.add(row, voxels, self._operations)
        done = step + 1
        self._bad = 0 if metrics.accepted else self._bad + 1
        if self._bad:
            self._log(
                f"step {done} rejected: loss {row[0]} gradient {row[3]}, drawn from "
                f"seed {self._config.seed} and step {step}"
            )
        give_up = self._bad > MAX_BAD_STEPS
        if done % LOG_EVERY == 0 or give_up:
            self._tell(done)
        if give_up:
            raise Diverged(f"{self._bad} non-finite batches in a row at step {step}")

    def _tell(self, done: int) -> None:
        rows = self._meter.rows
        minutes = (time.monotonic() - self._started) / 60
        line, values = _summary(done, rows, minutes), _means(rows)
        usage = self._meter.usage()
        self._log(f"{line} {usage}")
        if self._record is not None:
            rate = float(learning_rate(self._config.optim)(done))
            machine = {f"machine/{name}": v for name, v in usage.values().items()}
            training = {f"training/{name}": v for name, v in values.items()}
            self._record(done, training | {"training/learning_rate": rate} | machine)


class _Inspection:
    """The validation, and the slices that are shown with it."""

    def __init__(
        self,
        config: TrainConfig,
        place: Placement,
        data_dir: str,
        watch: Watch,
        blocks: str | None = None,
    ) -> None:
        self._config = config
        self._place = place
        self._batches = validation_batches(config, data_dir, blocks)
        self._watch = watch
        self._preview = make_previewer(place.network, place.put_central, config.data)

    def __call__(self, state: TrainState, scale: inputs.ResidualScale) -> str:
        """The line of the validation."""
        given = (state, self._batches, scale, self._place, self._config)
        line = _validate(*given, self._watch.record)
        if self._watch.show is not None:
            found = self._preview(state.ema_params, self._batches, scale)
            self._watch.show(int(state.step), found)
        return line


def _out_of_time(started: float, max_minutes: float | None) -> str | None:
    """Clocks differ, so in a run of several processes the first one decides."""
    if max_minutes is None:
        return None
    late = (time.monotonic() - started) / 60 > max_minutes
    return "time is up" if parallel.from_first_process(int(late)) else None


def _begin(
    config: TrainConfig,
    place: Placement,
    blocks_of: Callable[[int], list[Block]],
    checkpoints: Checkpoints,
    log: Callable[[str], None],
    initial: Prior | None,
) -> tuple[TrainState, inputs.ResidualScale]:
    """The newest valid checkpoint, else initial weights, else a fresh state.

    A fresh state has its residual scale measured on the blocks of phase 0.
    """
    latest = checkpoints.latest()
    if latest is None and initial is not None:
        log(f"no checkpoint: starting from the prior {initial.card.get('name')}")
        weights = _weights_of(initial, config)
        params, ema = place.put_params(weights), place.put_params(weights)
        state = place.fresh()._replace(params=params, ema_params=ema)
        scale = initial.residual_scale
        if config.network.refines:
            scale = _fitted(config, blocks_of(0), log)
    elif latest is None:
        log("no checkpoint: training from scratch")
        state = place.fresh()
        scale = _fitted(config, blocks_of(0), log)
    else:
        log(f"resuming from step {latest}")
        state = checkpoints.restore(latest, place.like)
        saved = checkpoints.meta(latest)["residual_scale"]
        layers = saved.get("spectrum")
        scale = inputs.ResidualScale(
            jnp.float32(saved["intercept"]),
            jnp.asarray(saved["slopes"], jnp.float32),
            None if layers is None else spectrum.from_json(layers),
        )
    log(f"residual scale: {float(scale.intercept):.3f} {np.asarray(scale.slopes)}")
    count = sum(a.size for a in jax.tree.leaves(state.params))
    log(f"parameters: {count / 1e6:.2f} M")
    return state, scale


def _fitted(
    config: TrainConfig, blocks: list[Block], log: Callable[[str], None]
) -> inputs.ResidualScale:
    """Scale and, where the network refines a linear guess, spectrum of the residual."""
    scale = measure_residual_scale(blocks, by_series=config.optim.scale_by_series)
    if config.network.refines:
        log(f"fitting the spectrum of the residual to {len(blocks)} blocks")
        scale = fit_spectrum(scale, blocks, config)
    return scale


def _weights_of(initial: Prior, config: TrainConfig) -> dict:
    """Weights to begin with; raises InputError where they are of another network."""
    old, new = initial.network.config.architecture, config.network.architecture
    if new == dataclasses.replace(old, regression=True) != old:
        return widened(initial.params, new)
    if old != new:
        names = [f.name for f in dataclasses.fields(new)]
        odd = [n for n in names if getattr(old, n) != getattr(new, n)]
        raise InputError(
            f"initial weights: expected the network of the configuration, got one of "
            f"other {', '.join(odd)}; set these to the prior's, or train from scratch"
        )
    return initial.params


def _batch(
    config: TrainConfig, blocks_of: Callable[[int], list[Block]], step: int
) -> Batch:
    return _cut(config, blocks_of(step // config.data.steps_per_phase), step)


def _cut(config: TrainConfig, blocks: list[Block], step: int) -> Batch:
    return cut_batch(
        blocks,
        seed=config.seed,
        step=step,
        batch=config.optim.batch * config.optim.accumulate,
        crop=config.data.crop,
        mirror=config.data.mirror,
        voxels=config.optim.batch_voxels,
    )


def _means(history: list[list[float]]) -> dict[str, float]:
    """Means of the metrics by name; rejected steps leave them, and are counted."""
    accepted = [row for row in history if row[ACCEPTED]]
    rows = np.asarray(accepted or history)
    known = ~np.isnan(rows)
    means = np.sum(np.where(known, rows, 0.0), axis=0) / known.sum(axis=0).clip(1)
    values = dict(zip(Metrics._fields, map(float, means)))
    del values["accepted"]
    return values | {"rejected": float(len(history) - len(accepted))}


def _summary(done: int, history: list[list[float]], minutes: float) -> str:
    """One line about the steps since the last one."""
    means = _means(history)
    return (
        f"step {done} loss {means['loss']:.4f} mean {means['loss_mean']:.4f} noisy "
        f"{means['loss_noisy']:.4f} grad {means['grad_norm']:.3f} rejected "
        f"{means['rejected']:.0f} minutes {minutes:.1f}"
    )


def _meta(config: TrainConfig, scale: inputs.ResidualScale) -> dict:
    return {
        "config": dataclasses.asdict(config),
        "residual_scale": {
            "intercept": float(scale.intercept),
            "slopes": [float(s) for s in np.asarray(scale.slopes)],
        }
        | (
            {}
            if scale.spectrum is None
            else {"spectrum": spectrum.to_json(scale.spectrum)}
        ),
    }


def validation_batches(
    config: TrainConfig,
    data_dir: str,
    folder: str | None = None,
    multiple: int | None = None,
) -> list[Batch]:
    """Held-out blocks; aligned ones, where a scenario has both.

    Args:
      config: The run.
      data_dir: Folder of the volumes.
      folder: Where simulated blocks are kept, see ``pool``.
      multiple: Of the extents that are left of a block; default, the network's own.

    Returns:
      One block of each scenario, then the next of each, and so on; batches of one.
    """
    data = dataclasses.replace(
        config.data,
        phantom_fraction=0.0,
        blocks_per_scenario=config.data.validation_blocks,
        scenarios=tuple(
            s if s.misaligned is None else dataclasses.replace(s, misaligned=0.0)
            for s in config.data.scenarios
        ),
    )
    source = BlockSource.from_files(data_dir, data.validation, data, config.seed)
    blocks = _stored(source, folder).phase(VALIDATION_PHASE)
    return [central(block, multiple or config.network.multiple) for block in blocks]


def _validate(
    state: TrainState,
    batches: list[Batch],
    scale: inputs.ResidualScale,
    place: Placement,
    config: TrainConfig,
    record: Callable[[int, dict[str, float]], None] | None = None,
) -> str:
    """The line of a validation: the gain of each scenario, which is recorded too."""
    ratio = [
        float(np.asarray(place.ratio(state.ema_params, place.put_central(b), scale))[0])
        for b in batches
    ]
    count = sum(len(s.grids) for s in config.data.scenarios)
    done = int(state.step)
    gains = [float(-10 * np.log10(np.mean(ratio[i::count]))) for i in range(count)]
    if record is not None:
        values = {f"validation/gain_db_{i}": gain for i, gain in enumerate(gains)}
        record(done, values | {"validation/gain_db_mean": float(np.mean(gains))})
    text = " ".join(f"{g:+.2f}" for g in gains)
    line = f"validation step {done}: gain of the mean call, dB: {text}"
    if not config.network.refines:
        return line
    for level in LEVELS:
        left = [
            np.mean(place.ratio(state.ema_params, place.put_central(b), scale, level))
            for b in batches
        ]
        gain = float(-10 * np.log10(np.mean(left)))
        line += f"; over the linear guess at {level:g}: {gain:+.2f}"
    return line
