"""Times one training step of a configuration, and its optimiser alone.

    python -m launch.benchmark_training --config=configs/default_prior.py
    python -m launch.benchmark_training --config=configs/default_prior.py \\
        --set=optim.optimiser=adam "--set=network.channels=(64, 128, 128)"
    python -m launch.benchmark_training --set=optim.optimiser=adam --native \\
        --torch_python=.venv-peers/torch/bin/python

The data are random numbers in the shape of the tallest crop: a step costs the same
whatever it sees, and simulation is left out.  Each time is the smallest of several
after a warm-up, since other work on the machine can only add to it.

Printed as rows of a Markdown table: parameters, step, voxels per second, the update by
the optimiser alone, and, for Muon, that by ``optax.contrib.scale_by_muon`` of the same
kernels, which iterates on the kernels and not on their Gram matrices; then the
convolutions and matrix products of a step, counted in the traced program
(``temdiff_jax.training.flops``), their rate, and its share of the rate of a large
matrix product on the same machine (MFU).

``--convolutions`` prints a second table: what each kind of convolution of the network
reaches on its finest level, forward and in its two gradients.  XLA_FLAGS may hold the
option of ``model.conv`` with another value, to compare.

``--native`` adds a row with every 3x3x3 convolution left to the platform's own 3-D one.
``--torch_python`` adds a row with the same network in PyTorch on the CPU, in an
environment of its own (third_party/README.md), Adam whatever the configuration: compare
it with ``--set=optim.optimiser=adam``.  It is timed only if its answer to the same
weights and inputs is the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from optax import contrib

from launch import program
from temdiff_jax.errors import InputError
from temdiff_jax.model import NUM_FEATURES, Condition, conv, make_network
from temdiff_jax.series import inputs
from temdiff_jax.training import flops, meter, optimiser
from temdiff_jax.training.config import TrainConfig
from temdiff_jax.training.data import Batch, extents
from temdiff_jax.training.step import TrainState, advance, init_state

COLUMNS = (
    "channels, blocks, patch",
    "parameters",
    "optimiser",
    "step ms",
    "kvoxels/s",
    "update ms",
    "optax update ms",
    "GFLOP",
    "GFLOP/s",
    "MFU",
)
TORCH_PEER = Path(__file__).parent.parent / "third_party" / "peers" / "torch_peer.py"
TORCH_TIMEOUT_S = 1800


def define_flags() -> None:
    """Defines the flags; not on import, so that programs can be imported together."""
    flags.DEFINE_string("config", "configs/default_prior.py", "With get_config().")
    flags.DEFINE_multi_string("set", [], "section.field=value, repeatable.")
    flags.DEFINE_integer("repeats", 6, "Timed calls.", 1)
    flags.DEFINE_bool("native", False, "A row with the platform's 3-D convolutions.")
    flags.DEFINE_bool("convolutions", False, "A table of single convolutions.")
    flags.DEFINE_string(
        "torch_python", None, "Interpreter with PyTorch, for a row of it."
    )


class Timing(NamedTuple):
    """A training step.

    Attributes:
      seconds: Of one.
      operations: Of its convolutions and matrix products.
    """

    seconds: float
    operations: float


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


@contextlib.contextmanager
def native_convolutions() -> Iterator[None]:
    """Functions traced inside use the platform's own 3-D convolution."""

    def native(x, kernel):
        return conv.conv3d_native(x, kernel.astype(x.dtype))

    with mock.patch.object(conv, "conv3d", native):
        yield


def make_step(config: TrainConfig) -> Callable:
    """``(state, key, batch, scale) -> (state, metrics)``, traced anew."""
    network = make_network(config.network)

    def step(state, key, batch, scale):
        return advance(state, key, batch, scale, network=network, config=config.optim)

    return jax.jit(step, donate_argnums=0)


def time_step(config: TrainConfig, state: TrainState, repeats: int) -> Timing:
    """A training step; gives the state away."""
    batch = random_batch(config)
    scale = inputs.ResidualScale(jnp.float32(0.0), jnp.zeros(NUM_FEATURES))
    key = jax.random.key(1)
    step = make_step(config)
    operations = flops.count(step, state, key, batch, scale)

    def call():
        nonlocal state
        state, metrics = step(state, key, batch, scale)
        return metrics

    return Timing(smallest(call, repeats), operations)


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


