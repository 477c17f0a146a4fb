"""Times one training step of a configuration, and its optimiser alone.

    python -m launch.benchmark_training --config=configs/default_prior.py
    python -m launch.benchmark_training --config=configs/default_prior.py \\
        --set=optim.optimiser=adam "--set=network.channels=(64, 128, 128)"

The data are random numbers in the shape of the tallest crop: a step costs the same
whatever it sees, and simulation is left out.  Each time is the smallest of several
after a warm-up, since other work on the machine can only add to it.

Printed as one row of a Markdown table: parameters, step, voxels per second, the update
by the optimiser alone, and, for Muon, that by ``optax.contrib.scale_by_muon`` of the
same kernels, which iterates on the kernels and not on their Gram matrices.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from optax import contrib

from launch.train import load_config, override
from temdiff_jax import condition
from temdiff_jax.model import NUM_FEATURES, make_network
from temdiff_jax.training import optimiser
from temdiff_jax.training.config import TrainConfig
from temdiff_jax.training.data import Batch, extents
from temdiff_jax.training.step import TrainState, init_state, train_step
from temdiff_jax.types import InputError

COLUMNS = (
    "channels, blocks, patch",
    "parameters",
    "optimiser",
    "step ms",
    "kvoxels/s",
    "update ms",
    "optax update ms",
)


def define_flags() -> None:
    """Defines the flags; not on import, so that programs can be imported together."""
    flags.DEFINE_string("config", "configs/default_prior.py", "With get_config().")
    flags.DEFINE_multi_string("set", [], "section.field=value, repeatable.")
    flags.DEFINE_integer("repeats", 6, "Timed calls.", 1)


def random_batch(config: TrainConfig) -> Batch:
    """Noise in the shape of a batch of the thickest scenario."""
    thickness = max(s.thickness for s in config.data.scenarios)
    sizes = extents(config.data.crop, thickness)
    count = config.optim.batch * config.optim.accumulate
    rng = np.random.default_rng(0)
    volumes = [
        jnp.asarray(rng.normal(size=(count, *sizes)), jnp.float32) for _ in range(3)
    ]
    features = jnp.asarray(rng.normal(size=(count, NUM_FEATURES)), jnp.float32)
    return Batch(*volumes, features)


def smallest(call: Callable[[], object], repeats: int) -> float:
    """Least seconds of a call, after one that compiles."""
    jax.block_until_ready(call())
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def time_step(config: TrainConfig, state: TrainState, repeats: int) -> float:
    """Seconds of a training step; gives the state away."""
    batch = random_batch(config)
    scale = condition.ResidualScale(jnp.float32(0.0), jnp.zeros(NUM_FEATURES))
    key = jax.random.key(1)
    network = make_network(config.network)

    def call():
        nonlocal state
        state, metrics = train_step(
            state, key, batch, scale, network=network, config=config.optim
        )
        return metrics

    return smallest(call, repeats)


def time_update(
    rule: optax.GradientTransformation, params: dict, repeats: int
) -> float:
    """Seconds of one update of an optimiser, the gradients being given."""
    update = jax.jit(rule.update)
    state = rule.init(params)
    return smallest(lambda: update(params, state, params), repeats)


def optax_muon(params: dict) -> tuple[optax.GradientTransformation, dict]:
    """The same iteration by optax, and the kernels that Muon takes."""
    tall = [
        leaf.reshape(-1, leaf.shape[-1])
        for leaf, rule in zip(
            jax.tree.leaves(params),
            jax.tree.leaves(optimiser.rules(params)),
            strict=True,
        )
        if rule == "muon"
    ]
    kernels = dict(enumerate(tall))
    axes = dict.fromkeys(kernels, contrib.MuonDimensionNumbers())
    return contrib.scale_by_muon(weight_dimension_numbers=axes), kernels


def measure(config: TrainConfig, repeats: int) -> str:
    """The row of a configuration."""
    network = make_network(config.network)
    state = init_state(jax.random.key(0), network, config.optim)
    params = jax.tree.map(jnp.copy, state.params)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    update = time_update(optimiser.make_optimiser(config.optim), params, repeats)
    theirs = "-"
    if config.optim.optimiser == "muon":
        theirs = f"{1e3 * time_update(*optax_muon(params), repeats):.0f}"
    voxels = random_batch(config).truth.size
    step = time_step(config, state, repeats)
    shape = config.network
    cells = (
        f"{'-'.join(map(str, shape.channels))}, {shape.blocks}, {shape.patch}",
        f"{count / 1e6:.2f} M",
        config.optim.optimiser,
        f"{1e3 * step:.0f}",
        f"{voxels / step / 1e3:.0f}",
        f"{1e3 * update:.0f}",
        theirs,
    )
    return "| " + " | ".join(cells) + " |"


def main(argv: Sequence[str]) -> None:
    """Prints the table."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    given = flags.FLAGS
    try:
        config = load_config(given.config)
        for assignment in given.set:
            config = override(config, assignment)
    except InputError as error:
        print(f"benchmark_training: {error}", file=sys.stderr)
        sys.exit(2)
    print("| " + " | ".join(COLUMNS) + " |")
    print("|---" * len(COLUMNS) + "|")
    print(measure(config, given.repeats))


if __name__ == "__main__":
    define_flags()
    app.run(main)
