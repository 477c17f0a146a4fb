"""Networks of slices: volumes are batches of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.errors import InputError
from temdiff_jax.model import NUM_FEATURES, Condition, NetworkConfig, make_network
from temdiff_jax.model.unet import UNet

CONFIG = NetworkConfig(channels=(8, 16), blocks=(1, 1), groups=4, planar=True)
NETWORK = make_network(CONFIG)
SHAPE = (2, 4, 8, 5)  # b, z, x, y; y is no multiple of anything
LEVEL = jnp.asarray([0.3, -0.2])


def random_params(network):
    abstract = jax.eval_shape(network.init, jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.2 * rng.normal(size=leaf.shape), leaf.dtype),
        abstract,
    )


PARAMS = random_params(NETWORK)


def random_fields(seed=1):
    rng = np.random.default_rng(seed)
    x, volume, coverage = (
        jnp.asarray(rng.normal(size=SHAPE), jnp.float32) for _ in range(3)
    )
    features = jnp.asarray(rng.normal(size=(2, NUM_FEATURES)), jnp.float32)
    return x, Condition(volume, coverage, features, jnp.ones(2))


@pytest.fixture(scope="module")
def apply():
    return jax.jit(NETWORK.apply)


@pytest.mark.slow
def test_changing_one_slice_changes_no_bit_of_the_others(apply):
    x, here = random_fields()
    out = apply(PARAMS, x, LEVEL, here)
    changed = here._replace(volume=here.volume.at[..., 2].add(1.0))
    other = apply(PARAMS, x.at[..., 2].add(3.0), LEVEL, changed)
    rest = np.array([0, 1, 3, 4])
    np.testing.assert_array_equal(other[..., rest], out[..., rest])
    assert np.max(np.abs(other[..., 2] - out[..., 2])) > 1e-3


@pytest.mark.slow
def test_a_volume_is_the_plain_2d_network_slice_by_slice(apply):
    x, here = random_fields()
    out = apply(PARAMS, x, LEVEL, here)
    module = UNet(channels=(8, 16), blocks=(1, 1), groups=4)
    known = here.features[:, :4]
    scalars = jnp.concatenate([LEVEL[:, None], jnp.ones((2, 1)), known], -1)
    one_slice = jax.jit(module.apply)
    for y in range(SHAPE[3]):
        parts = [x, here.volume, here.coverage]
        fields = jnp.stack([part[..., y] for part in parts], axis=-1)
        assert fields.shape == (2, 4, 8, 3)
        alone = one_slice({"params": PARAMS}, fields, scalars)
        np.testing.assert_allclose(out[..., y], alone[..., 0], rtol=1e-4, atol=1e-4)


def test_kernels_are_those_of_planes(apply):
    assert PARAMS["stem"]["kernel"].shape == (3, 3, 3 * 4, 8)
    assert PARAMS["down_1_0"]["conv_in"]["kernel"].shape == (3, 3, 16, 16)
    assert PARAMS["head"]["kernel"].shape == (3, 3, 8, 4)
    x, here = random_fields()
    silent = {**PARAMS, "head": jax.tree.map(jnp.zeros_like, PARAMS["head"])}
    assert not np.any(apply(silent, x, LEVEL, here))


def test_volumetric_networks_have_the_tree_they_had():
    """Names and shapes that released weights are stored under."""
    network = make_network(NetworkConfig(channels=(8, 16), blocks=(1, 1), patch=4))
    flat, _ = jax.tree_util.tree_flatten_with_path(
        jax.eval_shape(network.init, jax.random.key(0))
    )
    shapes = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in flat
    }
    assert shapes["stem/kernel"] == (3 * 64, 8)
    assert shapes["down_1/kernel"] == (8 * 8, 16)
    assert shapes["down_1_0/conv_in/kernel"] == (3, 3, 3, 16, 16)
    assert shapes["down_1_0/film/kernel"] == (64, 32)
    assert shapes["up_0/kernel"] == (16, 8 * 8)
    assert shapes["merge_0/kernel"] == (16, 8)
    assert shapes["head/kernel"] == (3, 3, 3, 8, 64)
    assert len(shapes) == 46


@pytest.mark.slow
def test_an_unconditional_network_is_shown_nothing_but_x_and_the_level():
    config = NetworkConfig(
        channels=(8, 8), groups=4, blocks=(1, 1), conditional=False, target="volume"
    )
    network = make_network(config)
    params = random_params(network)
    assert params["stem"]["kernel"].shape[-2] == 8
    assert params["embed_in"]["kernel"].shape[0] == 1
    x, here = random_fields()
    x, here = x[..., :4], Condition(here.volume, here.coverage, here.features, LEVEL)
    nothing = Condition(*(jnp.zeros(()) for _ in range(4)))
    answer = jax.jit(network.apply)
    first = answer(params, x, LEVEL, here)
    np.testing.assert_array_equal(answer(params, x, LEVEL, nothing), first)
    assert np.max(np.abs(answer(params, x, LEVEL + 1, here) - first)) > 1e-4


@pytest.mark.parametrize(
    "wrong", [{"target": "noise"}, {"conditional": False, "target": "residual"}]
)
def test_a_target_that_cannot_be_is_refused(wrong):
    with pytest.raises(InputError, match="network.target: expected 'volume', or 'res"):
        make_network(NetworkConfig(**wrong))
