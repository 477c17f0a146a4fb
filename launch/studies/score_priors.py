"""Compares priors by their guesses on held-out simulated blocks.

    python -m launch.studies.score_priors --config=configs/wide_prior.py \\
        --data_dir=DATA default runs/a.safetensors runs/b.safetensors

Prints Markdown, a row per prior, "default" or a file of launch.export: by how much its
guess is nearer to the truth than the quadratic estimate, in dB, for every scenario of
the configuration and their mean.  The guess is one call of the network, without samples
and without a projection update.  --sigmas adds the same at noise levels in between, for
networks of residuals: the network is shown the residual with so much noise, in units of
its expected deviation.  Scores are of squared errors summed over the blocks of a
scenario; blocks are aligned where the configuration has both kinds.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence

import jax
import numpy as np
from absl import app, flags

from launch import program
from temdiff_jax.errors import InputError
from temdiff_jax.model import conv
from temdiff_jax.priors import Prior, load_prior
from temdiff_jax.training import loop, step
from temdiff_jax.training.data import Batch


def define_flags() -> None:
    """Defines the flags; not on import, so that programs can be imported together."""
    flags.DEFINE_string("config", None, "Python file with get_config(): the blocks.")
    flags.DEFINE_string("data_dir", None, "Folder of the volumes.")
    flags.DEFINE_multi_string("set", [], "Override of the configuration: field=value.")
    flags.DEFINE_list("sigmas", [], "Noise levels to score as well.")
    flags.DEFINE_string(
        "blocks", None, "Folder that keeps simulated blocks for this and other runs."
    )
    flags.DEFINE_string("compile_cache", None, "Own folder for compiled code.")
    flags.mark_flags_as_required(["config", "data_dir"])


_guess = jax.jit(step.best_guess, static_argnames="network")


def gains(
    prior: Prior, batches: Sequence[Batch], scenarios: int, sigma: float | None = None
) -> np.ndarray:
    """Gain over the quadratic estimate, dB, ``[scenarios]``.

    Args:
      prior: Conditional.
      batches: One block of each scenario, then the next of each, and so on, as
        ``loop.validation_batches`` has them.
      scenarios: How many.
      sigma: See ``step.best_guess``.
    """
    score = functools.partial(_guess, network=prior.network, sigma=sigma)
    errors = []
    for batch in batches:
        guess, target, known = score(prior.params, batch, prior.residual_scale)
        errors.append([np.sum((x - target) ** 2) for x in (known, guess)])
    known, guess = np.array(errors).reshape(-1, scenarios, 2).sum(axis=0).T
    return 10.0 * np.log10(known / guess)


def row(
    name: str,
    prior: Prior,
    batches: Sequence[Batch],
    scenarios: int,
    sigmas: Sequence[float],
) -> str:
    """The line of a prior."""
    found = gains(prior, batches, scenarios)
    cells = [f"{gain:+.2f}" for gain in (*found, found.mean())]
    residual = prior.network.config.target == "residual"
    for sigma in sigmas:
        mean = gains(prior, batches, scenarios, sigma).mean() if residual else None
        cells.append("" if mean is None else f"{mean:+.2f}")
    return f"| {' | '.join([name, *cells])} |"


def parse_sigmas(given: Sequence[str]) -> list[float]:
    """Noise levels.

    Raises:
      InputError: Not a positive number.
    """
    try:
        sigmas = [float(text) for text in given]
    except ValueError:
        sigmas = [float("nan")]
    if not all(0 < sigma < float("inf") for sigma in sigmas):
        raise InputError(
            f"--sigmas: expected positive numbers, got {list(given)}; write for "
            "example --sigmas=0.3,1"
        )
    return sigmas


def run(names: Sequence[str]) -> None:
    """Prints the table, a row as soon as it is known."""
    given = flags.FLAGS
    if not names:
        raise InputError(
            "priors: expected 'default' or .safetensors files, got none; name them"
        )
    sigmas = parse_sigmas(given.sigmas)
    config = program.resolve(given.config, given.set)
    priors = [load_prior(name) for name in names]
    for name, prior in zip(names, priors):
        if not prior.network.config.conditional:
            raise InputError(
                f"{name}: expected a conditional network, got one that knows no tilts; "
                "leave it out"
            )
    multiple = max(prior.network.config.multiple for prior in priors)
    batches = loop.validation_batches(config, given.data_dir, given.blocks, multiple)
    kinds = config.data.scenarios
    heads = [
        "prior",
        *(
            f"{s.half_range_deg[0]:g}-{s.half_range_deg[1]:g}, {s.num_tilts} tilts, "
            f"{s.thickness}"
            for s in kinds
        ),
        "mean",
        *(f"sigma {sigma:g}" for sigma in sigmas),
    ]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|", flush=True)
    for name, prior in zip(names, priors):
        print(row(name, prior, batches, len(kinds), sigmas), flush=True)


def main(argv: Sequence[str]) -> None:
    """Exits with 2 on unusable input."""
    conv.prefer_own(os.environ)
    if flags.FLAGS.compile_cache:
        jax.config.update("jax_compilation_cache_dir", flags.FLAGS.compile_cache)
    with program.refusals("score_priors"):
        run(argv[1:])


if __name__ == "__main__":
    define_flags()
    app.run(main)
