"""A large prior on a TPU v5e slice of 16 chips (4 hosts).  Computed, not run.

Command, the same on every host (launch/README.md):
    python -m launch.train --config=configs/tpu_v5e.py --coordinator=auto \\
        --data_dir=DATA --workdir=/shared/runs/tpu_v5e --compile_cache=CACHE

Network: 59.0 M parameters; all channels are multiples of 128, the lanes of a matrix
    unit.
Memory of a chip (16 GB): parameters, average, momentum, gradients and update, 5 x 4 B x
    59.0 M = 1.2 GB, shared out over 16 chips, 0.08 GB; the parameters gathered for use,
    0.24 GB.  What the backward pass keeps of a crop of 96 x 64 x 64, counted in the
    traced program before fusion: 2.4 GB; 2 crops, 4.9 GB.  Sum 5.2 GB: room for the
    padding of small arrays, and for 4 crops once measured.
Time: 0.48 TFLOP forward a crop, three times that with the backward pass, 2 crops a
    chip: 2.9 TFLOP.  At an assumed 60 TFLOP/s of bfloat16 products that is 48 ms a
    step.  Gathering parameters and scattering gradients moves 3 x 0.24 GB through each
    chip, 7 ms at an assumed 100 GB/s.  100 000 steps in 2 hours; simulation, which
    every host repeats for itself, comes on top.
"""

import dataclasses

from configs import gpu_24gb
from temdiff_jax.training.config import MeshConfig, OptimConfig, TrainConfig


def get_config() -> TrainConfig:
    """The resolved run: crops of gpu_24gb, a wider network, sixteen chips."""
    run = gpu_24gb.get_config()
    return dataclasses.replace(
        run,
        name="tpu_v5e",
        network=dataclasses.replace(run.network, channels=(128, 256, 512)),
        optim=OptimConfig(batch=32, num_steps=100_000, decay_steps=30_000),
        mesh=MeshConfig(batch=16, fsdp=True),
        validate_every=2000,
    )
