"""`temdiff view`: a result in napari or 3dmod, with the right axes and grey values."""

import json
import pathlib
import shlex
import shutil
import subprocess
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from temdiff_jax.errors import InputError

if TYPE_CHECKING:
    from temdiff_jax.io.formats import Image

# Shares of the grey values that are shown black and white.
_BLACK, _WHITE = 0.005, 0.995
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
    from temdiff_jax.io import formats

    if viewer is not None:
        options.check_choice("--viewer", viewer, VIEWERS)
    mean, std = volumes_of(path)
    commands = {
        "napari": _napari(mean, formats.read_image(mean), std),
        "3dmod": _imod(mean, formats.read_image(mean), std),
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


def limits(volume: np.ndarray) -> tuple[float, float]:
    """Grey values shown black and white."""
    step = max(volume.size // 1_000_000, 1)
    low, high = np.quantile(volume.ravel()[::step], (_BLACK, _WHITE))
    return float(low), float(high) if high > low else float(low) + 1.0


def _napari(mean: pathlib.Path, image: "Image", std: pathlib.Path | None) -> list[str]:
    """A Python line: napari's own command knows neither scale nor contrast."""
    lines = [
        "import napari",
        "from temdiff_jax.io.formats import read_image as r",
        "v = napari.Viewer()",
        _layer(mean, image, "mean", "gray"),
    ]
    if std is not None:
        from temdiff_jax.io import formats

        lines.append(_layer(std, formats.read_image(std), "std", "magma"))
    return ["python", "-c", "; ".join([*lines, "napari.run()"])]


def _layer(path: pathlib.Path, image: "Image", name: str, colours: str) -> str:
    scale = image.voxel_size_angstrom or (1.0, 1.0, 1.0)
    low, high = limits(image.data)
    more = ", blending='additive', visible=False" if name == "std" else ""
    return (
        f"v.add_image(r({str(path.absolute())!r}).data, name={name!r}, "
        f"scale={tuple(round(float(s), 4) for s in scale)}, colormap={colours!r}, "
        f"contrast_limits=({low:.6g}, {high:.6g}){more})"
    )


def _imod(mean: pathlib.Path, image: "Image", std: pathlib.Path | None) -> list[str]:
    """3dmod scales a file from its extremes to 0-255: -s is in grey values there."""
    low, high = limits(image.data)
    words = ["3dmod", "-s", f"{low:.6g},{high:.6g}", str(mean.absolute())]
    return words if std is None else [*words, str(std.absolute())]
