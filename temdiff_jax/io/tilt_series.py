"""One tilt series from disk: images, angles and voxel size, checked and sorted."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from temdiff_jax.io import (
    agree,
    attach,
    axis,
    checks,
    choice,
    formats,
    gate,
    images,
    projects,
)
from temdiff_jax.io.alignment import angles as tilt_angles
from temdiff_jax.io.alignment import record as alignments
from temdiff_jax.io.alignment.record import Alignment
from temdiff_jax.io.attach import AnglesSource
from temdiff_jax.io.projects import aretomo
from temdiff_jax.io.projects.found import Decision, Found, Frame, Placement

# An even thickness where none is known: packages agree on its centre.
_ANY_THICKNESS = 2


@dataclasses.dataclass(frozen=True)
class TiltSeries:
    """Tilt images with the tilt axis along y, sorted by angle.

    Attributes:
      tilts: [n_tilts, y, x], float32, C-contiguous, finite; row 0 is the bottom.
      angles_deg: [n_tilts] float64, ascending.
      voxel_size_angstrom: Pixel pitch, or None when nobody knows.
      name: Name of the series (file name without endings).
      path: File or folder, or None for arrays.
      warnings: One line per assumption, repair or doubt.
      sha256: Of the file's bytes (of the arrays' bytes without a file), 64 hex digits.
      tilt_axis: "y", or "x" if the file had the axis along x and the images were
        turned; `axis.volume_to_file` turns results back.
      alignment: How these images lie, for the projector; None where they are aligned.
      views: Number of each image in its file, [n_tilts], from 0.
      thickness_px: Of the volume as the project has it, in pixels of these images.
      decisions: What was taken from where, one a line.
    """

    tilts: np.ndarray
    angles_deg: np.ndarray
    voxel_size_angstrom: float | None
    name: str
    path: pathlib.Path | None
    warnings: tuple[str, ...]
    sha256: str
    tilt_axis: str = "y"
    alignment: Alignment | None = None
    views: np.ndarray | None = None
    thickness_px: int | None = None
    decisions: tuple[Decision, ...] = ()

    @property
    def num_tilts(self) -> int:
        """Number of images."""
        return self.tilts.shape[0]


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which tilts are used and how their images are taken.

    Attributes:
      voxel_size_angstrom: Pixel pitch; overrules the files.
      tilt_axis: "y" or "x", direction of the tilt axis in the file (see `axis`).
      axis_angle_deg: Direction of the tilt axis of raw images, from +y towards -x; the
        images are turned by it.  Overrules what metadata say.
      angle_range: (lowest, highest) angle to keep, degrees, inclusive.
      exclude: Tilts to leave out, for example "3,7-9" or "-60:-55deg" (see `choice`).
      allow_small_angles: Do not suspect radians in a list of small angles.
      resample: Turn and shift raw images in one interpolation.  Otherwise they stay as
        they are, but for quarter turns, and the series has their `alignment`, for the
        projector; stretched images are resampled in any case.
    """

    voxel_size_angstrom: float | None = None
    tilt_axis: str = "y"
    axis_angle_deg: float | None = None
    angle_range: tuple[float, float] | None = None
    exclude: str | None = None
    allow_small_angles: bool = False
    resample: bool = False


def load_tilt_series(
    path: str | os.PathLike[str],
    angles: AnglesSource = None,
    *,
    alignment: str | os.PathLike[str] | None = None,
    max_input_gb: float = gate.DEFAULT_MAX_INPUT_GB,
    **selection: object,
) -> TiltSeries:
    """Find a tilt series, read it, check it and sort it by angle.

    Args:
      path: A stack of any format of `formats.FORMATS`, a folder of single images, a
        zarr or N5 store, or a project: a folder of IMOD, AreTomo's .aln, a STAR file
        of RELION, Warp's XML, SerialEM's .mdoc, or the folder that holds one.
      angles: A .tlt, .rawtlt, .mdoc, .aln or text file, or degrees in stack order;
        None takes those of the project, of the stack, or of a file of its name.
      alignment: An IMOD .xf or AreTomo .aln whose shifts and rotations are applied to
        the raw images; None for images that are aligned.
      max_input_gb: Limit for the float32 array, GiB.
      **selection: Fields of `Selection`.

    Returns:
      The series; doubts are in `.warnings`, sources in `.decisions`.

    Raises:
      InputError: one line with expected, got and what to do, for every bad input.
    """
    found, image = look(path, max_input_gb=max_input_gb, need_angles=angles is None)
    return series_of(path, found, image, angles, alignment=alignment, **selection)


