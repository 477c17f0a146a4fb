"""`temdiff inspect`: what a series and its files say, before anything is computed."""

import json
import pathlib
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import typer

from temdiff_jax.cli import choices, options

if TYPE_CHECKING:
    from temdiff_jax.io.formats import Image
    from temdiff_jax.io.tilt_series import TiltSeries


def inspect(
    path: options.Path,
    angles: options.Angles = None,
    alignment: options.AlignmentFile = None,
    voxel_size: options.VoxelSize = None,
    tilt_range: options.Range = None,
    exclude: options.Exclude = None,
    bin_factor: options.Bin = 1,
    thickness: options.Thickness = None,
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
    weighting: options.Weighting = options.DEFAULT_WEIGHTING,
    prior: options.PriorName = "default",
    seed: options.Seed = 0,
    out: options.Out = pathlib.Path(),
    volume_format: options.VolumeFormat = "mrc",
    overwrite: options.Overwrite = False,
    picture: Annotated[
        pathlib.Path | None,
        typer.Option(
            metavar="FILE",
            help="PNG of all tilts, masked pixels in red, with axis, shifts and wedge.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything as JSON.")
    ] = False,
) -> None:
    """Print what is found at a path and what `temdiff reconstruct` will do with it.

    Takes the options of reconstruct; nothing is computed from the prior, and no file is
    written but the picture.
    """
    options.check_choice("--log", log, options.LOG_MODES)
    options.check_choice("--weighting", weighting, options.WEIGHTINGS)
    angle_range = options.parse_range(tilt_range)
    sampling = choices.Sampling(method, prior, rule, solver, schedule, samples, steps)
    run = _run(sampling, weighting, seed)

    from temdiff_jax.io import projects, tilt_series, write

    if picture is not None:
        write.check_output(picture, overwrite=overwrite)

    found, image = tilt_series.look(path, need_angles=angles is None)
    try:
        series = tilt_series.series_of(
            path,
            found,
            image,
            angles,
            alignment=alignment,
            voxel_size_angstrom=voxel_size,
            tilt_axis=tilt_axis,
            axis_angle_deg=axis_angle,
            angle_range=angle_range,
            exclude=exclude,
            allow_small_angles=allow_small_angles,
        )
    except projects.NoAngles:
        # Such a stack still shows what its header says.
        lines = _header_lines(found.kind, image)
        lines += [f"warning: {line}" for line in (*image.warnings, *found.warnings)]
        lines.append("warning: no tilt angles in the file; give them with --angles")
        _print(lines)
        return
    seen = _looked(series)
    preview = _preview(series, seen, bin_factor, thickness, log) | run
    preview["writes"] = _files(out, series.name, volume_format, sampling)
    if picture is not None:
        _draw(picture, series, seen, preview, overwrite=overwrite)
        preview["picture"] = str(picture)
    if as_json:
        _print([json.dumps(_record(found.kind, image, series, preview), indent=2)])
        return
    lines = _header_lines(found.kind, image) + _series_lines(series) + _table(series)
    if verbose:
        lines += [f"decision      {decision}" for decision in series.decisions]
    lines += [f"{key:<13} {value}" for key, value in preview.items()]
    _print(lines + [f"warning: {line}" for line in series.warnings])


def _header_lines(kind: str, image: "Image") -> list[str]:
    """What the file says about itself."""
    sections, rows, columns = image.data.shape
    lines = [
        f"found         {kind}",
        f"stored        {sections} sections of {rows} x {columns} (y, x)",
        *(f"{name:<13} {value}" for name, value in image.header),
    ]
    return lines + [f"label         {label}" for label in image.labels]


def _series_lines(series: "TiltSeries") -> list[str]:
    """Extents, angles and digest of the series as it will be used."""
    _, height, width = series.tilts.shape
    steps = np.diff(series.angles_deg)
    spacing = f", median step {np.median(steps):g}" if steps.size else ""
    size = series.voxel_size_angstrom
    return [
        f"series        {series.name}",
        f"images        {series.num_tilts} of {height} x {width} (y, x), "
        f"tilt axis {series.tilt_axis} in the file, y here",
        f"pixel size    {'unknown' if size is None else f'{size:g} Angstrom'}",
        f"tilts         {series.angles_deg[0]:g} to {series.angles_deg[-1]:g} degrees"
        f"{spacing}",
        f"sha256        {series.sha256}",
    ]


class Seen(NamedTuple):
    """What the images themselves show.

    Attributes:
      masked: Pixels that will not be believed, [n_tilts, y, x] bool.
      shares: How many, and why.
      axis: Degrees from where the axis is taken to be, and how clearly; None if the
        tilts are too few.
      shifts: Of neighbours, (x, y) pixels, [n_tilts - 1, 2].
    """

    masked: np.ndarray
    shares: str
    axis: tuple[float, float] | None
    shifts: np.ndarray


def _looked(series: "TiltSeries") -> Seen:
    """Masks, axis and shifts of the tilts."""
    from temdiff_jax.cli import estimate
    from temdiff_jax.series.weighting import masks

    # The core has x before y.
    found = masks.find_masks(np.swapaxes(series.tilts, 1, 2))
    shares = ", ".join(
        f"{name} {100 * share:.2g} %"
        for name, share in found.shares().items()
        if name not in ("outside", "all") and share
    )
    lying = series.alignment
    few = series.num_tilts < estimate.FEWEST
    return Seen(
        np.swapaxes(found.keep, 1, 2) <= 0,
        shares,
        None if few else estimate.axis_angle(series.tilts, lying),
        estimate.neighbour_shifts(series.tilts, lying),
    )


