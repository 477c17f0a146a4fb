"""Names the files of a run and makes sure, before it, that they can be written."""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

from temdiff_jax.cli.options import VOLUMES
from temdiff_jax.cli.request import Results
from temdiff_jax.errors import InputError
from temdiff_jax.io import write

# In the folder of an unfinished run: its volumes are being written.
WRITING = "writing"


@dataclasses.dataclass(frozen=True)
class Outputs:
    """Files that one run writes, and whether they may replace older ones.

    `cover` is one page of `report`.  A method that draws no samples has no `std`.
    `state` keeps what is finished until the record is written; None for runs that are
    too short to be resumed.
    """

    mean: pathlib.Path
    std: pathlib.Path | None
    cover: pathlib.Path
    report: pathlib.Path
    record: pathlib.Path
    overwrite: bool
    state: pathlib.Path | None = None

    def paths(self) -> tuple[pathlib.Path, ...]:
        """All files, in the order in which they are written: the record last."""
        return (*self.volumes(), self.cover, self.report, self.record)

    def volumes(self) -> tuple[pathlib.Path, ...]:
        """Mean and standard deviation, where there is one."""
        return (self.mean,) if self.std is None else (self.mean, self.std)


def plan(
    results: Results,
    name: str,
    *,
    spread: bool,
    inputs: Iterable[pathlib.Path] = (),
    keeps: bool = True,
) -> Outputs:
    """Names the files of a run and checks that all of them can be written.

    The folder is made if it does not exist; no existing file is changed.

    Args:
      results: Where to write.
      name: Name of the series, first part of every file name.
      spread: Whether there are samples, and so a standard deviation.
      inputs: Files that this run reads, never to be replaced.
      keeps: Whether it keeps its state, so that it can be resumed.

    Raises:
      InputError: If the folder cannot be made or written, or a file or an unfinished
        run is in the way.
    """
    files = named(results, name, spread=spread)
    if keeps:
        state = _state(results, name)
        if state.exists():
            over = _with_state(state, overwrite=files.overwrite, resume=results.resume)
            files = dataclasses.replace(files, overwrite=over)
        files = dataclasses.replace(files, state=state)
    write.clean(files.paths())
    # A resumed run that may be complete is looked at before its files are in the way.
    finished = results.resume and files.record.exists() and not files.overwrite
    paths = () if finished else files.paths()
    prepare(results.out, paths, overwrite=files.overwrite, inputs=inputs)
    return files


def named(results: Results, name: str, *, spread: bool) -> Outputs:
    """The files of a run, see `plan`; nothing is checked or made."""
    folder, ending = results.out, VOLUMES[results.volume_format]
    return Outputs(
        mean=folder / f"{name}_temdiff{ending}",
        std=folder / f"{name}_std{ending}" if spread else None,
        cover=folder / f"{name}_report.png",
        report=folder / f"{name}_report.html",
        record=folder / f"{name}.temdiff.json",
        overwrite=results.overwrite,
    )


def check_free(results: Results, files: Outputs, name: str) -> None:
    """Refuses what `plan` would find in the way; makes and removes nothing."""
    over, resume = results.overwrite, results.resume
    _refuse_unfinished(_state(results, name), overwrite=over, resume=resume)
    for path in () if resume else files.paths():
        if path.exists():
            write.check_output(path, overwrite=over)


def _state(results: Results, name: str) -> pathlib.Path:
    """Where a run keeps what is finished."""
    return results.out / f"{name}_unfinished"


def _with_state(state: pathlib.Path, *, overwrite: bool, resume: bool) -> bool:
    """Whether files may be replaced where an unfinished run was found."""
    from temdiff_jax.reconstruction import watch

    watch.kept_identity(state)  # nothing else is ever removed
    _refuse_unfinished(state, overwrite=overwrite, resume=resume)
    if not resume:
        watch.remove_folder(state)
    else:
        left = (path.name.rsplit(".", 2)[0][1:] for path in state.glob(".*.tmp"))
        write.clean({state / name for name in left})
    # What it had begun to write is its own to replace.
    return overwrite or (state / WRITING).exists()


def _refuse_unfinished(state: pathlib.Path, *, overwrite: bool, resume: bool) -> None:
    if state.exists() and not resume and not overwrite:
        raise InputError(
            f"--out: expected no unfinished run, got {state}; pass --resume to go on "
            "with it, or --overwrite to start anew"
        )


def complete(files: Outputs, run: str) -> bool:
    """Whether the files are there, whole, and of this very run."""
    from temdiff_jax.reconstruction.save import sha256

    try:
        if files.state is not None and files.state.exists():
            return False
        record = json.loads(files.record.read_text(encoding="utf-8"))
        digests = record["sha256"]
        same = all(sha256(files.mean.parent / n) == d for n, d in digests.items())
        return bool(same and digests and record["run"] == run)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def begin_writing(files: Outputs) -> None:
    """From here on a set without a record is an unfinished one."""
    if files.state is not None and files.state.is_dir():
        (files.state / WRITING).touch()
    if files.overwrite:
        files.record.unlink(missing_ok=True)


def check_disk(files: Outputs, needed: Mapping[str, int]) -> None:
    """Refuses a run whose results would not fit.

    Args:
      files: Of the run.
      needed: Bytes by what they are.

    Raises:
      InputError: With what is free and what is needed.
    """
    folder = files.mean.absolute().parent
    there = next(p for p in (folder, *folder.parents) if p.exists())
    total, free = sum(needed.values()), shutil.disk_usage(there).free
    if total > free:
        raise InputError(
            f"--out: expected {total / 2**30:.2f} GiB free in {files.mean.parent} "
            f"({', '.join(needed)}), got {free / 2**30:.2f}; free some, or pass "
            "another folder"
        )


def volume_digests(files: Outputs) -> dict[str, Any]:
    """SHA-256 of the volumes that are there, by their names."""
    from temdiff_jax.reconstruction import save

    return {path.name: save.sha256(path) for path in files.volumes()}


def prepare(
    folder: pathlib.Path,
    paths: Iterable[pathlib.Path],
    *,
    overwrite: bool,
    inputs: Iterable[pathlib.Path] = (),
) -> None:
    """Makes the folder and checks that each file can be written in it.

    Raises:
      InputError: Says which file or folder is in the way, and why.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--out: expected a folder that can be made, got {folder} "
            f"({error.strerror or error}); pass another folder"
        ) from error
    read = {path.resolve() for path in inputs}
    for path in paths:
        if path.resolve() in read:
            raise InputError(
                f"--out: expected outputs beside the inputs, got {path} as both; pass "
                "another folder"
            )
        if path.suffix == ".zarr" and path.is_dir():  # a store is a folder
            if not overwrite:
                raise InputError(
                    f"{path}: expected a new store, got one that exists; choose "
                    "another folder or pass --overwrite"
                )
            continue
        write.check_output(path, overwrite=overwrite)
