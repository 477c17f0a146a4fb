"""DiffusionMBIR's network: a 2-D unconditional denoiser of slices, for a rival.

Command:
    python -m launch.train --config=configs/diffusion_mbir.py --data_dir=DATA \\
        --workdir=runs/diffusion_mbir
    python -m launch.export --workdir=runs/diffusion_mbir --name=diffusion_mbir-v1 \\
        --out=diffusion_mbir.safetensors

Sees the slices (planes of constant y) of the same blocks as configs/wide_prior.py
and nothing of their tilts (Chung et al., arXiv:2211.10655).  Widths cost about as many
operations per voxel as the prior's; docs/reports/learned_baselines.md has the
differences from the paper's network.
"""

import dataclasses

from configs import wide_prior
from temdiff_jax.model import NetworkConfig
from temdiff_jax.training.config import OptimConfig, TrainConfig


def get_config() -> TrainConfig:
    """The resolved run."""
    return TrainConfig(
        name="diffusion_mbir",
        network=NetworkConfig(
            channels=(64, 128, 256),
            blocks=(1, 2, 2),
            patch=4,
            planar=True,
            conditional=False,
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
