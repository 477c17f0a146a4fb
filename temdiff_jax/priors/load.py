"""Reads and writes a released prior: one .safetensors and one JSON card.

The sha256 of every shipped file is pinned in ``registry.json`` and computed before
anything is parsed; a prior given by its path is checked against its own card.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from temdiff_jax.diffusion import parameterisation, spectrum
from temdiff_jax.errors import InputError
from temdiff_jax.inverse.quadratic import Metric
from temdiff_jax.io import gate, write
from temdiff_jax.model import Network, NetworkConfig, make_network
from temdiff_jax.priors import card as card_file
from temdiff_jax.priors import packed
from temdiff_jax.priors.card import FORMAT_VERSION
from temdiff_jax.series.inputs import ResidualScale

MAX_BYTES = 4 * 2**30
MAX_HEADER_BYTES = 2**25


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "params",
        "residual_scale",
        "metric_mean",
        "metric_sample",
        "regression",
    ],
    meta_fields=["network"],
    drop_fields=["card", "sha256"],
)
@dataclasses.dataclass(frozen=True)
class Prior:
    """A network with its weights and what is needed to use it; a pytree.

    Compiled programs are given all of it but the card and the checksum.

    Attributes:
      network: Pure functions; static.
      params: Weights, float32, plain nested dicts.
      residual_scale: Spread of the residual by range, noise, ...
      metric_mean: Error precision of the one-call estimate (see consistency).
      metric_sample: The same for guesses inside the sampler, at infinite noise.
      card: The JSON card.
      sha256: Of the weight file.
      regression: Prior whose one call the network samples around; None for the
        quadratic estimate.
    """

    network: Network
    params: dict
    residual_scale: ResidualScale
    metric_mean: Metric
    metric_sample: Metric
    card: dict[str, Any] = dataclasses.field(default_factory=dict, compare=False)
    sha256: str = dataclasses.field(default="", compare=False)
    regression: Prior | None = None

    @property
    def sigma_mean(self) -> float:
        """Noise level from which on the network answers the mean."""
        refines = self.network.config.refines
        return spectrum.SIGMA_MEAN if refines else parameterisation.SIGMA_MEAN


def _registry() -> dict[str, dict[str, str]]:
    """Shipped priors; none before the first export."""
    pins = resources.files("temdiff_jax.priors").joinpath("registry.json")
    return json.loads(pins.read_text())["priors"] if pins.is_file() else {}


def prior_names() -> list[str]:
    """Names of the priors that ship with the package."""
    return sorted(_registry())


def load_prior(name: str | Path = "default") -> Prior:
    """Loads a shipped prior by name, or any prior by the path of its weights.

    Args:
      name: A name of ``prior_names()`` or a ``.safetensors`` file with its card
        (same name, ``.json``) beside it.

    Returns:
      The prior; loading the same file twice returns the same object.

    Raises:
      InputError: Unknown name, missing card, other format version, checksum or
        tensor mismatch.
    """
    registry = _registry()
    if str(name) in registry:
        entry = registry[str(name)]
        folder = resources.files("temdiff_jax.priors").joinpath("default")
        with resources.as_file(folder.joinpath(entry["file"])) as path:
            return _load(path, entry["sha256"], path.stat().st_mtime_ns)
    path = Path(name)
    if path.suffix != ".safetensors":
        raise gate.bad_input(
            "prior",
            f"one of {sorted(registry)} or a .safetensors file",
            repr(str(name)),
            "see `temdiff priors list`",
        )
    gate.regular_file(path)
    return _load(path, None, path.stat().st_mtime_ns)


def range_verdict(prior: Prior, angles_deg: np.ndarray) -> str:
    """Whether the prior saw such a range in training, in words."""
    seen = prior.card.get("half_range_deg")
    half = 0.5 * float(np.max(angles_deg) - np.min(angles_deg))
    if seen is None:
        return "unknown"
    inside = seen[0] <= half <= seen[1]
    return "inside" if inside else f"outside: {half:g} of {seen} degrees half-range"


def not_covered(
    prior: Prior, angles_deg: np.ndarray, voxel_nm: float | None
) -> tuple[str, ...]:
    """What of a series the training of a prior did not cover, one line each.

    Args:
      prior: Whose card says what it was trained on; what that leaves out passes.
      angles_deg: Of the tilts.
      voxel_nm: Voxel size; None where nobody knows it.
    """
    card = prior.card
    scenarios = (card.get("data") or {}).get("scenarios") or ()
    tilts = [
        (row.get("fewest_tilts") or row["num_tilts"], row["num_tilts"])
        for row in scenarios
        if "num_tilts" in row
    ]
    spans: dict[tuple[str, str], tuple[Any, float | None]] = {
        ("half-ranges", " degrees"): (
            card.get("half_range_deg"),
            0.5 * float(np.max(angles_deg) - np.min(angles_deg)),
        ),
        ("numbers of tilts", ""): (
            (min(t[0] for t in tilts), max(t[1] for t in tilts)) if tilts else None,
            float(len(angles_deg)),
        ),
        ("voxel sizes", " nm"): (card.get("voxel_size_nm"), voxel_nm),
    }
    name = card.get("name", "")
    return tuple(
        f"prior {name}: trained on {what} from {span[0]:g} to {span[1]:g}{unit}, this "
        f"series has {value:g}{unit}; what the prior adds is uncertain"
        for (what, unit), (span, value) in spans.items()
        if span and value is not None and not span[0] <= value <= span[1]
    )


@functools.lru_cache(maxsize=4)
def _load(path: Path, pinned: str | None, modified: int) -> Prior:
    del modified  # part of the cache key: a file that changed is read again
    card = card_file.read_card(path.with_suffix(".json"))
    path, size = gate.regular_file(path)
    if size > MAX_BYTES:
        raise InputError(
            f"prior: expected weights of at most {MAX_BYTES} bytes, got {size} in "
            f"{path.name}; this is not a prior"
        )
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    expected = pinned or card.get("sha256")
    if digest != expected:
        raise InputError(
            f"prior: expected sha256 {expected} for {path.name}, got {digest}; the "
            "file is damaged or not the one of this card: fetch it again"
        )
    with gate.reading(f"prior: {path.name}", "safetensors weights"):
        _refuse_repeats(data)
        tensors = packed.unpack(safetensors.numpy.load(data))
    with gate.reading(f"prior: card of {path.name}", "a network that can be built"):
        config, scale = _network_config(card), _residual_scale(card)
        metrics = [_metric(card[f"metric_{use}"]) for use in ("mean", "sample")]
        network = make_network(config)
        abstract = jax.eval_shape(network.init, jax.random.key(0))
    params = _unflatten(tensors, abstract, path.name)
    first = _regression(card, path) if config.regression else None
    return Prior(network, params, scale, metrics[0], metrics[1], card, digest, first)


def _regression(card: dict[str, Any], path: Path) -> Prior:
    """The prior that a card names, shipped or in the same folder."""
    named = card["regression"]
    name = named["prior"]
    prior = load_prior(name if name in _registry() else path.parent / name)
    if prior.sha256 != named["sha256"]:
        raise InputError(
            f"prior: expected the regression {name} of {path.name} with sha256 "
            f"{named['sha256']}, got {prior.sha256}; use the release of temdiff_jax "
            "that wrote it"
        )
    return prior


def _refuse_repeats(data: bytes) -> None:
    """Refuses a header with a tensor twice: readers differ in which of them counts."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError("a tensor stands twice in the header")
        return dict(pairs)

    length = int.from_bytes(data[:8], "little")
    if length <= MAX_HEADER_BYTES:
        json.loads(data[8 : 8 + length], object_pairs_hook=unique)


