"""Steps on a mesh are the steps of one device."""

import json
import os
import signal
import socket
import subprocess
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from launch import program
from temdiff_jax import parallel
from temdiff_jax.model import make_network
from temdiff_jax.training import data, step
from temdiff_jax.training.checkpoint import Checkpoints

# Half a dozen programs are compiled for eight devices.

# Two steps of each layout on 8 virtual devices, from the same weights and crops.  In
# float64, so that nothing but a wrong layout can make a difference: in float32 the
# order of the sums alone moves a gradient by 1e-5 of itself.
LAYOUTS = """
    import dataclasses
    import json

    import jax
    import jax.numpy as jnp
    import numpy as np

    jax.config.update("jax_enable_x64", True)

    from temdiff_jax.series.inputs import ResidualScale
    from temdiff_jax.model import NUM_FEATURES, NetworkConfig, make_network
    from temdiff_jax.training import optimiser, step
    from temdiff_jax.training.config import (
        DataConfig, MeshConfig, OptimConfig, TrainConfig
    )
    from temdiff_jax.training.data import Batch
    from temdiff_jax.training.placement import make_placement

    BASE = TrainConfig(
        network=NetworkConfig(channels=(8, 8), blocks=(1, 1), groups=4),
        data=DataConfig(crop=(8, 4, 16)),
        optim=OptimConfig(
            learning_rate=1e-2, warmup_steps=1, num_steps=99, decay_steps=9, batch=8
        ),
    )
    rng = np.random.default_rng(0)
    estimate = rng.normal(size=(8, 8, 4, 16))
    BATCH = Batch(
        estimate + 0.5 * rng.normal(size=estimate.shape),
        estimate,
        rng.random(estimate.shape),
        rng.normal(size=(8, NUM_FEATURES)),
    )
    CENTRAL = Batch(*(leaf[:1] for leaf in BATCH if leaf is not None))
    SCALE = ResidualScale(np.float64(-0.3), np.full(NUM_FEATURES, 0.1))
    network = make_network(BASE.network)
    abstract = jax.eval_shape(network.init, jax.random.key(0))
    WEIGHTS = jax.tree.map(
        lambda a: 0.15 * rng.normal(size=a.shape), abstract
    )

    def init(key):
        params = jax.tree.map(jnp.asarray, WEIGHTS)
        moments = optimiser.make_optimiser(BASE.optim).init(params)
        return step.TrainState(
            jnp.int32(0), params, jax.tree.map(jnp.copy, params), moments
        )

    def two_steps(batch=1, slabs=1, fsdp=False, accumulate=1):
        optim = dataclasses.replace(
            BASE.optim, batch=8 // accumulate, accumulate=accumulate
        )
        mesh = MeshConfig(batch=batch, slabs=slabs, fsdp=fsdp)
        config = dataclasses.replace(BASE, optim=optim, mesh=mesh)
        place = make_placement(config, network, init)
        state, scale, key = place.fresh(), place.put_scale(SCALE), place.key(1)
        crops = place.put_batch(BATCH)
        shards = getattr(crops.truth, "addressable_shards", ())
        rows = [shard.index[0].start or 0 for shard in shards]
        step, text = place.step, ""
        if slabs > 1:
            step = place.step.lower(state, key, crops, scale).compile()
            text = step.as_text()
        losses = []
        for _ in range(2):
            state, metrics = step(state, key, place.put_batch(BATCH), scale)
            losses.append(float(metrics.loss))
        ratio = np.ones(1)
        if batch * slabs == 1 or slabs > 1:
            central = place.put_central(CENTRAL)
            ratio = np.asarray(place.ratio(state.ema_params, central, scale))
        kernel = state.params["down_0_0"]["conv_in"]["kernel"]
        return {
            "losses": losses,
            "gradient": float(metrics.grad_norm),
            "ratio": float(ratio[0]),
            "dtype": str(kernel.dtype),
            "leaves": [np.asarray(a) for a in jax.tree.leaves(state)],
            "permutes": text.count("collective-permute"),
            "rows": rows,
            "share": kernel.addressable_shards[0].data.size / kernel.size,
        }

    def worst(leaves, expected):
        pairs = zip(leaves, expected, strict=True)
        return float(max(
            np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1e-6) for a, b in pairs
        ))

    one = two_steps()
    report = {"one": {k: v for k, v in one.items() if k != "leaves"}}
    for name, layout in {
        "data": dict(batch=8),
        "fsdp": dict(batch=8, fsdp=True),
        "slabs": dict(batch=4, slabs=2, fsdp=True),
        "parts": dict(accumulate=2),
        "parts on a mesh": dict(batch=4, accumulate=2),
    }.items():
        found = two_steps(**layout)
        found["worst"] = worst(found.pop("leaves"), one["leaves"])
        report[name] = found
    print(json.dumps(report))
"""
_REPORT: dict = {}


