"""One tilt series from a file: images, angles and voxel size, checked and sorted."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from temdiff_jax.io import (
    align2d,
    aln,
    axis,
    checks,
    gate,
    mrc,
    npz,
    side_files,
    tiff,
)

_SAME_VOXEL = 1e-3

AnglesSource = str | os.PathLike[str] | Sequence[float] | np.ndarray | None


@dataclasses.dataclass(frozen=True)
class TiltSeries:
    """Tilt images with the tilt axis along y, sorted by angle.

    Attributes:
      tilts: [n_tilts, y, x], float32, C-contiguous, finite.
      angles_deg: [n_tilts] float64, ascending.
      voxel_size_angstrom: Pixel pitch, or None when nobody knows.
      name: Name of the series (file name without endings).
      path: File, or None for arrays.
      warnings: One line per assumption, repair or doubt.
      sha256: Of the file's bytes (of the arrays' bytes without a file), 64 hex digits.
      tilt_axis: "y", or "x" if the file had the axis along x and the images were
        turned; `axis.volume_to_file` turns results back.
    """

    tilts: np.ndarray
    angles_deg: np.ndarray
    voxel_size_angstrom: float | None
    name: str
    path: pathlib.Path | None
    warnings: tuple[str, ...]
    sha256: str
    tilt_axis: str = "y"

    @property
    def num_tilts(self) -> int:
        """Number of images."""
        return self.tilts.shape[0]


class _Stack(NamedTuple):
    """What a file holds, before angles from elsewhere are attached."""

    tilts: np.ndarray
    angles_deg: np.ndarray | None
    voxel: tuple[float, float, float] | None
    notes: list[str]


def load_tilt_series(
    path: str | os.PathLike[str],
    angles: AnglesSource = None,
    *,
    alignment: str | os.PathLike[str] | None = None,
    voxel_size_angstrom: float | None = None,
    tilt_axis: str = "y",
    angle_range: tuple[float, float] | None = None,
    max_input_gb: float = gate.DEFAULT_MAX_INPUT_GB,
    allow_small_angles: bool = False,
) -> TiltSeries:
    """Read a tilt series, check it and sort it by angle.

    Args:
      path: MRC family, .tif/.tiff, .npz or .npy; images [n_tilts, y, x].
      angles: A .tlt, .rawtlt, .mdoc, .aln or text file, or degrees in stack order;
        None takes the ones of an .aln alignment, else those that the stack itself
        carries (.npz, extended MRC header).
      alignment: An IMOD .xf or AreTomo .aln whose shifts and rotations are applied to
        the raw images; None for images that are aligned.
      voxel_size_angstrom: Pixel pitch; overrules the file.
      tilt_axis: "y" or "x", direction of the tilt axis in the file (see `axis`).
      angle_range: (lowest, highest) angle to keep, degrees, inclusive.
      max_input_gb: Limit for the float32 array, GiB.
      allow_small_angles: Do not suspect radians in a list of small angles.

    Returns:
      The series; doubts are in `.warnings`.

    Raises:
      InputError: one line with expected, got and what to do, for every bad input.
    """
    path, _ = gate.regular_file(path)
    stack = _read_stack(path, max_input_gb)
    if alignment is not None and angles is None and _is_aln(alignment):
        angles = alignment
    views, degrees, pitch, notes = _angles_for(
        path, stack, angles, allow_small_angles=allow_small_angles
    )
    if alignment is None and isinstance(angles, str | os.PathLike) and _is_aln(angles):
        name = pathlib.Path(angles).name
        notes.append(f"{name}: only the angles are used; pass it as --alignment too")
    stated, voxel_notes = _pitch(stack.voxel, pitch, voxel_size_angstrom, path.name)
    tilts = stack.tilts if views is None else stack.tilts[views]
    if alignment is not None:
        tilts, align_notes = _aligned(path, tilts, pathlib.Path(alignment), views)
        notes.extend(align_notes)
    series = tilt_series_from_arrays(
        tilts,
        degrees,
        voxel_size_angstrom=stated,
        tilt_axis=tilt_axis,
        angle_range=angle_range,
        name=_stem(path),
        allow_small_angles=allow_small_angles,
        view_numbers=views,
        sha256=file_sha256(path),
    )
    return dataclasses.replace(
        series,
        path=path,
        warnings=(*stack.notes, *notes, *voxel_notes, *series.warnings),
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
      sha256: Digest to record; computed from the arrays by default.

    Raises:
      InputError: as `load_tilt_series`.
    """
    stack = np.asarray(tilts)
    checks.check_form(stack, name)
    degrees = _numbers(angles_deg, name)
    checks.check_counts(stack, degrees.size, name)
    # A series over 180 degrees or more may be cut to a range; NaN never passes.
    side_files.check_range(degrees, name, limit=90.0 if angle_range is None else 360.0)
    if not allow_small_angles:
        side_files.suspect_radians(degrees, name)
    checks.check_voxel(voxel_size_angstrom)
    views = np.arange(degrees.size) if view_numbers is None else view_numbers
    digest = _array_sha256(stack, degrees) if sha256 is None else sha256
    keep, notes = checks.order_by_angle(degrees, angle_range, name)
    if not np.array_equal(keep, np.arange(degrees.size)):
        stack, degrees, views = stack[keep], degrees[keep], np.asarray(views)[keep]
    stack = np.ascontiguousarray(stack, dtype=np.float32)
    side_files.check_range(degrees, name)
    notes += checks.check_values(stack, degrees, views, name)
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
    )


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, 64 hex digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _stem(path: pathlib.Path) -> str:
    name = path.name
    for ending in (".gz", ".bz2"):
        name = name.removesuffix(ending)
    return pathlib.Path(name).stem


