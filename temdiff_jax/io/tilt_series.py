"""One tilt series from disk: images, angles and voxel size, checked and sorted."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from temdiff_jax.io import agree, axis, checks, choice, formats, gate, projects
from temdiff_jax.io.alignment import angles as tilt_angles
from temdiff_jax.io.alignment import imod, inplane, mdoc
from temdiff_jax.io.alignment import record as alignments
from temdiff_jax.io.alignment.record import Alignment
from temdiff_jax.io.projects import aretomo, serialem
from temdiff_jax.io.projects import imod as imod_project
from temdiff_jax.io.projects.found import Decision, Found, Frame, Placement, placed

AnglesSource = str | os.PathLike[str] | Sequence[float] | np.ndarray | None

# An even thickness where none is known: packages agree on its centre.
_ANY_THICKNESS = 2
# Pixels longer than wide by more are no pixels but a damaged header.
_LARGEST_ASPECT = 4.0


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
      alignment: How these images lie, None where they are aligned.
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
      resample: Turn and shift raw images in one interpolation; False leaves them as
        they are, but for quarter turns, and gives their `alignment`.
    """

    voxel_size_angstrom: float | None = None
    tilt_axis: str = "y"
    axis_angle_deg: float | None = None
    angle_range: tuple[float, float] | None = None
    exclude: str | None = None
    allow_small_angles: bool = False
    resample: bool = True


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
    chosen = Selection(**selection)  # type: ignore[arg-type]
    path = pathlib.Path(path)
    with gate.reading(path, "a tilt series"):
        found = projects.find(path, need_angles=angles is None)
    if alignment is not None and angles is None and _is_aln(alignment):
        angles = alignment
    image = _read(found, max_input_gb)
    if chosen.voxel_size_angstrom is None:
        image = _square(image)
    found = _with_angles(found, image, angles, chosen)
    if alignment is not None:
        found = _with_alignment(found, pathlib.Path(alignment))
    if chosen.axis_angle_deg is not None or found.kind == "SerialEM":
        found = _with_axis(found, chosen)
    return _assembled(path, found, image, chosen)


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
    tilts, views = _rows(found, image.data)
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
    if placement is not None:
        tilts, own, said = _placed(tilts, placement, keep, resample=chosen.resample)
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
    degrees = _numbers(angles_deg, name)
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


# --- images ------------------------------------------------------------------------


def _read(found: Found, max_input_gb: float) -> formats.Image:
    """The stack, or single images joined to one."""
    if not found.sections:
        return formats.read_image(found.images[0], max_input_gb=max_input_gb)
    first = formats.read_image(found.images[0], max_input_gb=max_input_gb)
    shape = (len(found.images), *first.data.shape[1:])
    gate.check_budget(found.images[0].parent, shape, 4, max_input_gb)
    joined = np.empty(shape, np.float32)
    image, last = first, found.images[0]
    for row, (path, section) in enumerate(
        zip(found.images, found.sections, strict=True)
    ):
        if path != last:
            image = formats.read_image(path, max_input_gb=max_input_gb)
            last = path
        if image.data.shape[1:] != shape[1:]:
            raise gate.bad_input(
                path,
                f"{shape[1]} x {shape[2]} pixels, as the first image",
                list(image.data.shape),
                "leave it out",
            )
        number = 0 if section is None else section
        if number >= len(image.data) or (section is None and len(image.data) != 1):
            raise gate.bad_input(
                path, "a single image", f"{len(image.data)} sections", "pass the stack"
            )
        joined[row] = image.data[number]
    return dataclasses.replace(first, data=joined, angles_deg=None)


def _square(image: formats.Image) -> formats.Image:
    """Images with square pixels: the coarser axis is interpolated."""
    size = image.voxel_size_angstrom
    if size is None or abs(size[1] - size[2]) <= agree.SAME_VOXEL * size[2]:
        return image
    z, y, x = size
    fine = min(y, x)
    if max(y, x) > _LARGEST_ASPECT * fine:
        raise gate.bad_input(
            image.path,
            "pixels that are nearly square",
            f"{x:g} x {y:g} Angstrom (x, y)",
            "the header is wrong; give the pixel size (--voxel-size)",
        )
    count, height, width = image.data.shape
    shape = (max(round(height * y / fine), 1), max(round(width * x / fine), 1))
    # aligned(q) = raw(M q): positions from the centres, in pixels of each grid.
    matrix = np.diag([fine / x, fine / y])
    data = inplane.apply_maps(
        image.data,
        np.broadcast_to(matrix, (count, 2, 2)),
        np.zeros((count, 2)),
        shape=shape,
    )
    note = (
        f"{image.path.name}: pixels of {x:g} x {y:g} Angstrom (x, y) are not square; "
        f"the images were interpolated to {fine:g} Angstrom"
    )
    return dataclasses.replace(
        image,
        data=data,
        voxel_size_angstrom=(z, fine, fine),
        warnings=(*image.warnings, note),
    )


