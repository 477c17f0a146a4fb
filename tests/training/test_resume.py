"""Two steps, a stop and two steps are four steps: every leaf of the state, every bit.

The training program itself, on a network of a few hundred weights and blocks that are
drawn instead of simulated, so that it compiles in seconds; test_loop.py has the U-Net
and the simulator.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax import model
from temdiff_jax.training import loop
from temdiff_jax.training.config import DataConfig, OptimConfig, Scenario, TrainConfig
from temdiff_jax.training.data import Block

CONFIG = TrainConfig(
    network=model.NetworkConfig(kind="miniature", channels=(16,), blocks=(0,), patch=1),
    data=DataConfig(
        scenarios=(Scenario(half_range_deg=(5.0, 8.0), num_tilts=5, thickness=6),),
        steps_per_phase=1,
        phases_kept=2,
        crop=4,
    ),
    optim=OptimConfig(
        warmup_steps=1, num_steps=4, decay_steps=1, batch=2, average_lengths=(0.1, 0.2)
    ),
    checkpoint_every=2,
    validate_every=2,
)


class Miniature:
    """Two dense layers on every voxel, with the interface of a Flax module."""

    def __init__(self, config):
        self.width = config.channels[0]

    def init(self, key, fields, scalars):
        first, second = jax.random.split(key)
        count = fields.shape[-1] + scalars.shape[-1]
        layers = {
            "hidden": {"kernel": jax.random.normal(first, (count, self.width))},
            "head": {"kernel": jax.random.normal(second, (self.width, 1))},
        }
        return {"params": layers}

    def apply(self, variables, fields, scalars):
        layers = variables["params"]
        shown = jnp.broadcast_to(
            scalars[:, None, None, None], (*fields.shape[:-1], scalars.shape[-1])
        )
        hidden = jnp.concatenate([fields, shown], axis=-1) @ layers["hidden"]["kernel"]
        return jnp.tanh(hidden) @ layers["head"]["kernel"]


class Drawn:
    """Blocks that depend on the number of their phase alone, as simulated ones do."""

    @classmethod
    def from_files(cls, folder, names, data, seed):
        return cls()

    def phase(self, number):
        rng = np.random.default_rng(number)
        shape = (6, 8, 7)
        truth, error = np.float32(rng.normal(size=(2, *shape)))
        features = np.float32(rng.normal(size=model.NUM_FEATURES))
        seen = np.ones((6, 8, 1), np.float32)
        return [Block(truth, truth + 0.3 * error, seen, features) for _ in range(2)]


@pytest.fixture
def miniature(monkeypatch):
    monkeypatch.setitem(model.KINDS, "miniature", Miniature)
    monkeypatch.setattr(loop, "BlockSource", Drawn)


def leaves(state):
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def test_two_and_two_steps_are_four(miniature, tmp_path):
    def train(folder, stop=None):
        lines = []
        ask = (lambda done: "asked to" if done == stop else None) if stop else None
        given = {"data_dir": "", "workdir": str(tmp_path / folder), "log": lines.append}
        return leaves(loop.train(CONFIG, should_stop=ask, **given)), lines

    whole, _ = train("whole")
    first, told = train("broken", stop=2)
    assert told[-1] == "asked to at step 2: saved" and int(first[".step"]) == 2
    resumed, told = train("broken")
    assert told[0] == "resuming from step 2"
    assert int(whole[".step"]) == 4 and whole.keys() == resumed.keys()
    for name, leaf in whole.items():
        assert leaf.dtype == resumed[name].dtype
        np.testing.assert_array_equal(resumed[name], leaf, err_msg=name)
    weights = ".params['hidden']['kernel']"
    assert 100 < whole[weights].size < 300
    # What is compared has moved, before the stop and after it.
    start = leaves(loop._place(CONFIG).fresh())[weights]
    for before, after in ((start, first[weights]), (first[weights], whole[weights])):
        assert np.max(np.abs(after - before)) > 1e-4
