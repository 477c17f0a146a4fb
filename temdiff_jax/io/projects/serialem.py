"""SerialEM: an .mdoc alone, which names its stack."""

from __future__ import annotations

import pathlib

from temdiff_jax.io import gate
from temdiff_jax.io.alignment import mdoc
from temdiff_jax.io.projects.found import Decision, Found

_STACKS = (".mrc", ".st", ".tif", ".tiff")


def find_mdoc(path: pathlib.Path) -> Found:
    """The series of an .mdoc file.

    Its stack is NAME.mrc of NAME.mrc.mdoc, or the ImageFile that it names, beside it.

    Raises:
      InputError: no stack, a file that cannot be read.
    """
    table = mdoc.read_mdoc(path)
    names = [path.stem, *([table.image_file] if table.image_file else [])]
    names += [f"{path.stem}{suffix}" for suffix in _STACKS]
    stack = next((p for n in names if (p := path.with_name(n)).is_file()), None)
    if stack is None or stack == path:
        raise gate.bad_input(
            path,
            f"the stack {names[0]} beside it",
            "none",
            "pass the stack with --angles; frames must be motion-corrected first",
        )
    return described(table, stack)


def described(table: mdoc.MdocTable, stack: pathlib.Path) -> Found:
    """What an .mdoc says of a stack."""
    decisions = [
        Decision(f"images {stack.name}", stack),
        Decision(f"{len(table.angles_deg)} tilt angles in order of ZValue", table.path),
    ]
    if table.tilt_axis_deg is not None:
        decisions.append(
            Decision(f"tilt axis {table.tilt_axis_deg:g} degrees from y", table.path)
        )
    if table.dose_e_per_a2 is not None:
        decisions.append(
            Decision(f"dose {table.dose_e_per_a2:g} e/A2 in all, not used", table.path)
        )
    return Found(
        "SerialEM",
        (stack,),
        angles_deg=table.angles_deg,
        pixel_angstrom=table.pixel_spacing_angstrom,
        axis_deg=table.tilt_axis_deg,
        decisions=tuple(decisions),
        warnings=table.warnings,
    )