def torch_inputs(config: TrainConfig) -> dict[str, np.ndarray]:
    """What the peer reads: weights, one batch, and the answer of the JAX network.

    Raises:
      InputError: The peer has no such network.
    """
    shape = config.network
    plain = (shape.norm, shape.filters, shape.features)
    if (
        shape.planar
        or not shape.conditional
        or shape.patch <= 2
        or plain != ("group", 0, 4)
    ):
        raise InputError(
            "--torch_python: expected a conditional network of volumes on patches of "
            "more than 2 voxels, with cubic convolutions and group norms alone and 4 "
            f"features, got {shape}; leave the flag out"
        )
    network = make_network(shape.architecture)
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(
            rng.normal(scale=leaf.size**-0.25, size=leaf.shape), leaf.dtype
        ),
        jax.eval_shape(network.init, jax.random.key(0)),
    )
    batch = random_batch(config)
    size = batch.truth.shape[0]
    level, present = jnp.full((size,), -0.3), jnp.ones((size,))
    given = Condition(batch.estimate, batch.coverage, batch.features, present)
    output = jax.jit(network.apply)(params, batch.truth, level, given)
    scalars = np.concatenate(
        [level[:, None], present[:, None], batch.features[:, :4]], axis=1
    )
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    held = {
        "params/" + jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in flat
    }
    settings = {
        "groups": shape.groups,
        "patch": shape.patch,
        "blocks": list(shape.blocks),
    }
    held |= {
        "config": json.dumps(settings),
        "x": batch.truth,
        "volume": batch.estimate,
        "coverage": batch.coverage,
        "scalars": scalars,
        "target": batch.truth,
        "output": output,
    }
    return {name: np.asarray(value) for name, value in held.items()}


