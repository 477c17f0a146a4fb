"""The U-Net as two pure functions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.model import NUM_FEATURES, Condition, NetworkConfig, make_network
from temdiff_jax.model.network import widened

CONFIG = NetworkConfig(channels=(8, 8), blocks=(1, 1), groups=4)
NETWORK = make_network(CONFIG)
SHAPE = (2, 4, 8, 12)


@pytest.fixture(scope="module")
def fresh():
    return jax.jit(NETWORK.init)(jax.random.key(0))


@pytest.fixture(scope="module")
def random_params():
    abstract = jax.eval_shape(NETWORK.init, jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.2 * rng.normal(size=leaf.shape), leaf.dtype),
        abstract,
    )


def condition(present: float = 1.0, feature: float = 0.3) -> Condition:
    rng = np.random.default_rng(1)
    return Condition(
        jnp.asarray(rng.normal(size=SHAPE), jnp.float32),
        jnp.asarray(rng.random(SHAPE), jnp.float32),
        jnp.full((2, NUM_FEATURES), feature, jnp.float32),
        jnp.full((2,), present, jnp.float32),
    )


@pytest.fixture(scope="module")
def apply():
    return jax.jit(NETWORK.apply)


X = jnp.asarray(np.random.default_rng(2).normal(size=SHAPE), jnp.float32)
LEVEL = jnp.zeros((2,), jnp.float32)


@pytest.mark.slow
def test_fresh_network_answers_zero_in_the_shape_of_its_input(fresh, apply):
    out = apply(fresh, X, LEVEL, condition())
    assert out.shape == SHAPE and out.dtype == jnp.float32
    assert not np.any(out)


def test_fresh_parameters_are_float32_and_only_some_are_zero(fresh):
    leaves = jax.tree.leaves(fresh)
    assert all(leaf.dtype == jnp.float32 for leaf in leaves)
    assert not np.any(fresh["head"]["kernel"])
    assert np.std(fresh["stem"]["kernel"]) > 0


@pytest.mark.slow
def test_every_input_reaches_the_output(random_params, apply):
    here = condition()
    out = apply(random_params, X, LEVEL, here)
    assert np.all(np.isfinite(out))
    changed = {
        "x": apply(random_params, X + 1, LEVEL, here),
        "level": apply(random_params, X, LEVEL + 1, here),
        "volume": apply(random_params, X, LEVEL, here._replace(volume=here.volume + 1)),
        "coverage": apply(
            random_params, X, LEVEL, here._replace(coverage=0 * here.coverage)
        ),
        "features": apply(random_params, X, LEVEL, condition(feature=0.9)),
        "present": apply(random_params, X, LEVEL, condition(present=0.0)),
    }
    for name, other in changed.items():
        assert np.max(np.abs(other - out)) > 1e-4, name


def test_without_a_condition_the_features_do_not_matter(random_params, apply):
    absent = [condition(present=0.0, feature=f) for f in (0.3, 0.9)]
    first, second = (apply(random_params, X, LEVEL, c) for c in absent)
    np.testing.assert_array_equal(first, second)


def test_examples_of_a_batch_do_not_see_each_other(random_params, apply):
    here = condition()
    out = apply(random_params, X, LEVEL, here)
    other = apply(random_params, X.at[1].add(5.0), LEVEL, here)
    np.testing.assert_array_equal(out[0], other[0])


@pytest.mark.slow
def test_network_on_larger_patches_takes_its_multiple_and_starts_at_zero():
    config = NetworkConfig(channels=(8, 8), blocks=(1, 1), groups=4, patch=4)
    assert config.multiple == 8
    network = make_network(config)
    params = network.init(jax.random.key(0))
    assert params["stem"]["kernel"].shape == (3 * 64, 8)
    x = jnp.ones((1, 8, 16, 8))
    here = Condition(x, x, jnp.ones((1, NUM_FEATURES)), jnp.ones(1))
    out = network.apply(params, x, jnp.zeros(1), here)
    assert out.shape == x.shape and not np.any(out)


def test_widened_weights_answer_as_before_whatever_they_are_shown():
    old = NetworkConfig(channels=(4,), blocks=(1,), groups=2, embedding=4, patch=2)
    new = dataclasses.replace(old, regression=True)
    shapes = jax.eval_shape(make_network(old).init, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda a: 0.3 * rng.normal(size=a.shape), shapes)
    x = jnp.asarray(rng.normal(size=(1, 4, 4, 4)), jnp.float32)
    here = Condition(x, x, jnp.ones((1, NUM_FEATURES)), jnp.ones(1), regression=5 * x)
    expected = make_network(old).apply(params, x, jnp.zeros(1), here)
    wide = widened(params, new)
    found = make_network(new).apply(wide, x, jnp.zeros(1), here)
    assert np.any(expected)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_multiple_is_the_patch_times_the_halvings():
    assert CONFIG.multiple == 4
    assert NetworkConfig(channels=(8, 8, 8, 8), blocks=(1, 1, 1, 1)).multiple == 16