def _preview(
    series: "TiltSeries", seen: Seen, factor: int, thickness: int | None, log: str
) -> dict[str, str]:
    """What a reconstruction with these options would take and decide."""
    from temdiff_jax.cli import estimate
    from temdiff_jax.series import intensity

    if factor > 1:
        from temdiff_jax.cli.reconstruct import binned

        series = binned(series, factor)
    _, height, width = series.tilts.shape
    depth, why = options.depth(thickness, series.thickness_px, factor, width)
    _, record = intensity.to_dense_bright(
        series.tilts, series.angles_deg, log=log, contrast="auto"
    )
    low, high = float(series.angles_deg[0]), float(series.angles_deg[-1])
    missing = 100 * (1 - min((high - low) / 180, 1))
    preview = {
        "volume": f"{depth} x {height} x {width} (z, y, x), thickness {why}",
        "logarithm": f"{record['log']} (chosen by {record['log_chosen_by']})",
        "dense matter": f"{record['dense_is']} (chosen by {record['dense_chosen_by']})",
        "wedge": f"{estimate.wedge(low, high)}  {missing:.0f} % of the directions "
        "are not measured",
        "axis": estimate.axis_line(seen.axis, high - low),
        "shifts": estimate.shift_line(seen.shifts),
        "masked": seen.shares or "no pixel",
    }
    if record["constant"]:
        preview["constant"] = f"{record['constant']:.4g} under all tilts, taken off"
    if series.alignment is not None:
        from temdiff_jax.cli import session

        preview["alignment"] = session.lying(series)
    return preview


def _run(sampling: choices.Sampling, weighting: str, seed: int) -> dict[str, str]:
    """The method and its settings, names checked; its network is not read."""
    from temdiff_jax.reconstruction.methods import method_of

    row = method_of(sampling.method)
    line = f"{row.name}: {row.summary}"
    if row.needs:
        line += f"; prior {sampling.prior}"
    return {"method": line, "weighting": f"{weighting}, seed {seed}"}


def _files(
    out: pathlib.Path, name: str, volume_format: str, sampling: choices.Sampling
) -> str:
    """Names of the files of a run; those that are in the way are marked."""
    from temdiff_jax.cli import outputs
    from temdiff_jax.reconstruction.methods import method_of

    options.check_choice("--format", volume_format, tuple(outputs.VOLUMES))
    spread = "num_samples" in method_of(sampling.method).takes
    ending = outputs.VOLUMES[volume_format]
    files = outputs.named(out, name, ending=ending, spread=spread, overwrite=False)
    return ", ".join(f"{p}{' (exists)' if p.exists() else ''}" for p in files.paths())


def _draw(
    picture: pathlib.Path,
    series: "TiltSeries",
    seen: Seen,
    preview: dict[str, str],
    *,
    overwrite: bool,
) -> None:
    """The picture of all tilts and of what was found in them."""
    from temdiff_jax.report import montage

    lying = series.alignment
    given = 0.0 if lying is None else float(np.median(lying.rotations_deg))
    facts = montage.Facts(
        lines=[f"{key}: {value}" for key, value in preview.items()],
        axis_deg=given,
        axis_found_deg=None if seen.axis is None else given + seen.axis[0],
        shifts=seen.shifts,
    )
    montage.write_montage(
        picture,
        series.tilts,
        series.angles_deg,
        seen.masked,
        facts,
        overwrite=overwrite,
    )


def _table(series: "TiltSeries") -> list[str]:
    """One line per tilt, sorted by angle, with the grey values found."""
    lines = [
        "",
        "tilt   degrees          mean           std       minimum       maximum",
    ]
    views = np.arange(series.num_tilts) if series.views is None else series.views
    for number, angle, image in zip(
        views, series.angles_deg, series.tilts, strict=True
    ):
        mean, std = image.mean(dtype=np.float64), image.std(dtype=np.float64)
        lines.append(
            f"{int(number):4d}  {angle:8.2f}  {mean:12.6g}  {std:12.6g}"
            f"  {image.min():12.6g}  {image.max():12.6g}"
        )
    return [*lines, ""]


def _record(
    kind: str, image: "Image", series: "TiltSeries", preview: dict[str, str]
) -> dict[str, Any]:
    """The same for machines."""
    views = np.arange(series.num_tilts) if series.views is None else series.views
    return {
        "format": "temdiff-inspect-1",
        "kind": kind,
        "path": str(series.path),
        "name": series.name,
        "header": dict(image.header),
        "shape": list(series.tilts.shape),
        "voxel_size_angstrom": series.voxel_size_angstrom,
        "angles_deg": series.angles_deg.tolist(),
        "views": [int(v) for v in views],
        "sha256": series.sha256,
        "preview": preview,
        "decisions": [str(d) for d in series.decisions],
        "warnings": list(series.warnings),
    }


def _print(lines: list[str]) -> None:
    """Text of a file without the control characters a terminal would obey."""
    for line in lines:
        kept = (c if c.isprintable() or c == "\n" else "?" for c in line)
        typer.echo("".join(kept))
