import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from launch import benchmark_training, program
from temdiff_jax.errors import InputError
from temdiff_jax.model import NUM_FEATURES, NetworkConfig, make_network
from temdiff_jax.series import inputs
from temdiff_jax.training import optimiser
from temdiff_jax.training.config import OptimConfig, TrainConfig
from temdiff_jax.training.step import init_state

# Compiles for tens of seconds.

TINY = NetworkConfig(channels=(8, 8), blocks=(1, 1), groups=4)


def test_batch_has_the_shape_of_the_thickest_crop():
    config = program.load_config("configs/default_prior.py")
    batch = benchmark_training.random_batch(config)
    assert batch.truth.shape == batch.coverage.shape == (3, 96, 32, 32)
    assert batch.features.shape == (3, NUM_FEATURES)


@pytest.mark.slow
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


def small(name="adam", **network):
    config = dataclasses.replace(
        TrainConfig(
            network=dataclasses.replace(TINY, **network),
            optim=OptimConfig(optimiser=name, batch=1),
        ),
    )
    return program.override(config, "data.crop=8")


def cells(line):
    return line.strip("| ").split(" | ")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["muon", "adam"])
def test_row_names_what_was_timed(name):
    row = cells(benchmark_training.measure(small(name), 1, 1e12))
    assert len(row) == len(benchmark_training.COLUMNS)
    assert row[0] == "8-8, (1, 1), 2" and row[2] == name
    assert float(row[3]) > 0 and float(row[4]) > 0
    assert (row[6] == "-") == (name == "adam")


def test_rates_follow_from_the_time_and_the_peak():
    timing = benchmark_training.Timing(0.5, 2e9)
    row = cells(benchmark_training.row(small(), timing, 8e9, ", note"))
    assert row[0].endswith(", note") and row[3] == "500"
    voxels = benchmark_training.random_batch(small()).truth.size
    assert row[4] == f"{voxels / 500:.0f}"
    assert row[-3:] == ["2.0", "4.0", "0.500"]


@pytest.mark.slow
def test_native_convolutions_are_the_same_function_in_other_words():
    """Traced inside: 3-D convolutions alone; outside: as before."""
    config = small()
    network = make_network(config.network)
    state = init_state(jax.random.key(0), network, config.optim)
    batch = benchmark_training.random_batch(config)
    scale = inputs.ResidualScale(jnp.float32(0.0), jnp.zeros(NUM_FEATURES))
    given = (state, jax.random.key(1), batch, scale)

    def dimensions():
        text = str(jax.make_jaxpr(benchmark_training.make_step(config))(*given))
        found = text.count("lhs_spec=(0, 4, 1, 2, 3)")
        return found, text.count("lhs_spec=(0, 3, 1, 2)")

    usual = dimensions()
    with benchmark_training.native_convolutions():
        native = dimensions()
        inside, _ = benchmark_training.make_step(config)(
            jax.tree.map(jnp.copy, state), *given[1:]
        )
    assert usual[1] > 0 and native[0] > 0 and native[1] == 0
    assert dimensions() == usual
    outside, _ = benchmark_training.make_step(config)(*given)
    for a, b in zip(jax.tree.leaves(inside.params), jax.tree.leaves(outside.params)):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.slow
def test_peer_is_given_the_weights_by_name_and_the_answer():
    held = benchmark_training.torch_inputs(small(patch=4))
    assert held["params/stem/kernel"].shape == (3 * 64, 8)
    assert json.loads(str(held["config"])) == {
        "groups": 4,
        "patch": 4,
        "blocks": [1, 1],
    }
    assert held["output"].shape == held["x"].shape and np.std(held["output"]) > 0.01
    np.testing.assert_array_equal(held["scalars"][:, 1], 1.0)
    with pytest.raises(InputError, match="patches of more than 2 voxels"):
        benchmark_training.torch_inputs(small())


def test_environment_without_the_peer_is_refused(tmp_path):
    config = small(patch=4)
    with pytest.raises(InputError, match="expected an interpreter with PyTorch"):
        benchmark_training.time_torch(config, str(tmp_path / "python"), 1)
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/sh\necho 'no module' >&2\nexit 1\n")
    failing.chmod(0o755)
    with pytest.raises(InputError, match="got exit code 1: no module; see third_party"):
        benchmark_training.time_torch(config, str(failing), 1)


def test_smallest_time_is_that_of_a_warm_call():
    calls = []

    def call():
        calls.append(None)
        return jnp.zeros(())

    assert benchmark_training.smallest(call, 3) > 0 and len(calls) == 4


@pytest.mark.slow
def test_every_convolution_has_a_row_of_rates():
    rows = benchmark_training.convolution_rows(small(), 1)
    assert len(rows) == len(benchmark_training.CONVOLUTIONS)
    for row, name in zip(rows, benchmark_training.CONVOLUTIONS, strict=True):
        first, *rates = cells(row.rstrip("|"))
        assert first == name and len(rates) == 4
        assert all(float(rate) >= 0 for rate in rates)


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("name", benchmark_training.CONVOLUTIONS)
def test_slopes_are_those_of_the_convolution(name, which):
    function, taps = benchmark_training.CONVOLUTIONS[name]
    rng = np.random.default_rng(0)
    x, given = (rng.normal(size=(1, 8, 4, 4, 3)).astype(np.float32) for _ in range(2))
    kernel = rng.normal(size=(*taps, 3, 3)).astype(np.float32)
    slope = benchmark_training._slope(function, which, x, kernel, given)
    # A linear map: <A v, g> = <v, A^T g>.
    value = (x, kernel)[which]
    other = rng.normal(size=value.shape).astype(np.float32)
    moved = function(*((other, kernel) if which == 0 else (x, other)))
    np.testing.assert_allclose(
        np.sum(moved * given), np.sum(other * slope), rtol=1e-3, atol=1e-2
    )