def look(
    path: str | os.PathLike[str],
    *,
    max_input_gb: float = gate.DEFAULT_MAX_INPUT_GB,
    need_angles: bool = True,
) -> tuple[Found, formats.Image]:
    """What a path leads to, and its images as their files have them.

    Raises:
      InputError: as `load_tilt_series`.
    """
    path = pathlib.Path(path)
    with gate.reading(path, "a tilt series"):
        found = projects.find(path, need_angles=need_angles)
    return found, images.read_images(found, max_input_gb)


def series_of(
    path: str | os.PathLike[str],
    found: Found,
    image: formats.Image,
    angles: AnglesSource = None,
    *,
    alignment: str | os.PathLike[str] | None = None,
    **selection: object,
) -> TiltSeries:
    """The series of images that `look` found; see `load_tilt_series`."""
    chosen = Selection(**selection)  # type: ignore[arg-type]
    if alignment is not None and angles is None and attach.is_aln(alignment):
        angles = alignment
    if chosen.voxel_size_angstrom is None:
        image = images.square(image)
    found = attach.with_angles(
        found, image, angles, allow_small_angles=chosen.allow_small_angles
    )
    if alignment is not None:
        found = attach.with_alignment(found, pathlib.Path(alignment))
    if chosen.axis_angle_deg is not None and chosen.tilt_axis != "y":
        raise gate.bad_input(
            "axis_angle_deg (--axis-angle) and tilt_axis (--tilt-axis)",
            "one of them",
            "both",
            "leave --tilt-axis out",
        )
    said = chosen.axis_angle_deg is not None
    if said or (found.kind == "SerialEM" and chosen.tilt_axis == "y"):
        found = attach.with_axis(found, chosen.axis_angle_deg)
    return _assembled(pathlib.Path(path), found, image, chosen)


def _assembled(
    path: pathlib.Path, found: Found, image: formats.Image, chosen: Selection
) -> TiltSeries:
    """The series of images whose angles and alignment are known."""
    name = _readable(found.name or formats.stem(path))
    stated, notes = agree.pixel_size(
        image.voxel_size_angstrom,
        found.pixel_angstrom,
        chosen.voxel_size_angstrom,
        found.images[0].name,
    )
    found = aretomo.rescaled(found, image.data.shape[1:])
    tilts, views = images.rows(found, image.data)
    degrees = found.angles_deg
    if degrees is None:
        raise ValueError("a series without angles")
    checks.check_counts(tilts, degrees.size, name)
    placement = None
    if found.place is not None:
        thickness = found.thickness_px or _ANY_THICKNESS
        placement = found.place(Frame(tilts.shape[1:], stated, thickness))
        _check_rows(found, placement, len(tilts))
        degrees = placement.angles_deg
    else:
        notes += agree.axis(found.axis_deg, chosen.tilt_axis, found.images[0].name)
    decisions = list(found.decisions)
    keep, left = _kept(found, chosen, views, degrees)
    decisions += left
    tilts, views, degrees = tilts[keep], views[keep], degrees[keep]
    own = None
    if placement is not None and chosen.tilt_axis != "y":
        raise gate.bad_input(
            "tilt_axis (--tilt-axis)",
            "images without an alignment",
            "both",
            "leave it out: the alignment says where the axis is",
        )
    if placement is not None:
        tilts, own, said = images.placed_images(
            tilts, placement, keep, resample=chosen.resample
        )
        notes += said
    series = tilt_series_from_arrays(
        tilts,
        degrees,
        voxel_size_angstrom=stated,
        tilt_axis=chosen.tilt_axis,
        angle_range=chosen.angle_range,
        name=name,
        allow_small_angles=chosen.allow_small_angles,
        view_numbers=views,
        alignment=own,
        sha256=_digest(found),
    )
    return dataclasses.replace(
        series,
        path=path,
        thickness_px=found.thickness_px,
        decisions=tuple(decisions),
        warnings=(*image.warnings, *found.warnings, *notes, *series.warnings),
    )


