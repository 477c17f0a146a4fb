"""DOLCE's network: a 2-D conditional denoiser of slices, for a rival of the prior.

Command:
    python -m launch.train --config=configs/dolce.py --data_dir=DATA \\
        --workdir=runs/dolce
    python -m launch.export --workdir=runs/dolce --name=dolce-v1 --out=dolce.safetensors

Sees the same simulated blocks as configs/wide_prior.py, slice by slice (planes of
constant y), and is asked for the whole slice at every noise level, given the
regularised least-squares estimate (Liu et al., arXiv:2211.12340).  Widths cost about
as many operations per voxel as the prior's; docs/reports/learned_baselines.md has
the differences from the paper's network.
"""

import dataclasses

from configs import wide_prior
from temdiff_jax.model import NetworkConfig
from temdiff_jax.training.config import OptimConfig, TrainConfig


def get_config() -> TrainConfig:
    """The resolved run."""
    return TrainConfig(
        name="dolce",
        network=NetworkConfig(
            channels=(64, 128, 256),
            blocks=(1, 2, 2),
            patch=4,
            planar=True,
            target="volume",
        ),
        # Four neighbouring slices of each of many blocks.
        data=dataclasses.replace(wide_prior.get_config().data, crop=(0, 48, 4)),
        optim=OptimConfig(
            batch=16,
            mean_fraction=0.0,
            drop_condition=0.0,
            num_steps=7800,
            decay_steps=3000,
        ),
    )
