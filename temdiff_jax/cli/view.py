"""`temdiff view`: a result in napari or 3dmod, with the right axes and grey values."""

import json
import pathlib
import shlex
import shutil
import subprocess
from typing import Annotated

import typer

from temdiff_jax.errors import InputError

VIEWERS = ("napari", "3dmod")


def view(
    path: Annotated[
        pathlib.Path,
        typer.Argument(metavar="PATH", help="Volume of a result, or its record."),
    ],
    viewer: Annotated[
        str | None,
        typer.Option(metavar="|".join(VIEWERS), help="Start this one; else print."),
    ] = None,
) -> None:
    """Print the lines that open a result rightly, or start a viewer with it.

    Slices of constant z come first, as everywhere in this package; grey values run from
    the lowest to the highest half per cent; the standard deviation, where the run has
    one, is laid over the volume in napari and stands beside it in 3dmod.
    """
    from temdiff_jax.cli import options
    from temdiff_jax.io import formats, viewers

    if viewer is not None:
        options.check_choice("--viewer", viewer, VIEWERS)
    mean, std = volumes_of(path)
    image = formats.read_image(mean)
    shown = (mean.absolute(), image.data)
    beside = None
    if std is not None:
        beside = (std.absolute(), formats.read_image(std).data)
    commands = {
        "napari": viewers.napari(shown, beside, image.voxel_size_angstrom),
        "3dmod": viewers.imod(shown, beside),
    }
    if viewer is None:
        for words in commands.values():
            typer.echo(shlex.join(words))
        return
    words = commands[viewer]
    if shutil.which(words[0]) is None:
        raise InputError(
            f"--viewer: expected {words[0]} on the PATH, got none; install it, or "
            "leave the option out to have the line printed"
        )
    raise typer.Exit(subprocess.run(words, check=False).returncode)


def volumes_of(path: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path | None]:
    """The volume that is meant, and its standard deviation where there is one.

    Raises:
      InputError: A record that names no volume, or one that is gone.
    """
    if path.suffix == ".json":
        try:
            names = json.loads(path.read_text(encoding="utf-8"))["outputs"]
            mean = path.parent / next(n for n in names if "_temdiff." in n)
        except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
            raise InputError(
                f"{path}: expected the record of a run, got {type(error).__name__}; "
                "name the volume itself"
            ) from None
    else:
        mean = path
    if not mean.exists():
        raise InputError(f"{mean}: expected a volume, found none; check the path")
    std = mean.with_name(mean.name.replace("_temdiff.", "_std."))
    return mean, std if std != mean and std.exists() else None
