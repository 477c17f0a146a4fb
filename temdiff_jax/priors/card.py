"""The JSON card of a prior: read within bounds and checked whole before it is used."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from temdiff_jax.diffusion import spectrum
from temdiff_jax.errors import InputError
from temdiff_jax.io import gate
from temdiff_jax.model import KINDS, NORMS, NUM_FEATURES, NetworkConfig

FORMAT_VERSION = 1
# Scalars that the first priors were given.
FEWEST_FEATURES = 4
MAX_CARD_BYTES = 2**20
_MAX_LEVELS = 8
# What a network may have at most; a lying card must not be traced for hours.
_LARGEST = {
    "channels": 4096,
    "blocks": 64,
    "remat": _MAX_LEVELS,
    "groups": 4096,
    "embedding": 4096,
    "patch": 16,
    "filters": 64,
    "features": NUM_FEATURES,
}
_LEAST = {"channels": 1, "groups": 1, "embedding": 2, "patch": 1, "features": 1}
_WORDS = {
    "target": ("residual", "volume"),
    "dtype": ("float32", "bfloat16"),
    "norm": NORMS,
    "kind": tuple(KINDS),
}
# Fields that no network has any more, and the values that meant they were not used.
_PAST = {"axial_taps": 0, "grown": [], "moments": False}
_REQUIRED = ("network", "residual_scale", "metric_mean", "metric_sample")


def read_card(path: Path) -> dict[str, Any]:
    """Read and check a card.

    Raises:
      InputError: no regular file of at most 1 MiB, no JSON, another format version, a
        field that is missing, of another type, not finite or out of bounds.
    """
    if not path.exists():
        raise InputError(
            f"prior: expected the card {path.name} beside the weights, found none; "
            "keep the two files together"
        )
    path, size = gate.regular_file(path)
    if size > MAX_CARD_BYTES:
        raise gate.bad_input(
            f"prior: card {path.name}", "at most 1 MiB", f"{size} bytes", "check it"
        )
    with gate.reading(f"prior: {path.name}", "a JSON card"):
        card = json.loads(
            path.read_bytes().decode("utf-8"), parse_constant=_no_constant
        )
    version = card.get("format_version") if isinstance(card, dict) else None
    if type(version) is not int or version != FORMAT_VERSION:
        raise gate.bad_input(
            f"prior: {path.name}",
            f"format version {FORMAT_VERSION}",
            version,
            "use the release of temdiff_jax that wrote it",
        )
    missing = [name for name in _REQUIRED if name not in card]
    if missing:
        raise gate.bad_input(
            f"prior: {path.name}",
            f"the fields {list(_REQUIRED)}",
            f"no {missing}",
            "fetch the file again",
        )
    if isinstance(card["network"], dict):
        card["network"] = without_past(card["network"])
    for name, check in _CHECKS.items():
        if name in card:
            problem = check(card[name])
            if problem:
                raise gate.bad_input(
                    f"prior: {path.name}: {name}",
                    problem,
                    json.dumps(card[name], default=str),
                    "fetch the file again",
                )
    if card["network"].get("refines") and "spectrum" not in card["residual_scale"]:
        raise gate.bad_input(
            f"prior: {path.name}: residual_scale",
            "a spectrum, which a network that refines a linear guess needs",
            "none",
            "export it again from its training checkpoint",
        )
    if card["network"].get("regression") and "regression" not in card:
        raise gate.bad_input(
            f"prior: {path.name}: regression",
            "the prior around whose estimate it samples",
            "none",
            "export it again from its training checkpoint",
        )
    return card


def without_past(network: dict[str, Any]) -> dict[str, Any]:
    """A network's description without fields of earlier releases that it did not use.

    A field that it did use stays; `unknown_field` then names it.
    """
    return {k: v for k, v in network.items() if k not in _PAST or v != _PAST[k]}


def unknown_field(network: dict[str, Any]) -> str:
    """What is wrong with the names of a network's fields, "" if nothing is."""
    known = {field.name for field in dataclasses.fields(NetworkConfig)}
    for name in network:
        if name in _PAST:
            return f"no {name}, which releases up to 0.1.0 read"
        if name not in known:
            return f"only the fields of a network, not {name[:40]!r}"
    return ""


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _network(values: Any) -> str:
    """What is wrong with the network's description, "" if nothing is."""
    if not isinstance(values, dict):
        return "an object"
    defaults = {f.name: f.default for f in dataclasses.fields(NetworkConfig)}
    problem = unknown_field(values)
    if problem:
        return problem
    for name, value in values.items():
        if name in _WORDS:
            good = value in _WORDS[name] if isinstance(value, str) else False
            if not good:
                return f"{name} one of {', '.join(_WORDS[name])}"
        elif isinstance(defaults[name], bool):
            if type(value) is not bool:
                return f"{name} true or false"
        else:
            listed = isinstance(defaults[name], tuple)
            numbers = value if listed else [value]
            if not isinstance(numbers, list) or len(numbers) > _MAX_LEVELS:
                return f"{name} as a list of at most {_MAX_LEVELS}"
            low, high = _LEAST.get(name, 0), _LARGEST[name]
            if not all(type(n) is int and low <= n <= high for n in numbers):
                return f"{name} of whole numbers from {low} to {high}"
    found: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
    }
    whole = NetworkConfig(**found)
    levels = len(whole.channels)
    if not levels or len(whole.blocks) != levels:
        return "channels and blocks of equally many levels"
    if any(c % whole.groups for c in whole.channels) and whole.norm == "group":
        return "channels that the groups divide"
    if whole.embedding % 2:
        return "an even embedding"
    return ""