def _read_stack(path: pathlib.Path, max_input_gb: float) -> _Stack:
    """Choose the reader by the ending of the name."""
    suffix = path.suffix.lower()
    if mrc.is_mrc_name(path):
        image = mrc.read_mrc(path, max_input_gb=max_input_gb)
        notes = list(image.warnings)
        return _Stack(
            image.data, image.tilt_angles_deg, image.voxel_size_angstrom, notes
        )
    if suffix in (".tif", ".tiff"):
        pages = tiff.read_tiff(path, max_input_gb=max_input_gb)
        return _Stack(pages.data, None, pages.voxel_size_angstrom, list(pages.warnings))
    if suffix in (".npz", ".npy"):
        saved = npz.read_npz(path, max_input_gb=max_input_gb)
        return _Stack(
            saved.data,
            saved.angles_deg,
            saved.voxel_size_angstrom,
            list(saved.warnings),
        )
    raise gate.bad_input(
        path,
        f"a name ending in {' '.join(mrc.SUFFIXES)} .tif .tiff .npz .npy",
        suffix or "no ending",
        "rename or convert the file",
    )


def _angles_for(
    path: pathlib.Path,
    stack: _Stack,
    angles: AnglesSource,
    *,
    allow_small_angles: bool,
) -> tuple[np.ndarray | None, np.ndarray, float | None, list[str]]:
    """Views to take (None for all), their angles, a pixel pitch and notes."""
    count = stack.tilts.shape[0]
    if angles is None:
        if stack.angles_deg is None:
            raise gate.bad_input(
                path, "tilt angles", "none in the file", _angle_hint(path)
            )
        notes = []
        if mrc.is_mrc_name(path):
            notes.append(f"{path.name}: tilt angles taken from the extended header")
        return None, stack.angles_deg, None, notes
    if not isinstance(angles, str | os.PathLike):
        return None, _numbers(angles, path), None, []
    source = pathlib.Path(angles)
    suffix = source.suffix.lower()
    if suffix == ".mdoc":
        mdoc = side_files.read_mdoc(source)
        checks.check_counts(stack.tilts, mdoc.angles_deg.size, f"{path} and {source}")
        pitch = mdoc.pixel_spacing_angstrom
        return None, mdoc.angles_deg, pitch, list(mdoc.warnings)
    if suffix == ".aln":
        return _angles_of_aln(path, source, count)
    table = side_files.read_angles(
        source, expected_count=count, allow_small_angles=allow_small_angles
    )
    checks.check_counts(stack.tilts, table.angles_deg.size, f"{path} and {source}")
    return None, table.angles_deg, None, list(table.warnings)


def _angles_of_aln(
    path: pathlib.Path, source: pathlib.Path, count: int
) -> tuple[np.ndarray, np.ndarray, None, list[str]]:
    """Match rows to images: a raw stack by section, a cleaned one by rank."""
    table = aln.read_aln(source)
    notes = list(table.warnings)
    rank = np.argsort(table.views)
    if count == len(table.views):
        return np.arange(count), table.tilts_deg[rank], None, notes
    if count == table.num_views:
        return table.views[rank], table.tilts_deg[rank], None, notes
    raise gate.bad_input(
        f"{path} and {source}",
        f"{len(table.views)} tilts, or {table.num_views} with dark views",
        f"{count} tilts",
        "pass the .aln file of this series",
    )