def tilt_series_from_arrays(
    tilts: np.ndarray,
    angles_deg: Sequence[float] | np.ndarray,
    *,
    voxel_size_angstrom: float | None = None,
    tilt_axis: str = "y",
    angle_range: tuple[float, float] | None = None,
    name: str = "tilts",
    allow_small_angles: bool = False,
    view_numbers: np.ndarray | None = None,
    alignment: Alignment | None = None,
    sha256: str | None = None,
) -> TiltSeries:
    """Check and sort a series that is already in memory.

    Args:
      tilts: [n_tilts, y, x], real; promoted to float32.
      angles_deg: [n_tilts], degrees.
      voxel_size_angstrom: Pixel pitch or None.
      tilt_axis: "y" or "x", direction of the tilt axis in `tilts`.
      angle_range: (lowest, highest) angle to keep, degrees, inclusive.
      name: Used in messages.
      allow_small_angles: Do not suspect radians in a list of small angles.
      view_numbers: Number of each image for messages; 0, 1, 2, ... by default.
      alignment: How the images lie, in their order; None for aligned ones.
      sha256: Digest to record; computed from the arrays by default.

    Raises:
      InputError: as `load_tilt_series`.
    """
    stack = np.asarray(tilts)
    checks.check_form(stack, name)
    degrees = attach.numbers(angles_deg, name)
    checks.check_counts(stack, degrees.size, name)
    # A series over 180 degrees or more may be cut to a range; NaN never passes.
    tilt_angles.check_range(degrees, name, limit=90.0 if angle_range is None else 360.0)
    if not allow_small_angles:
        tilt_angles.suspect_radians(degrees, name)
    checks.check_voxel(voxel_size_angstrom)
    views = np.arange(degrees.size) if view_numbers is None else view_numbers
    digest = _array_sha256(stack, degrees) if sha256 is None else sha256
    keep, notes = checks.order_by_angle(degrees, angle_range, name)
    if not np.array_equal(keep, np.arange(degrees.size)):
        stack, degrees, views = stack[keep], degrees[keep], np.asarray(views)[keep]
        alignment = None if alignment is None else alignments.taken(alignment, keep)
    stack = np.ascontiguousarray(stack, dtype=np.float32)
    tilt_angles.check_range(degrees, name)
    notes += agree.some_tilt(degrees, name)
    notes += checks.check_values(stack, degrees, views, name)
    notes += agree.order_of_axes(stack, name)
    turned = axis.tilts_from_file(stack, tilt_axis)
    return TiltSeries(
        tilts=turned,
        angles_deg=degrees,
        voxel_size_angstrom=voxel_size_angstrom,
        name=name,
        path=None,
        warnings=tuple(notes),
        sha256=digest,
        tilt_axis=tilt_axis,
        alignment=alignment,
        views=np.asarray(views),
    )


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, 64 hex digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _readable(name: str) -> str:
    """A name that any output can bear; bytes that are no UTF-8 become a mark."""
    return os.fsencode(name).decode("utf-8", "replace")


def _digest(found: Found) -> str:
    """Of the stack, or of the digests of all files that the images lie in."""
    files: list[pathlib.Path] = []
    for path in dict.fromkeys(found.images):
        inside = sorted(p for p in path.rglob("*") if p.is_file())
        files += inside if path.is_dir() else [path]
    if len(files) == 1:
        return file_sha256(files[0])
    whole = hashlib.sha256()
    for path in files:
        whole.update(bytes.fromhex(file_sha256(path)))
    return whole.hexdigest()


def _kept(
    found: Found, chosen: Selection, views: np.ndarray, degrees: np.ndarray
) -> tuple[np.ndarray, list[Decision]]:
    """Indices of the tilts that stay, and a line about those that do not."""
    out = np.isin(views, found.excluded)
    if chosen.exclude is not None:
        out |= choice.left_out(chosen.exclude, views, degrees)
    if out.all():
        raise gate.bad_input(
            found.images[0], "tilts that are used", "all left out", "check the lists"
        )
    if not out.any():
        return np.arange(len(views)), []
    listed = ", ".join(
        f"{int(v)} ({a:g} deg)" for v, a in zip(views[out], degrees[out], strict=True)
    )
    return np.flatnonzero(~out), [Decision(f"tilts left out: {listed}")]


def _check_rows(found: Found, placement: Placement, count: int) -> None:
    if len(placement.angles_deg) != count:
        raise gate.bad_input(
            f"{found.images[0]} and its alignment",
            f"one transform per tilt, {count}",
            len(placement.angles_deg),
            "pass the alignment file of this series",
        )


def _array_sha256(stack: np.ndarray, degrees: np.ndarray) -> str:
    digest = hashlib.sha256(degrees.tobytes())
    for image in stack:
        digest.update(image.tobytes())
    return digest.hexdigest()
