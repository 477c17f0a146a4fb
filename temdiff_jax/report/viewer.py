"""The report of a run as one HTML file: planes with sliders, tilts, the whole record.

The file holds its data, its script and its style; it asks for nothing from outside and
its own policy forbids it to.  Volumes are bytes on one grey scale, binned where the
file would become larger than `LIMIT`; `temdiff_jax.report.page` draws the same numbers
as a PNG, its cover.
"""

from __future__ import annotations

import base64
import dataclasses
import importlib.resources
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import matplotlib
import numpy as np

from temdiff_jax.errors import InputError
from temdiff_jax.io import write
from temdiff_jax.report import blocks, packed, panels, tables
from temdiff_jax.report import page as pages

LIMIT = 10_000_000
"""Bytes of the file, at most."""
# Volumes of more voxels are binned before the first try.
_MOST_VOXELS = 16_000_000
LABELS = {
    "fbp": "FBP",
    "tikhonov": "quadratic estimate",
    blocks.STD_NAME: "standard deviation",
}
_MOST_SAMPLES = 4
_LONGEST_BAR = 0.3  # of the width of a plane


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What the report of a run shows beside its page.

    Attributes:
      page: Volumes and tilts, in the axes of the file.
      record: Of the run, as it is written to its JSON file.
      decisions: What was decided about the series, a line each.
      again: Lines of code by what they do.
      cover: Name of the PNG of the page.
      samples: Volumes ``[s, z, y, x]``, if they were kept.
      spread: What the standard deviation is.
      tilt_axis: Of the file, "y" or "x".
      caveat: Last line.
    """

    page: pages.Page
    record: Mapping[str, Any]
    decisions: Sequence[str]
    again: Mapping[str, str]
    cover: str
    samples: np.ndarray | None = None
    spread: str = "standard deviation of the samples"
    tilt_axis: str = "y"
    caveat: str = ""


def write_run(path: str | pathlib.Path, run: Run, *, overwrite: bool = False) -> None:
    """Write the report of a run as one HTML file, complete or not at all.

    Args:
      path: Target file.
      run: What it shows.
      overwrite: Whether an existing file may be replaced.

    Raises:
      InputError: If the file exists and may not be replaced, cannot be written, or
        would be larger than `LIMIT` whatever the binning.
      ValueError: If shapes disagree or an array holds a value that is not finite.
    """
    write.write_text(path, html_of(run), overwrite=overwrite)


def html_of(run: Run) -> str:
    """The text of the report; see `write_run`."""
    content = pages.checked(run.page)
    volumes, scales = _volumes(run, content)
    fixed = _fixed(run, content, volumes, scales)
    shape = next(iter(content.volumes.values())).shape
    total = sum(volume["array"].size for volume in volumes)
    factor = max(1, round((total / _MOST_VOXELS) ** (1 / 3)))
    while True:
        text = _render(fixed, volumes, shape, factor, run.page.voxel_size_angstrom)
        size = len(text.encode("utf-8", "backslashreplace"))
        if size <= LIMIT:
            return text
        if factor >= max(shape):
            raise InputError(
                f"report: expected at most {LIMIT} bytes, got {size} without volumes; "
                "the PNG beside it shows the same run"
            )
        factor += 1


def _volumes(
    run: Run, content: blocks.Content
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What can be looked at, in the order of the keys, and the two scales."""
    arrays = dict(content.volumes)
    reference = arrays.pop(pages.REFERENCE_NAME, None)
    limits = {False: blocks.grey_limits(content.volumes)}
    scales = [_scale("intensity, one scale for all (input units)", limits[False], None)]
    if content.std is not None:
        arrays[blocks.STD_NAME] = content.std
        limits[True] = (0.0, blocks.grey_limits({"": content.std})[1])
        name = f"{run.spread} (input units)"
        scales.append(_scale(name, limits[True], colours("magma")))
    if run.samples is not None:
        first = run.samples[:_MOST_SAMPLES]
        arrays |= {f"sample {n + 1}": each for n, each in enumerate(first)}
    if reference is not None:
        arrays[pages.REFERENCE_NAME] = reference
    found = []
    for name, array in arrays.items():
        spread = name == blocks.STD_NAME
        low, high = limits[spread]
        shown = {"label": LABELS.get(name, name), "spread": spread}
        found.append({**shown, "name": name, "low": low, "high": high, "array": array})
    return found, scales


def _scale(
    label: str, limits: tuple[float, float], map_: np.ndarray | None
) -> dict[str, Any]:
    bar = np.repeat(np.linspace(0, 1, 256)[None], 8, axis=0)
    picture = packed.thumbnail(bar, (0.0, 1.0), 256, map_)
    return {"label": label, "low": limits[0], "high": limits[1], "bar": picture}


def colours(name: str) -> np.ndarray:
    """A colour map of matplotlib as [256, 3] uint8."""
    map_ = matplotlib.colormaps[name]
    return np.round(255 * map_(np.arange(256))[:, :3]).astype(np.uint8)


