"""One optimisation step on a tiny network."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.diffusion import schedule
from temdiff_jax.errors import InputError
from temdiff_jax.model import NUM_FEATURES, NetworkConfig, make_network
from temdiff_jax.series.inputs import ResidualScale
from temdiff_jax.training import averages
from temdiff_jax.training import step as steps
from temdiff_jax.training.config import OptimConfig
from temdiff_jax.training.data import Batch

# Each of these compiles for seconds.

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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


def planar_network(**kind):
    return make_network(
        NetworkConfig(
            channels=(8, 8),
            blocks=(1, 1),
            groups=4,
            planar=True,
            target="volume",
            **kind,
        )
    )


def silent_params(network):
    """Random weights with a zero head: the raw output is zero."""
    abstract = jax.eval_shape(network.init, KEY)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.15 * rng.normal(size=leaf.shape), leaf.dtype),
        abstract,
    )
    return {**params, "head": jax.tree.map(jnp.zeros_like, params["head"])}


@pytest.mark.slow
def test_target_of_volumes_is_the_volume_with_or_without_condition():
    batch = make_batch()
    present = jnp.array([1.0, 0.0, 1.0, 0.0])
    target, condition = steps.make_targets(batch, SCALE, present, "volume")
    whole = batch.truth / np.sqrt(1 + np.exp(-0.6))
    np.testing.assert_allclose(target, whole, rtol=1e-5)
    np.testing.assert_array_equal(condition.volume[2], batch.estimate[2])
    assert not np.any(condition.volume[1])


@pytest.mark.slow
@pytest.mark.parametrize("conditional", [True, False])
def test_networks_of_slices_train_on_thin_crops(conditional):
    """Extents along y are no multiple of anything; the loss falls."""
    network = planar_network(conditional=conditional)
    batch = make_batch()
    # Constant slices: known from themselves, whatever the noise.
    level = np.float32(np.random.default_rng(2).normal(size=(4, 1, 1, 3)))
    truth = np.broadcast_to(2.0 * level, (4, 8, 8, 3))
    batch = Batch(truth, 0.5 * truth, np.ones_like(truth), batch.features)
    config = OptimConfig(
        learning_rate=1e-2,
        warmup_steps=1,
        num_steps=100,
        decay_steps=10,
        batch=4,
        mean_fraction=0.0,
        drop_condition=0.0,
    )
    params = silent_params(network)
    opt_state = steps.make_optimiser(config).init(params)
    ema = jax.tree.map(jnp.copy, params)
    state, losses = steps.TrainState(jnp.int32(0), params, ema, opt_state), []
    for _ in range(40):
        state, metrics = steps.train_step(
            state, KEY, batch, SCALE, network=network, config=config
        )
        assert metrics.accepted and jnp.isnan(metrics.loss_mean)
        losses.append(float(metrics.loss_noisy))
    assert np.mean(losses[-10:]) < 0.85 * np.mean(losses[:10])


@pytest.mark.slow
def test_ratio_of_an_unconditional_network_that_adds_nothing_is_one():
    network = planar_network(conditional=False)
    params = silent_params(network)
    ratio = steps.mean_ratio(params, make_batch(), SCALE, network=network)
    np.testing.assert_allclose(ratio, 1.0, rtol=1e-5)


@pytest.mark.slow
def test_ratio_of_a_network_of_volumes_compares_it_with_the_condition():
    """Its raw output zero, the guess is the input times 1 / (s^2 + 1), nearly 0."""
    network = planar_network()
    batch = make_batch()
    params = silent_params(network)
    ratio = steps.mean_ratio(params, batch, SCALE, network=network)
    squares = np.sum(batch.truth**2, axis=(1, 2, 3))
    errors = np.sum((batch.truth - batch.estimate) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(ratio, squares / errors, rtol=0.1)


def with_head():
    """The network with a second head, and the fresh state with weights for it."""
    network = make_network(dataclasses.replace(NETWORK.config, log_variance=True))
    params = fresh_state().params
    params["head_variance"] = jax.tree.map(jnp.zeros_like, params["head"])
    rule = steps.make_optimiser(OPTIM, variance_head=True)
    return network, steps.TrainState(
        jnp.int32(0), params, jax.tree.map(jnp.copy, params), rule.init(params)
    )


@pytest.mark.slow
def test_variance_head_does_not_disturb_the_mean():
    network, state = with_head()
    plain = fresh_state()
    for _ in range(3):
        state, metrics = steps.train_step(
            state, KEY, make_batch(), SCALE, network=network, config=OPTIM
        )
        plain, expected = advance(plain, make_batch())
        np.testing.assert_allclose(metrics.loss, expected.loss, rtol=1e-5)
    params = dict(state.params)
    head = params.pop("head_variance")
    for got, wanted in zip(as_numpy(params), as_numpy(plain.params), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    assert np.any(head["kernel"]) and float(expected.loss_variance) == 0.0


@pytest.mark.slow
def test_variance_head_learns_how_large_the_errors_are():
    network, state = with_head()
    first = None
    for _ in range(30):
        state, metrics = steps.train_step(
            state, KEY, make_batch(), SCALE, network=network, config=OPTIM
        )
        first = first or float(metrics.loss_variance)
    assert float(metrics.loss_variance) < first - 0.05


@pytest.mark.slow
def test_noise_levels_are_those_of_the_named_distribution():
    batch = make_batch()
    for name in ("log_normal", "cosine"):
        config = dataclasses.replace(OPTIM, noise=name, mean_fraction=0.0)
        draws = steps.draw(KEY, batch, config)
        key = jax.random.split(KEY, 3)[1]
        expected = schedule.training_noise(name)(key, (4,))
        np.testing.assert_array_equal(draws.sigma, expected)
    with pytest.raises(InputError, match="got 'pink'"):
        steps.draw(KEY, batch, dataclasses.replace(OPTIM, noise="pink"))


@pytest.mark.usefixtures("optimised")
@pytest.mark.slow
def test_further_averages_follow_the_weights_and_change_nothing_else():
    config = dataclasses.replace(OPTIM, average_lengths=(0.05, 0.1))
    start = averages.begin(fresh_state().params, config.average_lengths)
    state, plain = fresh_state()._replace(averages=start), fresh_state()
    visited = []
    for _ in range(3):
        state, _ = steps.train_step(
            state, KEY, make_batch(), SCALE, network=NETWORK, config=config
        )
        plain, _ = advance(plain, make_batch())
        visited.append(as_numpy(plain.params))
    for got, expected in zip(as_numpy(state[1:4]), as_numpy(plain[1:4]), strict=True):
        np.testing.assert_array_equal(got, expected)
    for length in config.average_lengths:
        ends = (np.arange(4) / 3) ** (averages.exponent(length) + 1)
        shares = np.diff(ends)
        for index, got in enumerate(as_numpy(state.averages[f"{length:g}"])):
            expected = sum(s * v[index] for s, v in zip(shares, visited))
            np.testing.assert_allclose(got, expected, atol=1e-5)
