"""A network that was made larger answers as before."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.errors import InputError
from temdiff_jax.inverse.quadratic import Metric
from temdiff_jax.model import NUM_FEATURES, Condition, NetworkConfig, make_network
from temdiff_jax.priors import Prior
from temdiff_jax.series.inputs import ResidualScale
from temdiff_jax.training.config import TrainConfig
from temdiff_jax.training.growth import grow

SMALL = NetworkConfig(channels=(8, 8), blocks=(1, 1), groups=4)
LARGE = dataclasses.replace(SMALL, grown=(1, 2), filters=3, features=5)
SHAPE = (2, 8, 8, 12)


@pytest.fixture(scope="module")
def prior():
    network = make_network(SMALL)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.2 * rng.normal(size=leaf.shape), leaf.dtype),
        jax.eval_shape(network.init, jax.random.key(0)),
    )
    scale = ResidualScale(jnp.float32(0.0), jnp.zeros(4))
    metric = Metric(1.0, 0.1)
    card = {"name": "small"}
    values = {
        "network": network,
        "params": params,
        "residual_scale": scale,
        "metric_mean": metric,
        "metric_sample": metric,
        "card": card,
        "sha256": "",
    }
    return Prior(**{f.name: values[f.name] for f in dataclasses.fields(Prior)})


def answer(config, params):
    rng = np.random.default_rng(1)
    x, volume, coverage = (
        jnp.asarray(rng.normal(size=SHAPE), jnp.float32) for _ in range(3)
    )
    features = jnp.asarray(rng.normal(size=(2, NUM_FEATURES)), jnp.float32)
    given = Condition(volume, coverage, features, jnp.ones(2))
    return jax.jit(make_network(config).apply)(params, x, jnp.ones(2), given)


def test_a_grown_network_answers_as_the_one_it_came_from(prior):
    params = grow(prior, TrainConfig(network=LARGE))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert count > sum(leaf.size for leaf in jax.tree.leaves(prior.params))
    before, after = answer(SMALL, prior.params), answer(LARGE, params)
    np.testing.assert_allclose(after, before, atol=1e-6)
    assert np.std(before) > 0.1


def test_what_was_grown_can_learn(prior):
    params = grow(prior, TrainConfig(network=LARGE))
    slope = jax.grad(lambda params: jnp.sum(answer(LARGE, params) ** 2))(params)
    new = {
        jax.tree_util.keystr(path): float(jnp.max(jnp.abs(leaf)))
        for path, leaf in jax.tree_util.tree_flatten_with_path(slope)[0]
    }
    assert new["['grown_1_1']['conv_out']['kernel']"] > 1e-3
    assert new["['head_filters']['kernel']"] > 1e-3
    assert np.any(np.asarray(slope["embed_in"]["kernel"])[-1])


def test_the_same_network_gets_the_same_weights(prior):
    assert grow(prior, TrainConfig(network=SMALL)) is prior.params


@pytest.mark.parametrize(
    "other",
    [
        {"channels": (8, 16)},
        {"blocks": (2, 1)},
        {"blocks": (1, 2)},
        {"groups": 2},
        {"features": 3},
    ],
)
def test_another_network_is_refused(prior, other):
    network = dataclasses.replace(LARGE, **other)
    with pytest.raises(InputError, match="initial weights: expected"):
        grow(prior, TrainConfig(network=network))


def test_a_norm_of_single_voxels_takes_the_scales_and_drops_the_shifts(prior):
    network = dataclasses.replace(LARGE, norm="rms")
    params = grow(prior, TrainConfig(network=network))
    block = params["down_0_0"]["norm_mid"]
    assert set(block) == {"scale"}
    before = prior.params["down_0_0"]["norm_mid"]["scale"]
    np.testing.assert_array_equal(block["scale"], before)
    assert np.std(answer(network, params)) > 0