def _scale(values: Any) -> str:
    if not isinstance(values, dict) or not _is_number(values.get("intercept")):
        return "a finite intercept"
    slopes = values.get("slopes")
    if not isinstance(slopes, list) or not all(map(_is_number, slopes)):
        return "finite slopes"
    if not FEWEST_FEATURES <= len(slopes) <= NUM_FEATURES:
        return f"{FEWEST_FEATURES} to {NUM_FEATURES} slopes"
    if "spectrum" in values:
        try:
            spectrum.from_json(values["spectrum"])
        except (KeyError, TypeError, ValueError):
            return "a spectrum of three layers of finite numbers"
    return ""


def _metric(values: Any) -> str:
    names = {"smoothness", "ridge"}
    if not isinstance(values, dict) or set(values) != names:
        return "smoothness and ridge"
    if not all(_is_number(v) and v >= 0 for v in values.values()):
        return "numbers of at least zero"
    return ""


def _half_range(values: Any) -> str:
    good = (
        isinstance(values, list) and len(values) == 2 and all(map(_is_number, values))
    )
    return "" if good and 0 <= values[0] < values[1] <= 90 else "two degrees, ascending"


def _digest(value: Any) -> str:
    good = isinstance(value, str) and len(value) == 64
    return "" if good else "64 hexadecimal digits"


def _named(values: Any) -> str:
    good = isinstance(values, dict) and set(values) == {"prior", "sha256"}
    good = good and isinstance(values["prior"], str) and not _digest(values["sha256"])
    return "" if good else "the name of a prior and its sha256"


def _factors(values: Any) -> str:
    wanted = "None, or num_samples and rows of half_range_deg, cell and factors"
    if values is None:
        return ""
    try:
        rows = values["rows"]
        numbers = [values["num_samples"], *(row["half_range_deg"] for row in rows)]
        numbers += [row["cell"] for row in rows]
        numbers += [v for row in rows for v in row["factors"].values()]
        good = bool(rows) and all(_is_number(v) and v > 0 for v in numbers)
        levels = {tuple(row["factors"]) for row in rows}
    except (KeyError, TypeError, AttributeError):
        return wanted
    return "" if good and len(levels) == 1 else wanted


_CHECKS: dict[str, Callable[[Any], str]] = {
    "network": _network,
    "residual_scale": _scale,
    "metric_mean": _metric,
    "metric_sample": _metric,
    "half_range_deg": _half_range,
    "sha256": _digest,
    "regression": _named,
    "interval_factors": _factors,
}
