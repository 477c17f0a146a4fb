"""The shipped prior's first part, for two CPU cores; configs/wide_prior.py goes on.

Command:
    python -m launch.train --config=configs/default_prior.py \\
        --data_dir=DATA --workdir=runs/default
where DATA holds fib25_medulla/ and gala_medulla/ (see docs/training.md).

Hardware: 2 cores of an Intel Xeon (Sapphire Rapids), shared with other work.
Time: 0.5 to 0.7 s a step; default-v2 took all 9400 steps, 93 minutes.
Result: docs/reports/results.md; the log: docs/reports/training_history.md; what decided
its settings: docs/reports/ablations.md.
"""

from temdiff_jax.model import NetworkConfig
from temdiff_jax.simulator import ImagingConfig
from temdiff_jax.training.config import DataConfig, OptimConfig, TrainConfig


def get_config() -> TrainConfig:
    """The resolved run."""
    return TrainConfig(
        name="default",
        network=NetworkConfig(channels=(96, 128, 128), blocks=(2, 2, 2), patch=4),
        data=DataConfig(
            imaging=ImagingConfig(exact_counts=False, dose=(1500.0, 20000.0))
        ),
        optim=OptimConfig(batch=3, mean_fraction=0.67, num_steps=9400),
    )
