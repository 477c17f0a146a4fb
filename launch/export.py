"""Exports a training checkpoint as a prior: one .safetensors and one JSON card.

    python -m launch.export --workdir=runs/default --out=default.safetensors \\
        --name=default-v1

The weights are the running average of training, or, of a run with
``optim.average_lengths``, an average of any other length:

    python -m launch.export ... --ema=0.08

A prior that ships with the package is also pinned:

    python -m launch.export ... --out=temdiff_jax/priors/default/default.safetensors \\
        --registry=temdiff_jax/priors/registry.json

Networks for comparison are stored in a few bits (``priors.packed``):

    python -m launch.export ... --pack=0.2
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from absl import app, flags

from launch import program
from temdiff_jax.errors import InputError
from temdiff_jax.io import write
from temdiff_jax.model import NetworkConfig, make_network
from temdiff_jax.priors import load_prior, save_prior
from temdiff_jax.priors.card import unknown_field, without_past
from temdiff_jax.training import averages
from temdiff_jax.training.checkpoint import Checkpoints
from temdiff_jax.training.config import OptimConfig
from temdiff_jax.training.step import init_state

TARGETS = {"residual": "residual around the quadratic estimate", "volume": "volume"}


def define_flags() -> None:
    """Defines the flags; not on import, so that programs can be imported together."""
    flags.DEFINE_string("workdir", None, "Folder of the training run.")
    flags.DEFINE_integer("step", None, "Checkpoint; default the newest.")
    flags.DEFINE_float(
        "ema", None, "Average of this relative length; default that of training."
    )
    flags.DEFINE_string("out", None, "Target, .safetensors.")
    flags.DEFINE_string("name", "default-v1", "Name in the card.")
    flags.DEFINE_string("card", "configs/default_card.json", "Fields to add.")
    flags.DEFINE_float(
        "pack", None, "Step of weights stored in a few bits; default float16."
    )
    flags.DEFINE_string("registry", None, "registry.json to pin it in.")
    flags.DEFINE_string("registry_name", "default", "Name in the registry.")
    flags.mark_flags_as_required(["workdir", "out"])


def _tuples(values: dict) -> dict:
    """Lists, as JSON has them, as tuples, as configurations have them."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def export(
    workdir: str,
    step: int | None,
    out: Path,
    name: str,
    extra: dict,
    ema: float | None = None,
    pack: float | None = None,
) -> dict:
    """Writes the averaged weights of a checkpoint and their card.

    Args:
      workdir: Folder given to training.
      step: Checkpoint, or None for the newest.
      out: ``.safetensors`` target.
      name: Name written into the card.
      extra: Further fields of the card (data, licences, metrics, scores).
      ema: Relative length of the average, see ``training.averages``; None for the
        running average.
      pack: Step of weights in a few bits, see ``priors.packed``; None for float16.

    Returns:
      The card.
    """
    folder = Path(workdir) / "checkpoints"
    if not folder.is_dir():  # opening it would create it
        raise InputError(
            f"--workdir: expected the folder {folder}, found none; pass the one given "
            "to training"
        )
    checkpoints = Checkpoints(folder)
    steps = checkpoints.steps()
    if not steps or (step is not None and step not in steps):
        raise InputError(
            f"--step: expected a checkpoint among {steps} of {folder}, got "
            f"{'none' if step is None else step}; train longer or choose one of them"
        )
    step = steps[-1] if step is None else step
    meta = checkpoints.meta(step)
    config = meta["config"]
    described = _tuples(without_past(config["network"]))
    problem = unknown_field(described)
    if problem:
        raise InputError(
            f"--workdir: expected {problem}, in the configuration of checkpoint {step} "
            f"of {folder}; export it with the release of temdiff_jax that trained it"
        )
    # How it was computed in training is not how it must be computed later.
    shape = NetworkConfig(**described).architecture
    network = make_network(shape)
    optim = OptimConfig(**_tuples(config["optim"]))
    fresh = functools.partial(init_state, network=network, config=optim)
    state = checkpoints.restore(step, jax.eval_shape(fresh, jax.random.key(0)))
    checkpoints.close()
    params = state.ema_params
    if ema is not None:
        params = averages.reconstruct(Path(workdir) / "averages", ema, step)
    card = make_card(meta, shape, int(step), ema) | {"name": name} | extra
    return save_prior(out, params, card, step=pack, overwrite=True)


def make_card(
    meta: dict, shape: NetworkConfig, step: int, ema: float | None
) -> dict[str, Any]:
    """What a checkpoint says of itself, for the card."""
    config = meta["config"]
    ranges = [s["half_range_deg"] for s in config["data"]["scenarios"]]
    regression = config["data"].get("regression")
    named = {}
    if shape.regression:
        first = load_prior(regression)
        named["regression"] = {"prior": regression, "sha256": first.sha256}
    skip = "the Wiener filter of its spectrum" if shape.refines else "EDM, sigma_data 1"
    return {
        "parameterisation": f"{TARGETS[shape.target]}, {skip}",
        "network": dataclasses.asdict(shape),
        "residual_scale": meta["residual_scale"],
        "half_range_deg": [min(r[0] for r in ranges), max(r[1] for r in ranges)],
        "steps": step,
        "seed": config["seed"],
        "optim": config["optim"],
        "ema_length": ema,
        "data": config["data"],
        "conditional": shape.conditional,
        "condition_dropout": config["optim"]["drop_condition"],
        "interval_factors": None,
    } | named


def read_card(path: Path) -> dict:
    """Fields that a person adds to the card."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"--card: expected a JSON file, got {error} for {path}; see "
            "configs/default_card.json"
        ) from error


def main(argv: Sequence[str]) -> None:
    """Exports and, if asked, pins."""
    given = flags.FLAGS
    with program.refusals("export", argv):
        extra = read_card(Path(given.card))
        out = Path(given.out)
        card = export(
            given.workdir,
            given.step,
            out,
            given.name,
            extra,
            given.ema,
            given.pack,
        )
        print(f"{out}: {out.stat().st_size / 1e6:.2f} MB, sha256 {card['sha256']}")
        if given.registry:
            path = Path(given.registry)
            registry = {"priors": {}}
            if path.exists():
                registry = json.loads(path.read_text(encoding="utf-8"))
            entry = {"file": out.name, "sha256": card["sha256"]}
            registry["priors"][given.registry_name] = entry
            write.write_json(path, registry, overwrite=True)


if __name__ == "__main__":
    define_flags()
    app.run(main)
