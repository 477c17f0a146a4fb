"""A prior of random weights, for what holds for any weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.model import NetworkConfig, make_network
from temdiff_jax.priors import save_prior

CARD = {
    "name": "tiny",
    "network": {"channels": [8, 8], "blocks": [1, 1], "groups": 4, "embedding": 64},
    "residual_scale": {"intercept": -0.5, "slopes": [0.0, 0.0, 0.0, 0.0]},
    "metric_mean": {"smoothness": 2.0, "ridge": 0.1},
    "metric_sample": {"smoothness": 2.0, "ridge": 0.1},
    "half_range_deg": [4.0, 30.0],
}


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    """Path of a prior with random weights."""
    network = make_network(NetworkConfig(channels=(8, 8), blocks=(1, 1), groups=4))
    abstract = jax.eval_shape(network.init, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.05 * rng.normal(size=leaf.shape), leaf.dtype),
        abstract,
    )
    path = tmp_path_factory.mktemp("prior") / "tiny.safetensors"
    save_prior(path, params, CARD)
    return path
