import datetime
import io

import rich.console

from temdiff_jax.cli import progress


class Clock:
    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds

    def now(self):
        start = datetime.datetime(2024, 5, 1, 12, 0, 0)
        return start + datetime.timedelta(seconds=self.seconds)


def lines_of(steps, seconds_per_step, interval_s=60.0):
    clock, stream = Clock(), io.StringIO()
    console = rich.console.Console(file=stream, width=40)
    with progress.Lines(
        console, interval_s=interval_s, clock=clock, now=clock.now
    ) as report:
        for step in range(steps + 1):
            report(step, steps, "sampling [step]")
            clock.seconds += seconds_per_step
    return stream.getvalue().splitlines()


def test_one_dated_line_per_interval_with_the_time_left():
    assert lines_of(steps=10, seconds_per_step=25.0) == [
        "2024-05-01 12:00:00 sampling [step]: 0/10",
        "2024-05-01 12:01:15 sampling [step]: 3/10, 0:02:55 left",
        "2024-05-01 12:02:30 sampling [step]: 6/10, 0:01:40 left",
        "2024-05-01 12:03:45 sampling [step]: 9/10, 0:00:25 left",
        "2024-05-01 12:04:10 sampling [step]: 10/10",
    ]


def test_a_quick_run_prints_its_first_and_last_line():
    assert [line[20:] for line in lines_of(steps=500, seconds_per_step=0.01)] == [
        "sampling [step]: 0/500",
        "sampling [step]: 500/500",
    ]


def test_a_stream_that_is_no_terminal_gets_whole_lines():
    stream = io.StringIO()
    with progress.reporter(rich.console.Console(file=stream)) as report:
        report(0, 2, "sampling")
        report(2, 2, "sampling")
    assert "\r" not in stream.getvalue() and "\x1b" not in stream.getvalue()
    assert len(stream.getvalue().splitlines()) == 2


def test_a_terminal_gets_a_bar_with_count_and_phase():
    stream = io.StringIO()
    console = rich.console.Console(file=stream, force_terminal=True, width=100)
    with progress.reporter(console) as report:
        report(0, 4, "compiling")
        report(4, 4, "sampling")
    text = stream.getvalue()
    assert "sampling" in text and "4/4" in text and "left" in text
