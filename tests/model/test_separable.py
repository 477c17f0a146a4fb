"""Blocks that convolve across the depth and along it, and normalise voxel by voxel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.errors import InputError
from temdiff_jax.model import NUM_FEATURES, Condition, NetworkConfig, conv, make_network

CONFIG = NetworkConfig(
    channels=(8, 8), blocks=(1, 1), groups=4, norm="rms", axial_taps=3
)
SHAPE = (1, 24, 16, 12)


def features(seed, shape=(2, 5, 6, 7, 3)):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_lateral_is_the_middle_plane_of_a_cubic_kernel():
    x, kernel = features(0), features(1, (3, 3, 3, 4))
    cubic = jnp.zeros((3, 3, 3, 3, 4)).at[1].set(kernel)
    expected = conv.conv3d_native(x, cubic)
    np.testing.assert_allclose(conv.lateral(x, kernel), expected, atol=1e-5)


def test_axial_is_the_middle_column_of_a_cubic_kernel():
    x, kernel = features(0), features(1, (3, 3, 4))
    cubic = jnp.zeros((3, 3, 3, 3, 4)).at[:, 1, 1].set(kernel)
    expected = conv.conv3d_native(x, cubic)
    np.testing.assert_allclose(conv.axial(x, kernel), expected, atol=1e-5)


def test_axial_of_more_taps_is_a_sum_of_shifts():
    x, kernel = features(0, (1, 9, 2, 2, 3)), features(1, (7, 3, 4))
    padded = np.pad(x, ((0, 0), (3, 3), (0, 0), (0, 0), (0, 0)))
    expected = sum(padded[:, tap : tap + 9] @ kernel[tap] for tap in range(7))
    np.testing.assert_allclose(conv.axial(x, kernel), expected, atol=1e-5)


def given(seed=1, feature=0.3):
    rng = np.random.default_rng(seed)
    return Condition(
        jnp.asarray(rng.normal(size=SHAPE), jnp.float32),
        jnp.asarray(rng.random(SHAPE), jnp.float32),
        jnp.full((1, NUM_FEATURES), feature, jnp.float32),
        jnp.ones((1,), jnp.float32),
    )


def random_params(network):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.2 * rng.normal(size=leaf.shape), leaf.dtype),
        jax.eval_shape(network.init, jax.random.key(0)),
    )


@pytest.mark.parametrize(("norm", "local"), [("rms", True), ("group", False)])
def test_only_a_norm_over_space_tells_a_voxel_of_one_far_away(norm, local):
    config = NetworkConfig(
        channels=(8,), blocks=(1,), groups=4, norm=norm, axial_taps=3
    )
    network = make_network(config)
    params, level = random_params(network), jnp.zeros((1,))
    x = features(3, SHAPE)
    apply = jax.jit(network.apply)
    one = apply(params, x, level, given())
    other = apply(params, x.at[0, -1, -1, -1].add(5.0), level, given())
    assert np.array_equal(one[0, :6], other[0, :6]) == local
    assert not np.array_equal(one[0, -4:], other[0, -4:])


def test_scalars_beyond_the_networks_own_change_nothing():
    fewer = make_network(CONFIG)
    params, level, x = random_params(fewer), jnp.zeros((1,)), features(3, SHAPE)
    here = given()
    there = here._replace(features=here.features.at[:, 4].set(7.0))
    apply = jax.jit(fewer.apply)
    assert np.array_equal(apply(params, x, level, here), apply(params, x, level, there))
    seen = here._replace(features=here.features.at[:, 3].set(7.0))
    assert not np.array_equal(
        apply(params, x, level, here), apply(params, x, level, seen)
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"norm": "batch"},
        {"axial_taps": 4},
        {"axial_taps": 3, "planar": True, "target": "volume"},
    ],
)
def test_configurations_that_cannot_be_are_refused(changed):
    with pytest.raises(InputError, match="correct the configuration"):
        make_network(NetworkConfig(**changed))


def test_filters_mix_the_voxels_of_a_patch_of_the_noisy_input_alone():
    config = NetworkConfig(channels=(8,), blocks=(1,), groups=4, filters=2)
    plain = make_network(NetworkConfig(channels=(8,), blocks=(1,), groups=4))
    network, level, x = make_network(config), jnp.zeros((1,)), features(3, SHAPE)
    params = random_params(network)
    rest = {k: v for k, v in params.items() if not k.endswith("_filters")}
    of_filters = jax.jit(
        lambda x: (
            network.apply(params, x, level, given())
            - plain.apply(rest, x, level, given())
        )
    )
    out = of_filters(x)
    np.testing.assert_allclose(of_filters(2 * x), 2 * out, atol=2e-4)
    changed = of_filters(x.at[0, 5, 3, 3].add(1.0)) - out
    moved = np.argwhere(np.abs(np.asarray(changed[0])) > 1e-4)
    assert moved.min(axis=0).tolist() == [4, 2, 2]
    assert moved.max(axis=0).tolist() == [5, 3, 3]
