"""Checkpoints of earlier releases are exported, or refused by name."""

import dataclasses

import jax
import numpy as np
import pytest

from launch import export
from temdiff_jax.errors import InputError
from temdiff_jax.model import NetworkConfig, make_network
from temdiff_jax.priors import load_prior
from temdiff_jax.training import optimiser
from temdiff_jax.training.checkpoint import Checkpoints
from temdiff_jax.training.config import TrainConfig
from temdiff_jax.training.step import TrainState

CONFIG = TrainConfig(
    network=NetworkConfig(channels=(4,), blocks=(0,), groups=1, embedding=2)
)
METRIC = {"smoothness": 2.0, "ridge": 0.1}
EXTRA = {"metric_mean": METRIC, "metric_sample": METRIC}
# As the configurations of release 0.1.0 had them where they were not used.
PAST = {"axial_taps": 0, "grown": [], "moments": False}


def checkpoint(folder, **past):
    """A checkpoint of random weights, its configuration holding further fields."""
    shapes = jax.eval_shape(make_network(CONFIG.network).init, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: np.float32(rng.normal(size=leaf.shape)), shapes)
    params = jax.tree.map(jax.numpy.asarray, params)
    rule = optimiser.make_optimiser(CONFIG.optim)
    state = TrainState(jax.numpy.int32(3), params, params, rule.init(params))
    config = dataclasses.asdict(CONFIG)
    config["network"] |= past
    config["data"]["moments"] = False
    meta = {
        "config": config,
        "residual_scale": {"intercept": 0.1, "slopes": [0.0] * 4},
    }
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(3, state, meta)
    return params


def test_fields_that_were_not_used_are_dropped(tmp_path):
    params = checkpoint(tmp_path, **PAST)
    card = export.export(str(tmp_path), None, tmp_path / "a.safetensors", "a", EXTRA)
    assert not set(PAST) & set(card["network"])
    prior = load_prior(tmp_path / "a.safetensors")
    assert prior.network.config == CONFIG.network
    for got, expected in zip(*map(jax.tree.leaves, (prior.params, params))):
        np.testing.assert_allclose(got, expected, rtol=1e-3)


@pytest.mark.parametrize("field", [{"axial_taps": 7}, {"grown": [1]}])
def test_fields_that_were_used_are_named(field, tmp_path):
    checkpoint(tmp_path, **(PAST | field))
    (name,) = field
    with pytest.raises(InputError, match=f"no {name}, which releases up to") as caught:
        export.export(str(tmp_path), None, tmp_path / "a.safetensors", "a", EXTRA)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a.safetensors").exists()
