"""Names the files of a run and makes sure, before it, that they can be written."""

import dataclasses
import pathlib
from collections.abc import Iterable

from temdiff_jax.errors import InputError
from temdiff_jax.io import write

# Endings of volumes by the name of their format.
VOLUMES = {"mrc": ".mrc", "ome-zarr": ".ome.zarr"}


@dataclasses.dataclass(frozen=True)
class Outputs:
    """Files that one run writes, and whether they may replace older ones.

    A method that draws no samples has no `std`.
    """

    mean: pathlib.Path
    std: pathlib.Path | None
    report: pathlib.Path
    record: pathlib.Path
    overwrite: bool

    def paths(self) -> tuple[pathlib.Path, ...]:
        """All files, in the order in which they are written."""
        std = () if self.std is None else (self.std,)
        return (self.mean, *std, self.record, self.report)


def plan(
    folder: pathlib.Path,
    name: str,
    *,
    overwrite: bool,
    inputs: Iterable[pathlib.Path] = (),
    ending: str = ".mrc",
    spread: bool = True,
) -> Outputs:
    """Names the files of a run and checks that all of them can be written.

    The folder is made if it does not exist; no existing file is changed.

    Args:
      folder: Where to write.
      name: Name of the series, first part of every file name.
      overwrite: Whether files of an earlier run may be replaced.
      inputs: Files that this run reads, never to be replaced.
      ending: Of the volumes, see `VOLUMES`.
      spread: Whether there are samples, and so a standard deviation.

    Raises:
      InputError: If the folder cannot be made or written, or a file is in the way.
    """
    files = named(folder, name, ending=ending, spread=spread, overwrite=overwrite)
    prepare(folder, files.paths(), overwrite=overwrite, inputs=inputs)
    return files


def named(
    folder: pathlib.Path, name: str, *, ending: str, spread: bool, overwrite: bool
) -> Outputs:
    """The files of a run, see `plan`; nothing is checked or made."""
    return Outputs(
        mean=folder / f"{name}_temdiff{ending}",
        std=folder / f"{name}_std{ending}" if spread else None,
        report=folder / f"{name}_report.png",
        record=folder / f"{name}.temdiff.json",
        overwrite=overwrite,
    )


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
