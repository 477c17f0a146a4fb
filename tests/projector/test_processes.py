"""Slabs of y on two processes of four devices: as on one device, and nothing sent.

The processes talk over the loopback interface, and their devices are virtual.  What
they do is in `slab_process.py`.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess]

PROGRAM = Path(__file__).with_name("slab_process.py")
REPOSITORY = PROGRAM.parents[2]
# Without progress for so long a process says where it hangs and ends itself; a few such
# spans are left to a busy machine.
LIMIT_S = 100


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start(count: int, devices: int) -> list[subprocess.Popen]:
    path = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    coordinator = f"127.0.0.1:{free_port()}"
    return [
        subprocess.Popen(
            [sys.executable, PROGRAM, coordinator, str(count), str(own), str(LIMIT_S)],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for own in range(count)
    ]


def finish(processes: list[subprocess.Popen]) -> list[list[dict]]:
    """What each process reported; leaves none running."""
    deadline = time.monotonic() + 5 * LIMIT_S
    try:
        said = [
            process.communicate(timeout=max(1, deadline - time.monotonic()))
            for process in processes
        ]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for process, (out, err) in zip(processes, said, strict=True):
        assert process.returncode == 0, f"{out}\n{err}"
    # What gloo says on the same stream is not ours.
    return [
        [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        for out, _ in said
    ]


# Largest error as a share of the largest value; sums of the solver in another order
# are seen in float32, and in float64 anything else would be.
LIMITS = {
    "project": 1e-6,
    "backproject": 1e-6,
    "normal_op": 1e-6,
    "conjugate_gradient float32": 1e-5,
    "conjugate_gradient float64": 1e-12,
}


def test_two_processes_project_as_one_device():
    reports = finish(start(count=2, devices=4))
    for both in zip(*reports, strict=True):
        first, second = both
        name, collectives = first["name"], first["collectives"]
        print(name, first["errors"], second["errors"], collectives)
        assert first["slabs"] + second["slabs"] == list(range(0, 24, 3))
        for report in both:
            assert report["processes"] == 2 and report["rows"] == [3] * 4
            assert max(report["errors"]) <= LIMITS[name]
            assert report["collectives"] == collectives
        assert bool(collectives) == name.startswith("conjugate_gradient")
        for call, shape in collectives:
            assert call == "all-reduce"
            parts = shape.strip("()").split(", ")
            assert all(re.match(r"f\d\d\[\]", part) for part in parts)
    assert [report["name"] for report in reports[0]] == list(LIMITS)


def test_a_process_that_waits_in_vain_is_ended(monkeypatch):
    """The first of two processes alone: it gives up by itself, with an error."""
    monkeypatch.setitem(globals(), "LIMIT_S", 5)
    processes = start(count=2, devices=1)
    processes[1].kill()
    with pytest.raises(AssertionError):
        finish(processes)
    ended = processes[0].returncode
    assert ended is not None and ended not in (0, -signal.SIGKILL)
