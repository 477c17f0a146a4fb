"""A folder with one image a tilt: the angles stand in the names or beside them."""

from __future__ import annotations

import dataclasses
import pathlib
import re

import numpy as np

from temdiff_jax.io import gate
from temdiff_jax.io.alignment import angles as tilt_angles
from temdiff_jax.io.alignment import mdoc
from temdiff_jax.io.projects.found import Decision, Found

SUFFIXES = (".tif", ".tiff", ".mrc")
# A number with its sign: n60, m60 or -60, p60 or +60, [-12.00].
_NUMBER = re.compile(r"(?<![A-Za-z0-9.])([nmpNMP+-]?)(\d{1,9}(?:\.\d+)?)(?![0-9])")
# Names round angles.
_SAME_DEG = 1.0
_MINUS = ("n", "m", "-")


def images_of(folder: pathlib.Path) -> list[pathlib.Path]:
    """The single-image files of a folder, of its most common ending."""
    files = [p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES]
    by_suffix: dict[str, list[pathlib.Path]] = {}
    for path in sorted(files):
        by_suffix.setdefault(path.suffix.lower(), []).append(path)
    return max(by_suffix.values(), key=len, default=[])


def find_singles(folder: pathlib.Path, *, need_angles: bool = True) -> Found:
    """The series of a folder of single images.

    Args:
      folder: Where they lie.
      need_angles: False where the caller has them; the order is that of the names.

    Raises:
      InputError: fewer than two images, no angles in names or side files.
    """
    images = images_of(folder)
    if len(images) < 2:
        raise gate.bad_input(
            folder,
            "a tilt series: a stack, images of single tilts, or a project",
            f"{len(images)} images",
            "name the file of the series",
        )
    found = Found(
        "folder of images",
        tuple(images),
        sections=(None,) * len(images),
        name=folder.resolve().name,
    )
    side = [p for s in ("*.tlt", "*.rawtlt", "*.mdoc") for p in sorted(folder.glob(s))]
    if not need_angles:
        decision = Decision(f"{len(images)} images in the order of their names", folder)
        return _with(found, None, decision)
    if len(side) == 1:
        return _beside(found, side[0])
    angles = angles_in_names([p.stem for p in images])
    if angles is None:
        raise gate.bad_input(
            folder,
            "tilt angles in the names (n60, -12.0) or one .tlt or .mdoc beside them",
            f"names such as {images[0].name}",
            "pass the angles in the order of the names (--angles)",
        )
    decision = Decision(f"{len(images)} images, angles from their names", images[0])
    return _with(found, angles, decision)


def _with(found: Found, angles: np.ndarray | None, decision: Decision) -> Found:
    return dataclasses.replace(found, angles_deg=angles, decisions=(decision,))


def _beside(found: Found, path: pathlib.Path) -> Found:
    """Angles of the one side file in the folder, in the order of the names."""
    if path.suffix.lower() == ".mdoc":
        return _of_mdoc(found, mdoc.read_mdoc(path))
    listed = tilt_angles.read_angles(path, expected_count=len(found.images))
    angles, notes = listed.angles_deg, listed.warnings
    decision = Decision(
        f"{len(found.images)} images in the order of their names, angles", path
    )
    return dataclasses.replace(
        found, angles_deg=angles, decisions=(decision,), warnings=tuple(notes)
    )


def _of_mdoc(found: Found, table: mdoc.MdocTable) -> Found:
    """Images matched to sections by the names of their movies, or by their angles.

    An .mdoc is in the order of acquisition, names often are in that of the angles.
    """
    told = dataclasses.replace(
        found, pixel_angstrom=table.pixel_spacing_angstrom, axis_deg=table.tilt_axis_deg
    )
    stems = [path.stem for path in found.images]
    frames = {name: n for n, name in enumerate(table.frames) if name}
    rows = [
        next((n for name, n in frames.items() if stem.startswith(name)), None)
        for stem in stems
    ]
    if frames and None not in rows and len(set(rows)) == len(rows):
        decision = Decision("images matched to SubFramePath", table.path)
        return _with(told, table.angles_deg[np.array(rows, np.int64)], decision)
    named = angles_in_names(stems)
    if named is not None and named.size == table.angles_deg.size:
        apart = np.abs(np.sort(named) - np.sort(table.angles_deg)).max()
        if apart < _SAME_DEG:
            decision = Decision(
                "angles from the names, as many in the .mdoc", table.path
            )
            return _with(told, named, decision)
    if table.angles_deg.size != len(stems):
        raise gate.bad_input(
            table.path, f"{len(stems)} sections", table.angles_deg.size, "pass --angles"
        )
    decision = Decision("images by name in the order of ZValue", table.path)
    return dataclasses.replace(
        _with(told, table.angles_deg, decision),
        warnings=(
            *table.warnings,
            f"{table.path.name}: names tell no angle; taken as acquired",
        ),
    )


def angles_in_names(names: list[str]) -> np.ndarray | None:
    """Angles that the names of files hold, or None.

    One place of the names must hold a number within 90 degrees that differs in all of
    them and is more than a running number.
    """
    columns = [
        [(sign.lower(), number) for sign, number in _NUMBER.findall(_parted(name))]
        for name in names
    ]
    width = min(map(len, columns))
    if not width or any(len(row) != width for row in columns):
        return None
    best: tuple[int, np.ndarray] | None = None
    for at in range(width):
        signs = [row[at][0] for row in columns]
        values = np.array([float(row[at][1]) for row in columns])
        values = np.where([sign in _MINUS for sign in signs], -values, values)
        if np.abs(values).max() > 90 or len(np.unique(values)) < len(values):
            continue
        steps = np.sort(np.abs(values))
        running = np.array_equal(steps, np.arange(len(steps)) + steps[0])
        marked = len(set(signs)) > 1 or any("." in row[at][1] for row in columns)
        if running and not marked:
            continue
        # A sign or a point speaks for an angle; among equals the last place counts.
        score = 2 * (len(set(signs)) > 1) + any("." in row[at][1] for row in columns)
        if best is None or score >= best[0]:
            best = (score, values)
    return None if best is None else best[1]


def _parted(name: str) -> str:
    """Underscores and brackets as spaces, so that numbers stand alone."""
    return re.sub(r"[_\[\](){}= ]+", " ", name)
