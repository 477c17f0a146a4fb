"""Options that several commands share, and values with a small syntax of their own."""

import math
import pathlib
from collections.abc import Sequence
from typing import Annotated

import typer

from temdiff_jax.errors import InputError

Path = Annotated[
    pathlib.Path,
    typer.Argument(
        metavar="PATH",
        help="Tilt series: a stack (MRC family, TIFF, EMD, .npz, zarr, ...), a folder "
        "of single images, or a project of IMOD, AreTomo, RELION, Warp or SerialEM.",
    ),
]
Angles = Annotated[
    pathlib.Path | None,
    typer.Option(
        metavar="FILE",
        help="Tilt angles: .tlt, .rawtlt, .mdoc, .aln. Not needed when the stack "
        "or the project has them.",
    ),
]
AlignmentFile = Annotated[
    pathlib.Path | None,
    typer.Option(
        metavar="FILE",
        help="Shifts and rotations of raw images: .xf, .aln. Without it the images of "
        "a plain stack are taken as aligned.",
    ),
]
VoxelSize = Annotated[
    float | None,
    typer.Option(metavar="ANGSTROM", help="Pixel size; overrules the files."),
]
Range = Annotated[
    str | None,
    typer.Option(
        "--range", metavar="LO:HI|WIDTH", help="Use only tilts in this range, degrees."
    ),
]
Exclude = Annotated[
    str | None,
    typer.Option(
        metavar="LIST",
        help="Leave tilts out: numbers as inspect prints them (from 0, in the order of "
        "the file) or angles, such as 3,7-9 or -60:-55deg.",
    ),
]
Bin = Annotated[
    int, typer.Option("--bin", min=1, help="Average blocks of N x N pixels.")
]
Thickness = Annotated[
    int | None, typer.Option(min=1, help="Voxels along the beam, after binning.")
]
TiltAxis = Annotated[
    str, typer.Option(metavar="y|x", help="Direction of the tilt axis.")
]
AxisAngle = Annotated[
    float | None,
    typer.Option(
        metavar="DEGREES",
        help="Direction of the tilt axis of raw images, from +y towards -x; they are "
        "turned by it. Overrules the metadata.",
    ),
]
SmallAngles = Annotated[
    bool,
    typer.Option("--allow-small-angles", help="Small angles are degrees, not radians."),
]
Log = Annotated[
    str, typer.Option(metavar="auto|off|on", help="Take the logarithm of the tilts.")
]
Contrast = Annotated[
    str,
    typer.Option(
        metavar="auto|bright|dark",
        help="What dense matter is in the tilts, or in their logarithm.",
    ),
]
Strict = Annotated[
    bool,
    typer.Option("--strict", help="Exit with code 3 unless the verdict is CONSISTENT."),
]
Weighting = Annotated[
    str,
    typer.Option(
        metavar="off|robust|diagonal|low-rank|adaptive",
        help="robust: mask faulty pixels and doubt tilts that disagree; adaptive: "
        "allow for as much misalignment as the series shows, too; diagonal, "
        "low-rank: for one pixel; off: none of it.",
    ),
]
PriorName = Annotated[
    str, typer.Option(metavar="NAME|FILE", help="Prior; see temdiff priors list.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed; equal seeds, equal results.")]
Out = Annotated[
    pathlib.Path, typer.Option(metavar="DIR", help="Folder for the results.")
]
VolumeFormat = Annotated[
    str, typer.Option("--format", metavar="mrc|ome-zarr", help="Of the volumes.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace files of an earlier run.")
]
Json = Annotated[
    bool, typer.Option("--json", help="Print JSON instead of lines to read.")
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Print each decision with its file and line."),
]

WEIGHTINGS = ("off", "robust", "diagonal", "low-rank", "adaptive")
DEFAULT_WEIGHTING = "adaptive"
# A slab is not this many times as deep as it is wide.
_DEEPEST = 4
LOG_MODES = ("auto", "off", "on")
CONTRASTS = ("auto", "bright", "dark")
TILT_AXES = ("y", "x")

