"""SerialEM's .mdoc: angles, order of acquisition, pixel size, dose, tilt axis."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from temdiff_jax.io import gate, text
from temdiff_jax.io.alignment import angles as tilt_angles


@dataclasses.dataclass(frozen=True)
class MdocTable:
    """What a SerialEM .mdoc says about a stack.

    Attributes:
      angles_deg: [sections] float64, in the order of ZValue.
      z_values: [sections] int64, as written (from 0).
      pixel_spacing_angstrom: The common PixelSpacing, or None.
      tilt_axis_deg: Rotation of the tilt axis as the title has it, from +y towards -x,
        or None; programs are known to write wrong ones.
      image_file: Name of the stack as the file has it, without folders, or None.
      frames: Name of the movie of each section without folder and ending, or None.
      dose_e_per_a2: Sum of ExposureDose, or None.
      path: Where it came from.
      warnings: One line per assumption.
    """

    angles_deg: np.ndarray
    z_values: np.ndarray
    pixel_spacing_angstrom: float | None
    tilt_axis_deg: float | None
    image_file: str | None
    frames: tuple[str | None, ...]
    dose_e_per_a2: float | None
    path: pathlib.Path
    warnings: tuple[str, ...]


def read_mdoc(path: str | os.PathLike[str]) -> MdocTable:
    """Read TiltAngle and PixelSpacing of a SerialEM .mdoc.

    Sections are ordered by ZValue. They are in the order of acquisition; a stack that
    was sorted later needs its .tlt instead, which a warning says when angles are not
    sorted.

    Raises:
      InputError: no [ZValue = n] section, a section without TiltAngle, the same
        ZValue twice, or a number that cannot be read.

    Source: SerialEM manual, "About mdoc metadata files".
    """
    path, content = text.read_text(path)
    titles, header, sections = _mdoc_sections(path, content)
    if not sections:
        raise gate.bad_input(
            path, "[ZValue = n] sections", "none", "pass the .mdoc of the stack"
        )
    z_values = np.asarray(sorted(sections), np.int64)
    angles, spacings = [], []
    for z in z_values.tolist():
        if "TiltAngle" not in sections[z]:
            raise gate.bad_input(
                f"{path}: section ZValue = {z}",
                "a TiltAngle",
                "none",
                "pass the .tlt file instead",
            )
        angles.append(
            text.parse_number(sections[z]["TiltAngle"], f"{path}: ZValue = {z}")
        )
        spacings.append(sections[z].get("PixelSpacing", header.get("PixelSpacing")))
    notes = []
    table = np.asarray(angles, np.float64)
    tilt_angles.check_angles(table, path, allow_small_angles=True)
    if not (np.diff(table) >= 0).all() and not (np.diff(table) <= 0).all():
        notes.append(
            f"{path.name}: angles are in the order of acquisition; if the stack was "
            "sorted afterwards, pass its .tlt instead"
        )
    spacing, said = _one_spacing(path, spacings)
    notes += said
    image = header.get("ImageFile")
    return MdocTable(
        angles_deg=table,
        z_values=z_values,
        pixel_spacing_angstrom=spacing,
        tilt_axis_deg=_title_axis(titles),
        image_file=None if not image else pathlib.PureWindowsPath(image).name,
        frames=tuple(_stem(sections[z].get("SubFramePath")) for z in z_values.tolist()),
        dose_e_per_a2=_dose(sections, path),
        path=path,
        warnings=tuple(notes),
    )


def _stem(windows_path: str | None) -> str | None:
    return pathlib.PureWindowsPath(windows_path).stem if windows_path else None


def _one_spacing(
    path: pathlib.Path, words: Sequence[str | None]
) -> tuple[float | None, list[str]]:
    """The pixel size that all sections share, and a line where they share none."""
    numbers = {
        text.parse_number(w, f"{path}: PixelSpacing") for w in words if w is not None
    }
    if len(numbers) > 1:
        return None, [f"{path.name}: PixelSpacing differs between sections; ignored"]
    spacing = numbers.pop() if numbers else None
    if spacing is not None and not spacing > 0:
        note = f"{path.name}: PixelSpacing {spacing:g} is not positive; ignored"
        return None, [note]
    return spacing, []


def _dose(sections: dict[int, dict[str, str]], path: pathlib.Path) -> float | None:
    words = [entries.get("ExposureDose") for entries in sections.values()]
    total = sum(
        text.parse_number(w, f"{path}: ExposureDose") for w in words if w is not None
    )
    return total if total > 0 else None


def _mdoc_sections(
    path: pathlib.Path, content: str
) -> tuple[list[str], dict[str, str], dict[int, dict[str, str]]]:
    """Titles, global entries and entries per ZValue."""
    titles: list[str] = []
    header: dict[str, str] = {}
    sections: dict[int, dict[str, str]] = {}
    entries: dict[str, str] | None = header
    for number, raw in enumerate(content.splitlines(), 1):
        line = raw.strip()
        if line.startswith("[") and line.endswith("]"):
            key, _, value = (part.strip() for part in line[1:-1].partition("="))
            # Unknown sections (montages) are stepped over, not misread as views.
            entries = None
            if key == "T":
                titles.append(value)
                entries = header
            elif key == "ZValue":
                usable = value.isdecimal() and len(value) < 9
                if not usable or int(value) in sections:
                    raise gate.bad_input(
                        f"{path}: line {number}",
                        "a new ZValue, counted from 0",
                        value or "nothing",
                        "repair the file",
                    )
                entries = sections.setdefault(int(value), {})
        elif "=" in line and entries is not None:
            key, _, value = (part.strip() for part in line.partition("="))
            entries[key] = value
    return titles, header, sections


def _title_axis(titles: Sequence[str]) -> float | None:
    for title in titles:
        found = re.search(
            r"[Tt]ilt axis angle\s*=\s*([+-]?\d{1,3}(\.\d+)?)(?!\d)", title
        )
        if found:
            return float(found.group(1))
    return None
