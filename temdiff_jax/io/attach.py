"""Angles, alignment and axis from files that were named, attached to what was found."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from temdiff_jax.io import agree, checks, formats, gate, projects
from temdiff_jax.io.alignment import angles as tilt_angles
from temdiff_jax.io.alignment import imod, mdoc
from temdiff_jax.io.alignment.record import Alignment
from temdiff_jax.io.projects import aretomo, serialem
from temdiff_jax.io.projects import imod as imod_project
from temdiff_jax.io.projects.found import Decision, Found, placed

AnglesSource = str | os.PathLike[str] | Sequence[float] | np.ndarray | None


def with_angles(
    found: Found,
    image: formats.Image,
    angles: AnglesSource,
    *,
    allow_small_angles: bool = False,
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
        found = projects.beside(found, allow_small_angles=allow_small_angles)
    elif angles is not None and not isinstance(angles, str | os.PathLike):
        return dataclasses.replace(
            found, angles_deg=numbers(angles, found.images[0]), place=None, views=None
        )
    elif angles is not None:
        found = _angles_of_file(
            found, pathlib.Path(angles), image, allow_small_angles=allow_small_angles
        )
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
    found: Found,
    source: pathlib.Path,
    image: formats.Image,
    *,
    allow_small_angles: bool,
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
        allow_small_angles=allow_small_angles,
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


def with_alignment(found: Found, source: pathlib.Path) -> Found:
    """The series with the alignment of a file that was named."""
    if is_aln(source):
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
    return dataclasses.replace(
        found,
        place=functools.partial(imod_project.place, record),
        decisions=(*found.decisions, Decision("transforms of the raw images", source)),
        warnings=(*_without_unused(found, source), *imod.untouched(table)),
    )


def _without_unused(found: Found, source: pathlib.Path) -> list[str]:
    """The warnings without those that a file would not be used, which now is."""
    said = (f"{source.name} beside", "only the angles")
    return [w for w in found.warnings if not any(words in w for words in said)]


def with_axis(found: Found, axis_angle_deg: float | None) -> Found:
    """The series with its images turned by the direction of the tilt axis."""
    psi = found.axis_deg if axis_angle_deg is None else axis_angle_deg
    if found.place is not None and axis_angle_deg is not None:
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
    who = "as given" if axis_angle_deg is not None else "by the .mdoc"
    hint = "" if axis_angle_deg is not None else "; --axis-angle overrules it"
    return dataclasses.replace(
        found,
        place=lambda frame: placed(lying),
        decisions=(
            *found.decisions,
            Decision(f"images turned by the tilt axis, {psi:g} degrees {who}{hint}"),
        ),
    )


def is_aln(path: str | os.PathLike[str]) -> bool:
    """Whether a name is that of an AreTomo alignment."""
    return pathlib.Path(path).suffix.lower() == ".aln"


def numbers(angles: object, what: object) -> np.ndarray:
    """A list of degrees as an array, or an InputError."""
    try:
        return np.asarray(angles, np.float64).ravel()
    except (TypeError, ValueError) as error:
        raise gate.bad_input(
            f"{what}: angles", "a list of numbers in degrees", error, "check the list"
        ) from None
