"""The program that simulates ahead."""

import numpy as np
import pytest

from launch import simulate_pool
from temdiff_jax.errors import InputError
from temdiff_jax.training import data
from temdiff_jax.training.config import DataConfig, Scenario, TrainConfig

CONFIG = TrainConfig(
    data=DataConfig(
        sources=("a.npz:volume",),
        scenarios=(Scenario(half_range_deg=(5.0, 8.0), num_tilts=3, thickness=8),),
        pool=5,
    )
)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Numbers of the phases that were made; they are counted and not simulated."""
    np.savez(tmp_path / "a.npz", volume=np.arange(64, dtype=np.uint8).reshape(4, 4, 4))
    numbers = []

    def phase(self, number):
        numbers.append(number)
        return [data.Block(*(np.full((2, 2, 2), number, np.float32),) * 4)]

    monkeypatch.setattr(data.BlockSource, "phase", phase)
    return numbers


def test_parts_share_the_phases_and_none_is_made_twice(tmp_path, made, capsys):
    blocks = tmp_path / "blocks"
    simulate_pool.simulate(CONFIG, tmp_path, blocks, part=0, parts=2)
    assert made == [0, 2, 4]
    simulate_pool.simulate(CONFIG, tmp_path, blocks)
    assert made == [0, 2, 4, 1, 3]
    names = sorted(path.name for path in blocks.rglob("*.npz"))
    assert names == [f"phase_0000{i}.npz" for i in range(5)]
    assert "phase 3: " in capsys.readouterr().out


def test_a_pool_without_end_is_refused(tmp_path):
    with pytest.raises(InputError, match="data.pool: expected the number"):
        simulate_pool.simulate(TrainConfig(), tmp_path, tmp_path)
