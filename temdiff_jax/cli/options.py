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
Deep = Annotated[
    bool, typer.Option("--deep", help="Allow a slab much deeper than it is wide.")
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
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on with a run that was stopped; else begin one."),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Print memory, time and disk space needed, and stop."
    ),
]
Devices = Annotated[
    int,
    typer.Option(
        min=1,
        help="Devices that share the work: samples first, then slabs along the tilt "
        "axis.",
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print JSON instead of lines to read.")
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Print each decision with its file and line."),
]

WEIGHTINGS = ("off", "robust", "diagonal", "low-rank", "adaptive")
# Those of the library, which takes seconds to import.
DEFAULT_WEIGHTING = "adaptive"
DEFAULT_LOG = "auto"
# A slab is not this many times as deep as it is wide.
_DEEPEST = 4
# Endings of volumes by the name of their format, those of `reconstruction.save`.
VOLUMES = {"mrc": ".mrc", "ome-zarr": ".ome.zarr"}
LOG_MODES = ("auto", "off", "on")
CONTRASTS = ("auto", "bright", "dark")


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
