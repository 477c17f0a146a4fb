"""The shipped prior's second part: wider crops, misaligned series, noise filters.

Command, where DATA holds fib25_medulla/ and gala_medulla/ (see docs/training.md):
    python -m launch.train --config=configs/wide_prior.py \\
        --initial_prior=runs/v2.safetensors --data_dir=DATA --workdir=runs/wide \\
        --blocks=runs/blocks

Hardware: one core of an Intel Xeon (Cascade Lake).
Time: 3.6 s a step; the shipped weights took 1590 steps, 100 minutes.
Result: docs/reports/results.md; docs/training.md tells how the run went.

Begins with the weights of configs/default_prior.py.  Crops are twice as wide, nearer to
the fields of view of use, since group norms know of the extent.  A fifth of the series
is misaligned, with the kinds of errors that are left by hand and no loss of thickness.
"""

import dataclasses

from temdiff_jax.model import NetworkConfig
from temdiff_jax.simulator import ErrorConfig, ImagingConfig
from temdiff_jax.training.config import SCENARIOS, DataConfig, OptimConfig, TrainConfig

# The largest errors; a misaligned series has them times a factor of its own.
ERRORS = ErrorConfig(
    shift_px=1.5,
    tilt_deg=0.15,
    tilt_scale=0.04,
    rotation_deg=0.15,
    gain=0.05,
    offset=0.01,
    ramp=0.03,
)
MISALIGNED = 0.2


def get_config() -> TrainConfig:
    """The resolved run."""
    scenarios = tuple(
        dataclasses.replace(scenario, errors=ERRORS, misaligned=MISALIGNED)
        for scenario in SCENARIOS
    )
    return TrainConfig(
        name="wide",
        network=NetworkConfig(
            channels=(96, 128, 128), blocks=(2, 2, 2), patch=4, filters=4, features=5
        ),
        data=DataConfig(
            scenarios=scenarios,
            crop=(0, 64, 32),
            pool=64,
            imaging=ImagingConfig(exact_counts=False, dose=(1000.0, 20000.0)),
        ),
        optim=OptimConfig(
            batch=3,
            mean_fraction=0.67,
            drop_condition=0.15,
            learning_rate=1e-3,
            num_steps=2500,
            decay_steps=2000,
            average_lengths=(0.05, 0.1),
        ),
    )
