"""A program that comes no further is ended, and says where it stood."""

import subprocess
import sys
import time

from launch import watchdog

STUCK = """
import sys, threading, time
from launch import watchdog

def waits_for_ever():
    time.sleep(600)

threading.Thread(target=waits_for_ever, daemon=True).start()
with watchdog.Watchdog(2.0 / 60.0, sys.argv[1]) as dog:
    for step in range(3):
        dog.watched(lambda step: None)(step)
        time.sleep(0.1)
    print("beats", flush=True)
    waits_for_ever()
"""


def test_a_stuck_program_ends_with_its_stacks_and_the_code_to_restart(tmp_path):
    command = [sys.executable, "-c", STUCK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == watchdog.RESTART and done.stdout == "beats\n"
    last = done.stderr.splitlines()[-1]
    assert "no progress for 2 s" in last and "exit code 75" in last
    (path,) = tmp_path.glob("stacks_*.txt")
    stacks = path.read_text(encoding="utf-8")
    # Of the main thread and of the other one.
    assert stacks.count("in waits_for_ever") == 2 and "in _look" in stacks


def test_a_program_that_moves_is_left_alone_and_leaves_no_file(tmp_path):
    with watchdog.Watchdog(1.0 / 60.0, tmp_path) as dog:
        for _ in range(8):
            time.sleep(0.2)
            dog.beat()
    assert not list(tmp_path.iterdir())


def test_no_limit_waits_for_ever(tmp_path):
    with watchdog.Watchdog(0.0, tmp_path) as dog:
        dog.beat()
    assert not list(tmp_path.iterdir())
