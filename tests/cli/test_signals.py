"""Signals are heard while no Python runs, and files of dead runs are cleaned."""

import signal
import subprocess
import sys
import textwrap
import time

import pytest

from temdiff_jax.cli import signals
from temdiff_jax.io import write

# The main thread is in a call that never comes back to Python, as a compilation is; the
# signal reaches the process through another thread.
STUCK = """
    import ctypes, signal, sys
    from temdiff_jax.cli import signals
    with signals.heard("interrupted; go on with --resume", grace_s=0.5):
        signal.pthread_sigmask(signal.SIG_BLOCK, signals.SIGNALS)
        print("ready", flush=True)
        ctypes.CDLL(None).sleep(60)
"""
HOLDING = """
    import pathlib, sys, time
    from temdiff_jax.io import write
    with write.atomic_path(pathlib.Path(sys.argv[1]) / "a.mrc") as temporary:
        temporary.write_text("half")
        print("ready", flush=True)
        time.sleep(60)
"""


def start(source, *words):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source), *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_a_signal_ends_a_process_whose_main_thread_is_stuck(number):
    process = start(STUCK)
    time.sleep(2)  # until it is in the call
    before = time.monotonic()
    process.send_signal(number)
    _, error = process.communicate(timeout=20)
    assert time.monotonic() - before < 5
    assert process.returncode == 128 + number
    assert error == "temdiff: interrupted; go on with --resume\n"


def test_a_signal_raises_in_python_code_and_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(signals.Interrupted, match="inner") as caught:
        with signals.heard("outer"), signals.heard("inner"):
            signal.raise_signal(signal.SIGTERM)
            time.sleep(5)
    assert caught.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert signal.set_wakeup_fd(-1) == -1


def test_only_temporary_files_of_the_dead_are_cleaned(tmp_path):
    process = start(HOLDING, tmp_path)
    (held,) = tmp_path.glob(".a.mrc.*.tmp")
    assert write.clean([tmp_path / "a.mrc"]) == []
    process.kill()
    process.communicate()
    (tmp_path / ".a.mrc.short.tmp").touch()  # not of this package
    (tmp_path / ".b.mrc.0123456789abcdef.tmp").touch()  # of another output
    assert write.clean([tmp_path / "a.mrc"]) == [held]
    assert len(list(tmp_path.iterdir())) == 2
