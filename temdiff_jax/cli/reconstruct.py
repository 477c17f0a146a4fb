"""`temdiff reconstruct`: a tilt series in, a volume with its uncertainty out."""

import dataclasses
import pathlib
from typing import TYPE_CHECKING, Annotated

import typer

from temdiff_jax.cli import choices, options, runfile
from temdiff_jax.errors import InputError

if TYPE_CHECKING:
    from temdiff_jax.io.tilt_series import TiltSeries


def reconstruct(
    context: typer.Context,
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
    allow_small_angles: options.SmallAngles = False,
    log: options.Log = "auto",
    verbose: options.Verbose = False,
    method: choices.Method = "default",
    samples: choices.Samples = None,
    steps: choices.Steps = None,
    rule: choices.RuleOption = None,
    solver: choices.SolverOption = None,
    schedule: choices.ScheduleOption = None,
    numbers: choices.Numbers = None,
    weighting: options.Weighting = options.DEFAULT_WEIGHTING,
    prior: options.PriorName = "default",
    seed: options.Seed = 0,
    out: options.Out = pathlib.Path(),
    volume_format: options.VolumeFormat = "mrc",
    overwrite: options.Overwrite = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with a run that was stopped; else begin one."
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print memory, time and disk space needed, and stop."
        ),
    ] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Allow a slab much deeper than it is wide.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the record of the run as JSON.")
    ] = False,
    config: runfile.Config = None,
    write_config: runfile.WriteConfig = None,
) -> None:
    """Reconstruct the volume of a tilt series.

    Writes NAME_temdiff.mrc (mean), NAME_std.mrc if samples are drawn, NAME_report.html,
    its cover NAME_report.png, and NAME.temdiff.json.
    """
    del config  # read before the other options
    options.check_choice("--log", log, options.LOG_MODES)
    options.check_choice("--weighting", weighting, options.WEIGHTINGS)
    angle_range = options.parse_range(tilt_range)

    from temdiff_jax.cli import estimate, outputs, session
    from temdiff_jax.io import tilt_series, write

    options.check_choice("--format", volume_format, tuple(outputs.VOLUMES))
    settings = session.Settings(
        choices.Sampling(
            method, prior, rule, solver, schedule, samples, steps, tuple(numbers or ())
        ),
        thickness=thickness,
        seed=seed,
        log=log,
        weighting=weighting,
        dry_run=dry_run,
        resume=resume,
    ).checked()
    series = tilt_series.load_tilt_series(
        path,
        angles,
        alignment=alignment,
        voxel_size_angstrom=voxel_size,
        tilt_axis=tilt_axis,
        axis_angle_deg=axis_angle,
        angle_range=angle_range,
        exclude=exclude,
        allow_small_angles=allow_small_angles,
    )
    doubts = estimate.axis_doubt(series.tilts, series.alignment)
    series = dataclasses.replace(series, warnings=(*series.warnings, *doubts))
    ending, spread = outputs.VOLUMES[volume_format], settings.draws
    files = outputs.named(
        out, series.name, ending=ending, spread=spread, overwrite=overwrite
    )
    if not dry_run:
        files = outputs.plan(
            out,
            series.name,
            overwrite=overwrite,
            ending=ending,
            spread=spread,
            inputs=[file for file in (path, angles, alignment) if file is not None],
            resume=resume,
        )
    running = session.Session(context.obj or (), as_json=as_json)
    if verbose:
        running.say_later([f"decision: {decision}" for decision in series.decisions])
    if thickness is None and series.thickness_px is not None:
        thickness, _ = options.depth(None, series.thickness_px, bin_factor, 0)
    sides = (series.tilts.shape[1] // bin_factor, series.tilts.shape[2] // bin_factor)
    size = series.voxel_size_angstrom
    if not deep:
        voxel = None if size is None else size * bin_factor
        options.check_depth(thickness, sides, voxel)
    chosen = runfile.given(context)
    if write_config is not None:
        write.write_text(write_config, runfile.text_of(chosen), overwrite=overwrite)
    session.reconstruct(
        running,
        binned(series, bin_factor),
        dataclasses.replace(settings, thickness=thickness),
        files,
        command="reconstruct",
        source={
            "path": path,
            "angles_path": angles,
            "alignment_path": alignment,
            "angle_range_deg": angle_range,
            "exclude": exclude,
            "axis_angle_deg": axis_angle,
            "decisions": [str(decision) for decision in series.decisions],
            "bin": bin_factor,
            "config": chosen,
        },
    )


def binned(series: "TiltSeries", factor: int) -> "TiltSeries":
    """The series on a coarser grid; intensities are then per coarse voxel.

    Args:
      series: Checked tilts.
      factor: Pixels per block along y and x.

    Raises:
      InputError: If a block would be larger than the image.
    """
    from temdiff_jax.io import binning
    from temdiff_jax.io.alignment import record

    if factor == 1:
        return series
    _, height, width = series.tilts.shape
    if factor > min(height, width):
        raise InputError(
            f"--bin: expected at most {min(height, width)} for images of "
            f"{height} x {width} pixels, got {factor}; choose a smaller one"
        )
    size, lying = series.voxel_size_angstrom, series.alignment
    if lying is not None:
        lying = record.binned(lying, factor)
    return dataclasses.replace(
        series,
        tilts=binning.bin_stack(series.tilts, factor),
        alignment=lying,
        voxel_size_angstrom=None if size is None else size * factor,
    )
