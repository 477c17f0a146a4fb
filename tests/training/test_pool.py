"""Blocks kept on disk are those that were simulated."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.simulator.stain import make_bank
from temdiff_jax.training import data, pool
from temdiff_jax.training.config import DataConfig, Scenario

CONFIG = DataConfig(
    sources=(),
    scenarios=(Scenario(half_range_deg=(5.0, 8.0), num_tilts=3, thickness=8),),
    blocks_per_scenario=1,
    pool=2,
)


class Fake(data.BlockSource):
    """Random numbers in place of a simulation, and a count of the phases made."""

    def __init__(self, config=CONFIG, seed=0, grey=3):
        volume = np.full((4, 4, 4), grey, np.uint8)
        volume[0, 0, 0] = 200
        super().__init__(make_bank([volume]), config, seed)
        self.made = []

    def phase(self, phase):
        self.made.append(phase)
        rng = np.random.default_rng([self.seed, phase])
        one = data.Block(
            *(rng.normal(size=(3, 4, 5)).astype(np.float32) for _ in range(3)),
            rng.normal(size=5),
        )
        return [one]


def same(first, second):
    a, b = jax.tree.leaves(first), jax.tree.leaves(second)
    return len(a) == len(b) and all(map(np.array_equal, a, b))


def test_what_is_read_is_what_was_simulated_bit_for_bit(tmp_path):
    source = Fake()
    stored = pool.StoredBlocks(source, tmp_path)
    first = stored.phase(1)
    assert same(first, source.phase(1)) and source.made == [1, 1]
    again = pool.StoredBlocks(Fake(), tmp_path)
    assert same(again.phase(1), first) and again.source.made == []


def test_phases_beyond_the_pool_are_those_again(tmp_path):
    stored = pool.StoredBlocks(Fake(), tmp_path)
    assert same(stored.phase(3), stored.phase(1)) and stored.source.made == [1]
    reserved = stored.phase(data.FIRST_RESERVED)
    assert stored.source.made == [1, data.FIRST_RESERVED]
    assert not same(reserved, stored.phase(data.FIRST_RESERVED % 2))


def test_another_seed_source_or_recipe_is_kept_apart_and_another_use_is_not():
    here = pool.identity(Fake())
    changed = dataclasses.replace(CONFIG, block_width=80)
    others = [Fake(seed=1), Fake(grey=4), Fake(changed)]
    assert len({here, *map(pool.identity, others)}) == 4
    used = dataclasses.replace(CONFIG, crop=8, mirror=False, pool=9, phases_kept=1)
    assert pool.identity(Fake(used)) == here


def test_an_interrupted_write_leaves_no_phase(tmp_path, monkeypatch):
    stored = pool.StoredBlocks(Fake(), tmp_path)

    def fail(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="no space"):
        stored.phase(0)
    assert not list(tmp_path.rglob("phase*"))


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0.0), (None, 1.0)])
def test_severity_of_series_that_are_aligned_or_as_configured(share, expected):
    scenario = dataclasses.replace(CONFIG.scenarios[0], misaligned=share)
    assert float(data._severity(jax.random.key(0), scenario)) == expected


@pytest.mark.slow
def test_the_share_of_misaligned_series_is_the_one_asked_for():
    scenario = dataclasses.replace(CONFIG.scenarios[0], misaligned=0.4)
    keys = jax.random.split(jax.random.key(1), 2000)
    drawn = jax.vmap(lambda key: data._severity(key, scenario))(keys)
    assert abs(float(jnp.mean(drawn > 0)) - 0.4) < 0.04
    assert abs(float(jnp.mean(drawn)) - 0.2) < 0.03 and float(jnp.max(drawn)) < 1
