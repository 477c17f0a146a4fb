"""`temdiff reconstruct`: a tilt series in, a volume with its uncertainty out."""

import dataclasses
import pathlib
from typing import TYPE_CHECKING, Annotated

import typer

from temdiff_jax.cli import choices, options
from temdiff_jax.errors import InputError

if TYPE_CHECKING:
    from temdiff_jax.io.tilt_series import TiltSeries


def reconstruct(
    context: typer.Context,
    stack: Annotated[
        pathlib.Path,
        typer.Argument(
            metavar="STACK", help="Tilt series: MRC family, TIFF, .npz, .npy."
        ),
    ],
    angles: Annotated[
        pathlib.Path | None,
        typer.Option(
            metavar="FILE",
            help="Tilt angles: .tlt, .rawtlt, .mdoc, .aln. Not needed when the stack "
            "carries them.",
        ),
    ] = None,
    alignment: Annotated[
        pathlib.Path | None,
        typer.Option(
            metavar="FILE",
            help="Shifts and rotations of raw images: .xf, .aln. Without it the "
            "images are taken as aligned.",
        ),
    ] = None,
    thickness: Annotated[
        int | None,
        typer.Option(min=1, help="Voxels along the beam, after binning."),
    ] = None,
    voxel_size: Annotated[
        float | None,
        typer.Option(metavar="ANGSTROM", help="Pixel size; overrules the file."),
    ] = None,
    tilt_range: Annotated[
        str | None,
        typer.Option(
            "--range",
            metavar="LO:HI|WIDTH",
            help="Use only tilts in this range, degrees.",
        ),
    ] = None,
    bin_factor: Annotated[
        int, typer.Option("--bin", min=1, help="Average blocks of N x N pixels.")
    ] = 1,
    tilt_axis: Annotated[
        str, typer.Option(metavar="y|x", help="Direction of the tilt axis.")
    ] = "y",
    allow_small_angles: Annotated[
        bool,
        typer.Option(
            "--allow-small-angles", help="Small angles are degrees, not radians."
        ),
    ] = False,
    log: Annotated[
        str,
        typer.Option(metavar="auto|off|on", help="Take the logarithm of the tilts."),
    ] = "auto",
    method: choices.Method = "default",
    samples: choices.Samples = None,
    steps: choices.Steps = None,
    rule: choices.RuleOption = None,
    solver: choices.SolverOption = None,
    schedule: choices.ScheduleOption = None,
    weighting: Annotated[
        str,
        typer.Option(
            metavar="|".join(options.WEIGHTINGS),
            help="robust: mask faulty pixels and doubt tilts that disagree; adaptive: "
            "allow for as much misalignment as the series shows, too; diagonal, "
            "low-rank: for one pixel; off: none of it.",
        ),
    ] = options.DEFAULT_WEIGHTING,
    prior: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="Prior; see temdiff priors list.")
    ] = "default",
    seed: Annotated[
        int, typer.Option(min=0, help="Seed; equal seeds give equal results.")
    ] = 0,
    out: Annotated[
        pathlib.Path, typer.Option(metavar="DIR", help="Folder for the results.")
    ] = pathlib.Path(),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files of an earlier run.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the record of the run as JSON.")
    ] = False,
) -> None:
    """Reconstruct the volume of a tilt series.

    Writes NAME_temdiff.mrc (mean), NAME_std.mrc, NAME_report.png and
    NAME.temdiff.json.
    """
    options.check_choice("--log", log, options.LOG_MODES)
    options.check_choice("--weighting", weighting, options.WEIGHTINGS)
    angle_range = options.parse_range(tilt_range)

    from temdiff_jax.cli import outputs, session
    from temdiff_jax.io import tilt_series

    settings = session.Settings(
        choices.Sampling(method, prior, rule, solver, schedule, samples, steps),
        thickness=thickness,
        seed=seed,
        log=log,
        weighting=weighting,
    ).checked()
    series = tilt_series.load_tilt_series(
        stack,
        angles,
        alignment=alignment,
        voxel_size_angstrom=voxel_size,
        tilt_axis=tilt_axis,
        angle_range=angle_range,
        allow_small_angles=allow_small_angles,
    )
    files = outputs.plan(
        out,
        series.name,
        overwrite=overwrite,
        inputs=[path for path in (stack, angles, alignment) if path is not None],
    )
    session.reconstruct(
        session.Session(context.obj or (), as_json=as_json),
        binned(series, bin_factor),
        settings,
        files,
        command="reconstruct",
        source={
            "path": stack,
            "angles_path": angles,
            "alignment_path": alignment,
            "angle_range_deg": angle_range,
            "bin": bin_factor,
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

    if factor == 1:
        return series
    _, height, width = series.tilts.shape
    if factor > min(height, width):
        raise InputError(
            f"--bin: expected at most {min(height, width)} for images of "
            f"{height} x {width} pixels, got {factor}; choose a smaller one"
        )
    size = series.voxel_size_angstrom
    return dataclasses.replace(
        series,
        tilts=binning.bin_stack(series.tilts, factor),
        voxel_size_angstrom=None if size is None else size * factor,
    )