def _is_aln(path: str | os.PathLike[str]) -> bool:
    return pathlib.Path(path).suffix.lower() == ".aln"


def _aligned(
    path: pathlib.Path,
    tilts: np.ndarray,
    source: pathlib.Path,
    views: np.ndarray | None,
) -> tuple[np.ndarray, list[str]]:
    """Images turned and shifted as an alignment file says, and notes."""
    notes = []
    if _is_aln(source):
        table = aln.read_aln(source)
        rank = np.argsort(table.views)
        angles, shifts = table.rotations_deg[rank], table.shifts_px[rank]
        _check_rows(path, source, len(angles), len(tilts))
        matrices, shifts = align2d.rotations(angles, shifts, len(tilts))
    elif source.suffix.lower() == ".xf":
        transforms = side_files.read_xf(source)
        matrices, shifts = align2d.inverted(transforms.matrices, transforms.shifts_px)
        if views is not None and len(matrices) > len(tilts):
            matrices, shifts = matrices[views], shifts[views]
        _check_rows(path, source, len(matrices), len(tilts))
        untouched = transforms.identity_views
        if 0 < len(untouched) < len(transforms.matrices):
            notes.append(
                f"{source.name}: no transform for views {list(untouched)} (from 0); "
                "some programs mark views so that they left out"
            )
    else:
        raise gate.bad_input(
            source, "an alignment ending in .xf or .aln", source.suffix, "pass one"
        )
    seen = align2d.covered_by_maps(tilts.shape, matrices, shifts)
    lost = 100 * (1 - float(seen.mean()))
    notes.append(
        f"{source.name}: shifts and rotations applied; {lost:.1f} % of the pixels lie "
        "outside the raw images and take their median"
    )
    return align2d.apply_maps(tilts, matrices, shifts), notes


def _check_rows(
    path: pathlib.Path, source: pathlib.Path, rows: int, count: int
) -> None:
    if rows != count:
        raise gate.bad_input(
            f"{path} and {source}",
            f"one transform per tilt, {count}",
            rows,
            "pass the alignment file of this series",
        )


def _angle_hint(path: pathlib.Path) -> str:
    for ending in (".tlt", ".rawtlt"):
        beside = path.with_name(_stem(path) + ending)
        if beside.is_file():
            return f"pass {beside.name}, which lies beside it (--angles)"
    return "pass the .tlt file of this series (--angles)"


def _numbers(angles: object, what: object) -> np.ndarray:
    try:
        return np.asarray(angles, np.float64).ravel()
    except (TypeError, ValueError) as error:
        raise gate.bad_input(
            f"{what}: angles", "a list of numbers in degrees", error, "check the list"
        ) from None


def _pitch(
    voxel: tuple[float, float, float] | None,
    side_pitch: float | None,
    given: float | None,
    name: str,
) -> tuple[float | None, list[str]]:
    """Choose the pixel pitch: given, then the stack's, then the side file's."""
    if given is not None:
        checks.check_voxel(given)
        notes = []
        if voxel is not None and abs(voxel[2] - given) > _SAME_VOXEL * given:
            notes.append(
                f"{name}: voxel size {given:g} Angstrom as given; "
                f"the file says {voxel[2]:g}"
            )
        return float(given), notes
    if voxel is not None:
        notes = []
        if abs(voxel[1] - voxel[2]) > _SAME_VOXEL * voxel[2]:
            notes.append(
                f"{name}: pixels are not square ({voxel[2]:g} x {voxel[1]:g} "
                "Angstrom); the pitch along x is used"
            )
        return voxel[2], notes
    if side_pitch is not None:
        return side_pitch, [
            f"{name}: voxel size {side_pitch:g} Angstrom from the .mdoc"
        ]
    note = f"{name}: voxel size unknown; give voxel_size_angstrom (--voxel-size)"
    return None, [note]


def _array_sha256(stack: np.ndarray, degrees: np.ndarray) -> str:
    digest = hashlib.sha256(degrees.tobytes())
    for image in stack:
        digest.update(image.tobytes())
    return digest.hexdigest()
