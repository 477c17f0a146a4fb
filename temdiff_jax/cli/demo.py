"""`temdiff demo`: the packaged series, cut to a narrow range and reconstructed."""

import importlib.resources
from importlib.resources.abc import Traversable
from typing import Annotated

import typer

from temdiff_jax.cli import choices, options, request

NAME = "needle_demo"
_FOLDER = "data"
_STACK = "needle.mrc"
_ANGLES = "needle.rawtlt"


def demo(
    context: typer.Context,
    out: options.Out,
    samples: choices.Samples = 2,
    steps: choices.Steps = None,
    tilt_range: Annotated[
        str,
        typer.Option(
            "--range", metavar="LO:HI|WIDTH", help="Tilts to reconstruct from, degrees."
        ),
    ] = "40",
    thickness: options.Thickness = None,
    seed: options.Seed = 0,
    method: choices.Method = "default",
    as_json: options.Json = False,
) -> None:
    """Reconstruct the packaged needle from a narrow range, offline.

    The report shows a linear reconstruction of the full range beside it.  Two samples
    show what a spread is in little time.  The files are named needle_demo* and replace
    those of an earlier demo.
    """
    angle_range = options.parse_range(tilt_range)

    import numpy as np

    from temdiff_jax.cli import outputs, session
    from temdiff_jax.io import tilt_series

    folder = _data_folder()
    with (
        importlib.resources.as_file(folder.joinpath(_STACK)) as stack,
        importlib.resources.as_file(folder.joinpath(_ANGLES)) as angles,
    ):
        full = tilt_series.load_tilt_series(stack, angles)
        narrow = tilt_series.load_tilt_series(stack, angles, angle_range=angle_range)
    model = request.Model(thickness or full.tilts.shape[2], log="off", seed=seed)
    settings = session.Settings(
        choices.Sampling(method, samples=samples, steps=steps), model
    ).checked()
    results = request.Results(out, overwrite=True)
    files = outputs.plan(results, NAME, spread=settings.draws, keeps=False)
    ui = session.Session(context.obj or (), as_json=as_json)
    ui.say(f"reference from the full range: {session.describe(full)}")

    from temdiff_jax import baselines

    reference = baselines.tikhonov(
        full.tilts, full.angles_deg, thickness=model.thickness
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
