"""What a path is: a stack, a folder of images, a store or a project of a package."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib

from temdiff_jax.io import formats, gate, text
from temdiff_jax.io.alignment import angles as tilt_angles
from temdiff_jax.io.alignment import mdoc
from temdiff_jax.io.projects import aretomo, imod, relion, serialem, singles, warp
from temdiff_jax.io.projects.found import Decision, Found

_STORE_FILES = ("zarr.json", ".zarray", ".zgroup", "attributes.json", "info")
_BESIDE = (".tlt", ".rawtlt", ".mrc.mdoc", ".st.mdoc", ".mdoc")
_STACKS = (".st", ".ali", ".mrc", ".mrcs", ".tif", ".tiff", ".emd", ".h5")


class NoAngles(gate.InputError):
    """A stack whose tilt angles are nowhere."""


def find(path: pathlib.Path, *, need_angles: bool = True) -> Found:
    """Tell what a path leads to.

    Args:
      path: A stack, a side file that belongs to one, or a folder.
      need_angles: False where the caller has angles of his own.

    Returns:
      The series; `angles_deg` is None for a stack that may carry its own.

    Raises:
      InputError: nothing that is a tilt series, or several.
    """
    if os.path.isdir(path):
        return _folder(path, need_angles=need_angles)
    suffix = path.suffix.lower()
    special = {
        ".star": relion.find_relion,
        ".xml": warp.find_warp,
        ".aln": aretomo.find_aretomo,
        ".mdoc": serialem.find_mdoc,
    }
    if suffix in special:
        gate.regular_file(path)
        return special[suffix](path)
    if suffix == ".edf":
        gate.regular_file(path)
        return imod.find_imod(path.parent, path)
    if suffix == ".com":
        return imod.find_imod(path.parent)
    gate.regular_file(path)
    return Found(
        "stack", (path,), name=formats.stem(path), warnings=tuple(_unused(path))
    )


def _unused(stack: pathlib.Path) -> list[str]:
    """Lines about an alignment beside a stack that is named alone, and is not used."""
    name, suffix = formats.stem(stack), stack.suffix.lower()
    notes = []
    for ending in (".xf", ".aln"):
        side = stack.with_name(name + ending)
        if side.is_file() and suffix != ".ali":
            notes.append(
                f"{side.name} beside {stack.name} is not used; pass it as --alignment"
            )
    told = imod.told_beside(stack)
    return notes + ([told] if told else [])


def beside(found: Found, *, allow_small_angles: bool = False) -> Found:
    """A stack without angles of its own, with the side file of its name.

    Raises:
      NoAngles: no such file.
    """
    path = found.images[0]
    for ending in _BESIDE:
        side = path.with_name(formats.stem(path) + ending)
        if not side.is_file():
            continue
        if ending.endswith(".mdoc"):
            told = serialem.described(mdoc.read_mdoc(side), path)
            return dataclasses.replace(told, kind="stack", name=found.name)
        table = tilt_angles.read_angles(side, allow_small_angles=allow_small_angles)
        return dataclasses.replace(
            found,
            angles_deg=table.angles_deg,
            decisions=(
                *found.decisions,
                Decision(f"{len(table.angles_deg)} tilt angles, found beside it", side),
            ),
            warnings=(*found.warnings, *table.warnings),
        )
    raise NoAngles(
        f"{path}: expected tilt angles, got none in the file; pass the .tlt of this "
        "series (--angles)"
    )


def _folder(folder: pathlib.Path, *, need_angles: bool) -> Found:
    """The one series of a folder."""
    if _is_store(folder):
        return Found("store", (folder,), name=formats.stem(folder))
    if imod.is_imod(folder):
        return imod.find_imod(folder)
    for pattern, read, test in (
        ("*.aln", aretomo.find_aretomo, None),
        ("*.star", relion.find_relion, _holds("rlnTomo")),
        ("*.xml", warp.find_warp, _holds("<TiltSeries")),
    ):
        files = [p for p in sorted(folder.glob(pattern)) if test is None or test(p)]
        if pattern == "*.star":
            # The file of all series names the others.
            files = [
                p for p in files if _holds("rlnTomoTiltSeriesStarFile")(p)
            ] or files
        if len(files) > 1:
            names = ", ".join(p.name for p in files[:5])
            raise gate.bad_input(
                folder, "one tilt series", f"{len(files)} ({names})", "pass one of them"
            )
        if files:
            return read(files[0])
    stacks = [p for p in sorted(folder.iterdir()) if p.suffix.lower() in _STACKS]
    mdocs = sorted(folder.glob("*.mdoc"))
    if len(mdocs) == 1 and len(stacks) == 1:
        return serialem.find_mdoc(mdocs[0])
    if len(stacks) == 1:
        return Found("stack", (stacks[0],), name=formats.stem(stacks[0]))
    stores = [p for p in sorted(folder.iterdir()) if p.is_dir() and _is_store(p)]
    if not stacks and len(stores) == 1:
        return Found("store", (stores[0],), name=formats.stem(stores[0]))
    return singles.find_singles(folder, need_angles=need_angles)


def _is_store(folder: pathlib.Path) -> bool:
    row = formats.format_of(folder)
    if row is not None and row.folder:
        return True
    return any((folder / name).is_file() for name in _STORE_FILES)


def _holds(word: str) -> functools.partial[bool]:
    return functools.partial(_contains, word)


def _contains(word: str, path: pathlib.Path) -> bool:
    if not path.is_file() or path.stat().st_size > text.MAX_TEXT_BYTES:
        return False
    return word.encode() in path.read_bytes()