def _fixed(
    run: Run,
    content: blocks.Content,
    volumes: Sequence[dict[str, Any]],
    scales: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """All that the template is given, the volumes apart."""
    names = [volume["name"] for volume in volumes]
    first = names.index("mean") if "mean" in names else 0
    spectra = {
        number: packed.log_power(volume["array"], run.tilt_axis)
        for number, volume in enumerate(volumes)
        if not volume["spread"]
    }
    limits = packed.power_limits(list(spectra.values()))
    return {
        "title": run.page.title,
        "verdict": tables.verdict(run.record),
        "warnings": list(run.record.get("warnings", ())),
        "scales": scales,
        "first": first,
        "before": max(first - 1, 0),
        "power": {
            number: packed.packed(packed.to_bytes(spectrum, limits))
            for number, spectrum in spectra.items()
        },
        "spectrum": packed.SPECTRUM,
        "across": "xz" if run.tilt_axis == "y" else "yz",
        "wedge": wedge(content.angles_deg, run.tilt_axis),
        "tilts": tables.tilts(run.record, content, colours("RdBu_r")),
        "tables": tables.of_trust(run.record),
        "decisions": [*tables.facts(run.record, run.decisions)],
        "again": dict(run.again),
        "cover": run.cover,
        "caveat": run.caveat,
        "record": _json(run.record),
    }


def wedge(angles_deg: np.ndarray, tilt_axis: str) -> dict[str, Any]:
    """Directions that the tilts measure in the plane across the axis, to its border.

    A tilt measures the frequencies ``k (cos theta, sin theta)`` of (x, z); in a file
    whose axis runs along x it is (-y, z).

    Args:
      angles_deg: [n_tilts].
      tilt_axis: "y" or "x".

    Returns:
      "tilts" and "edges", the points (across, z) in which they meet the border of
      -0.5..0.5, and "said", the same in words.
    """
    side = 1.0 if tilt_axis == "y" else -1.0

    def ends(degrees: np.ndarray) -> list[tuple[float, float]]:
        theta = np.deg2rad(degrees)
        point = np.stack([side * np.cos(theta), np.sin(theta)], axis=1)
        point *= 0.5 / np.abs(point).max(axis=1, keepdims=True)
        return [(round(float(x), 4), round(float(z), 4)) for x, z in point]

    low, high = float(np.min(angles_deg)), float(np.max(angles_deg))
    said = (
        f"Measured: the {len(angles_deg)} dashed directions, between the lines at "
        f"{low:g} and {high:g} degrees from the horizontal"
        + (" (to the left)." if tilt_axis == "x" else ".")
    )
    edges = ends(np.array([low, high]))
    return {"tilts": ends(np.asarray(angles_deg)), "edges": edges, "said": said}


def _render(
    fixed: Mapping[str, Any],
    volumes: Sequence[dict[str, Any]],
    shape: tuple[int, ...],
    factor: int,
    voxel_size_angstrom: float | None,
) -> str:
    """The page with its volumes binned by a factor."""
    held = []
    for number, volume in enumerate(volumes):
        small = packed.binned(volume["array"], factor)
        values = packed.to_bytes(small, (volume["low"], volume["high"]))
        power = fixed["power"].get(number)
        data = {"number": number, "data": packed.packed(values), "power": power}
        held.append({**volume, **data})
    binned = [-(-extent // factor) for extent in shape]
    described = {
        "shape": binned,
        "extents": dict(zip("zyx", shape)),
        "factor": factor,
        "bar": _bar(binned[2], factor, voxel_size_angstrom),
        "first": fixed["first"],
        "before": fixed["before"],
        "spectrum": fixed["spectrum"],
        "colours": base64.b64encode(colours("magma").tobytes()).decode("ascii"),
        "volumes": [
            {k: v[k] for k in ("label", "spread", "low", "high")} for v in held
        ],
    }
    said = f"The volumes in this page are binned {factor} times." if factor > 1 else ""
    folder = importlib.resources.files("temdiff_jax.report") / "templates"
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string((folder / "run.html").read_text("utf-8"))
    return template.render(
        {
            **fixed,
            "volumes": held,
            "extents": dict(zip("xyz", binned[::-1])),
            "binning": said,
            "page": _json(described),
            "style": (folder / "run.css").read_text("utf-8"),
            "script": (folder / "run.js").read_text("utf-8"),
        }
    )


def _bar(
    columns: int, factor: int, voxel_size_angstrom: float | None
) -> dict[str, Any]:
    """Length of the scale bar in voxels of the page, and what is written over it."""
    longest = _LONGEST_BAR * columns * factor
    if voxel_size_angstrom is None:
        length = max(panels.nice_length(max(longest, 1.0)), 1.0)
        return {"voxels": length / factor, "label": f"{length:g} voxels"}
    voxel_nm = voxel_size_angstrom / panels.ANGSTROM_PER_NM
    length = panels.nice_length(longest * voxel_nm)
    return {"voxels": length / voxel_nm / factor, "label": f"{length:g} nm"}


def _json(content: Mapping[str, Any]) -> str:
    """Strict JSON that cannot end the script element it stands in."""
    text = json.dumps(write.plain(content), allow_nan=False, ensure_ascii=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text
