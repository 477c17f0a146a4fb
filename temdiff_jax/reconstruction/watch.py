"""How a run is followed, and how its finished parts survive it.

A long reconstruction has stages: the quadratic estimate, the one-call mean, groups of
samples.  Each is given to ``Watch.part`` as a function; with a folder its arrays are
written when it is done, and a later run that finds them computes nothing.  The samples
in progress are saved by ``diffusion.chunked``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import shutil
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from temdiff_jax import parallel
from temdiff_jax.errors import InputError
from temdiff_jax.io import write

Tell = Callable[[int, str], None]
Arrays = dict[str, np.ndarray]
IDENTITY = "run.json"
# Of an identity, what a line about a difference shows of one value.
_LONGEST = 40


def _nothing(done: int, text: str) -> None:
    """Tells nobody."""


@dataclasses.dataclass(frozen=True)
class Watch:
    """Called with the steps done and a message; keeps finished parts.

    Attributes:
      tell: Who is told.
      folder: Where parts are kept; None keeps nothing.
      before: Steps done before the first that this one counts.
    """

    tell: Tell = _nothing
    folder: pathlib.Path | None = None
    before: int = 0

    def __call__(self, done: int, text: str) -> None:
        """Tell that so many steps are done and what comes next."""
        self.tell(self.before + done, text)

    def after(self, steps: int) -> Watch:
        """The same, counting from a later step."""
        return dataclasses.replace(self, before=self.before + steps)

    def file(self, name: str) -> pathlib.Path | None:
        """Where a part of this name is kept; None keeps nothing."""
        return None if self.folder is None else self.folder / f"{name}.npz"

    def part(self, name: str, make: Callable[[], Arrays]) -> Arrays:
        """The arrays of a part: read where it was finished before, else made and kept.

        Raises:
          InputError: The file of the part is damaged.
        """
        path = self.file(name)
        if path is None:
            return make()
        if parallel.from_first_process(int(path.exists())):
            return parallel.all_succeed("unfinished run", lambda: _read(path))
        arrays = {
            key: parallel.to_host(value)
            if isinstance(value, jax.Array)
            else np.asarray(value)
            for key, value in make().items()
        }
        if jax.process_index():
            return arrays
        with write.atomic_path(path, overwrite=True) as temporary:
            with temporary.open("wb") as stream:
                np.savez(stream, allow_pickle=False, **arrays)
        return arrays

    def forget(self, name: str) -> None:
        """Remove what was kept of a part."""
        path = self.file(name)
        if path is not None and not jax.process_index():
            path.unlink(missing_ok=True)


def _read(path: pathlib.Path) -> Arrays:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(
            f"unfinished run: expected a finished part in {path}, got "
            f"{type(error).__name__} ({error}); remove this file to compute it again"
        ) from None


def run_id(identity: Mapping[str, Any]) -> str:
    """Name of a run, 16 hex digits: equal for equal inputs, settings and programs."""
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def kept_identity(folder: pathlib.Path) -> dict[str, Any] | None:
    """Whose parts a folder keeps; None where nobody began.

    Raises:
      InputError: It is no folder of a run, or its record is damaged.
    """
    path = folder / IDENTITY
    if not folder.exists():
        return None
    if not path.exists():
        if folder.is_dir() and not any(folder.iterdir()):
            return None
        raise InputError(
            f"unfinished run: expected {IDENTITY} in {folder}, got none; move the "
            "folder away or name another"
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"unfinished run: expected JSON in {path}, got {type(error).__name__} "
            f"({error}); remove the folder to start anew"
        ) from None
    return found if isinstance(found, dict) else {}


def open_folder(folder: pathlib.Path, identity: Mapping[str, Any]) -> bool:
    """Makes the folder of a run, or finds that of the same run.

    Returns:
      Whether there was one.

    Raises:
      InputError: The folder was left by another run; says what differs.
    """
    wanted = json.loads(json.dumps(identity))
    found = kept_identity(folder)
    if found is None:
        folder.mkdir(parents=True, exist_ok=True)
        write.write_json(folder / IDENTITY, wanted, overwrite=True)
        return False
    if found != wanted:
        raise InputError(
            f"unfinished run: expected the input and settings of {folder}, got "
            f"{_difference(found, wanted)}; repeat those, or start anew"
        )
    return True


def remove_folder(folder: pathlib.Path) -> None:
    """Forget a run: its identity last, so that a rest is still known as one."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.name != IDENTITY and path.is_file():
            path.unlink()
    shutil.rmtree(folder)


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The first thing that two runs do not share."""

    def short(value: Any) -> str:
        text = json.dumps(value)
        return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."

    for name in (*wanted, *found):
        old, new = found.get(name), wanted.get(name)
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            return f"{name}: {_difference(old, new)}"
        return f"{name} {short(new)} instead of {short(old)}"
    return "others"
