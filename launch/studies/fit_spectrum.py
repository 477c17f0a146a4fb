"""Fits scale and spectrum of a trained prior to fresh simulated series.

    python -m launch.studies.fit_spectrum --prior=FILE.safetensors \\
        --config=configs/sampling_prior.py --data_dir=DATA --out=FITTED.safetensors \\
        --phases=40 --blocks=runs/blocks --clean=2

The weights stay.  A spectrum fitted before the training knows the series of that
time; this one knows those of the configuration, wider noise for example, and with
``--clean`` series without any error but noise as well, as ``launch.evaluate_prior``
images them: cubes of the sources, 0.3 to 5 % noise.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from launch import evaluate_prior, program
from temdiff_jax.diffusion import spectrum
from temdiff_jax.errors import InputError
from temdiff_jax.evaluation.protocol import Case
from temdiff_jax.inverse.problem import UNIT_NM
from temdiff_jax.inverse.tikhonov import settings_for
from temdiff_jax.model import conv
from temdiff_jax.priors import Prior, load_prior, save_prior
from temdiff_jax.reconstruction.denoiser import regressed
from temdiff_jax.series import inputs
from temdiff_jax.series.grids import binned, grids_of
from temdiff_jax.simulator import grey_to_stain
from temdiff_jax.training import loop, volumes
from temdiff_jax.training.data import Block, BlockSource, block_of
from temdiff_jax.training.pool import StoredBlocks

CASES = ("8/2", "10/1", "20/2", "40/2", "60/3", "90/3", "120/3")
SHARES = (0.003, 0.05)  # noise over the deviation of the tilts
GRIDS, EDGE = (2, 1), 64


def define_flags() -> None:
    """Defines the flags; not on import, so that programs can be imported together."""
    flags.DEFINE_string("prior", None, "Prior that refines a linear guess.")
    flags.DEFINE_string("config", None, "Python file with get_config().")
    flags.DEFINE_string("data_dir", None, "Folder of the source volumes.")
    flags.DEFINE_string("out", None, "Target, .safetensors.")
    flags.DEFINE_multi_string("set", [], "Override: section.field=value.")
    flags.DEFINE_integer("phases", 8, "Phases of blocks that are simulated.", 1)
    flags.DEFINE_integer("first_phase", 0, "The first of them.", 0)
    flags.DEFINE_string("blocks", None, "Folder of simulated blocks, see launch.train.")
    flags.DEFINE_integer("clean", 0, "Clean series of each source and tilt scheme.", 0)
    flags.DEFINE_float("pack", None, "As of launch.export.")
    flags.mark_flags_as_required(["prior", "config", "data_dir", "out"])


def clean_blocks(
    sources: Sequence[np.ndarray], prior: Prior, count: int, seed: int
) -> list[Block]:
    """Blocks of series with noise alone, on both grids of a prior with a regression.

    Args:
      sources: Stain, bright where dense, ``[z, x, y]``.
      prior: Its regression gives the estimate.
      count: Cubes of every source and tilt scheme.
      seed: Of their places and noise.
    """
    rng, made = np.random.default_rng(seed), []
    for text in CASES:
        case = Case.from_name(text)
        settings = settings_for(case.angles_deg)
        for source in (s for s in sources for _ in range(count)):
            start = [int(rng.integers(n - EDGE + 1)) for n in source.shape]
            truth = source[tuple(slice(s, s + EDGE) for s in start)]
            share = float(np.exp(rng.uniform(*np.log(SHARES))))
            own = int(rng.integers(2**31))
            problem = evaluate_prior.simulate(truth, case, own, UNIT_NM, share)
            ready = inputs.with_inputs(problem, settings)
            ready = regressed(ready, prior, (EDGE,) * 3)
            known = ready.to_input_units(ready.shown.regression)
            for factor, grid in zip(
                GRIDS, grids_of(problem, settings, GRIDS, known), strict=True
            ):
                made.append(block_of(binned(jnp.asarray(truth), factor), grid))
    return [jax.tree.map(np.asarray, block) for block in made]


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
        phase_of = (
            StoredBlocks(source, given.blocks) if given.blocks else source
        ).phase
        blocks = [block for phase in wanted for block in phase_of(phase)]
        if given.clean:
            if prior.regression is None:
                raise InputError(
                    "--clean: expected a prior with a regression, got none"
                )
            named = volumes.load_sources(given.data_dir, config.data.sources)
            stain = [np.swapaxes(grey_to_stain(v), 1, 2) for v in named]
            stain = [v for v in stain if min(v.shape) >= EDGE]
            blocks += clean_blocks(stain, prior, given.clean, config.seed)
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