@pytest.fixture
def report(run_devices) -> dict:
    if not _REPORT:
        _REPORT.update(json.loads(run_devices(LAYOUTS, count=8, timeout_s=1800)))
    return _REPORT


@pytest.mark.slow
@pytest.mark.parametrize("name", ["data", "fsdp", "slabs", "parts", "parts on a mesh"])
def test_layout_takes_the_steps_of_one_device(report, name):
    one, found = report["one"], report[name]
    assert found["dtype"] == one["dtype"] == "float64"
    np.testing.assert_allclose(found["losses"], one["losses"], rtol=1e-9)
    np.testing.assert_allclose(found["gradient"], one["gradient"], rtol=1e-9)
    assert found["worst"] < 1e-7


@pytest.mark.slow
def test_validation_in_slabs_is_that_of_one_device(report):
    found, one = report["slabs"]["ratio"], report["one"]["ratio"]
    np.testing.assert_allclose(found, one, rtol=1e-7)


@pytest.mark.slow
def test_fsdp_holds_a_share_of_each_kernel(report):
    shares = {name: found["share"] for name, found in report.items()}
    assert shares["one"] == shares["data"] == 1
    assert shares["fsdp"] == 1 / 8 and shares["slabs"] == 1 / 4


@pytest.mark.slow
def test_slabs_exchange_their_edges(report):
    assert report["slabs"]["permutes"] > 0


@pytest.mark.slow
def test_devices_take_consecutive_crops(report):
    assert report["data"]["rows"] == list(range(8))
    # Two slabs of the same crops lie on neighbouring devices.
    assert report["slabs"]["rows"] == [0, 0, 2, 2, 4, 4, 6, 6]


