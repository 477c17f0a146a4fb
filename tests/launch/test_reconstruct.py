"""The program of many series: killed, stopped, shared, and wrongly called."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from launch import watchdog
from temdiff_jax.io import write
from temdiff_jax.reconstruction.save import sha256

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess]

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = """
from temdiff_jax.reconstruction.many import ManyConfig
def get_config():
    return ManyConfig(
        method={method!r}, prior={prior!r}, num_samples=2, num_steps=4,
        weighting="off", thickness=8,
    )
"""
# The program; steps are saved two by two, sample by sample.
CHILD = """
from absl import app
from launch import reconstruct
from temdiff_jax.projector import kernels
from temdiff_jax.reconstruction import sample
kernels.UNROLL, sample.CHUNK_STEPS, sample.BATCH_VOXELS = 1, 2, 1
reconstruct.define_flags()
app.run(reconstruct.main)
"""


@pytest.fixture
def run(tmp_path, tiny_prior):
    """Starts the program on two series, with more flags; returns the process."""
    for number in range(2):
        rng = np.random.default_rng(number)
        tilts = rng.normal(5.0, 1.0, (3, 16, 12)).astype(np.float32)
        write.write_mrc(tmp_path / f"s{number}.mrc", tilts, 20.0, is_stack=True)
    write.write_tlt(tmp_path / "s.tlt", np.array([-8.0, 0.0, 8.0]))
    (tmp_path / "list.txt").write_text("s0.mrc,angles=s.tlt\ns1.mrc,angles=s.tlt\n")

    def start(workdir, *more, method="posterior", devices=1, series="list.txt"):
        config = tmp_path / f"{method}.py"
        config.write_text(CONFIG.format(method=method, prior=str(tiny_prior)))
        flags = {"config": config, "workdir": workdir, "series_list": tmp_path / series}
        flags["compile_cache"] = tmp_path / "cache"
        words = [f"--{name}={value}" for name, value in flags.items()]
        path = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
        return subprocess.Popen(
            [sys.executable, "-c", CHILD, *words, *map(str, more)],
            env=os.environ
            | {
                "JAX_PLATFORMS": "cpu",
                "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                "PYTHONPATH": os.pathsep.join(filter(None, path)),
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def ended(*processes, timeout=600):
    """Exit codes and what was said; leaves none running."""
    try:
        said = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    print(said)
    return [process.returncode for process in processes], said


def joined(count):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    common = (f"--coordinator={address}", f"--num_processes={count}")
    return [(*common, f"--process_id={own}") for own in range(count)]


def digests(folder):
    return {path.name: sha256(path) for path in sorted(folder.rglob("*_temdiff.mrc"))}


def test_two_processes_share_a_list_and_one_bad_file_stops_neither(run, tmp_path):
    (tmp_path / "bad.mrc").write_bytes(b"no image")
    with (tmp_path / "list.txt").open("a") as stream:
        stream.write("bad.mrc,angles=s.tlt\n")
    work = tmp_path / "work"
    codes, said = ended(*(run(work, method="tikhonov") for _ in range(2)))
    assert codes == [1, 1]
    for name in ("s0", "s1"):
        assert sum(f"{name}: done" in out for out, _ in said) == 1
        assert (work / name / f"{name}.temdiff.json").exists()
    assert sum("bad: failed" in out for out, _ in said) == 1
    last = (work / "summary.txt").read_text().splitlines()[-1]
    assert last == "3 series: 2 done, 1 failed"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_again_and_again_it_goes_on_to_the_same_bits(number, run, tmp_path):
    """As soon as another file of the state is there, until nothing is left to do."""
    assert ended(run(tmp_path / "whole"))[0] == [0]
    work, kills = tmp_path / "killed", 0
    while True:
        seen = len(list(work.rglob("*.npz")))
        process = run(work)
        while process.poll() is None and len(list(work.rglob("*.npz"))) <= seen:
            time.sleep(0.02)
        process.send_signal(number)
        (code,), _ = ended(process)
        if code == 0:
            break
        assert code == (-9 if number == signal.SIGKILL else watchdog.RESTART)
        kills += 1
        assert kills < 40
    assert kills >= 3
    assert digests(work) == digests(tmp_path / "whole")
    assert not list(work.rglob("unfinished"))
    print(f"{kills} kills, 0 lost")


def test_joined_processes_give_the_result_of_one(run, tmp_path):
    assert ended(run(tmp_path / "one"))[0] == [0]
    mesh = ("--set=samples=0", "--set=slabs=0")
    codes, _ = ended(
        *(run(tmp_path / "two", *flags, *mesh, devices=2) for flags in joined(2))
    )
    assert codes == [0, 0]
    import mrcfile

    for name in digests(tmp_path / "one"):
        series = name.removesuffix("_temdiff.mrc")
        one, two = (
            mrcfile.read(tmp_path / folder / series / name) for folder in ("one", "two")
        )
        assert np.max(np.abs(one - two)) <= 1e-5 * np.max(np.abs(one))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--set=samples=64",), "mesh: expected samples * slabs between 1 and the 2"),
        (("--set=samples=2", "--set=seed={own}"), "expected the same in all 2 process"),
        (
            ("--set=samples=2", "--set=method=m{own}"),
            "expected the same in all 2 processes",
        ),
    ],
)
def test_wrong_calls_end_every_process_in_one_line(more, message, run, tmp_path):
    started = [
        run(tmp_path / "work", *flags, *(word.format(own=own) for word in more))
        for own, flags in enumerate(joined(2))
    ]
    codes, said = ended(*started, timeout=120)
    assert codes == [2, 2]
    for _, error in said:
        own = [line for line in error.splitlines() if line.startswith("reconstruct:")]
        assert len(own) == 1 and message in own[0] and "Traceback" not in error


def test_a_stopped_peer_ends_the_other_with_the_code_to_restart(run, tmp_path):
    work = tmp_path / "work"
    mesh = ("--set=samples=2", "--stuck_minutes=0.5")
    started = [run(work, *flags, *mesh) for flags in joined(2)]
    while not list(work.rglob("problem.npz")):
        assert all(process.poll() is None for process in started)
        time.sleep(0.05)
    started[1].send_signal(signal.SIGSTOP)
    out, error = started[0].communicate(timeout=300)
    started[1].kill()
    started[1].communicate()
    assert started[0].returncode == watchdog.RESTART, (out, error)
    assert "_do" in next(work.glob("stacks_*.txt")).read_text()
