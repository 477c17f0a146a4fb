"""A reconstruction that devices share is that of one device, and sends only edges.

What the processes do is in `mesh_process.py`; their devices are virtual, so nothing
here says how fast real ones are.
"""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from temdiff_jax import parallel
from temdiff_jax.errors import InputError
from temdiff_jax.reconstruction import plan, sample
from temdiff_jax.reconstruction.settings import Settings
from temdiff_jax.series.preparation import SeriesOptions

PROGRAM = Path(__file__).with_name("mesh_process.py")
REPOSITORY = PROGRAM.parents[2]
TILTS = np.random.default_rng(0).normal(size=(3, 16, 12)).astype(np.float32)
ANGLES = (-10.0, 0.0, 10.0)
# Float32 sums in another order.
LIMIT = 1e-5


def start(prior, shape, *, processes=1):
    devices = shape[0] * shape[1] // processes
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "PYTHONPATH": os.pathsep.join(
            [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
        ),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    command = [sys.executable, str(PROGRAM), str(prior), *map(str, shape)]
    return [
        subprocess.Popen(
            command + ([address, str(processes), str(own)] if processes > 1 else []),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for own in range(processes)
    ]


def reports(started):
    try:
        said = [process.communicate(timeout=2000) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    for process, (out, err) in zip(started, said, strict=True):
        assert process.returncode == 0, f"{out}\n{err[-4000:]}"
    lines = [line for out, _ in said for line in out.splitlines()]
    return [json.loads(line) for line in lines if line.startswith("{")]


def check_sent(sent, volume):
    """Sums of a number for each sample, moments of a norm, and slices of edges."""
    for call, form in sent:
        sizes = [
            np.prod([int(n) for n in extents.split(",") if n], initial=1)
            for extents in re.findall(r"\w+\[([\d,]*)\]", form)
        ]
        assert call in ("all-reduce", "collective-permute"), (call, form)
        # A row of patches with its channels; a volume would be twice as much.
        most = 64 if call == "all-reduce" else volume // 2
        assert max(sizes) <= most, (call, form)


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize(
    ("shape", "processes"),
    [((8, 1), 1), ((2, 4), 1), ((2, 4), 2), ((4, 2), 2), ((4, 2), 4)],
)
def test_shared_as_alone(shape, processes, tiny_prior):
    found = reports(start(tiny_prior, shape, processes=processes))
    assert len(found) == processes
    for report in found:
        print(shape, processes, report)
        assert max(report["errors"].values()) <= LIMIT
        if shape[1] == 1:
            assert all("all-reduce" == call for call, _ in report["sent"])
        check_sent(report["sent"], volume=8 * 18 * 16)


def planned(prior, shape, **options):
    """A plan on a mesh that only looks as if it had so many devices."""
    devices = np.array([jax.devices()[0]] * shape[0] * shape[1], object)
    mesh = jax.sharding.Mesh(devices.reshape(shape), (parallel.SAMPLE, parallel.ROWS))
    choice = plan.choose("default", prior, Settings(num_samples=4, num_steps=2))
    return plan.make_plan(
        TILTS, ANGLES, choice, SeriesOptions(thickness=8, **options), mesh=mesh
    )


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            (3, 1),
            r"samples that 3 shares divide, got 4; draw 6, or use a mesh of 2 x 1",
        ),
        ((8, 1), "samples that 8 shares divide, got 4; draw 8"),
        (
            (1, 8),
            r"a multiple of 32 \(8 slabs of 4\), got 16; pad the tilts to 32 rows",
        ),
    ],
)
def test_a_mesh_that_does_not_divide_the_work_is_refused(shape, message, tiny_prior):
    with pytest.raises(InputError, match=message):
        planned(tiny_prior, shape)


def test_slabs_are_given_all_rows_and_groups_are_shared_out(tiny_prior):
    made = planned(tiny_prior, (2, 4))
    assert made.choice.settings.windows == (128, 128, 16)
    assert made.identity()["mesh"] == [2, 4]
    sampling = sample.residual_sampling(made.choice.prior, made.choice.settings)
    sized = type(
        "P", (), {"geometry": made.job.geometry, "field_of_view": (10**4, 10**3, 1)}
    )
    assert sample.groups(sized, sampling) == [range(0, 2), range(2, 4)]
    assert planned(tiny_prior, (4, 1)).choice.settings.rows == 0


def test_devices_are_shared_out_to_samples_first():
    assert parallel.shared_out(8, 8, 100, 16) == (8, 1)
    assert parallel.shared_out(8, 4, 128, 16) == (4, 2)
    assert parallel.shared_out(256, 8, 4096, 16) == (8, 32)
    with pytest.raises(InputError, match="devices: expected .* got 8; use 4"):
        parallel.shared_out(8, 4, 100, 16)
    with pytest.raises(InputError, match="got 3; use 1"):
        parallel.shared_out(3, 1, 100, 16)
    with pytest.raises(InputError, match="mesh: expected samples [*] slabs between 1"):
        parallel.sampling_mesh(10_000, 1)


def test_a_process_that_is_alone_agrees_with_itself():
    parallel.check_alike("input", "text")
    assert parallel.all_succeed("input", lambda: 3) == 3
    with pytest.raises(InputError, match="no"):
        parallel.all_succeed("input", refuse)


def refuse():
    raise InputError("no")
