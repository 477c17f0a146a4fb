"""`temdiff holdout`: tilts left out and predicted from the rest."""

import json
from typing import Any

import typer

from temdiff_jax.cli import choices, options


def holdout(
    path: options.Path,
    angles: options.Angles = None,
    alignment: options.AlignmentFile = None,
    thickness: options.Thickness = None,
    voxel_size: options.VoxelSize = None,
    tilt_range: options.Range = None,
    exclude: options.Exclude = None,
    bin_factor: options.Bin = 1,
    tilt_axis: options.TiltAxis = "y",
    axis_angle: options.AxisAngle = None,
    log: options.Log = "auto",
    contrast: options.Contrast = "auto",
    method: choices.Method = "mean",
    samples: choices.Samples = None,
    steps: choices.Steps = None,
    weighting: options.Weighting = options.DEFAULT_WEIGHTING,
    prior: options.PriorName = "default",
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Predict both outermost tilts and a middle one from the others.

    Prints how far each prediction is off, in units of the expected error, beside the
    prediction of the quadratic estimate, and the power of the test: below 1 it could
    not see what the other tilts do not measure.  Writes no file.
    """
    options.check_choice("--log", log, options.LOG_MODES)
    options.check_choice("--contrast", contrast, options.CONTRASTS)
    options.check_choice("--weighting", weighting, options.WEIGHTINGS)
    angle_range = options.parse_range(tilt_range)

    from temdiff_jax.cli import session
    from temdiff_jax.cli.reconstruct import binned
    from temdiff_jax.io import tilt_series

    settings = session.Settings(
        choices.Sampling(method, prior, samples=samples, steps=steps),
        thickness=thickness,
        seed=seed,
        log=log,
        contrast=contrast,
        weighting=weighting,
    ).checked()
    series = binned(
        tilt_series.load_tilt_series(
            path,
            angles,
            alignment=alignment,
            voxel_size_angstrom=voxel_size,
            tilt_axis=tilt_axis,
            axis_angle_deg=axis_angle,
            angle_range=angle_range,
            exclude=exclude,
        ),
        bin_factor,
    )
    from temdiff_jax.reconstruction import examine

    found = examine.holdout(session.plan_of(series, settings))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for line in [session.describe(series), *table(found)]:
        typer.echo(line)


def table(found: dict[str, Any]) -> list[str]:
    """The record of held-out tilts as lines."""
    held = found["held_out"]
    if held is None:
        return [f"{found['tilts']} tilts are too few to leave some out"]
    lines = [
        f"predicted by {found['method']} from the other tilts:",
        " degrees  error/expected  skill  agrees to  (linear)  power",
    ]
    columns = ("angles_deg", "z", "skill", "frequency", "linear", "power")
    for angle, z, skill, agrees, linear, power in zip(*map(held.get, columns)):
        lines.append(
            f"{angle:8.2f}  {z:14.2f}  {skill:5.2f}  {agrees:9.3f}  {linear:8.3f}  "
            f"{power:5.1f}"
        )
    return [
        *lines,
        "skill: 1 - squared error over that of the quadratic estimate; agrees to: "
        "cycles per pixel at which the Fourier ring correlation falls below 0.5",
        "power: what the others do not measure of the prediction, over the noise; "
        "below 1 this test cannot see what a volume invents",
    ]
