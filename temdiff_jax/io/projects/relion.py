"""Tilt series of RELION 5: a STAR file that names images and their alignment."""

from __future__ import annotations

import functools
import pathlib

import numpy as np

from temdiff_jax.io import gate, text
from temdiff_jax.io.alignment import relion
from temdiff_jax.io.projects.found import Decision, Found, Frame, Placement, placed

_SERIES = "rlnTomoTiltSeriesStarFile"
_PIXEL = ("rlnTomoTiltSeriesPixelSize", "rlnMicrographOriginalPixelSize")
_IMAGE = "rlnMicrographName"


def find_relion(path: pathlib.Path, tomogram: str | None = None) -> Found:
    """The series of a STAR file.

    Args:
      path: The file of one tilt series, or of all with one row a series.
      tomogram: rlnTomoName of the row to take; needed where there are several.

    Raises:
      InputError: no such columns, several series, images that are not there.
    """
    path, content = text.read_text(path)
    pixel, decisions = None, []
    for labels, rows in relion.star_tables(path, content).values():
        if _SERIES in labels:
            row = _row(path, labels, rows, tomogram)
            pixel = _pixel(path, labels, row)
            listed = row[labels.index(_SERIES)]
            inner = _locate(listed, path, "the STAR file of the tilt series")
            decisions.append(Decision(f"tilt series {listed}", path))
            if pixel is not None:
                decisions.append(Decision(f"pixel size {pixel:g} Angstrom", path))
            path, content = text.read_text(inner)
            break
    record = relion.read_relion_star(path)
    table = next(
        (labels, rows)
        for labels, rows in relion.star_tables(path, content).values()
        if relion.has_alignment(labels)
    )
    labels, rows = table
    if _IMAGE not in labels:
        raise gate.bad_input(
            path, f"a column {_IMAGE}", "none", "pass a motion-corrected tilt series"
        )
    images, sections = [], []
    for row in rows:
        number, at, file = row[labels.index(_IMAGE)].rpartition("@")
        images.append(_locate(file, path, "an image of the series"))
        if at and not (number.isdecimal() and 0 < len(number) < 7):
            raise gate.bad_input(path, "images as 3@file", row, "repair this row")
        sections.append(int(number) - 1 if at else None)
    decisions.append(Decision(f"{len(rows)} images and their alignment", path))
    return Found(
        "RELION",
        tuple(images),
        sections=tuple(sections),
        angles_deg=np.asarray(record.y_tilts_deg),
        place=functools.partial(place, record),
        pixel_angstrom=pixel,
        name=path.stem,
        decisions=tuple(decisions),
    )


def _row(
    path: pathlib.Path, labels: list[str], rows: list[list[str]], name: str | None
) -> list[str]:
    key = labels.index("rlnTomoName") if "rlnTomoName" in labels else None
    if name is not None and key is not None:
        rows = [row for row in rows if row[key] == name]
    if len(rows) != 1:
        names = ", ".join(row[key] if key is not None else "?" for row in rows[:5])
        raise gate.bad_input(
            path,
            "one tilt series",
            f"{len(rows)} ({names})",
            f"pass its own STAR file (column {_SERIES})",
        )
    return rows[0]


def _pixel(path: pathlib.Path, labels: list[str], row: list[str]) -> float | None:
    for name in _PIXEL:
        if name in labels:
            return text.parse_number(row[labels.index(name)], f"{path}: {name}")
    return None


def _locate(name: str, star: pathlib.Path, what: str) -> pathlib.Path:
    """A file of a project: its paths are relative to the project's folder."""
    given = pathlib.Path(name)
    for folder in star.resolve().parents:
        if (folder / given).is_file():
            return folder / given
    beside = star.parent / given.name
    if beside.is_file():
        return beside
    raise gate.bad_input(
        star, what, f"{name}, which is in no folder above it", "run it in the project"
    )


def place(record: relion.RelionAlignment, frame: Frame) -> Placement:
    """RELION's numbers in pixels of the images."""
    if frame.pixel_angstrom is None:
        raise gate.bad_input(
            "RELION alignment", "a pixel size", "none", "give it (--voxel-size)"
        )
    return placed(
        relion.from_relion(
            record,
            pixel_size_angstrom=frame.pixel_angstrom,
            image_shape=frame.image_shape,
            volume_shape=(frame.thickness, *frame.image_shape),
        )
    )
