"""Costs of the stages of a small reconstruction, and starts of the estimate."""

import pytest

from launch.studies import cost
from temdiff_jax.errors import InputError


def test_sizes_are_read():
    assert cost.extents_of("64x32x16") == (64, 32, 16)
    for text in ("64", "64x64", "axbxc", "4x64x64"):
        with pytest.raises(InputError, match="size: expected X x Y x Z"):
            cost.extents_of(text)


def test_a_function_is_timed_and_compiled_apart():
    found = cost.measure("double", lambda x: 2 * x, 7, 1.0)
    assert found.name == "double" and found.calls == 7
    assert 0 <= found.seconds < found.compile < 60 and found.cached < 60


@pytest.mark.slow
def test_the_coarse_start_is_nearer_than_zero():
    lines = list(cost.quadratic((24, 16, 12)))
    steps, zero, warm = lines[2].strip("| ").split(" | ")
    assert steps == "0" and float(warm) < float(zero) == pytest.approx(1.0)
