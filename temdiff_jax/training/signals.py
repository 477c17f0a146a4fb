"""Requests to stop: the scheduler's signals, turned into a question of the loop.

A watch is a context manager; called with the number of finished steps, it returns why
the run should save and stop, or None.
"""

from __future__ import annotations

import signal
from types import FrameType

from jax.experimental import multihost_utils

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class SignalWatch:
    """For one process: remembers SIGTERM and SIGUSR1 instead of dying of them.

    Enter it in the main thread; the handlers that were there return on exit.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> SignalWatch:
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            # None stands for a handler that Python did not install.
            signal.signal(number, handler or signal.SIG_DFL)  # type: ignore[arg-type]

    def __call__(self, step: int) -> str | None:
        """The signal that came, if any."""
        return self.reason

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.reason = signal.Signals(number).name


class PreemptionWatch:
    """For several processes: all stop at the same step, whichever was signalled.

    The distributed runtime owns SIGTERM and agrees on the step; a handler of ours
    would switch that off, so SIGUSR1 is passed on as SIGTERM.  Enter it after
    ``jax.distributed.initialize``; every process must ask after every step.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._before: object = None

    def __enter__(self) -> PreemptionWatch:
        self._before = signal.signal(signal.SIGUSR1, _pass_on)
        return self

    def __exit__(self, *_: object) -> None:
        handler = self._before or signal.SIG_DFL
        signal.signal(signal.SIGUSR1, handler)  # type: ignore[arg-type]

    def __call__(self, step: int) -> str | None:
        """Whether the agreed step is reached; None where the service is off."""
        try:
            if multihost_utils.reached_preemption_sync_point(step):
                self.reason = "preemption notice"
        except RuntimeError:
            # The service can be switched off; then only periodic saves protect.
            return None
        return self.reason


def _pass_on(number: int, frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGTERM)
