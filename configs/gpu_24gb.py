"""A larger prior on one GPU of 24 GB.  Computed, not run.

Command:
    python -m launch.train --config=configs/gpu_24gb.py \\
        --data_dir=DATA --workdir=runs/gpu_24gb --compile_cache=CACHE

Network: 33.3 M parameters.
Memory: parameters, average, momentum, gradients and update, 5 x 4 B x 33.3 M
    = 0.67 GB.  What the backward pass keeps of a crop of 96 x 64 x 64, counted in the
    traced program before fusion: 1.7 GB; 8 crops, 13.7 GB.  Sum 14.4 GB, two fifths of
    the card left for workspaces and for the simulation of the next phase.
Time: 0.273 TFLOP forward a crop, three times that with the backward pass, 16 crops a
    step: 13.1 TFLOP.  At an assumed 20 TFLOP/s of TF32 that is 0.66 s, 60 000 steps in
    11 hours; simulation comes on top.
"""

import dataclasses

from configs import default_prior
from temdiff_jax.model import NetworkConfig
from temdiff_jax.training.config import OptimConfig, TrainConfig


def get_config() -> TrainConfig:
    """The resolved run."""
    return TrainConfig(
        name="gpu_24gb",
        network=NetworkConfig(
            channels=(96, 192, 384),
            blocks=(2, 2, 3),
            patch=2,
            norm="rms",
            filters=4,
            features=5,
        ),
        data=dataclasses.replace(
            default_prior.get_config().data,
            crop=(0, 64, 64),
            block_width=96,
            block_height=80,
            pool=0,
        ),
        optim=OptimConfig(batch=8, accumulate=2, num_steps=60_000, decay_steps=20_000),
        checkpoint_every=1000,
        validate_every=1000,
    )
