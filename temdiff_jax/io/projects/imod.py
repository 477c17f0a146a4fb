"""A folder of IMOD or etomo: raw stack, .xf, .tlt, tilt.com, newst.com, .edf."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import NamedTuple

import numpy as np

from temdiff_jax.io import gate, text
from temdiff_jax.io.alignment import angles as tilt_angles
from temdiff_jax.io.alignment import imod, inplane
from temdiff_jax.io.projects.found import Decision, Found, Frame, Placement, placed

STACKS = (".st", ".mrc", ".mrcs")
# Entries of tilt.com that move the specimen and have no place here, with a word why.
_LEFT_OUT = {
    "LOCALFILE": "local (patch) alignment not applied",
    "ZFACTORFILE": "Z factors not applied",
    "SLICE": "the full height is reconstructed",
    "WIDTH": "the full width is reconstructed",
    "SUBSETSTART": "the full field is reconstructed",
    "PARALLEL": "it would invert the hand; ignored",
    "COSINTERP": "no cosine stretching here; ignored",
    "DENSWEIGHT": "ignored",
}
_USED = ("OFFSET", "SHIFT", "XAXISTILT", "THICKNESS", "EXCLUDELIST", "EXCLUDELIST2")


class Entry(NamedTuple):
    """One option of a command file: its words and its line."""

    words: tuple[str, ...]
    line: int


def read_com(path: pathlib.Path, program: str) -> dict[str, Entry]:
    """Options of the first call of a program in an IMOD command file, upper case.

    Raises:
      InputError: not a text file.
    """
    path, content = text.read_text(path)
    entries: dict[str, Entry] = {}
    inside = False
    for number, raw in enumerate(content.splitlines(), 1):
        line = raw.strip()
        if line.startswith("$"):
            called = line[1:].split()
            if inside:
                break
            inside = bool(called) and called[0].rpartition("/")[2] == program
        elif inside and line and not line.startswith("#"):
            key, *words = line.split()
            entries[key.upper()] = Entry(tuple(words), number)
    return entries


def read_edf(path: pathlib.Path) -> dict[str, Entry]:
    """Entries "name=value" of an etomo data file."""
    path, content = text.read_text(path)
    found = {}
    for number, line in enumerate(content.splitlines(), 1):
        if not line.startswith("#") and "=" in line:
            key, _, value = line.partition("=")
            found[key.strip()] = Entry((value.strip(),), number)
    return found


def told_beside(stack: pathlib.Path) -> str:
    """A line about what a tilt.com beside a stack says of it, "" if nothing."""
    com = _first(stack.parent, ("tilt.com", "tilta.com"))
    if com is None:
        return ""
    entries = read_com(com, "tilt")
    named = entries.get("INPUTPROJECTIONS")
    stem = stack.name.partition(".")[0]
    if named is None or pathlib.Path(named.words[0]).stem.partition("_ali")[0] != stem:
        return ""
    keys = [key for key in (*_USED, *_LEFT_OUT) if key in entries]
    said = [f"{key} {' '.join(entries[key].words)}" for key in keys]
    said = [words for words in said if words.split()[1:] not in (["0"], ["0.0"])]
    if not said:
        return ""
    return (
        f"{com.name} beside {stack.name} says {', '.join(said)}, which is not used; "
        "pass the folder to use it"
    )


def is_imod(folder: pathlib.Path) -> bool:
    """Whether a folder looks like a data set of IMOD or etomo."""
    marks = ("*.edf", "tilt*.com", "newst*.com", "*.xf")
    return any(next(folder.glob(mark), None) is not None for mark in marks)


def find_imod(folder: pathlib.Path, edf: pathlib.Path | None = None) -> Found:
    """The series of a data set folder, with everything that its files say.

    Args:
      folder: The data set.
      edf: Its .edf, where there are several.

    Raises:
      InputError: no stack or several, no angles, files that cannot be read.
    """
    settings, decisions = {}, []
    edfs = sorted(folder.glob("*.edf")) if edf is None else [edf]
    if len(edfs) > 1:
        raise gate.bad_input(
            folder, "one data set", f"{len(edfs)} .edf files", "pass one of them"
        )
    if edfs:
        settings = read_edf(edfs[0])
    name = _data_set(folder, settings, edfs)
    tilt_com = _first(folder, ("tilt.com", "tilta.com"))
    newst_com = _first(folder, ("newst.com", "newsta.com", "blend.com"))
    tilt = {} if tilt_com is None else read_com(tilt_com, "tilt")
    newst = {} if newst_com is None else read_com(newst_com, "newstack")
    stack, xf, warnings = _images(folder, name)
    found = Found("IMOD", (stack,), name=name, warnings=tuple(warnings))
    decisions.append(Decision(f"images {stack.name}", stack))
    kind = settings.get("Setup.AxisType")
    if kind is not None and kind.words[0].startswith("Dual"):
        warnings.append(f"{edfs[0].name}: two axes; only the first one is used")
        found = dataclasses.replace(found, warnings=tuple(warnings))
    binning = 1 if xf is not None else _binning(tilt, newst, tilt_com)
    angles, source = _angles(folder, name)
    decisions.append(Decision(f"{len(angles)} tilt angles", source))
    if xf is not None:
        decisions.append(Decision("transforms of the raw images", xf))
    found = dataclasses.replace(found, angles_deg=angles, decisions=tuple(decisions))
    found = _excluded(found, tilt, tilt_com, settings, edfs)
    return _geometry(found, tilt, tilt_com, xf, binning, folder / f"{name}.xtilt")


def _data_set(
    folder: pathlib.Path, settings: dict[str, Entry], edfs: list[pathlib.Path]
) -> str:
    entry = settings.get("Setup.DatasetName")
    if entry is not None and entry.words[0]:
        name = pathlib.Path(entry.words[0]).name
        kind = settings.get("Setup.AxisType")
        # The first of two axes; its files bear an a.
        return f"{name}a" if kind and kind.words[0].startswith("Dual") else name
    if edfs:
        return edfs[0].stem
    names = {p.stem for p in folder.glob("*.xf")} or {
        p.stem for p in folder.iterdir() if p.suffix in (".st", ".ali", ".tlt")
    }
    names = {n.removesuffix("_fid") for n in names if not n.endswith("_nonfid")}
    if len(names) != 1:
        raise gate.bad_input(
            folder,
            "one data set",
            ", ".join(sorted(names)[:5]) or "none",
            "pass the stack with --angles and --alignment",
        )
    return names.pop()


def _first(folder: pathlib.Path, names: tuple[str, ...]) -> pathlib.Path | None:
    return next((folder / n for n in names if (folder / n).is_file()), None)


def _images(
    folder: pathlib.Path, name: str
) -> tuple[pathlib.Path, pathlib.Path | None, list[str]]:
    """The raw stack with its transforms, or else the aligned stack."""
    xf = folder / f"{name}.xf"
    raw = _first(folder, tuple(f"{name}{suffix}" for suffix in STACKS))
    if raw is not None and xf.is_file():
        return raw, xf, []
    aligned = _first(folder, (f"{name}.ali", f"{name}_ali.mrc"))
    if aligned is not None:
        return aligned, None, []
    if raw is not None:
        return raw, None, [f"{xf.name}: none in {folder.name}; images as they are"]
    raise gate.bad_input(
        folder, f"{name}.st with {name}.xf, or {name}.ali", "neither", "pass the stack"
    )


def _angles(folder: pathlib.Path, name: str) -> tuple[np.ndarray, pathlib.Path]:
    source = _first(folder, (f"{name}.tlt", f"{name}_fid.tlt", f"{name}.rawtlt"))
    if source is None:
        raise gate.bad_input(
            folder, f"{name}.tlt or {name}.rawtlt", "neither", "pass it (--angles)"
        )
    return tilt_angles.read_angles(source).angles_deg, source


def _binning(
    tilt: dict[str, Entry], newst: dict[str, Entry], path: pathlib.Path | None
) -> int:
    """By how much the aligned stack is binned."""
    for entries, key in ((tilt, "IMAGEBINNED"), (newst, "BINBYFACTOR")):
        if key in entries:
            return int(max(_numbers(entries[key], path or key, 1)[0], 1))
    return 1


def _numbers(entry: Entry, path: object, least: int) -> list[float]:
    what = f"{path}: line {entry.line}"
    words = " ".join(entry.words).replace(",", " ").split()
    found = [text.parse_number(word, what) for word in words]
    if len(found) < least:
        raise gate.bad_input(what, f"{least} numbers", len(found), "repair this line")
    return found


def view_list(words: str, what: object) -> list[int]:
    """Numbers of a list such as "3,7-9".

    Raises:
      InputError: something else between the commas, or a range that goes on for ever.
    """
    found: list[int] = []
    for part in words.replace(" ", ",").split(","):
        if not part:
            continue
        first, dash, last = part.partition("-")
        ends = [first, last] if dash else [first, first]
        if not all(end.isdecimal() and len(end) < 7 for end in ends):
            raise gate.bad_input(what, "numbers such as 3,7-9", part, "correct it")
        found.extend(range(int(ends[0]), int(ends[1]) + 1))
    return found


def _excluded(
    found: Found,
    tilt: dict[str, Entry],
    tilt_com: pathlib.Path | None,
    settings: dict[str, Entry],
    edfs: list[pathlib.Path],
) -> Found:
    """Views left out by tilt.com or etomo, which count from 1."""
    views: set[int] = set()
    decisions = list(found.decisions)
    for key in ("EXCLUDELIST", "EXCLUDELIST2"):
        if key in tilt and tilt_com is not None:
            entry = tilt[key]
            listed = view_list(",".join(entry.words), f"{tilt_com}: line {entry.line}")
            views |= set(listed)
            decisions.append(
                Decision(f"views {listed} (from 1) left out", tilt_com, entry.line)
            )
    for key, entry in settings.items():
        if key.endswith("AxisA.ExcludeProjections") and entry.words[0]:
            listed = view_list(entry.words[0], f"{edfs[0]}: line {entry.line}")
            views |= set(listed)
            decisions.append(
                Decision(f"views {listed} (from 1) left out", edfs[0], entry.line)
            )
    return dataclasses.replace(
        found,
        excluded=tuple(sorted(v - 1 for v in views)),
        decisions=tuple(decisions),
    )


def _geometry(
    found: Found,
    tilt: dict[str, Entry],
    tilt_com: pathlib.Path | None,
    xf: pathlib.Path | None,
    binning: int,
    xtilt: pathlib.Path,
) -> Found:
    """OFFSET, SHIFT, XAXISTILT, THICKNESS of tilt.com, in pixels of the images."""
    decisions, warnings = list(found.decisions), list(found.warnings)
    values = {"OFFSET": [0.0], "SHIFT": [0.0], "XAXISTILT": [0.0], "THICKNESS": [0.0]}
    for key in values:
        if key in tilt:
            values[key] = _numbers(tilt[key], tilt_com, 1)
            words = " ".join(tilt[key].words)
            decisions.append(Decision(f"{key} {words}", tilt_com, tilt[key].line))
    for key, why in _LEFT_OUT.items():
        if key in tilt and tilt_com is not None:
            warnings.append(f"{tilt_com.name}: line {tilt[key].line}: {key}: {why}")
    if binning > 1:
        decisions.append(Decision(f"images binned by {binning}", tilt_com))
    angles = np.asarray(found.angles_deg)
    count = len(angles)
    x_tilts, said, doubts = _x_tilts(xtilt, count)
    decisions += said
    warnings += doubts
    matrices, shifts = np.broadcast_to(np.eye(2), (count, 2, 2)), np.zeros((count, 2))
    if xf is not None:
        table = imod.read_xf(xf)
        if len(table.matrices) != count:
            raise gate.bad_input(
                xf, f"one transform per tilt, {count}", len(table.matrices), "check it"
            )
        matrices, shifts = table.matrices, table.shifts_px
        warnings += imod.untouched(table)
    record = imod.ImodAlignment(
        matrices,
        shifts,
        angles,
        x_axis_tilt_deg=values["XAXISTILT"][0],
        x_tilts_deg=x_tilts,
        offset_deg=values["OFFSET"][0],
        offset_px=values["OFFSET"][1] / binning if len(values["OFFSET"]) > 1 else 0.0,
        shift_px=(
            values["SHIFT"][0] / binning,
            values["SHIFT"][1] / binning if len(values["SHIFT"]) > 1 else 0.0,
        ),
    )
    thickness = round(values["THICKNESS"][0] / binning) or None
    return dataclasses.replace(
        found,
        place=functools.partial(place, record),
        thickness_px=thickness,
        decisions=tuple(decisions),
        warnings=tuple(warnings),
    )


def _x_tilts(
    path: pathlib.Path, count: int
) -> tuple[np.ndarray | None, list[Decision], list[str]]:
    """The .xtilt, where it is one number for all views."""
    if not path.is_file():
        return None, [], []
    rows = text.number_rows(*text.read_text(path))
    values = np.array([value for row in rows for value in row])
    if values.size != count or np.ptp(values) > 0:
        return None, [], [f"{path.name}: x-tilts that differ are not applied"]
    said = [Decision(f"x-tilt {values[0]:g} of every view", path)]
    return values, said, []


def place(record: imod.ImodAlignment, frame: Frame) -> Placement:
    """IMOD's numbers as a placement; transforms may stretch, which only maps can."""
    # IMOD puts the centre of odd extents half a voxel elsewhere; aligned images are not
    # interpolated for that.
    depth, height, width = (n // 2 * 2 for n in (frame.thickness, *frame.image_shape))
    shape = (max(depth, 2), height, width)
    back, moved = inplane.inverted(
        np.asarray(record.matrices, np.float64),
        np.asarray(record.shifts_px, np.float64),
    )
    if imod.is_similar(back):
        return placed(imod.from_imod(record, volume_shape=shape))
    # p = M (q - d) with q the aligned position, which tilt.com alone gives.
    count = len(back)
    still = record._replace(
        matrices=np.broadcast_to(np.eye(2), (count, 2, 2)),
        shifts_px=np.zeros((count, 2)),
    )
    aligned = imod.from_imod(still, volume_shape=shape)
    inside = aligned.shifts_px + np.array([aligned.axis_offset_px, 0.0])
    shifts = moved + np.einsum("nij,nj->ni", back, inside)
    return Placement(None, aligned.angles_deg, back, shifts)
