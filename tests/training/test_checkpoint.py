"""Checkpoints: bit for bit what was saved, or an error that names the leaf."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.training.checkpoint import Checkpoints
from temdiff_jax.training.config import OptimConfig
from temdiff_jax.training.step import TrainState, make_optimiser
from temdiff_jax.types import InputError

META = {"config": {"seed": 3, "sizes": [1, 2]}, "residual_scale": {"intercept": 0.1}}


def make_state(seed=0, width=4) -> TrainState:
    rng = np.random.default_rng(seed)
    params = {
        "layer": {
            "kernel": jnp.asarray(rng.normal(size=(3, width)), jnp.float32),
            "bias": jnp.asarray(rng.normal(size=width), jnp.float32),
        }
    }
    opt_state = make_optimiser(OptimConfig()).init(params)
    return TrainState(jnp.int32(7), params, jax.tree.map(jnp.copy, params), opt_state)


@pytest.fixture
def folder(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.latest() is None and checkpoints.steps() == []
    checkpoints.save(7, make_state(), META)
    checkpoints.close()
    return tmp_path / "checkpoints"


@pytest.fixture
def opened(folder):
    """A manager that has written nothing itself, as after a restart."""
    checkpoints = Checkpoints(folder)
    yield checkpoints
    checkpoints.close()


def test_round_trip_is_bit_exact(opened):
    state = make_state()
    assert opened.latest() == 7
    restored = opened.restore(7, make_state(seed=1))
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    for got, expected in zip(jax.tree.leaves(restored), jax.tree.leaves(state)):
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)


def test_shapes_alone_are_enough_to_restore(opened):
    restored = opened.restore(7, jax.eval_shape(make_state))
    for got, expected in zip(jax.tree.leaves(restored), jax.tree.leaves(make_state())):
        np.testing.assert_array_equal(got, expected)
        assert got.devices() == {jax.devices()[0]}


def test_meta_comes_back_with_its_format_version(opened):
    assert opened.meta(7) == {"format_version": 1, **META}


def test_other_format_version_is_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, make_state(), {"format_version": 9})
    with pytest.raises(InputError, match="expected format version 1, got 9"):
        checkpoints.meta(1)
    checkpoints.close()


def test_leaf_of_another_shape_is_named(opened):
    with pytest.raises(InputError) as caught:
        opened.restore(7, make_state(width=5))
    message = str(caught.value)
    assert "leaf ema_params/layer/bias" in message
    assert "((5,), 'float32'), got ((4,), 'float32')" in message


def test_leaf_of_another_dtype_is_named_not_cast(opened):
    state = make_state()
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float16), state.params)
    with pytest.raises(InputError, match=r"leaf params/layer/bias: .*'float16'"):
        opened.restore(7, state._replace(params=params))


def test_surplus_and_missing_leaves_are_named(opened):
    state = make_state()
    more = {**state.params, "spare": jnp.zeros(2)}
    with pytest.raises(InputError, match=r"leaf params/spare: .* got None"):
        opened.restore(7, state._replace(params=more))
    with pytest.raises(InputError, match=r"leaf params/layer/bias: expected None"):
        opened.restore(7, state._replace(params={}))


def test_old_checkpoints_make_room(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step, make_state(step), META)
    assert checkpoints.steps() == [2, 3] and checkpoints.latest() == 3
    checkpoints.close()
