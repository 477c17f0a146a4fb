"""Progress of a run on standard error: a bar on a terminal, dated lines elsewhere.

Log files of clusters keep every carriage return of a bar, so a stream that is not a
terminal gets whole lines with a time stamp, at most one per interval.
"""

import datetime
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

import rich.console
import rich.progress

LINE_INTERVAL_S = 60.0


class Reporter(Protocol):
    """What `progress` gives: a context manager that is called with the state."""

    def __enter__(self) -> "Reporter":
        """Start reporting."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End reporting, whatever happened."""

    def __call__(self, done: int, total: int, message: str) -> None:
        """Report that `done` of `total` steps of the phase `message` are finished."""


def reporter(
    console: rich.console.Console, *, interval_s: float = LINE_INTERVAL_S
) -> Reporter:
    """Bar with the time left on a terminal, dated lines on anything else.

    Args:
      console: Where to write; standard error, so that results can be piped.
      interval_s: Least time between two lines, seconds; a bar ignores it.
    """
    if console.is_terminal:
        return _Bar(console)
    return Lines(console, interval_s=interval_s)


class _Bar:
    """Rich progress bar: phase, bar, count, time spent, time left."""

    def __init__(self, console: rich.console.Console) -> None:
        self._progress = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}", markup=False),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TextColumn("left"),
            rich.progress.TimeRemainingColumn(),
            console=console,
        )
        self._task: rich.progress.TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def __call__(self, done: int, total: int, message: str) -> None:
        if self._task is None:
            self._task = self._progress.add_task(message, total=total)
        self._progress.update(
            self._task, completed=done, total=total, description=message
        )


class Lines:
    """One dated line per interval, plus the first and the last of a run.

    The clocks are arguments so that a test can run an hour in no time.
    """

    def __init__(
        self,
        console: rich.console.Console,
        *,
        interval_s: float = LINE_INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime.datetime] = datetime.datetime.now,
    ) -> None:
        self._console = console
        self._interval_s = interval_s
        self._clock = clock
        self._now = now
        self._last_line: float | None = None
        self._first_call: tuple[float, int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def __call__(self, done: int, total: int, message: str) -> None:
        moment = self._clock()
        if self._first_call is None or done < self._first_call[1]:
            self._first_call = (moment, done)
        due = self._last_line is None or moment - self._last_line >= self._interval_s
        if not due and done < total:
            return
        self._last_line = moment
        stamp = self._now().strftime("%Y-%m-%d %H:%M:%S")
        self._console.print(
            f"{stamp} {message}: {done}/{total}{self._left(moment, done, total)}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    def _left(self, moment: float, done: int, total: int) -> str:
        """Time left at the mean speed so far, once there is a speed."""
        assert self._first_call is not None
        start, first_done = self._first_call
        if done >= total or done <= first_done or moment <= start:
            return ""
        seconds = (moment - start) * (total - done) / (done - first_done)
        return f", {datetime.timedelta(seconds=round(seconds))} left"
