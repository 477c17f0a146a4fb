"""Ctrl-C and SIGTERM are heard within seconds, whatever the command is doing.

Python runs a handler between two of its own instructions, and a compiled program or a
compilation is one instruction that may take minutes.  So the signal is written to a
socket as well, where a thread waits for it: what the main thread has not ended by
itself after a grace period is ended there.  Nothing is lost by that, since every file
is written under a temporary name, and what is left of one is cleaned by the next run.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE_S = 2.0
_SHOW_CURSOR = "\x1b[?25h"


class Interrupted(BaseException):
    """A signal came; no library may take it for a failure of its own."""

    def __init__(self, line: str, number: int) -> None:
        super().__init__(line)
        self.code = 128 + number


@contextlib.contextmanager
def heard(line: str, *, grace_s: float = GRACE_S) -> Iterator[None]:
    """End the block on a signal: by ``Interrupted``, or by the end of the process.

    Blocks may be nested; the innermost one is in force.

    Args:
      line: What a user is told.
      grace_s: What the main thread is given to end the block itself.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return

    def raise_it(number: int, frame: object) -> None:
        raise Interrupted(line, number)

    ended = threading.Event()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    before = {number: signal.signal(number, raise_it) for number in SIGNALS}
    wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(
        target=_wait, args=(ours, ended, line, grace_s), daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        theirs.close()
        thread.join()
        ours.close()


def _wait(
    ours: socket.socket, ended: threading.Event, line: str, grace_s: float
) -> None:
    """Waits for a signal's number, and ends a process that does not end itself."""
    while data := ours.recv(1):
        if data[0] not in SIGNALS:
            continue
        if not ended.wait(grace_s):
            cursor = _SHOW_CURSOR if sys.stderr.isatty() else ""
            print(f"{cursor}temdiff: {line}", file=sys.stderr, flush=True)
            os._exit(128 + data[0])
        return
