"""Ends a program that comes no further, with the stacks of all its threads.

A process that waits for a stuck peer, device or disk is alive to its scheduler.  Here a
thread looks at a monotonic clock; when no progress was told for too long, all stacks
are written and the process ends with code 75, so that a scheduler starts it again.
"""

from __future__ import annotations

import faulthandler
import os
import pathlib
import sys
import threading
import time
from collections.abc import Callable

import jax
from absl import flags

# EX_TEMPFAIL of sysexits.h: try again.
RESTART = 75
# Seconds after which the dump is made from outside Python, whose lock may be held; the
# process then ends with code 1.
LATER = 30.0
STACKS = "stacks_{}.txt"


def define_flags() -> None:
    """Defines --stuck_minutes."""
    flags.DEFINE_float(
        "stuck_minutes",
        60.0,
        "Without progress for so long, write the stacks of all threads to "
        "WORKDIR/stacks_PROCESS.txt and exit with code 75; 0 waits for ever.",
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
        self._path = pathlib.Path(workdir) / STACKS.format(jax.process_index())
        self._last = time.monotonic()
        self._over = threading.Event()
        self._stream = None

    def __enter__(self) -> Watchdog:
        if self._limit_s:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self._path.open("a", encoding="utf-8")
            self.beat()
            threading.Thread(target=self._look, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._stream is not None:
            faulthandler.cancel_dump_traceback_later()
            self._stream.close()
            if not self._path.stat().st_size:
                self._path.unlink(missing_ok=True)

    def beat(self) -> None:
        """Tells of progress."""
        self._last = time.monotonic()
        if self._stream is not None:
            faulthandler.dump_traceback_later(
                self._limit_s + LATER, exit=True, file=self._stream
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
        assert self._stream is not None
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        self._stream.write(f"{stamp}: no progress for {self._limit_s:g} s\n")
        self._stream.flush()
        faulthandler.dump_traceback(self._stream, all_threads=True)
        os.fsync(self._stream.fileno())
        print(
            f"no progress for {self._limit_s:g} s: stacks of all threads in "
            f"{self._path}; exit code {RESTART}, the same command goes on",
            file=sys.stderr,
            flush=True,
        )
        os._exit(RESTART)