def time_torch(config: TrainConfig, python: str, repeats: int) -> dict:
    """What the peer prints.

    Raises:
      InputError: There is no such interpreter, or the peer failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "step.npz"
        np.savez(inputs, **torch_inputs(config))
        words = [python, str(TORCH_PEER), f"--inputs={inputs}", f"--repeats={repeats}"]
        try:
            done = subprocess.run(
                words, capture_output=True, text=True, timeout=TORCH_TIMEOUT_S
            )
        except OSError as error:
            raise InputError(
                f"--torch_python: expected an interpreter with PyTorch, got {error}; "
                "see third_party/README.md"
            ) from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise InputError(
            f"--torch_python: expected the times of {TORCH_PEER.name}, got exit code "
            f"{done.returncode}: {lines[-1]}; see third_party/README.md"
        )
    return json.loads(done.stdout)


def measure(
    config: TrainConfig, repeats: int, peak: float, *, native: bool = False
) -> str:
    """The row of a configuration."""
    network = make_network(config.network)
    state = init_state(jax.random.key(0), network, config.optim)
    params = jax.tree.map(jnp.copy, state.params)
    update = time_update(optimiser.make_optimiser(config.optim), params, repeats)
    theirs = "-"
    if config.optim.optimiser == "muon":
        theirs = f"{1e3 * time_update(*optax_muon(params), repeats):.0f}"
    with native_convolutions() if native else contextlib.nullcontext():
        timing = time_step(config, state, repeats)
    note = ", native 3-D convolutions" if native else ""
    return row(config, timing, peak, note, f"{1e3 * update:.0f}", theirs)


def row(
    config: TrainConfig,
    timing: Timing,
    peak: float,
    note: str,
    update: str = "-",
    theirs: str = "-",
    rule: str | None = None,
) -> str:
    """One row of the table."""
    shape = config.network
    abstract = jax.eval_shape(make_network(shape).init, jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(abstract))
    voxels = random_batch(config).truth.size
    rate = timing.operations / timing.seconds
    cells = (
        f"{'-'.join(map(str, shape.channels))}, {shape.blocks}, {shape.patch}{note}",
        f"{count / 1e6:.2f} M",
        rule or config.optim.optimiser,
        f"{1e3 * timing.seconds:.0f}",
        f"{voxels / timing.seconds / 1e3:.0f}",
        update,
        theirs,
        f"{timing.operations / meter.GB:.1f}",
        f"{rate / meter.GB:.1f}",
        f"{rate / peak:.3f}",
    )
    return "| " + " | ".join(cells) + " |"


def torch_row(config: TrainConfig, python: str, repeats: int, peak: float) -> str:
    """The row of the peer; its operations are those of our step with Adam."""
    answer = time_torch(config, python, repeats)
    adam = program.override(config, "optim.optimiser=adam")
    network = make_network(adam.network)
    state = init_state(jax.random.key(0), network, adam.optim)
    scale = inputs.ResidualScale(jnp.float32(0.0), jnp.zeros(NUM_FEATURES))
    given = (state, jax.random.key(1), random_batch(adam), scale)
    operations = flops.count(make_step(adam), *given)
    note = f", PyTorch {answer['version']}, {answer['threads']} threads"
    timing = Timing(answer["step_ms"] / 1e3, operations)
    return row(adam, timing, peak, note)


CONVOLUTIONS: dict[str, tuple[Callable, tuple[int, ...]]] = {
    "3 x 3 x 3, three planes": (conv.conv3d_planes, (3, 3, 3)),
    "3 x 3 x 3, depth taps as channels": (conv.conv3d_stacked, (3, 3, 3)),
    "3 x 3 x 3, native": (conv.conv3d_native, (3, 3, 3)),
}


def convolution_rows(config: TrainConfig, repeats: int) -> list[str]:
    """GFLOP/s of each convolution on the finest level of a batch, and of its slopes."""
    shape, width = random_batch(config).truth.shape, config.network.channels[0]
    extents_of_level = [n // config.network.patch for n in shape[1:]]
    key = jax.random.key(0)
    x = jax.random.normal(key, (shape[0], *extents_of_level, width))
    rows = []
    for name, (function, taps) in CONVOLUTIONS.items():
        kernel = jax.random.normal(key, (*taps, width, width))
        gigas = 2 * x.size * width * int(np.prod(taps)) / meter.GB
        with_input = jax.jit(lambda x, g, k=kernel, f=function: _slope(f, 0, x, k, g))
        with_kernel = jax.jit(lambda x, g, k=kernel, f=function: _slope(f, 1, x, k, g))
        forward = jax.jit(lambda x, _, k=kernel, f=function: f(x, k))
        seconds = [
            smallest(lambda call=call: call(x, x), repeats)
            for call in (forward, with_input, with_kernel)
        ]
        cells = [f"{gigas / s:.0f}" for s in (*seconds, sum(seconds) / 3)]
        rows.append("| " + " | ".join([name, *cells]) + " |")
    return rows


def _slope(function, which, x, kernel, given):
    """Gradient with respect to the input (0) or the kernel (1) alone."""
    held = (x, kernel)

    def part(value):
        return function(*(value if i == which else held[i] for i in range(2)))

    return jax.vjp(part, held[which])[1](given)[0]


def main(argv: Sequence[str]) -> None:
    """Prints the table."""
    given = flags.FLAGS
    conv.prefer_own(os.environ)
    with program.refusals("benchmark_training", argv):
        config = program.resolve(given.config, given.set)
        peak = meter.product_peak(config.network.dtype)
        print(f"matrix product, {config.network.dtype}: {peak / meter.GB:.1f} GFLOP/s")
        if given.convolutions:
            print("| convolution, GFLOP/s | forward | input | kernel | all three |")
            print("|---" * 5 + "|")
            print("\n".join(convolution_rows(config, given.repeats)))
        print("| " + " | ".join(COLUMNS) + " |")
        print("|---" * len(COLUMNS) + "|")
        print(measure(config, given.repeats, peak))
        if given.native:
            print(measure(config, given.repeats, peak, native=True))
        if given.torch_python:
            print(torch_row(config, given.torch_python, given.repeats, peak))


if __name__ == "__main__":
    define_flags()
    app.run(main)
