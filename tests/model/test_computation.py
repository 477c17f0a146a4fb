"""What changes how the network is computed, or what it tells besides, and not F."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.errors import InputError
from temdiff_jax.model import NUM_FEATURES, Condition, NetworkConfig, make_network

# Compiles for tens of seconds.

CONFIG = NetworkConfig(channels=(8, 8), blocks=(1, 1), groups=4)
SHAPE = (2, 4, 8, 12)
X = jnp.asarray(np.random.default_rng(2).normal(size=SHAPE), jnp.float32)
GIVEN = Condition(
    jnp.asarray(np.random.default_rng(3).normal(size=SHAPE), jnp.float32),
    jnp.ones(SHAPE),
    jnp.full((2, NUM_FEATURES), 0.3),
    jnp.ones(2),
)


def network(**changes):
    return make_network(dataclasses.replace(CONFIG, **changes))


def shapes(net):
    return jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype),
        jax.eval_shape(net.init, jax.random.key(0)),
    )


def random_params(net):
    rng = np.random.default_rng(0)
    # Names in order: trees of two networks agree where their names do.
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.2 * rng.normal(size=leaf.shape), leaf.dtype),
        jax.eval_shape(net.init, jax.random.key(0)),
    )


PARAMS = random_params(network())


def objective(net):
    def loss(params, x):
        return jnp.mean(net.apply(params, x, jnp.zeros(2), GIVEN) ** 2)

    return loss


@pytest.fixture(scope="module")
def plain():
    """Loss, gradients and output of the network as it is."""
    net = network()
    loss, grads = jax.jit(jax.value_and_grad(objective(net)))(PARAMS, X)
    return loss, grads, net.apply(PARAMS, X, jnp.zeros(2), GIVEN)


def remembered_bytes(net):
    """What the way back is handed by the way there."""
    backward = jax.eval_shape(lambda p: jax.vjp(objective(net), p, X)[1], PARAMS)
    leaves = jax.tree.leaves(backward)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def relative(a, b):
    difference = jax.tree.map(jnp.subtract, a, b)
    norms = [
        np.sqrt(sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(tree)))
        for tree in (difference, b)
    ]
    return norms[0] / norms[1]


@pytest.mark.parametrize("changes", [{"remat": (0, 1)}, {"dtype": "bfloat16"}])
def test_parameters_stay_what_they_are(changes):
    assert shapes(network(**changes)) == shapes(network())
    assert network(**changes).config.architecture == CONFIG


@pytest.mark.slow
def test_recomputation_changes_no_gradient(plain):
    loss, grads = jax.jit(jax.value_and_grad(objective(network(remat=(0, 1)))))(
        PARAMS, X
    )
    np.testing.assert_allclose(loss, plain[0], rtol=1e-6)
    assert relative(grads, plain[1]) < 1e-6


@pytest.mark.slow
def test_each_level_that_is_recomputed_need_not_be_remembered():
    none, finest, both = (
        remembered_bytes(network(remat=r)) for r in ((), (0,), (0, 1))
    )
    assert both < finest < 0.7 * none


@pytest.mark.slow
@pytest.mark.gpu
def test_recomputation_takes_less_memory_on_an_accelerator():
    def temporary(remat):
        net = network(channels=(32, 32), blocks=(3, 3), remat=remat)
        shape = (1, 64, 64, 64)
        fields = jax.ShapeDtypeStruct(shape, jnp.float32)

        def loss(params, x, volume):
            here = Condition(volume, volume, jnp.zeros((1, NUM_FEATURES)), jnp.ones(1))
            return jnp.mean(net.apply(params, x, jnp.zeros(1), here) ** 2)

        params = jax.eval_shape(net.init, jax.random.key(0))
        lowered = jax.jit(jax.grad(loss)).lower(params, fields, fields)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert temporary((0, 1)) < 0.7 * temporary(())


@pytest.mark.slow
def test_half_precision_is_close_and_answers_in_single(plain):
    net = network(dtype="bfloat16")
    out = net.apply(PARAMS, X, jnp.zeros(2), GIVEN)
    assert out.dtype == jnp.float32
    error = relative(out, plain[2])
    # Eight bits, and not single precision under another name.
    assert 1e-4 < error < 0.02
    loss, grads = jax.jit(jax.value_and_grad(objective(net)))(PARAMS, X)
    np.testing.assert_allclose(loss, plain[0], rtol=0.01)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(grads))
    assert relative(grads, plain[1]) < 0.05
    assert remembered_bytes(net) < 0.75 * remembered_bytes(network())


@pytest.mark.slow
def test_statistics_of_the_normalisation_are_single_precision():
    """A large common offset, which eight bits of mantissa would round away."""
    net = network(dtype="bfloat16")
    jaxpr = str(jax.make_jaxpr(lambda x: net.apply(PARAMS, x, jnp.zeros(2), GIVEN))(X))
    assert "bf16" in jaxpr
    sums = [line for line in jaxpr.splitlines() if "reduce_sum" in line]
    assert sums and all("f32" in line and "bf16" not in line for line in sums)


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_second_head_changes_neither_the_first_output_nor_its_gradient(plain):
    net = network(log_variance=True)
    fresh = random_params(net)
    assert set(fresh) == set(PARAMS) | {"head_variance"}
    params = PARAMS | {"head_variance": fresh["head_variance"]}
    mean, spread = net.apply_both(params, X, jnp.zeros(2), GIVEN)
    np.testing.assert_array_equal(mean, net.apply(params, X, jnp.zeros(2), GIVEN))
    np.testing.assert_allclose(mean, plain[2], rtol=1e-5, atol=1e-6)
    assert spread.shape == SHAPE and float(jnp.std(spread)) > 0.01

    def total(params):
        mean, spread = net.apply_both(params, X, jnp.zeros(2), GIVEN)
        return jnp.mean(mean**2) + 1e3 * jnp.mean(jnp.sin(spread))

    grads = jax.jit(jax.grad(total))(params)
    own = grads.pop("head_variance")
    assert relative(grads, plain[1]) < 1e-6
    assert np.any(own["kernel"]) and np.any(own["bias"])


@pytest.mark.slow
def test_head_starts_at_unit_variance_and_is_absent_by_default():
    net = network(log_variance=True)
    params = jax.jit(net.init)(jax.random.key(0))
    _, spread = net.apply_both(params, X, jnp.zeros(2), GIVEN)
    np.testing.assert_array_equal(spread, 0.0)
    assert network().apply_both is None and "head_variance" not in shapes(network())


@pytest.mark.slow
def test_slices_have_a_second_head_too():
    net = network(planar=True, log_variance=True)
    params = random_params(net)
    mean, spread = net.apply_both(params, X, jnp.zeros(2), GIVEN)
    assert mean.shape == spread.shape == SHAPE


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "float16"}, r"network.dtype: expected one of \['bfloat16'"),
        ({"remat": (0, 2)}, r"network.remat: expected levels among \[0, 1\], got"),
        ({"blocks": (1, 1, 1)}, r"network.blocks: expected 2 numbers, one a level"),
    ],
)
def test_unknown_computation_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        network(**changes)
