"""One training at a time in a folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from temdiff_jax.errors import InputError

NAME = "training.lock"


@contextlib.contextmanager
def exclusive(workdir: str | Path) -> Iterator[None]:
    """Holds the folder of a run, which is made; the lock ends with the process.

    The system keeps the lock, so that a run that was killed leaves none behind.

    Raises:
      InputError: Another process holds it; or the folder is on a remote store, which a
        lock and a rename do not reach.
    """
    if "://" in str(workdir):
        raise InputError(
            f"workdir: expected a folder of this machine or of a mounted disk, got "
            f"{workdir}; train on a mounted path and copy its checkpoints"
        )
    folder = Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 32).decode(errors="replace").strip()
            raise InputError(
                f"workdir: expected a folder that no other training uses, got "
                f"{folder}, held by process {holder or 'unknown'}; wait, or choose "
                "another folder"
            ) from None
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(handle)
