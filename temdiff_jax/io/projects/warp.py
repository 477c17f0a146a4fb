"""Tilt series of Warp and M: an XML, with a stack or averages of movies beside it."""

from __future__ import annotations

import functools
import pathlib

import numpy as np

from temdiff_jax.io import gate
from temdiff_jax.io.alignment import warp
from temdiff_jax.io.projects.found import Decision, Found, Frame, Placement, placed

_AVERAGES = ("average", "../average", "../warp_frameseries/average", "../../average")


def find_warp(path: pathlib.Path) -> Found:
    """The series of Warp's XML.

    Images are `tiltstack/NAME/NAME.st`, NAME.st or NAME.mrc beside it, or else the
    averages of the movies that the XML names.  Tilts without UseTilt are left out.

    Raises:
      InputError: no images, a file that cannot be read.
    """
    series = warp.read_warp_xml(path)
    name = path.stem
    record, used = series.alignment, series.used
    count = len(used)
    stack = next(
        (
            path.parent / at
            for at in (
                f"tiltstack/{name}/{name}.st",
                f"{name}.st",
                f"{name}.mrc",
                f"../{name}.st",
                f"../{name}.mrc",
            )
            if (path.parent / at).is_file()
        ),
        None,
    )
    decisions = [Decision(f"{count} tilts, {int(used.sum())} of them used", path)]
    if stack is not None:
        decisions.append(Decision(f"images {stack.name}", stack))
        images: tuple[pathlib.Path, ...] = (stack,)
    else:
        images = tuple(_average(path, movie) for movie in series.movies)
        decisions.append(Decision(f"{len(images)} averages", images[0].parent))
    kept = np.flatnonzero(used)
    record = record._replace(
        angles_deg=np.asarray(record.angles_deg)[kept],
        axis_angles_deg=np.asarray(record.axis_angles_deg)[kept],
        axis_offsets_angstrom=np.asarray(record.axis_offsets_angstrom)[kept],
    )
    warnings = []
    if series.local:
        warnings.append(f"{path.name}: {series.local} is not applied")
    level = record.level_y_deg
    return Found(
        "Warp",
        images,
        sections=(None,) * len(images) if stack is None else (),
        angles_deg=-(np.asarray(record.angles_deg) + level),
        views=kept,
        place=functools.partial(place, record),
        name=name,
        decisions=tuple(decisions),
        warnings=tuple(warnings),
    )


def _average(path: pathlib.Path, movie: str) -> pathlib.Path:
    stem = pathlib.PureWindowsPath(movie).stem
    for folder in _AVERAGES:
        at = path.parent / folder / f"{stem}.mrc"
        if at.is_file():
            return at
    raise gate.bad_input(
        path,
        f"a tilt stack, or the average {stem}.mrc",
        "neither",
        "write the stack with Warp (ts_stack), beside the XML",
    )


def place(record: warp.WarpAlignment, frame: Frame) -> Placement:
    """Warp's numbers in pixels of the images."""
    if frame.pixel_angstrom is None:
        raise gate.bad_input(
            "Warp alignment", "a pixel size", "none", "give it (--voxel-size)"
        )
    return placed(warp.from_warp(record, pixel_size_angstrom=frame.pixel_angstrom))
