"""Averages of any length from two that were kept, against averages kept directly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.errors import InputError
from temdiff_jax.training import averages

KEPT = (0.05, 0.1)
STEPS = 1200
EVERY = 60


def profile(end, length):
    """Weights of the steps 1 ... end in an average, from its recursion."""
    power = averages.exponent(length) + 1
    share = np.zeros(end)
    for step in range(1, end + 1):
        keep = (1 - 1 / step) ** power
        share *= keep
        share[step - 1] = 1 - keep
    return share


@pytest.fixture(scope="module")
def walk():
    """Weights that fall, wander and jitter, ``[STEPS, 40]``."""
    rng = np.random.default_rng(0)
    time = np.arange(1, STEPS + 1)[:, None] / STEPS
    fall = rng.normal(size=40) * np.exp(-5 * time)
    wander = np.cumsum(rng.normal(size=(STEPS, 40)), axis=0) / np.sqrt(STEPS)
    return fall + 0.3 * wander + 0.2 * rng.normal(size=(STEPS, 40))


@pytest.mark.parametrize("length", [0.01, 0.05, 0.1, 0.15, 0.25, averages.MAX_LENGTH])
def test_profile_has_the_relative_width_it_is_named_after(length):
    end = 4000
    share, steps = profile(end, length), np.arange(1, end + 1) - 0.5
    mean = np.sum(share * steps)
    width = np.sqrt(np.sum(share * (steps - mean) ** 2)) / end
    np.testing.assert_allclose(np.sum(share), 1.0, rtol=1e-12)
    np.testing.assert_allclose(width, length, rtol=2e-3)


def test_published_exponents():
    # Karras et al., CVPR 2024: 16.97 and 6.94 for 5 % and 10 %.
    np.testing.assert_allclose(averages.exponent(0.05), 16.97, atol=0.01)
    np.testing.assert_allclose(averages.exponent(0.10), 6.94, atol=0.01)
    for wrong in (0.0, -0.1, 0.3):
        with pytest.raises(InputError, match="length of an average"):
            averages.exponent(wrong)


def test_overlaps_are_the_integrals_of_the_profiles():
    ends, exponents = np.array([300.0, 900.0]), np.array([6.94, 2.0])
    grid = (np.arange(200_000) + 0.5) * (900.0 / 200_000)
    values = [
        np.where(grid <= t, (g + 1) * grid**g / t ** (g + 1), 0.0)
        for t, g in zip(ends, exponents)
    ]
    expected = np.array([[np.sum(a * b) for b in values] for a in values])
    got = averages.overlap((ends, exponents), (ends, exponents))
    np.testing.assert_allclose(got, expected * 900 / 200_000, rtol=1e-4)


def test_update_is_the_mean_under_the_profile(walk):
    lengths = (0.05, 0.2)
    steps = walk[:50].astype(np.float32)

    @jax.jit
    def run(rows):
        start = averages.begin({"w": jnp.full(40, 1e6)}, lengths)

        def body(state, item):
            row, step = item
            return averages.update(state, {"w": row}, step, lengths), None

        return jax.lax.scan(body, start, (rows, jnp.arange(1, 51)))[0]

    last = run(jnp.asarray(steps))
    for length in lengths:
        expected = profile(50, length) @ steps
        # Nothing is left of the initial weights, however large.
        np.testing.assert_allclose(last[f"{length:g}"]["w"], expected, atol=2e-5)


@pytest.mark.parametrize(
    ("length", "tolerance"), [(0.05, 1e-6), (0.07, 0.01), (0.1, 1e-6), (0.15, 0.02)]
)
@pytest.mark.parametrize("end", [STEPS, STEPS // 2])
def test_other_lengths_agree_with_the_direct_average(walk, length, tolerance, end):
    snapshots = range(EVERY, end + 1, EVERY)
    ends = np.repeat(list(snapshots), 2)
    exponents = np.tile([averages.exponent(v) for v in KEPT], len(snapshots))
    kept = np.array([profile(t, v) @ walk[:t] for t in snapshots for v in KEPT])
    shares = averages.coefficients(ends, exponents, end, length)
    direct = profile(end, length) @ walk[:end]
    error = np.linalg.norm(shares @ kept - direct) / np.linalg.norm(direct)
    assert error < tolerance
    # It is not the nearest of the two that were kept.
    nearest = min(
        np.linalg.norm(kept[-2 + i] - direct) / np.linalg.norm(direct) for i in (0, 1)
    )
    if length not in KEPT:
        assert error < 0.2 * nearest


def test_weights_come_back_from_the_files(walk, tmp_path):
    def tree(values):
        return {"block": {"kernel": values[:24].reshape(4, 6)}, "bias": values[24:]}

    snapshots = list(range(100, STEPS + 1, 100))
    for end in snapshots:
        kept = {f"{v:g}": tree(profile(end, v) @ walk[:end]) for v in KEPT}
        averages.save(tmp_path, end, kept)
    assert averages.saved_steps(tmp_path) == snapshots
    for end in (STEPS, 700):
        got = averages.reconstruct(tmp_path, 0.08, end)
        expected = tree(profile(end, 0.08) @ walk[:end])
        assert jax.tree.structure(got) == jax.tree.structure(expected)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
            assert a.dtype == np.float32
            np.testing.assert_allclose(a, b, atol=0.02)
    newest = averages.reconstruct(tmp_path, 0.08)
    np.testing.assert_array_equal(
        newest["bias"], averages.reconstruct(tmp_path, 0.08, STEPS)["bias"]
    )
    with pytest.raises(InputError, match="a snapshot of step 150"):
        averages.reconstruct(tmp_path, 0.08, 150)
    with pytest.raises(InputError, match="a snapshot of step any"):
        averages.reconstruct(tmp_path / "none", 0.08)
