"""Fits scale and spectrum of a trained prior to fresh simulated series.

    python -m launch.studies.fit_spectrum --prior=FILE.safetensors \\
        --config=configs/sampling_prior.py --data_dir=DATA --out=FITTED.safetensors \\
        --phases=8 --first_phase=100000

The weights stay.  A spectrum fitted before the training knows the series of that
time; this one knows those of the configuration, wider noise for example.  Phases from
``--first_phase`` on were no part of the training.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from absl import app, flags

from launch import program
from temdiff_jax.diffusion import spectrum
from temdiff_jax.errors import InputError
from temdiff_jax.model import conv
from temdiff_jax.priors import load_prior, save_prior
from temdiff_jax.training import loop
from temdiff_jax.training.data import BlockSource


def define_flags() -> None:
    """Defines the flags; not on import, so that programs can be imported together."""
    flags.DEFINE_string("prior", None, "Prior that refines a linear guess.")
    flags.DEFINE_string("config", None, "Python file with get_config().")
    flags.DEFINE_string("data_dir", None, "Folder of the source volumes.")
    flags.DEFINE_string("out", None, "Target, .safetensors.")
    flags.DEFINE_multi_string("set", [], "Override: section.field=value.")
    flags.DEFINE_integer("phases", 8, "Phases of blocks that are simulated.", 1)
    flags.DEFINE_integer("first_phase", 100_000, "The first of them.", 0)
    flags.DEFINE_float("pack", None, "As of launch.export.")
    flags.mark_flags_as_required(["prior", "config", "data_dir", "out"])


def main(argv: Sequence[str]) -> None:
    """Simulates, fits, writes."""
    given = flags.FLAGS
    conv.prefer_own(os.environ)
    with program.refusals("fit_spectrum", argv):
        config = program.resolve(given.config, given.set)
        prior = load_prior(given.prior)
        if not prior.network.config.refines:
            raise InputError(
                "--prior: expected a network that refines a linear guess, got "
                f"{prior.card.get('name')!r}, which has no spectrum"
            )
        source = BlockSource.from_files(
            given.data_dir, config.data.sources, config.data, config.seed
        )
        wanted = range(given.first_phase, given.first_phase + given.phases)
        blocks = [block for phase in wanted for block in source.phase(phase)]
        scale = loop.measure_residual_scale(blocks)
        scale = loop.fit_spectrum(scale, blocks, config)
        assert scale.spectrum is not None
        card = dict(prior.card) | {
            "residual_scale": {
                "intercept": float(scale.intercept),
                "slopes": [float(s) for s in np.asarray(scale.slopes)],
                "spectrum": spectrum.to_json(scale.spectrum),
            },
            "spectrum_note": f"{given.config}, {len(blocks)} blocks of phases "
            f"{wanted[0]} to {wanted[-1]}, after the training",
        }
        save_prior(given.out, prior.params, card, step=given.pack, overwrite=True)
        print(f"{given.out}: spectrum fitted to {len(blocks)} blocks")


if __name__ == "__main__":
    define_flags()
    app.run(main)
