"""Lines that make a run again and open its volumes, from its record."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np

from temdiff_jax.io import viewers

# Names of `load_tilt_series` and of `reconstruct` by those of the record.
_LOADED = {
    "alignment_path": "alignment",
    "angle_range_deg": "angle_range",
    "exclude": "exclude",
    "axis_angle_deg": "axis_angle_deg",
}
_DRAWN = {"samples": "num_samples", "steps": "num_steps"}
_CHOSEN = {
    "thickness": "thickness",
    "method": "method",
    "prior": "prior",
    "rule": "rule",
    "solver": "solver",
    "schedule": "schedule",
    "seed": "key",
    "log": "log",
    "contrast": "contrast",
    "weighting": "weighting",
}


def lines(
    record: Mapping[str, Any],
    volumes: Mapping[str, np.ndarray],
    voxel_size_angstrom: float | None,
) -> dict[str, str]:
    """Code by what it does.

    Args:
      record: Of the run, with the SHA-256 of its volumes by their names.
      volumes: "mean" and perhaps "std", as in the files.
      voxel_size_angstrom: Of them; None where unknown.
    """
    made = {}
    if record.get("arguments"):
        made["On the command line"] = "temdiff " + shlex.join(record["arguments"])
    made["In Python"] = python(record)
    names = iter(record["sha256"])
    mean = (next(names), volumes["mean"])
    std = next(names, None)
    beside = None if std is None else (std, volumes["std"])
    size = None if voxel_size_angstrom is None else (voxel_size_angstrom,) * 3
    where = ", in the folder of the results"
    made[f"To look at it in napari{where}"] = shlex.join(
        viewers.napari(mean, beside, size)
    )
    if mean[0].endswith(".mrc"):
        made[f"To look at it in 3dmod{where}"] = shlex.join(viewers.imod(mean, beside))
    return made


def python(record: Mapping[str, Any]) -> str:
    """The Python call of a run."""
    given, chosen = record.get("input") or {}, record.get("parameters") or {}
    code = ["from temdiff_jax import load_tilt_series, reconstruct"]
    if record.get("command") == "demo":
        code.append("# the packaged series: files of the folder data of temdiff_jax")
    if given:
        code += _loading(record, given)
    else:
        code.append("# tilts and angles as they were given to the run of this report")
        chosen = _of_library(record["library"]) | {
            "thickness": record["volume_shape"][0]
        }
    names = _CHOSEN | (_DRAWN if record["library"]["draws"] else {})
    words = _words({names[k]: v for k, v in chosen.items() if k in names})
    if chosen.get("numbers"):
        code.append(f"# and numbers of the method: {', '.join(chosen['numbers'])}")
    what = "series" if given else "tilts, angles"
    code += [f"result = reconstruct({what}{words})", 'result.save("again")']
    return "\n".join(code)


def _loading(record: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    options = {_LOADED[k]: v for k, v in given.items() if k in _LOADED}
    if given.get("tilt_axis", "y") != "y":
        options["tilt_axis"] = given["tilt_axis"]
    config = record.get("config") or {}
    if "voxel-size" in config:
        options["voxel_size_angstrom"] = config["voxel-size"]
    if config.get("allow-small-angles"):
        options["allow_small_angles"] = True
    path, angles = str(given["path"]), given.get("angles_path")
    beside = "" if angles is None else f", {str(angles)!r}"
    code = [f"series = load_tilt_series({path!r}{beside}{_words(options)})"]
    if given.get("bin", 1) != 1:
        code += [
            "from temdiff_jax.cli.reconstruct import binned",
            f"series = binned(series, {given['bin']})",
        ]
    return code


def _of_library(made: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of a run that was made in Python."""
    prior = made.get("prior")
    return {
        "method": made["method"],
        "prior": prior["name"] if prior else None,
        "samples": made["num_samples"],
        "steps": made["num_steps"],
        "seed": made["key"][-1],
        "log": made["intensity"]["log"],
    }


def _words(options: Mapping[str, Any]) -> str:
    plain = (int, float, tuple, list)
    return "".join(
        f", {name}={(value if isinstance(value, plain) else str(value))!r}"
        for name, value in options.items()
        if value is not None
    )
