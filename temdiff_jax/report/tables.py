"""Rows and words of the report of a run, from its record."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from temdiff_jax.report import blocks, packed

# Pixels of the pictures of the tilts: at most, at least, and of all together.
_EDGE, _LEAST, _PIXELS = 96, 24, 900_000
# By the word of a verdict: class of the style, and a sign that needs no colour.
_MARKS = {
    "CONSISTENT": ("consistent", "\u2713"),
    "DOUBTFUL": ("doubtful", "?"),
    "INCONSISTENT": ("inconsistent", "\u2717"),
}
# Names of what a record says, by where it stands in it.
_FACTS = {
    "command": ("command",),
    "input": ("input", "path"),
    "input sha256": ("input", "sha256"),
    "angles from": ("input", "angles_path"),
    "alignment from": ("input", "alignment_path"),
    "range of tilts (degrees)": ("input", "angle_range_deg"),
    "tilts left out": ("input", "exclude"),
    "binning of the images": ("input", "bin"),
    "tilt axis of the file": ("input", "tilt_axis"),
    "turn of the axis (degrees)": ("input", "axis_angle_deg"),
    "alignment": ("library", "alignment"),
    "geometry": ("convention",),
    "voxel size (Angstrom)": ("voxel_size_angstrom",),
    "volume (z, y, x)": ("volume_shape",),
    "method": ("library", "method"),
    "prior": ("library", "prior", "name"),
    "prior sha256": ("library", "prior", "sha256"),
    "samples": ("library", "num_samples"),
    "steps": ("library", "num_steps"),
    "seed": ("parameters", "seed"),
    "weighting": ("parameters", "weighting"),
    "masked share of pixels": ("library", "weighting", "masked"),
    "run": ("run",),
    "created": ("created",),
    "device": ("device",),
    "seconds": ("library", "seconds"),
    "versions": ("versions",),
}


def trust(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a record says of how far it can be relied on; empty where nothing."""
    return record.get("trust") or _at(record, ("library", "trust")) or {}


def verdict(record: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict of a run in a word, its sentences, and how it is marked."""
    found = trust(record)
    word = str(found.get("verdict", "NO VERDICT"))
    kind, mark = _MARKS.get(word, ("none", "\u2013"))
    sentences = list(found.get("sentences", ())) or [
        "This run was not examined: nothing here says how far it can be relied on."
    ]
    return {"word": word, "kind": kind, "mark": mark, "sentences": sentences}


def of_trust(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Tables of the tests, the causes and the held-out tilts, where there are some."""
    found = trust(record)
    listed = {
        "Tests behind the verdict": found.get("tests"),
        "Causes that were found": found.get("causes"),
        "Tilts held out": _rows_of(found.get("held_out")),
    }
    made = []
    for title, rows in listed.items():
        if rows:
            heads = list(rows[0])
            cells = [[_cell(row.get(head)) for head in heads] for row in rows]
            said = [head.replace("_", " ") for head in heads]
            made.append({"title": title, "heads": said, "rows": cells})
    return made


def tilts(
    record: Mapping[str, Any], content: blocks.Content, map_: np.ndarray
) -> dict[str, Any]:
    """One row a tilt: figures of the record, and three small pictures.

    Args:
      record: Of the run.
      content: Of its page.
      map_: Colours of the residual, [256, 3] uint8.
    """
    count, (height, width) = len(content.tilts), content.tilts.shape[1:]
    edge = int(np.clip(np.sqrt(_PIXELS / (3 * count)), _LEAST, _EDGE))
    columns = _columns(record, content)
    grey = blocks.grey_limits({"": content.tilts})
    far = max(abs(v) for v in blocks.grey_limits({"": content.residual}))
    drawn = {
        "measured": (content.tilts, grey, None),
        "reprojection": (content.reprojection, grey, None),
        "residual": (content.residual, (-far, far), map_),
    }
    rows = []
    for number, angle in enumerate(content.angles_deg):
        pictures = {
            name: packed.thumbnail(stack[number], limits, edge, colours)
            for name, (stack, limits, colours) in drawn.items()
        }
        cells = [column[number] for column in columns.values()]
        rows.append({"angle": f"{angle:g}", "cells": cells, "pictures": pictures})
    said = (
        f"Residual: reprojection minus measured, from {-far:.3g} (blue) to {far:.3g} "
        "(red), one scale for all. chi2/n: over the variance that was assumed, 1 is "
        "expected. Weight: precision over its median."
    )
    shown = round(_EDGE * min(1.0, width / height))
    return {"heads": list(columns), "rows": rows, "width": shown, "said": said}


def _columns(
    record: Mapping[str, Any], content: blocks.Content
) -> dict[str, list[str]]:
    """Figures per tilt by their heads."""
    found = trust(record)
    columns = {"chi2/n": [_cell(value) for value in content.chi2.tolist()]}
    weights = np.asarray(record.get("weights", ()), np.float64)
    if weights.shape == content.chi2.shape and np.median(weights) > 0:
        columns["weight"] = [f"{w:.2f}" for w in weights / np.median(weights)]
    per_tilt = found.get("per_tilt") or {}
    if per_tilt.get("chi2_noise"):
        columns["residual power over noise"] = [
            _cell(value) for value in per_tilt["chi2_noise"]
        ]
    shifts, errors = found.get("shifts_px"), found.get("shift_errors_px")
    if shifts:
        for axis, name in enumerate("xy"):
            columns[f"shift {name} (pixels)"] = [
                "" if shift is None else _with_error(shift, error, axis)
                for shift, error in zip(shifts, errors or [None] * len(shifts))
            ]
    count = len(content.angles_deg)
    return {head: cells for head, cells in columns.items() if len(cells) == count}


def _with_error(
    shift: Sequence[float], error: Sequence[float] | None, axis: int
) -> str:
    beside = "" if error is None else f" \u00b1 {error[axis]:.2f}"
    return f"{shift[axis]:+.2f}{beside}"


def facts(
    record: Mapping[str, Any], decisions: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """What was decided, a name and a line each."""
    for line in decisions:
        yield "series", line
    for line in _at(record, ("input", "decisions")) or ():
        yield "file", str(line)
    for name, keys in _FACTS.items():
        value = _at(record, keys)
        if value is not None and value != {} and value != []:
            yield name, _cell(value)


def _at(record: Mapping[str, Any], keys: Sequence[str]) -> Any:
    found: Any = record
    for key in keys:
        if not isinstance(found, Mapping) or key not in found:
            return None
        found = found[key]
    return found


def _rows_of(held: Any) -> list[dict[str, Any]] | None:
    """Rows of what stands in columns."""
    if not isinstance(held, Mapping):
        return held
    lists = {name: v for name, v in held.items() if isinstance(v, list)}
    return [dict(zip(lists, row)) for row in zip(*lists.values())]


def _cell(value: Any) -> str:
    """A value of a record as text."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_cell(each) for each in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_cell(each)}" for name, each in value.items())
    return value if isinstance(value, str) else json.dumps(value, default=str)
