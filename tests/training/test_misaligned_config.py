"""The configuration for series that were never aligned well."""

import dataclasses

from launch import program
from temdiff_jax.simulator import ALIGNED


def test_misaligned_scenarios_are_the_default_ones_with_every_error():
    plain = program.load_config("configs/default_prior.py")
    config = program.load_config("configs/misaligned_prior.py")
    hash(config)
    pairs = list(zip(config.data.scenarios, plain.data.scenarios, strict=True))
    for found, default in pairs:
        as_default = {"errors": default.errors, "misaligned": default.misaligned}
        assert dataclasses.replace(found, **as_default) == default
        assert found.misaligned is None
        recorded = found.errors.drift_px > 0
        none = {
            name
            for name, value in dataclasses.asdict(found.errors).items()
            if value == dataclasses.asdict(ALIGNED)[name]
        }
        assert none == (set() if recorded else {"drift_px"})
    assert sum(found.errors.drift_px > 0 for found, _ in pairs) == len(pairs) // 2
    same = dataclasses.replace(config.data, scenarios=plain.data.scenarios)
    assert dataclasses.replace(config, name=plain.name, data=same) == plain
