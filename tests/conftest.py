"""Fixtures and markers that every test file may use.

The suite runs on whatever devices jax finds, normally one CPU, and in float32: a
virtual device count or 64-bit mode set here would be paid for by every file.  A test
that needs several devices runs them in a process of its own (`run_devices`), since the
count is fixed when jax starts; one that needs float64 asks for `x64`.
"""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where jax finds no accelerator."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    # Ask jax for its backend only if somebody wants to know: it starts the runtime.
    if marked and jax.default_backend() == "cpu":
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="jax sees no accelerator here"))


@pytest.fixture
def x64() -> Iterator[None]:
    """Run the test with 64-bit types; the setting before it comes back after."""
    with jax.enable_x64(True):
        yield


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