def _residual_scale(card: dict[str, Any]) -> ResidualScale:
    scale = card["residual_scale"]
    slopes = jnp.asarray(scale["slopes"], jnp.float32)
    layers = scale.get("spectrum")
    power = None if layers is None else spectrum.from_json(layers)
    return ResidualScale(jnp.float32(scale["intercept"]), slopes, power)


def _metric(values: dict[str, Any]) -> Metric:
    return Metric(**{name: jnp.float32(value) for name, value in values.items()})


def _network_config(card: dict[str, Any]) -> NetworkConfig:
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in card["network"].items()
    }
    return NetworkConfig(**values)


def _unflatten(tensors: dict[str, np.ndarray], abstract: dict, name: str) -> dict:
    """Nested float32 weights, after comparing every leaf with the architecture."""
    flat, tree = jax.tree_util.tree_flatten_with_path(abstract)
    expected = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in flat
    }
    for key in sorted(expected.keys() | tensors.keys()):
        want = expected.get(key)
        got = tensors[key].shape if key in tensors else None
        if want != got:
            raise InputError(
                f"prior: tensor {key} of {name}: expected shape {want}, got {got}; "
                "weights and card do not belong together"
            )
    for key in expected:
        # A type without a meaning here, such as text, is not finite either.
        if tensors[key].dtype.kind != "f" or not np.isfinite(tensors[key]).all():
            raise gate.bad_input(
                f"prior: tensor {key} of {name}",
                "finite floats",
                f"{tensors[key].dtype} with NaN or Inf, or no floats",
                "fetch the file again",
            )
    leaves = [jnp.asarray(tensors[key], jnp.float32) for key in expected]
    return jax.tree_util.tree_unflatten(tree, leaves)


def save_prior(
    path: str | Path,
    params: dict,
    card: dict[str, Any],
    *,
    step: float | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes weights and card; returns the card with its sha256.

    Args:
      path: ``.safetensors`` target; the card goes beside it as ``.json``.
      params: Nested weights.
      card: Everything but ``format_version`` and ``sha256``.
      step: None writes float16; else weights in a few bits, see ``packed.pack``.
      overwrite: Replace existing files.
    """
    path = Path(path)
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    tensors = {
        jax.tree_util.keystr(p, simple=True, separator="/"): np.asarray(
            leaf, np.float16
        )
        for p, leaf in flat
    }
    if step is not None:
        tensors = packed.pack(tensors, step)
    data = safetensors.numpy.save(tensors)
    card = {
        "format_version": FORMAT_VERSION,
        **card,
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    write.write_bytes(path, data, overwrite=overwrite)
    write.write_json(path.with_suffix(".json"), card, overwrite=overwrite)
    return card
