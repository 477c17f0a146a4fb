"""`temdiff demo`: the packaged series, cut to a narrow range and reconstructed."""

import importlib.resources
import pathlib
from importlib.resources.abc import Traversable
from typing import Annotated

import typer

from temdiff_jax.cli import options

NAME = "needle_demo"
_FOLDER = "data"
_STACK = "needle.mrc"
_ANGLES = "needle.rawtlt"


def demo(
    context: typer.Context,
    out: Annotated[
        pathlib.Path, typer.Option(metavar="DIR", help="Folder for the results.")
    ],
    samples: Annotated[
        int | None, typer.Option(min=1, help="Number of posterior samples.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of the sampler.")
    ] = None,
    tilt_range: Annotated[
        str,
        typer.Option(
            "--range", metavar="LO:HI|WIDTH", help="Tilts to reconstruct from, degrees."
        ),
    ] = "40",
    thickness: Annotated[
        int | None, typer.Option(min=1, help="Voxels along the beam.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the samples.")] = 0,
    sampler: Annotated[
        str,
        typer.Option(metavar="default|mean|posterior", help="How to use the prior."),
    ] = "default",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the record of the run as JSON.")
    ] = False,
) -> None:
    """Reconstruct the packaged needle from a narrow range, offline.

    The report shows a linear reconstruction of the full range beside it.  The files
    are named needle_demo* and replace those of an earlier demo.
    """
    options.check_choice("--sampler", sampler, options.SAMPLERS)
    angle_range = options.parse_range(tilt_range)

    import numpy as np

    from temdiff_jax.cli import environment, outputs, session
    from temdiff_jax.io import tilt_series

    folder = _data_folder()
    with (
        importlib.resources.as_file(folder.joinpath(_STACK)) as stack,
        importlib.resources.as_file(folder.joinpath(_ANGLES)) as angles,
    ):
        full = tilt_series.load_tilt_series(stack, angles)
        narrow = tilt_series.load_tilt_series(stack, angles, angle_range=angle_range)
    files = outputs.plan(out, NAME, overwrite=True)
    ui = session.Session(context.obj or (), as_json=as_json)
    ui.say(f"reference from the full range: {session.describe(full)}")
    environment.prepare_jax()

    from temdiff_jax import baselines

    settings = session.Settings(
        thickness=thickness or full.tilts.shape[2],
        samples=samples,
        steps=steps,
        sampler=sampler,
        seed=seed,
        log="off",
    )
    reference = baselines.tikhonov(
        full.tilts, full.angles_deg, thickness=settings.thickness
    )
    session.reconstruct(
        ui,
        narrow,
        settings,
        files,
        command="demo",
        source={
            "path": _STACK,
            "angles_path": _ANGLES,
            "angle_range_deg": angle_range,
            "bin": 1,
        },
        reference=np.asarray(reference),
    )


def _data_folder() -> Traversable:
    """Folder of the package that holds the demonstration series."""
    return importlib.resources.files("temdiff_jax").joinpath(_FOLDER)
