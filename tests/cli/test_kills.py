"""A reconstruction is killed after every file that it writes, and nothing is lost."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from temdiff_jax.cli import outputs
from temdiff_jax.reconstruction.save import sha256

pytestmark = pytest.mark.slow

# The command, killed at its n-th rename: before it, so that a temporary file is left,
# or after it.  0 is never.
CHILD = """
import os, signal, sys
from temdiff_jax.cli.main import main
from temdiff_jax.reconstruction import sample
sample.CHUNK_STEPS, sample.BATCH_VOXELS = 2, 1
count, before = int(sys.argv[1]), sys.argv[2] == "before"
real, seen = os.replace, 0
def replace(*names):
    global seen
    seen += 1
    if seen == count and before:
        os.kill(os.getpid(), signal.SIGKILL)
    real(*names)
    if seen == count:
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = replace
sys.exit(main(sys.argv[3:]))
"""
VOLUMES = ("grid_temdiff.mrc", "grid_std.mrc")


@pytest.fixture
def command(series, tiny_prior, tmp_path):
    """Starts the command as a process; returns it."""
    cache = {
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

    def start(out, *words, kill=0, when="after"):
        options = ["--angles", series.angles, "--thickness", 8, "--samples", 2]
        options += ["--steps", 4, "--prior", tiny_prior, "--weighting", "robust"]
        options += ["--log", "off", "--out", out]
        return subprocess.Popen(
            [sys.executable, "-c", CHILD, str(kill), when, "reconstruct"]
            + [str(word) for word in (series.stack, *options, *words)],
            env=os.environ | cache,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def finished(process):
    output, error = process.communicate(timeout=600)
    assert process.returncode == 0, error
    return output


def digests(out):
    return {name: sha256(out / name) for name in VOLUMES}


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_after_every_file_it_goes_on_to_the_same_bits(command, tmp_path, when):
    """Each process is killed at its first or second rename, until one is not.

    A process that writes results begins with the first of them, so there each is
    killed one rename later than the one before.
    """
    whole, out = tmp_path / "whole", tmp_path / "killed"
    finished(command(whole))
    kills = writing = 0
    while True:
        writing += (out / "grid_unfinished" / outputs.WRITING).exists()
        # Before the second: the first file of this process stays, the second is lost.
        kill = (2 if when == "before" else 1) + writing
        process = command(out, "--resume", kill=kill, when=when)
        _, error = process.communicate(timeout=600)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, error
        kills += 1
        assert kills < 40
    assert kills >= 10
    assert digests(out) == digests(whole)
    names = sorted(path.name for path in out.iterdir())
    assert names == sorted(path.name for path in whole.iterdir())
    record = json.loads((out / "grid.temdiff.json").read_text())
    assert record["sha256"] == digests(out)
    print(f"{when}: {kills} kills, {kills} resumed, 0 lost")


def test_signals_at_any_moment_are_heard_and_resumed(command, tmp_path):
    """Five seconds at most, whatever the moment; then to the same bits."""
    whole, out = tmp_path / "whole", tmp_path / "stopped"
    finished(command(whole))
    rng, heard = np.random.default_rng(0), 0
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        process = command(out, "--resume")
        time.sleep(rng.uniform(2, 8))
        before = time.monotonic()
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
        if process.returncode == 0:
            break
        # Before the command begins, Python itself ends the process.
        assert process.returncode in (128 + number, -number), error
        assert time.monotonic() - before < 5
        heard += 1
    finished(command(out, "--resume"))
    assert heard and digests(out) == digests(whole)
