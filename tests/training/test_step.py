"""One optimisation step on a tiny network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.condition import ResidualScale
from temdiff_jax.model import NUM_FEATURES, NetworkConfig, make_network
from temdiff_jax.training import step as steps
from temdiff_jax.training.config import OptimConfig
from temdiff_jax.training.data import Batch

NETWORK = make_network(NetworkConfig(channels=(8, 8), blocks=(1, 1), groups=4))
OPTIM = OptimConfig(
    learning_rate=1e-2, warmup_steps=1, num_steps=100, decay_steps=10, batch=4
)
SCALE = ResidualScale(jnp.float32(-0.3), jnp.zeros(NUM_FEATURES))
KEY = jax.random.key(0)


def fresh_state() -> steps.TrainState:
    """Random weights with a zero head, as a fresh network, without compiling it."""
    abstract = jax.eval_shape(NETWORK.init, KEY)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.15 * rng.normal(size=leaf.shape), leaf.dtype),
        abstract,
    )
    params["head"] = jax.tree.map(jnp.zeros_like, params["head"])
    opt_state = steps.make_optimiser(OPTIM).init(params)
    return steps.TrainState(
        jnp.int32(0), params, jax.tree.map(jnp.copy, params), opt_state
    )


def make_batch(bad: bool = False) -> Batch:
    rng = np.random.default_rng(1)
    estimate = np.float32(rng.normal(size=(4, 8, 8, 8)))
    # A residual that the estimate tells: half of the estimate itself.
    truth = 1.5 * estimate
    if bad:
        truth[2, 1, 1, 1] = np.nan
    return Batch(
        truth,
        estimate,
        np.ones_like(estimate),
        np.zeros((4, NUM_FEATURES), np.float32),
    )


def advance(state, batch):
    return steps.train_step(state, KEY, batch, SCALE, network=NETWORK, config=OPTIM)


def as_numpy(tree):
    return [np.array(leaf) for leaf in jax.tree.leaves(tree)]


def test_loss_falls_on_one_batch():
    state, losses = fresh_state(), []
    for _ in range(25):
        state, metrics = advance(state, make_batch())
        losses.append(float(metrics.loss_mean))
        assert metrics.accepted and np.isfinite(metrics.grad_norm)
    assert int(state.step) == 25
    assert losses[-1] < 0.7 * losses[0]
    # The average follows the weights, behind them.
    moved = as_numpy(state.params)
    averaged = as_numpy(state.ema_params)
    start = as_numpy(fresh_state().params)
    distance = [
        sum(np.sum((a - b) ** 2) for a, b in zip(x, start)) for x in (averaged, moved)
    ]
    assert 0 < distance[0] < distance[1]


def test_bad_batch_changes_nothing_but_the_counter():
    state, _ = advance(fresh_state(), make_batch())
    before = as_numpy((state.params, state.ema_params, state.opt_state))
    # The moments are those of the first batch: something could be lost.
    assert sum(np.any(leaf) for leaf in as_numpy(state.opt_state)) > 4
    state, metrics = advance(state, make_batch(bad=True))
    assert not metrics.accepted and int(state.step) == 2
    after = as_numpy((state.params, state.ema_params, state.opt_state))
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(new, old)
    state, metrics = advance(state, make_batch())
    assert metrics.accepted and np.isfinite(metrics.loss)


def test_parts_of_a_batch_are_every_nth_row():
    rows = jnp.arange(12).reshape(6, 2)
    parts = steps._parts(rows, 2)
    np.testing.assert_array_equal(parts[0], rows[0::2])
    np.testing.assert_array_equal(parts[1], rows[1::2])
    with pytest.raises(ValueError, match="a divisor of the 6 crops of a step, got 4"):
        steps._parts(rows, 4)


def test_step_is_a_function_of_state_and_key():
    first, second = (advance(fresh_state(), make_batch())[0] for _ in range(2))
    for a, b in zip(as_numpy(first), as_numpy(second), strict=True):
        np.testing.assert_array_equal(a, b)


def test_targets_are_the_residual_or_without_condition_the_volume():
    batch = make_batch()
    present = jnp.array([1.0, 0.0, 1.0, 0.0])
    target, condition = steps.make_targets(batch, SCALE, present)
    sigma = np.exp(-0.3)
    residual = (batch.truth - batch.estimate) / sigma
    np.testing.assert_allclose(target[0], residual[0], rtol=1e-5)
    whole = batch.truth / np.sqrt(1 + sigma**2)
    np.testing.assert_allclose(target[1], whole[1], rtol=1e-5)
    np.testing.assert_array_equal(condition.volume[0], batch.estimate[0])
    assert not np.any(condition.volume[1]) and not np.any(condition.coverage[3])
    np.testing.assert_array_equal(condition.present, present)


def test_mean_ratio_of_a_network_that_adds_nothing_is_one():
    ratio = steps.mean_ratio(fresh_state().params, make_batch(), SCALE, network=NETWORK)
    np.testing.assert_allclose(ratio, 1.0, rtol=1e-5)
