"""A large prior on one node of eight H100 (80 GB).  Computed, not run.

Command, one process that drives all eight (several nodes: launch/README.md):
    python -m launch.train --config=configs/gpu_8xh100.py \\
        --data_dir=DATA --workdir=runs/gpu_8xh100 --compile_cache=CACHE

Network: 62.6 M parameters.
Memory of a device: parameters, average, momentum, gradients and update, 5 x 4 B x
    62.6 M = 1.25 GB, repeated on each.  What the backward pass keeps of a crop of
    96 x 96 x 96, counted in the traced program before fusion: 5.3 GB; 8 crops, 43 GB.
    Sum 44 GB of 80.
Time: 1.18 TFLOP forward a crop, three times that with the backward pass, 8 crops a
    device: 28.4 TFLOP.  At an assumed 120 TFLOP/s of TF32 that is 0.24 s a step.  The
    sum of the gradients moves 2 x 0.25 GB through each device, 2 ms at an assumed
    250 GB/s.  100 000 steps in 7 hours; simulation, on the first device, comes on top.
"""

import dataclasses

from configs import gpu_24gb
from temdiff_jax.training.config import MeshConfig, OptimConfig, TrainConfig


def get_config() -> TrainConfig:
    """The resolved run: larger crops and network than gpu_24gb, eight devices."""
    run = gpu_24gb.get_config()
    return dataclasses.replace(
        run,
        name="gpu_8xh100",
        network=dataclasses.replace(
            run.network, channels=(128, 256, 512), blocks=(2, 3, 3)
        ),
        data=dataclasses.replace(
            run.data, crop=(0, 96, 96), block_width=144, block_height=128
        ),
        optim=OptimConfig(batch=64, num_steps=100_000, decay_steps=30_000),
        mesh=MeshConfig(batch=8),
        validate_every=2000,
    )
