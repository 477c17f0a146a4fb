"""Ends a program that comes no further, with the stacks of all its threads.

A process that waits for a stuck peer, device or disk is alive to its scheduler.  Here a
thread looks at a monotonic clock; when no progress was told for too long, all stacks
are written and the process ends with code 75, so that a scheduler starts it again.
"""

from __future__ import annotations

import faulthandler
import os
import pathlib
import socket
import sys
import threading
import time
from collections.abc import Callable

from absl import flags

# EX_TEMPFAIL of sysexits.h: try again.
RESTART = 75
# Seconds after which the stacks go to standard error from outside Python, whose lock
# may be held; the process then ends with code 1.
LATER = 30.0


def define_flags(minutes: float) -> None:
    """Defines --stuck_minutes, with this default."""
    flags.DEFINE_float(
        "stuck_minutes",
        minutes,
        "Without progress for so long, write the stacks of all threads to "
        "WORKDIR/stacks_HOST_PROCESS.txt and exit with code 75; 0 waits for ever.",
        lower_bound=0.0,
    )


class Watchdog:
    """A context manager; call ``beat`` at every sign of progress.

    Args:
      minutes: Without progress, 0 for no limit.
      workdir: Where the stacks are written.
    """

    def __init__(self, minutes: float, workdir: str | pathlib.Path) -> None:
        self._limit_s = 60.0 * minutes
        name = f"stacks_{socket.gethostname()}_{os.getpid()}.txt"
        self._path = pathlib.Path(workdir) / name
        self._last = time.monotonic()
        self._over = threading.Event()

    def __enter__(self) -> Watchdog:
        if self._limit_s:
            self.beat()
            threading.Thread(target=self._look, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        faulthandler.cancel_dump_traceback_later()

    def beat(self) -> None:
        """Tells of progress."""
        self._last = time.monotonic()
        if self._limit_s:
            faulthandler.dump_traceback_later(
                self._limit_s + LATER, exit=True, file=sys.__stderr__
            )

    def watched(self, ask: Callable[[int], str | None]) -> Callable[[int], str | None]:
        """The question that a loop asks after every step, as a sign of progress."""

        def asked(step: int) -> str | None:
            self.beat()
            return ask(step)

        return asked

    def _look(self) -> None:
        while not self._over.wait(min(1.0, self._limit_s / 4)):
            if time.monotonic() - self._last > self._limit_s:
                self._end()

    def _end(self) -> None:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("w", encoding="utf-8") as stream:
            stream.write(f"{stamp}: no progress for {self._limit_s:g} s\n")
            stream.flush()
            faulthandler.dump_traceback(stream, all_threads=True)
            os.fsync(stream.fileno())
        print(
            f"no progress for {self._limit_s:g} s: stacks of all threads in "
            f"{self._path}; exit code {RESTART}, the same command goes on",
            file=sys.stderr,
            flush=True,
        )
        os._exit(RESTART)
