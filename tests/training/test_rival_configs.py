"""Configurations of the rivals' networks, beside that of the prior."""

import dataclasses

import pytest

from launch import program
from temdiff_jax.model import make_network
from temdiff_jax.training.data import extents

RIVALS = ("dolce", "diffusion_mbir")
OURS = program.load_config("configs/wide_prior.py")
FIRST_PART = program.load_config("configs/default_prior.py")


@pytest.mark.parametrize("name", RIVALS)
def test_a_rival_sees_the_blocks_of_the_prior(name):
    config = program.load_config(f"configs/{name}.py")
    assert config.name == name and config.seed == OURS.seed
    same = dataclasses.replace(config.data, crop=OURS.data.crop)
    assert same == OURS.data
    assert make_network(config.network).config.planar
    assert config.network.conditional == (name == "dolce")


@pytest.mark.parametrize("name", RIVALS)
def test_a_step_of_a_rival_sees_as_many_voxels_as_one_of_the_first_part(name):
    config = program.load_config(f"configs/{name}.py")
    for scenario in config.data.scenarios:
        counts = []
        for one in (config, FIRST_PART):
            nz, nx, ny = extents(one.data.crop, scenario.thickness)
            assert nz % one.network.multiple == nx % one.network.multiple == 0
            assert max(nx - one.data.block_width, ny - one.data.block_height) <= 0
            counts.append(one.optim.batch * nz * nx * ny)
        assert counts[0] == counts[1]


@pytest.mark.parametrize("name", RIVALS)
def test_a_rival_learns_volumes_at_noise_levels_alone(name):
    config = program.load_config(f"configs/{name}.py")
    assert config.network.target == "volume"
    assert config.optim.mean_fraction == config.optim.drop_condition == 0
    assert config.optim.optimiser == OURS.optim.optimiser
    assert config.optim.decay_steps < config.optim.num_steps
