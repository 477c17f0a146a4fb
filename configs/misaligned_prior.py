"""The default prior for series that were never aligned well, with all errors at once.

Command:
    python -m launch.train --config=configs/misaligned_prior.py \\
        --data_dir=DATA --workdir=runs/misaligned

The scenarios are those of configs/default_prior.py, half of them with the errors that
fiducial-free alignment leaves and half with those of a series as it was recorded.
Hardware and time: as configs/default_prior.py, but for the simulation, which moves and
turns every tilt.  Not run to the end; no weights are shipped.
"""

import dataclasses

from configs import default_prior
from temdiff_jax.simulator import ErrorConfig
from temdiff_jax.training.config import SCENARIOS, TrainConfig

# What is left after an alignment by cross-correlation.
LEFT_OVER = ErrorConfig(
    shift_px=1.0,
    tilt_deg=0.1,
    tilt_scale=0.03,
    rotation_deg=0.1,
    common_rotation_deg=0.5,
    magnification=1e-3,
    gain=0.03,
    offset=0.01,
    ramp=0.03,
    z_shrink=0.15,
)
# As recorded: slow drift, a tilt axis known to two degrees, loss of mass.
RECORDED = dataclasses.replace(
    LEFT_OVER,
    shift_px=1.5,
    drift_px=2.0,
    common_rotation_deg=2.0,
    offset=0.02,
    ramp=0.05,
    z_shrink=0.3,
)


def get_config() -> TrainConfig:
    """The resolved run."""
    config = default_prior.get_config()
    scenarios = tuple(
        dataclasses.replace(scenario, errors=RECORDED if index % 2 else LEFT_OVER)
        for index, scenario in enumerate(SCENARIOS)
    )
    data = dataclasses.replace(config.data, scenarios=scenarios)
    return dataclasses.replace(config, name="misaligned", data=data)