@pytest.mark.parametrize("name", ["gpu_24gb", "gpu_8xh100", "tpu_v5e"])
def test_configuration_of_a_larger_machine_fits_its_mesh(name):
    config = program.load_config(f"configs/{name}.py")
    mesh = types.SimpleNamespace(
        shape={parallel.BATCH: config.mesh.batch, parallel.SLAB: config.mesh.slabs}
    )
    multiple = config.network.multiple
    parallel.check_batch(mesh, config.optim.batch, config.data.crop[2], multiple)
    for scenario in config.data.scenarios:
        nz, nx, ny = data.extents(config.data.crop, scenario.thickness)
        assert nz % multiple == nx % multiple == 0
        assert nx <= config.data.block_width and ny <= config.data.block_height
    # The arithmetic of the header begins with this number.
    params = jax.eval_shape(make_network(config.network).init, jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    header = Path(f"configs/{name}.py").read_text().partition('"""\n')[0]
    assert f"Network: {count / 1e6:.1f} M parameters" in header
    assert "Computed, not run." in header.splitlines()[0]


# Several processes

CONFIG = """
from temdiff_jax.model import NetworkConfig
from temdiff_jax.simulator import ImagingConfig
from temdiff_jax.training.config import *

def get_config():
    return TrainConfig(
        network=NetworkConfig(channels=(8,), blocks=(1,), groups=4),
        data=DataConfig(
            sources=("a.npz:volume",),
            validation=("a.npz:volume",),
            scenarios=(
                Scenario(half_range_deg=(5.0, 8.0), num_tilts=5, thickness=10),
            ),
            blocks_per_scenario=3,
            steps_per_phase=50,
            phases_kept=1,
            block_width=14,
            block_height=9,
            crop=8,
            phantom_fraction=0.0,
            imaging=ImagingConfig(exact_counts=False),
        ),
        optim=OptimConfig(
            optimiser="adam", warmup_steps=1, num_steps=2, decay_steps=1, batch=8
        ),
        mesh=MeshConfig(batch=8, fsdp=True),
        checkpoint_every=100,
        validate_every=100,
    )
"""
PROGRAM = """
from absl import app
from launch import train
from temdiff_jax.training import loop
loop.LOG_EVERY = 1
train.define_flags()
app.run(train.main)
"""


def start(tmp_path, workdir, devices: int, *flags: str) -> subprocess.Popen:
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            PROGRAM,
            f"--config={tmp_path}/config.py",
            f"--data_dir={tmp_path}",
            f"--workdir={workdir}",
            *flags,
        ],
        env=os.environ
        | {
            "JAX_PLATFORMS": "cpu",
            "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
            "PYTHONPATH": os.getcwd(),
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def pair(tmp_path, workdir, *flags: str) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = [f"--coordinator=127.0.0.1:{port}", "--num_processes=2", *flags]
    return [
        start(tmp_path, workdir, 4, *together, f"--process_id={i}") for i in range(2)
    ]


def finish(processes: list[subprocess.Popen]) -> list[str]:
    try:
        said = [process.communicate(timeout=1200) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (out, err) in zip(processes, said, strict=True):
        assert process.returncode == 0, f"{out}\n{err}"
    return [out for out, _ in said]


@pytest.fixture
def job(tmp_path):
    (tmp_path / "config.py").write_text(CONFIG)
    rng = np.random.default_rng(0)
    coarse = jax.image.resize(rng.random((6, 6, 6)), (24, 20, 22), "cubic")
    np.savez(tmp_path / "a.npz", volume=np.uint8(np.clip(255 * coarse, 0, 255)))
    return tmp_path


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_processes_train_as_one(job):
    alone = finish([start(job, job / "one", 8)])[0]
    first, second = finish(pair(job, job / "two"))
    # The first process speaks for both; what gloo says is not ours.
    assert all(line.startswith("[Gloo]") for line in second.splitlines())

    def losses(text: str) -> list[float]:
        lines = [line.split() for line in text.splitlines()]
        return [float(words[3]) for words in lines if words[2:3] == ["loss"]]

    assert len(losses(alone)) == 2 and losses(first) == losses(alone)

    config = program.load_config(str(job / "config.py"))

    def state_of(workdir):
        network = make_network(config.network)
        like = jax.eval_shape(
            lambda key: step.init_state(key, network, config.optim), jax.random.key(0)
        )
        with Checkpoints(workdir / "checkpoints") as checkpoints:
            assert checkpoints.latest() == 2
            return checkpoints.restore(2, like)

    one, two = state_of(job / "one"), state_of(job / "two")
    for a, b in zip(jax.tree.leaves(two), jax.tree.leaves(one), strict=True):
        scale = max(float(np.max(np.abs(b))), 1e-6)
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * scale)


@pytest.mark.slow
@pytest.mark.multiprocess
def test_one_signalled_process_stops_both_at_the_same_step(job):
    processes = pair(job, job / "two", "--set=optim.num_steps=100000")
    for line in processes[0].stdout:
        if line.startswith("step 2 "):
            break
    processes[1].send_signal(signal.SIGUSR1)
    out, _ = finish(processes)
    last = out.splitlines()[-1]
    assert last.startswith("preemption notice at step ") and last.endswith(": saved")
    with Checkpoints(job / "two" / "checkpoints") as checkpoints:
        assert checkpoints.latest() == int(last.split()[4].rstrip(":"))
