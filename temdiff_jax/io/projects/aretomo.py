"""Output of AreTomo2 and AreTomo3: an .aln beside the stack it was made from."""

from __future__ import annotations

import dataclasses
import functools
import pathlib

import numpy as np

from temdiff_jax.io import gate
from temdiff_jax.io.alignment import aln
from temdiff_jax.io.formats import mrc, mrc_header
from temdiff_jax.io.projects.found import Decision, Found, Frame, Placement, placed

_OF_OUTPUT = ("_rec", "_Vol", "_aln", "_ali")
_STACKS = (".mrc", ".st", ".mrcs", ".tif", ".tiff")


def find_aretomo(path: pathlib.Path, stack: pathlib.Path | None = None) -> Found:
    """The series of an .aln file.

    Args:
      path: The .aln.
      stack: Its images, where they lie elsewhere.

    Raises:
      InputError: no stack of this name beside it, a file that cannot be read.
    """
    table = aln.read_aln(path)
    if stack is None:
        stack = _raw_stack(path, table)
    if stack is None:
        raise gate.bad_input(
            path,
            f"the raw stack {path.stem}.mrc or .st beside it",
            "none",
            "pass the stack with --alignment",
        )
    rank = np.argsort(table.views)
    record = aln.AreTomoAlignment(
        table.tilts_deg[rank], table.rotations_deg[rank], table.shifts_px[rank]
    )
    decisions = [
        Decision(f"images {stack.name}", stack),
        Decision(
            f"{len(rank)} tilts, axis {np.median(table.rotations_deg):g} degrees from "
            f"y, sections counted from {table.base}",
            table.path,
        ),
    ]
    warnings = list(table.warnings)
    if table.has_local:
        warnings.append(f"{path.name}: its local (patch) alignment is not applied")
    if table.beta_offset_deg:
        warnings.append(
            f"{path.name}: BetaOffset {table.beta_offset_deg:g} is not applied"
        )
    thickness = None
    if table.thickness_px and table.thickness_px >= 1:
        thickness = round(table.thickness_px)
        decisions.append(Decision(f"thickness {thickness} pixels", table.path))
    return Found(
        "AreTomo",
        (stack,),
        angles_deg=table.tilts_deg[rank],
        views=table.views[rank],
        place=functools.partial(place, record),
        thickness_px=thickness,
        raw_shape=table.raw_shape,
        name=path.stem,
        decisions=tuple(decisions),
        warnings=tuple(warnings),
    )


def _raw_stack(path: pathlib.Path, table: aln.AlnTable) -> pathlib.Path | None:
    """The stack of an .aln: NAME.mrc of NAME.aln or NAME.mrc.aln.

    AreTomo may give its volume the name of the .aln; the number of sections tells.
    """
    name = path.stem
    stems = [name, *(name.removesuffix(s) for s in _OF_OUTPUT if name.endswith(s))]
    names = [name, *(f"{stem}{suffix}" for stem in stems for suffix in _STACKS)]
    found = [p for n in names if (p := path.with_name(n)).is_file() and p != path]
    counts = {len(table.views), table.num_views}
    for stack in found:
        if mrc.is_mrc_name(stack):
            _, header = mrc_header.read_header(stack, in_memory=False)
            if header.shape[0] in counts:
                return stack
    return found[0] if found else None


def place(record: aln.AreTomoAlignment, frame: Frame) -> Placement:
    """AreTomo's numbers in pixels of the images."""
    return placed(aln.from_aretomo(record))


def rescaled(found: Found, image_shape: tuple[int, int]) -> Found:
    """The series for images that were binned after the alignment.

    Raises:
      InputError: images of another size, by no whole factor.
    """
    if found.raw_shape is None or found.place is None:
        return found
    width, height, _ = found.raw_shape
    if (height, width) == image_shape:
        return found
    factor = round(width / image_shape[1])
    off = max(
        abs(width - factor * image_shape[1]), abs(height - factor * image_shape[0])
    )
    if factor < 2 or off >= factor:
        raise gate.bad_input(
            found.images[0],
            f"images of {height} x {width}, which the alignment was made from",
            f"{image_shape[0]} x {image_shape[1]}",
            "pass the stack of this alignment",
        )
    inner = found.place

    def scaled(frame: Frame) -> Placement:
        whole = inner(frame)
        if whole.alignment is None:
            raise ValueError("an alignment with stretch")
        return placed(
            dataclasses.replace(
                whole.alignment,
                shifts_px=whole.alignment.shifts_px / factor,
                axis_offset_px=whole.alignment.axis_offset_px / factor,
            )
        )

    note = f"alignment made on images {factor} times larger; its shifts were divided"
    return dataclasses.replace(
        found,
        place=scaled,
        thickness_px=None
        if found.thickness_px is None
        else max(round(found.thickness_px / factor), 1),
        warnings=(*found.warnings, note),
    )
