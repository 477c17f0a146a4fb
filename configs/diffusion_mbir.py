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

from configs import dolce
from temdiff_jax.training.config import TrainConfig


def get_config() -> TrainConfig:
    """The resolved run: that of DOLCE without what is known of the tilts."""
    run = dolce.get_config()
    network = dataclasses.replace(run.network, conditional=False)
    return dataclasses.replace(run, name="diffusion_mbir", network=network)
