"""The images of a series: read or joined, made square, ordered, turned into place."""

from __future__ import annotations

import dataclasses

import numpy as np

from temdiff_jax.io import agree, formats, gate
from temdiff_jax.io.alignment import inplane
from temdiff_jax.io.alignment import record as alignments
from temdiff_jax.io.alignment.record import Alignment
from temdiff_jax.io.projects.found import Found, Placement, placed

# Pixels longer than wide by more are no pixels but a damaged header.
_LARGEST_ASPECT = 4.0


def read_images(found: Found, max_input_gb: float) -> formats.Image:
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


def square(image: formats.Image) -> formats.Image:
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


def rows(found: Found, data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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


def placed_images(
    tilts: np.ndarray, placement: Placement, keep: np.ndarray, *, resample: bool
) -> tuple[np.ndarray, Alignment | None, list[str]]:
    """Images turned and shifted in one interpolation, or as they are with an alignment.

    Images that need neither have no alignment.
    """
    whole = placement.alignment
    matrices, shifts = placement.matrices[keep], placement.shifts_px[keep]
    if np.array_equal(matrices, np.broadcast_to(np.eye(2), matrices.shape)):
        if not shifts.any() and not (whole and whole.x_tilt_deg):
            return tilts, None, []  # aligned images are not interpolated again
    notes: list[str] = []
    if not resample:
        own, images = _as_recorded(whole, keep, tilts)
        if own is not None:
            return images, None if own.is_aligned else own, notes
        notes.append(
            "the transforms stretch or turn the images as the projector does not; "
            "they were resampled"
        )
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


def aligned(tilts: np.ndarray, alignment: Alignment | None) -> np.ndarray:
    """Tilts [n_tilts, y, x] resampled once to where an aligned series has them.

    An x-tilt is no matter of the images and is left out.
    """
    if alignment is None:
        return tilts
    place = placed(alignment)
    return inplane.apply_maps(tilts, place.matrices, place.shifts_px)


def _as_recorded(
    whole: Alignment | None, keep: np.ndarray, tilts: np.ndarray
) -> tuple[Alignment | None, np.ndarray]:
    """Untouched images and their alignment, None where the projector has no such."""
    if whole is None:
        return None, tilts
    own = alignments.taken(whole, keep)
    if alignments.quarters(own) is None:
        return None, tilts
    return alignments.upright(own, tilts)


def _frame(raw: tuple[int, ...], matrices: np.ndarray) -> tuple[int, int]:
    """(height, width) that hold the images after a turn near a quarter."""
    height, width = raw
    mean = matrices.mean(axis=0)
    sideways = abs(mean[0, 1]) + abs(mean[1, 0]) > abs(mean[0, 0]) + abs(mean[1, 1])
    return (width, height) if sideways else (height, width)