def _rows(found: Found, data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images in the order of the rows, and the number of each in its file."""
    count = len(data)
    if found.views is None:
        return data, np.arange(count)
    if count == len(found.views):  # what was left out is not in this stack
        return data, np.arange(count)
    total = found.raw_shape[2] if found.raw_shape else int(found.views.max()) + 1
    if count != total:
        raise gate.bad_input(
            f"{found.images[0]} and its alignment",
            f"{len(found.views)} tilts, or {total} with dark views",
            f"{count} tilts",
            "pass the .aln file of this series",
        )
    return data[found.views], found.views


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


# --- angles ------------------------------------------------------------------------


def _with_angles(
    found: Found, image: formats.Image, angles: AnglesSource, chosen: Selection
) -> Found:
    """The series with the angles that were given, found or stored."""
    name = found.images[0].name
    if angles is None and found.angles_deg is None and image.angles_deg is not None:
        source = "in the extended header" if name.endswith("mrc") else "in the file"
        return dataclasses.replace(
            found,
            angles_deg=image.angles_deg,
            decisions=(
                *found.decisions,
                Decision(f"tilt angles {source}", found.images[0]),
            ),
        )
    if angles is None and found.angles_deg is None:
        found = projects.beside(found, allow_small_angles=chosen.allow_small_angles)
    elif angles is not None and not isinstance(angles, str | os.PathLike):
        return dataclasses.replace(
            found, angles_deg=_numbers(angles, found.images[0]), place=None, views=None
        )
    elif angles is not None:
        found = _angles_of_file(found, pathlib.Path(angles), image, chosen)
    if found.place is not None or found.angles_deg is None:
        return found
    acquisition = found.kind == "SerialEM" or found.axis_deg is not None
    acquisition |= any(d.path and d.path.suffix == ".mdoc" for d in found.decisions)
    degrees, notes = agree.angles(
        image.angles_deg, found.angles_deg, name, acquisition=acquisition
    )
    sure = any("took the header's" in note for note in notes)
    kept = [w for w in found.warnings if not (sure and "order of acquisition" in w)]
    return dataclasses.replace(found, angles_deg=degrees, warnings=(*kept, *notes))


def _angles_of_file(
    found: Found, source: pathlib.Path, image: formats.Image, chosen: Selection
) -> Found:
    """The series with the angles of a file that was named."""
    suffix = source.suffix.lower()
    stack = found.images[0]
    count = len(image.data)
    if suffix == ".mdoc":
        told = serialem.described(mdoc.read_mdoc(source), stack)
        degrees = np.asarray(told.angles_deg)
        checks.check_counts(image.data, degrees.size, f"{stack} and {source}")
        return dataclasses.replace(told, kind=found.kind, name=found.name)
    if suffix == ".aln":
        told = aretomo.find_aretomo(source, stack)
        note = f"{source.name}: only the angles are used; pass it as --alignment too"
        return dataclasses.replace(
            told, place=None, name=found.name, warnings=(*told.warnings, note)
        )
    table = tilt_angles.read_angles(
        source,
        expected_count=count,
        allow_small_angles=chosen.allow_small_angles,
    )
    checks.check_counts(image.data, table.angles_deg.size, f"{stack} and {source}")
    return dataclasses.replace(
        found,
        angles_deg=table.angles_deg,
        place=None,
        views=None,
        decisions=(*found.decisions, Decision(f"{count} tilt angles", source)),
        warnings=(*found.warnings, *table.warnings),
    )


# --- alignment ---------------------------------------------------------------------


def _with_alignment(found: Found, source: pathlib.Path) -> Found:
    """The series with the alignment of a file that was named."""
    if _is_aln(source):
        told = aretomo.find_aretomo(source, found.images[0])
        notes = _without_unused(found, source)
        return dataclasses.replace(
            told,
            name=found.name,
            angles_deg=told.angles_deg
            if found.angles_deg is None
            else found.angles_deg,
            warnings=tuple(dict.fromkeys([*notes, *told.warnings])),
        )
    if source.suffix.lower() != ".xf":
        raise gate.bad_input(
            source, "an alignment ending in .xf or .aln", source.suffix, "pass one"
        )
    table = imod.read_xf(source)
    degrees, matrices, shifts = found.angles_deg, table.matrices, table.shifts_px
    if degrees is None:
        raise ValueError("an alignment without angles")
    if found.views is not None and len(matrices) > len(degrees):
        matrices, shifts = matrices[found.views], shifts[found.views]
    if len(matrices) != len(degrees):
        raise gate.bad_input(
            f"{found.images[0]} and {source}",
            f"one transform per tilt, {len(degrees)}",
            len(matrices),
            "pass the alignment file of this series",
        )
    record = imod.ImodAlignment(matrices, shifts, degrees)

    def place(frame: Frame) -> Placement:
        # A plain .xf is index for index, whatever the parity of the extents.
        even = (frame.image_shape[0] // 2 * 2, frame.image_shape[1] // 2 * 2)
        return imod_project.place(record, frame._replace(image_shape=even))

    return dataclasses.replace(
        found,
        place=place,
        decisions=(*found.decisions, Decision("transforms of the raw images", source)),
        warnings=(*_without_unused(found, source), *imod.untouched(table)),
    )


def _without_unused(found: Found, source: pathlib.Path) -> list[str]:
    """The warnings without those that a file would not be used, which now is."""
    said = (f"{source.name} beside", "only the angles")
    return [w for w in found.warnings if not any(words in w for words in said)]


def _with_axis(found: Found, chosen: Selection) -> Found:
    """The series with its images turned by the direction of the tilt axis."""
    psi = found.axis_deg if chosen.axis_angle_deg is None else chosen.axis_angle_deg
    if found.place is not None and chosen.axis_angle_deg is not None:
        raise gate.bad_input(
            "--axis-angle", "images without an alignment", "both", "leave one out"
        )
    if psi is None or found.place is not None or found.angles_deg is None:
        return found
    if not np.isfinite(psi):
        raise gate.bad_input("--axis-angle", "degrees from +y", psi, "correct it")
    degrees = np.asarray(found.angles_deg)
    count = len(degrees)
    lying = Alignment(
        degrees, np.zeros((count, 2)), np.full(count, float(psi)), np.ones(count)
    )
    who = "as given" if chosen.axis_angle_deg is not None else "by the .mdoc"
    hint = "" if chosen.axis_angle_deg is not None else "; --axis-angle overrules it"
    return dataclasses.replace(
        found,
        place=lambda frame: placed(lying),
        decisions=(
            *found.decisions,
            Decision(f"images turned by the tilt axis, {psi:g} degrees {who}{hint}"),
        ),
    )


def _placed(
    tilts: np.ndarray, placement: Placement, keep: np.ndarray, *, resample: bool
) -> tuple[np.ndarray, Alignment | None, list[str]]:
    """Images turned and shifted in one interpolation, or their alignment."""
    whole = placement.alignment
    notes: list[str] = []
    if not resample:
        if whole is None:
            raise gate.bad_input(
                "alignment", "shifts, turns, magnifications", "a stretch", "resample"
            )
        own, images = alignments.upright(alignments.taken(whole, keep), tilts)
        return images, own, notes
    matrices, shifts = placement.matrices[keep], placement.shifts_px[keep]
    shape = _frame(tilts.shape[1:], matrices)
    seen = inplane.covered_by_maps(tilts.shape, matrices, shifts, shape=shape)
    lost = 100 * (1 - float(seen.mean()))
    notes.append(
        f"shifts and rotations applied to the raw images; {lost:.1f} % of the pixels "
        "lie outside of them and take their median"
    )
    if whole is not None and whole.x_tilt_deg:
        notes.append(
            f"x-tilt of {whole.x_tilt_deg:g} degrees not applied: the volume is as the "
            "specimen lay, turned about x by it"
        )
    return inplane.apply_maps(tilts, matrices, shifts, shape=shape), None, notes


def _frame(raw: tuple[int, ...], matrices: np.ndarray) -> tuple[int, int]:
    """(height, width) that hold the images after a turn near a quarter."""
    height, width = raw
    mean = matrices.mean(axis=0)
    sideways = abs(mean[0, 1]) + abs(mean[1, 0]) > abs(mean[0, 0]) + abs(mean[1, 1])
    return (width, height) if sideways else (height, width)


def _check_rows(found: Found, placement: Placement, count: int) -> None:
    if len(placement.angles_deg) != count:
        raise gate.bad_input(
            f"{found.images[0]} and its alignment",
            f"one transform per tilt, {count}",
            len(placement.angles_deg),
            "pass the alignment file of this series",
        )


def _is_aln(path: str | os.PathLike[str]) -> bool:
    return pathlib.Path(path).suffix.lower() == ".aln"


def _numbers(angles: object, what: object) -> np.ndarray:
    try:
        return np.asarray(angles, np.float64).ravel()
    except (TypeError, ValueError) as error:
        raise gate.bad_input(
            f"{what}: angles", "a list of numbers in degrees", error, "check the list"
        ) from None


def _array_sha256(stack: np.ndarray, degrees: np.ndarray) -> str:
    digest = hashlib.sha256(degrees.tobytes())
    for image in stack:
        digest.update(image.tobytes())
    return digest.hexdigest()
