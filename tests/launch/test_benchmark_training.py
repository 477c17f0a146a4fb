import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from launch import benchmark_training, train
from temdiff_jax.model import NetworkConfig, make_network
from temdiff_jax.training import optimiser
from temdiff_jax.training.config import OptimConfig, TrainConfig

TINY = NetworkConfig(channels=(8, 8), blocks=(1, 1), groups=4)


def test_batch_has_the_shape_of_the_thickest_crop():
    config = train.load_config("configs/default_prior.py")
    batch = benchmark_training.random_batch(config)
    assert batch.truth.shape == batch.coverage.shape == (3, 96, 32, 32)
    assert batch.features.shape == (3, 4)


def test_optax_orthogonalises_the_same_kernels_alike():
    """What is timed side by side is the same update up to its scale and rounding."""
    params = make_network(TINY).init(jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    rule, kernels = benchmark_training.optax_muon(params)
    theirs, _ = rule.update(kernels, rule.init(kernels), kernels)
    assert len(kernels) == sum(
        r == "muon" for r in jax.tree.leaves(optimiser.rules(params))
    )
    for index, kernel in kernels.items():
        ours = optimiser.orthogonalise(kernel)
        ours = ours / (optimiser.UPDATE_RMS * max(kernel.shape) ** 0.5)
        np.testing.assert_allclose(ours, theirs[index], atol=2e-2)


@pytest.mark.parametrize("name", ["muon", "adam"])
def test_row_names_what_was_timed(name):
    config = dataclasses.replace(
        TrainConfig(network=TINY, optim=OptimConfig(optimiser=name, batch=1)),
    )
    config = train.override(config, "data.crop=8")
    cells = benchmark_training.measure(config, repeats=1).strip("| ").split(" | ")
    assert len(cells) == len(benchmark_training.COLUMNS)
    assert cells[0] == "8-8, (1, 1), 2" and cells[2] == name
    assert float(cells[3]) > 0 and float(cells[4]) > 0
    assert (cells[6] == "-") == (name == "adam")


def test_smallest_time_is_that_of_a_warm_call():
    calls = []

    def call():
        calls.append(None)
        return jnp.zeros(())

    assert benchmark_training.smallest(call, 3) > 0 and len(calls) == 4
