"""Progress of a run on standard error: a bar on a terminal, dated lines elsewhere.

Log files of clusters keep every carriage return of a bar, so a stream that is not a
terminal gets whole lines with a time stamp, one per interval even while a single step
takes longer.
"""

import datetime
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

import rich.console
import rich.progress

LINE_INTERVAL_S = 60.0
# Steps that take less than this share of what was expected were found done.
_FOUND = 0.02
_COMPILER = ("jax/_src/compiler.py", "jax\\_src\\compiler.py")


class Reporter(Protocol):
    """What `reporter` gives: a context manager that is called with the state."""

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
        """Report that `done` of `total` steps are finished; `message` comes next."""


def reporter(
    console: rich.console.Console,
    *,
    interval_s: float = LINE_INTERVAL_S,
    expected: Sequence[float] = (),
) -> Reporter:
    """Bar with the time left on a terminal, dated lines on anything else.

    Args:
      console: Where to write; standard error, so that results can be piped.
      interval_s: Time between two lines, seconds; a bar ignores it.
      expected: Seconds that each step is expected to take; none for all alike.
    """
    if console.is_terminal:
        return _Bar(console, Pace(expected))
    return Lines(console, interval_s=interval_s, pace=Pace(expected))


class Pace:
    """The time left: what is expected, corrected by what the steps took so far.

    Steps that a resumed run finds done say nothing of its speed.  Once two reports of
    a stage are there, the speed is that of the stage, whose first step compiles.
    """

    def __init__(self, expected: Sequence[float] = ()) -> None:
        self._expected = tuple(expected)
        self._marks: list[tuple[float, int, str]] = []

    def __call__(self, moment: float, done: int, message: str) -> None:
        """Note that so many steps were done at a moment, seconds."""
        if self._marks:
            last, before, _ = self._marks[-1]
            if done == before:
                return
            if done < before or moment - last < _FOUND * self._sum(before, done):
                self._marks = []
        self._marks.append((moment, done, message.rstrip("0123456789 of")))

    def left(self, moment: float, total: int) -> float | None:
        """Seconds left at a moment; None where nothing is known."""
        if not self._marks:
            return None
        last, done, stage = self._marks[-1]
        known = self._marks
        same = [mark for mark in known if mark[2] == stage]
        if len(same) > 1:
            known = same
        start, first, _ = known[0]
        if done > first and last > start:
            speed = (last - start) / self._sum(first, done)
        elif self._expected:
            speed = 1.0
        else:
            return None
        return max(speed * self._sum(done, total) - (moment - last), 0.0)

    def _sum(self, start: int, stop: int) -> float:
        if len(self._expected) < stop:
            return float(stop - start)
        return max(sum(self._expected[start:stop]), 1e-9)


def compiling(thread: int) -> bool:
    """Whether a thread is inside jax's compiler at this moment."""
    frame = sys._current_frames().get(thread)
    while frame is not None:
        if frame.f_code.co_filename.endswith(_COMPILER):
            return True
        frame = frame.f_back
    return False


def _stage(message: str, thread: int) -> str:
    return f"{message}, compiling" if compiling(thread) else message


class _Left(rich.progress.ProgressColumn):
    """The time left, as a pace says."""

    def __init__(self, pace: Pace) -> None:
        super().__init__()
        self._pace = pace

    def render(self, task: rich.progress.Task) -> rich.text.Text:
        seconds = self._pace.left(time.monotonic(), int(task.total or 0))
        return rich.text.Text("-:--" if seconds is None else _clock(seconds))


class _Name(rich.progress.ProgressColumn):
    """The stage, and whether it is being compiled."""

    def __init__(self, thread: int) -> None:
        super().__init__()
        self._thread = thread

    def render(self, task: rich.progress.Task) -> rich.text.Text:
        return rich.text.Text(_stage(task.description, self._thread))


class _Bar:
    """Rich progress bar: stage, bar, count, time spent, time left."""

    def __init__(self, console: rich.console.Console, pace: Pace) -> None:
        self._pace = pace
        self._progress = rich.progress.Progress(
            _Name(threading.get_ident()),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TextColumn("left"),
            _Left(pace),
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
        self._pace(time.monotonic(), done, message)
        if self._task is None:
            self._task = self._progress.add_task(message, total=total)
        self._progress.update(
            self._task, completed=done, total=total, description=message
        )


class Lines:
    """A dated line per interval, plus the first and the last of a run.

    The clocks are arguments so that a test can run an hour in no time.
    """

    def __init__(
        self,
        console: rich.console.Console,
        *,
        interval_s: float = LINE_INTERVAL_S,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime.datetime] = datetime.datetime.now,
    ) -> None:
        self._console = console
        self._interval_s = interval_s
        self._pace = pace or Pace()
        self._clock = clock
        self._now = now
        self._last_line: float | None = None
        self._state: tuple[int, int, str] | None = None
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._worker = threading.get_ident()

    def __enter__(self) -> Self:
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()

    def __call__(self, done: int, total: int, message: str) -> None:
        with self._lock:
            self._pace(self._clock(), done, message)
            before, self._state = self._state, (done, total, message)
            over = before is not None and before[0] >= total
            self._print(force=done >= total and not over)

    def _beat(self) -> None:
        """Prints while one step takes longer than the interval."""
        while not self._ended.wait(min(self._interval_s, 1.0)):
            with self._lock:
                if self._state is not None and not self._ended.is_set():
                    self._print(force=False)

    def _print(self, *, force: bool) -> None:
        assert self._state is not None
        done, total, message = self._state
        moment = self._clock()
        due = self._last_line is None or moment - self._last_line >= self._interval_s
        if not due and not force:
            return
        self._last_line = moment
        seconds = self._pace.left(moment, total) if done < total else None
        left = "" if seconds is None else f", {_clock(seconds)} left"
        stamp = self._now().strftime("%Y-%m-%d %H:%M:%S")
        self._console.print(
            f"{stamp} {_stage(message, self._worker)}: {done}/{total}{left}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