# Samples and steps; a first result on a CPU should cost minutes, not an hour.  More
# steps than 8 change nothing, more samples make the spread surer
# (docs/reports/samplers.md).
_CPU_EFFORT = (4, 8)
_ACCELERATOR_EFFORT = (16, 8)


def parse_range(text: str | None) -> tuple[float, float] | None:
    """Reads a tilt range: "LO:HI" in degrees, or "WIDTH" for -WIDTH/2 to WIDTH/2.

    Raises:
      InputError: If the text is neither, or the range is empty.
    """
    if text is None:
        return None
    try:
        values = [float(part) for part in text.split(":")]
    except ValueError:
        values = []
    if len(values) == 1:
        values = [-0.5 * values[0], 0.5 * values[0]]
    if len(values) != 2 or not all(map(math.isfinite, values)):
        raise InputError(
            f"--range: expected LO:HI or WIDTH in degrees, got {text!r}; write for "
            "example --range -5:5 or --range 10"
        )
    low, high = values
    if low >= high:
        raise InputError(
            f"--range: expected an interval that is not empty, got {text!r}; put the "
            "smaller angle first"
        )
    return low, high


def depth(
    given: int | None, project_px: int | None, factor: int, width: int
) -> tuple[int, str]:
    """Thickness of the volume in voxels, and who chose it.

    Args:
      given: By the user, after binning.
      project_px: By the project, before binning.
      factor: Binning.
      width: Of the binned tilts, the last resort.
    """
    if given is not None:
        return given, "as given"
    if project_px is not None:
        return max(round(project_px / factor), 1), "by the project"
    return width, "as the width, since none was given (--thickness)"


def check_depth(
    thickness: int | None, shape: tuple[int, int], voxel_angstrom: float | None
) -> None:
    """Refuses a thickness that is no number of voxels of these images.

    Args:
      thickness: As given.
      shape: (y, x) of the binned tilts.
      voxel_angstrom: Of the binned tilts, or None.
    """
    most = _DEEPEST * max(shape)
    if thickness is None or thickness <= most:
        return
    hint = ""
    if voxel_angstrom is not None:
        voxels = round(thickness / voxel_angstrom)
        hint = f"{thickness} Angstrom are {voxels} voxels; "
    raise InputError(
        f"--thickness: expected voxels, at most {most} for tilts of {shape[0]} x "
        f"{shape[1]} pixels, got {thickness}; {hint}give the thickness in voxels, or "
        "pass --deep"
    )


def check_positive(option: str, value: float) -> None:
    """Refuses a length that is none."""
    if not (math.isfinite(value) and value > 0):
        raise InputError(
            f"{option}: expected a positive number, got {value:g}; correct it"
        )


def check_choice(option: str, value: str, known: Sequence[str]) -> None:
    """Refuses a value that is not among the known ones.

    Raises:
      InputError: Lists the known values.
    """
    if value not in known:
        raise InputError(
            f"{option}: expected one of {', '.join(known)}, got {value!r}; correct it"
        )


def effort(
    samples: int | None, steps: int | None, *, on_cpu: bool
) -> tuple[int, int, str]:
    """Number of samples and of steps, and a line that says who chose them.

    Args:
      samples: As given, None to choose.
      steps: As given, None to choose.
      on_cpu: Whether the CPU will compute; it gets the smaller defaults.
    """
    default = _CPU_EFFORT if on_cpu else _ACCELERATOR_EFFORT
    chosen = (
        default[0] if samples is None else samples,
        default[1] if steps is None else steps,
    )
    line = f"{chosen[0]} samples of {chosen[1]} steps"
    if samples is None or steps is None:
        device = "a CPU" if on_cpu else "an accelerator"
        line += f" (defaults on {device}; --samples and --steps change them)"
    return *chosen, line
