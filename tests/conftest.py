"""Fixtures and markers that every test file may use.

The suite runs on whatever devices jax finds, normally one CPU, and in float32: a
virtual device count or 64-bit mode set here would be paid for by every file.  A test
that needs several devices runs them in a process of its own (`run_devices`), since the
count is fixed when jax starts; one that needs float64 asks for `x64`.

A test spends most of its time compiling programs that run for milliseconds, so here
they are compiled in haste, and by the processes that tests start too, unless the
environment says JAX_DISABLE_MOST_OPTIMIZATIONS=0 or jax finds an accelerator.  A test
that compares two programs bit for bit asks for `optimised`: what rounds apart in the
programs of users may agree in hasty ones.

For the same reason the loops of the projector advance by one plane or tilt at a time,
but in tests/projector, which tests the loops (`long_loops`), and in other processes.
"""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.projector import kernels

REPOSITORY = Path(__file__).resolve().parent.parent
HASTE = "JAX_DISABLE_MOST_OPTIMIZATIONS"


def compile_in_haste(haste: bool) -> None:
    """Set it for what this process, and those it starts, will compile."""
    os.environ[HASTE] = str(int(haste))
    jax.config.update(HASTE.lower(), haste)


if HASTE not in os.environ:  # else jax has read it
    compile_in_haste(True)

LONG, kernels.UNROLL = kernels.UNROLL, 1

TINY_CARD = {
    "name": "tiny",
    "network": {"channels": [8, 8], "blocks": [1, 1], "groups": 4, "embedding": 64},
    "residual_scale": {"intercept": -0.5, "slopes": [0.0, 0.0, 0.0, 0.0]},
    "metric_mean": {"smoothness": 2.0, "ridge": 0.1},
    "metric_sample": {"smoothness": 2.0, "ridge": 0.1},
    "half_range_deg": [4.0, 30.0],
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where jax finds no accelerator."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    # Ask jax for its backend only if somebody wants to know: it starts the runtime.
    if not marked:
        return
    if jax.default_backend() != "cpu":
        compile_in_haste(False)
        return
    for item in marked:
        item.add_marker(pytest.mark.skip(reason="jax sees no accelerator here"))


@pytest.fixture
def x64() -> Iterator[None]:
    """Run the test with 64-bit types; the setting before it comes back after."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def optimised() -> Iterator[None]:
    """Compile as users do, and what was compiled in haste before once more."""
    before = bool(jax.config.read(HASTE.lower()))
    compile_in_haste(False)
    jax.clear_caches()
    yield
    compile_in_haste(before)


@pytest.fixture(scope="module")
def long_loops() -> Iterator[None]:
    """Loops of the projector as users have them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "UNROLL", LONG)
        jax.clear_caches()
        yield


@pytest.fixture(scope="session")
def linear_prior():
    """A network that answers zero: its denoiser is the linear guess."""
    from temdiff_jax.diffusion import spectrum
    from temdiff_jax.inverse.quadratic import Metric
    from temdiff_jax.model import NUM_FEATURES, NetworkConfig, make_network
    from temdiff_jax.priors import Prior
    from temdiff_jax.series import inputs

    config = NetworkConfig(
        channels=(8,), blocks=(1,), norm="soft", features=NUM_FEATURES, refines=True
    )
    network = make_network(config)
    law = spectrum.init(jax.random.key(1))
    scale = inputs.ResidualScale(jnp.float32(0.0), jnp.zeros(NUM_FEATURES), law)
    metric = Metric(jnp.float32(1.0), jnp.float32(0.1))
    return Prior(network, network.init(jax.random.key(0)), scale, metric, metric)


@pytest.fixture(scope="session")
def regression_prior():
    """A network of the residual with random weights, white data."""
    from temdiff_jax.inverse.quadratic import Metric
    from temdiff_jax.model import NUM_FEATURES, NetworkConfig, make_network
    from temdiff_jax.priors import Prior
    from temdiff_jax.series import inputs

    network = make_network(
        NetworkConfig(channels=(8,), blocks=(1,), norm="rms", features=NUM_FEATURES)
    )
    leaves, tree = jax.tree.flatten(network.init(jax.random.key(0)))
    rng = np.random.default_rng(3)
    leaves = [leaf + 0.1 * rng.normal(size=leaf.shape) for leaf in leaves]
    params = jax.tree.unflatten(tree, [leaf.astype(np.float32) for leaf in leaves])
    scale = inputs.ResidualScale(jnp.float32(0.0), jnp.zeros(NUM_FEATURES))
    metric = Metric(jnp.float32(1.0), jnp.float32(0.1))
    return Prior(network, params, scale, metric, metric)


@pytest.fixture(scope="session")
def tiny_prior(tmp_path_factory) -> Path:
    """Path of a prior of two small levels with random weights."""
    from temdiff_jax.model import NetworkConfig, make_network
    from temdiff_jax.priors import save_prior

    network = make_network(NetworkConfig(channels=(8, 8), blocks=(1, 1), groups=4))
    abstract = jax.eval_shape(network.init, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.05 * rng.normal(size=leaf.shape), leaf.dtype),
        abstract,
    )
    path = tmp_path_factory.mktemp("prior") / "tiny.safetensors"
    save_prior(path, params, TINY_CARD)
    return path


@pytest.fixture
def run_devices() -> Callable[..., str]:
    """Return a function that runs Python source on n virtual CPU devices.

    `run_devices(source, count=8)` dedents the source, runs it in a fresh interpreter
    at the root of the repository, fails the test with the output of the process if it
    exits with an error, and returns what it wrote to standard output.
    """

    def run(source: str, *, count: int, timeout_s: float = 300.0) -> str:
        inherited = os.environ.get("XLA_FLAGS", "").split()
        kept = [f for f in inherited if "host_platform_device_count" not in f]
        flags = [*kept, f"--xla_force_host_platform_device_count={count}"]
        path = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(source)],
            cwd=REPOSITORY,
            env=os.environ
            | {
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": " ".join(flags),
                "PYTHONPATH": os.pathsep.join(filter(None, path)),
            },
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        if done.returncode != 0:
            pytest.fail(f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    return run
