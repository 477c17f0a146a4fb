"""The prior that ships with the package, for two CPU cores.

Command:
    python -m launch.train --config=configs/default_prior.py \\
        --data_dir=DATA --workdir=runs/default --blocks=runs/blocks
where DATA holds fib25_medulla/ and gala_medulla/ (see docs/training.md).
"""

import dataclasses

from temdiff_jax.model import NetworkConfig
from temdiff_jax.simulator import ErrorConfig, ImagingConfig
from temdiff_jax.training.config import SCENARIOS, DataConfig, OptimConfig, TrainConfig

# The largest errors; a misaligned series has them times a factor of its own.
ERRORS = ErrorConfig(
    shift_px=1.5,
    drift_px=1.0,
    tilt_deg=0.15,
    tilt_scale=0.04,
    rotation_deg=0.15,
    common_rotation_deg=0.5,
    magnification=1e-3,
    gain=0.05,
    offset=0.01,
    ramp=0.03,
    z_shrink=0.15,
)
MISALIGNED = 0.35


def get_config() -> TrainConfig:
    """The resolved run."""
    scenarios = tuple(
        dataclasses.replace(scenario, errors=ERRORS, misaligned=MISALIGNED)
        for scenario in SCENARIOS
    )
    return TrainConfig(
        name="default",
        network=NetworkConfig(
            channels=(96, 128, 128),
            blocks=(2, 2, 2),
            patch=4,
            norm="rms",
            grown=(0, 2, 1),
            filters=4,
            features=5,
        ),
        data=DataConfig(
            scenarios=scenarios,
            block_width=96,
            block_height=48,
            crop=(0, 48, 48),
            pool=48,
            validation_blocks=3,
            imaging=ImagingConfig(exact_counts=False, dose=(1000.0, 20000.0)),
        ),
        optim=OptimConfig(
            batch=3,
            mean_fraction=0.67,
            learning_rate=1e-3,
            num_steps=1900,
            decay_steps=1400,
            average_lengths=(0.05, 0.1),
        ),
    )
