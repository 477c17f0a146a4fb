"""One process at a time in a folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from temdiff_jax.errors import InputError

NAME = "run.lock"


def check_local(workdir: str | Path) -> Path:
    """The folder as a path.

    Raises:
      InputError: It is on a remote store, which a lock and a rename do not reach.
    """
    if "://" in str(workdir):
        raise InputError(
            f"workdir: expected a folder of this machine or of a mounted disk, got "
            f"{workdir}; work on a mounted path and copy its files"
        )
    return Path(workdir)


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[str | None]:
    """Tries to hold a folder, which is made; the lock ends with the process.

    The system keeps the lock, so that a process that was killed leaves none behind.

    Yields:
      None where it is held now, else who holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield os.read(handle, 32).decode(errors="replace").strip() or "unknown"
            return
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())
        yield None
    finally:
        os.close(handle)


@contextlib.contextmanager
def exclusive(workdir: str | Path) -> Iterator[None]:
    """Holds the folder of a run, as ``claimed``.

    Raises:
      InputError: Another process holds it; or the folder is on a remote store.
    """
    folder = check_local(workdir)
    with claimed(folder) as holder:
        if holder is not None:
            raise InputError(
                f"workdir: expected a folder that no other run uses, got {folder}, "
                f"held by process {holder}; wait, or choose another folder"
            )
        yield
