"""What a user asks for: which tilts, what is known of them, where results go."""

import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any

from temdiff_jax.cli import options
from temdiff_jax.errors import InputError

if TYPE_CHECKING:
    from temdiff_jax.io.formats import Image
    from temdiff_jax.io.projects import Found
    from temdiff_jax.io.tilt_series import TiltSeries


@dataclasses.dataclass(frozen=True)
class Source:
    """Where the tilts are, and which of them are taken; see `io.tilt_series`."""

    path: options.Path
    angles: options.Angles = None
    alignment: options.AlignmentFile = None
    voxel_size: options.VoxelSize = None
    tilt_range: options.Range = None
    exclude: options.Exclude = None
    bin_factor: options.Bin = 1
    tilt_axis: options.TiltAxis = "y"
    axis_angle: options.AxisAngle = None
    allow_small_angles: options.SmallAngles = False

    def __post_init__(self) -> None:
        self.angle_range()

    def angle_range(self) -> tuple[float, float] | None:
        """(lowest, highest) angle to keep, degrees."""
        return options.parse_range(self.tilt_range)

    def look(self) -> tuple["Found", "Image"]:
        """What the path leads to, see `io.tilt_series.look`."""
        from temdiff_jax.io import tilt_series

        return tilt_series.look(self.path, need_angles=self.angles is None)

    def series_of(self, found: "Found", image: "Image") -> "TiltSeries":
        """The series of what was found, on its own pixels."""
        from temdiff_jax.io import tilt_series

        return tilt_series.series_of(
            self.path,
            found,
            image,
            self.angles,
            alignment=self.alignment,
            voxel_size_angstrom=self.voxel_size,
            tilt_axis=self.tilt_axis,
            axis_angle_deg=self.axis_angle,
            angle_range=self.angle_range(),
            exclude=self.exclude,
            allow_small_angles=self.allow_small_angles,
        )

    def load(self) -> "TiltSeries":
        """The series as it will be reconstructed, on binned pixels.

        Its warnings tell of an axis that the images show elsewhere, too.
        """
        from temdiff_jax.cli import estimate

        series = binned(self.series_of(*self.look()), self.bin_factor)
        axis = estimate.axis_angle(series.tilts, series.alignment)
        doubts = estimate.axis_doubt(axis, series.num_tilts)
        return dataclasses.replace(series, warnings=(*series.warnings, *doubts))

    def files(self) -> list[Any]:
        """The input files that the user named."""
        named = (self.path, self.angles, self.alignment)
        return [file for file in named if file is not None]

    def record(self, series: "TiltSeries") -> dict[str, Any]:
        """What the record of a run says about its input, JSON-ready."""
        return {
            "path": self.path,
            "angles_path": self.angles,
            "alignment_path": self.alignment,
            "angle_range_deg": self.angle_range(),
            "exclude": self.exclude,
            "axis_angle_deg": self.axis_angle,
            "decisions": [str(decision) for decision in series.decisions],
            "bin": self.bin_factor,
        }


@dataclasses.dataclass(frozen=True)
class Model:
    """What a user says of slab, intensities and noise; None where nothing is said."""

    thickness: options.Thickness = None
    deep: options.Deep = False
    log: options.Log = options.DEFAULT_LOG
    contrast: options.Contrast = "auto"
    weighting: options.Weighting = options.DEFAULT_WEIGHTING
    seed: options.Seed = 0

    def __post_init__(self) -> None:
        options.check_choice("--log", self.log, options.LOG_MODES)
        options.check_choice("--contrast", self.contrast, options.CONTRASTS)
        options.check_choice("--weighting", self.weighting, options.WEIGHTINGS)

    def of(self, series: "TiltSeries") -> "Model":
        """With the thickness that the project of a series names, if none was given.

        Raises:
          InputError: A thickness that is no number of voxels of these images.
        """
        own = self if self.thickness else self.with_thickness(series.thickness_px)
        if not own.deep:
            _, height, width = series.tilts.shape
            options.check_depth(
                own.thickness, (height, width), series.voxel_size_angstrom
            )
        return own

    def with_thickness(self, thickness: int | None) -> "Model":
        """The same for another slab."""
        return dataclasses.replace(self, thickness=thickness)

    def series_options(self, series: "TiltSeries") -> Any:
        """`SeriesOptions` of the library."""
        from temdiff_jax.series.preparation import SeriesOptions

        return SeriesOptions(
            thickness=self.thickness,
            voxel_size_angstrom=series.voxel_size_angstrom,
            log=self.log,
            contrast=self.contrast,
            weighting=self.weighting,
            alignment=series.alignment,
            warnings=series.warnings,
        )


@dataclasses.dataclass(frozen=True)
class Results:
    """Where results go, as a user wrote it."""

    out: options.Out = pathlib.Path()
    volume_format: options.VolumeFormat = "mrc"
    overwrite: options.Overwrite = False
    resume: options.Resume = False

    def __post_init__(self) -> None:
        options.check_choice("--format", self.volume_format, tuple(options.VOLUMES))


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
    depth = series.thickness_px
    return dataclasses.replace(
        series,
        tilts=binning.bin_stack(series.tilts, factor),
        alignment=lying,
        voxel_size_angstrom=None if size is None else size * factor,
        thickness_px=None if depth is None else max(round(depth / factor), 1),
    )
