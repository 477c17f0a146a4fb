"""The prior that samples: diffusion of what the default prior's one call leaves.

Command:
    python -m launch.train --config=configs/sampling_prior.py \\
        --data_dir=DATA --workdir=runs/sampling
where DATA holds fib25_medulla/ and gala_medulla/ (see docs/training.md).

One network, told the voxel size, around a linear guess with the spectrum of the
residual (temdiff_jax/diffusion/spectrum.py).  Series of 8 to 13 nm are sampled around
the regression at 20 and 10 nm; others, up to 55 nm, around the quadratic estimate.
"""

from typing import Any

from configs.wide_prior import ERRORS
from temdiff_jax.model import NetworkConfig
from temdiff_jax.simulator import ImagingConfig, StainConfig
from temdiff_jax.training.config import DataConfig, OptimConfig, Scenario, TrainConfig

BOXES = tuple(f"fib25_medulla/training_more.npz:box{i}" for i in range(8))
SOURCES = (
    *BOXES,
    "fib25_medulla/training_more.npz:sample2",
    "fib25_medulla/training_sample1_250.npz:volume",
    "gala_medulla/gala_crops.npz:train",
    "gala_medulla/gala_crops.npz:example",
)
# FIB-25 by its voxels, gala a seventh.
SHARES = (7.0,) * 8 + (16.0, 16.0, 8.0, 8.0)
# Voxel size in nm and thickness in voxels; the coarse ones come more often.
GRIDS = ((40.0, 32), (20.0, 32), (20.0, 64), (10.0, 64))
# Thickness of series of 10 nm that begin with the regression, shown there and at 20 nm.
REGRESSED = (64, 64, 96, 128)


def scenario(voxel_nm: float, thickness: int, **given: Any) -> Scenario:
    """Series of every range and number of tilts."""
    return Scenario(
        half_range_deg=(3.5, 65.0),
        num_tilts=41,
        fewest_tilts=5,
        thickness=thickness,
        errors=ERRORS,
        misaligned=0.2,
        voxel_nm=voxel_nm,
        **given,
    )


def regressed(thickness: int) -> Scenario:
    """Series whose regression is known, on both grids."""
    return scenario(10.0, thickness, regressed=True, grids=(2, 1), field=(96, 80))


def get_config() -> TrainConfig:
    """The resolved run."""
    return TrainConfig(
        name="sampling",
        network=NetworkConfig(
            channels=(48, 96, 112),
            blocks=(2, 3, 3),
            patch=2,
            norm="soft",
            features=6,
            log_variance=True,
            refines=True,
            regression=True,
        ),
        data=DataConfig(
            sources=SOURCES,
            source_shares=SHARES,
            scenarios=tuple(
                [scenario(*grid) for grid in GRIDS] + [regressed(n) for n in REGRESSED]
            ),
            blocks_per_scenario=1,
            regression="default",
            steps_per_phase=256,
            phases_kept=32,
            block_width=64,
            block_height=40,
            crop=(0, 32, 32),
            phantom_fraction=0.1,
            imaging=ImagingConfig(exact_counts=False, dose=(1500.0, 1e6)),
            stain=StainConfig(
                zoom=(0.85, 1.2), grain=(0.0, 0.05), blur=(0.0, 1.0), jitter=0.15
            ),
        ),
        optim=OptimConfig(
            learning_rate=2e-3,
            num_steps=400000,
            decay_steps=80000,
            ema_decay=0.999,
            # One crop a step: at equal time better than four, at three times the rate.
            batch_voxels=32768,
            mean_fraction=0.25,
            drop_condition=0.1,
        ),
        checkpoint_every=1000,
        validate_every=4000,
    )
