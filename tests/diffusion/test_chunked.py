"""Chunks have the bits of one scan, whatever stops them, and compile once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from temdiff_jax.diffusion import algebra, chunked, schedule, solvers
from temdiff_jax.errors import InputError

SHAPE = (2, 3, 4, 5)
SIGMAS = schedule.karras(8)
X = schedule.SIGMA_MAX * jax.random.normal(jax.random.key(7), SHAPE)


def gaussian(x, sigma):
    """The exact denoiser of N(0, 1)."""
    return x / (1.0 + sigma**2)


def remembering(eta):
    """A kernel whose aux holds a level, and whose step needs the last guess."""
    return solvers.dpm_solver_2m(algebra.predictor(gaussian), eta=eta)


KERNEL = remembering(1.0)


def assert_same(got, expected):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("chunk", [1, 3])
def test_run_chunked_gives_the_bits_of_run_and_reports(chunk):
    kernel, key, seen = KERNEL, jax.random.key(3), []
    whole = jax.jit(algebra.run, static_argnums=0)(kernel, key, X, SIGMAS)
    parts = chunked.run_chunked(
        kernel,
        key,
        X,
        SIGMAS,
        chunk=chunk,
        on_progress=lambda done, total, info: seen.append((done, total, len(info[0]))),
    )
    assert_same(parts, whole)
    ends = [*range(chunk, 8, chunk), 8]
    assert [(done, total) for done, total, _ in seen] == [(end, 8) for end in ends]
    assert sum(steps for *_, steps in seen) == 8
    assert not X.is_deleted()


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_run_chunked_goes_on_from_its_file_bit_for_bit(tmp_path):
    path, kernel, key = tmp_path / "sampling.npz", KERNEL, jax.random.key(4)
    whole = chunked.run_chunked(kernel, key, X, SIGMAS, chunk=8)

    class Killed(Exception):
        pass

    def stop(done, total, info):
        if done == 4:
            raise Killed

    with pytest.raises(Killed):
        chunked.run_chunked(
            kernel, key, X, SIGMAS, chunk=1, path=path, on_progress=stop
        )
    assert [p.name for p in tmp_path.iterdir()] == ["sampling.npz"]
    with np.load(path, allow_pickle=False) as archive:
        assert int(archive["done"]) == 4
    seen = []
    watch = lambda done, total, info: seen.append(done)  # noqa: E731
    for expected in ([5, 6, 7, 8], []):
        got = chunked.run_chunked(
            kernel, key, X, SIGMAS, chunk=1, path=path, on_progress=watch
        )
        assert_same(got, whole)
        assert seen == expected
        seen.clear()


def test_state_of_any_kind_survives_the_file(tmp_path):
    """Typed keys and half precision in the state, which .npz does not know."""

    def init(x):
        aux = (jax.random.key(0), jnp.zeros((3,), jnp.bfloat16))
        return algebra.State(x.astype(jnp.bfloat16), x, aux)

    def step(key, state, sigma, sigma_next):
        own, total = state.aux
        own, draw = jax.random.split(own)
        noise = jax.random.normal(draw, state.x.shape, state.x.dtype)
        aux = (own, total + noise.ravel()[:3])
        x = state.x + noise
        return algebra.State(x, state.x0, aux), algebra.Info(sigma, sigma_next)

    kernel, key = algebra.Kernel(init, step), jax.random.key(1)
    whole, _ = chunked.run_chunked(kernel, key, X, SIGMAS, chunk=4)
    path = tmp_path / "s.npz"
    chunked.run_chunked(kernel, key, X, SIGMAS, chunk=4, path=path)
    again, info = chunked.run_chunked(kernel, key, X, SIGMAS, chunk=4, path=path)
    np.testing.assert_array_equal(info.sigma, SIGMAS[:-1])
    assert jax.random.key_impl(again.aux[0]) == jax.random.key_impl(whole.aux[0])
    assert jnp.array_equal(*(jax.random.key_data(s.aux[0]) for s in (again, whole)))
    for one, other in ((again.x, whole.x), (again.aux[1], whole.aux[1])):
        assert one.dtype == other.dtype == jnp.bfloat16
        np.testing.assert_array_equal(
            one.astype(jnp.float32), other.astype(jnp.float32)
        )


def test_file_of_another_run_is_refused(tmp_path):
    path, key = tmp_path / "s.npz", jax.random.key(0)
    one, start = Partial(remembering, jnp.float32(1.0)), {"path": path, "chunk": 8}
    chunked.run_chunked(one, key, X, SIGMAS, **start)
    others = [
        (one, jax.random.key(1), X, SIGMAS),
        (one, key, X + 1, SIGMAS),
        (one, key, X, SIGMAS / 2),
        (Partial(remembering, jnp.float32(0.5)), key, X, SIGMAS),
    ]
    for other in others:
        with pytest.raises(InputError, match="got those of another; remove"):
            chunked.run_chunked(*other, **start)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="saved sampling: expected the state"):
        chunked.run_chunked(one, key, X, SIGMAS, **start)
    with pytest.raises(InputError, match="chunk and steps of at least 1, got 0"):
        chunked.run_chunked(one, key, X, SIGMAS, chunk=0)


def test_chunks_keep_one_state_in_memory():
    """The state is donated: beside x_init there are x and x0, and no older ones."""
    kernel = algebra.ddim(algebra.predictor(gaussian), eta=0.5)
    shape, counts = (2, 3, 5, 7), []
    x = jax.random.normal(jax.random.key(0), shape)

    def count(done, total, info):
        counts.append(sum(a.shape == shape for a in jax.live_arrays()))

    chunked.run_chunked(
        kernel, jax.random.key(1), x, SIGMAS, chunk=2, on_progress=count
    )
    assert counts == [3, 3, 3, 3]


def test_other_numbers_in_args_trace_nothing():
    traces = []

    def make(eta, step):
        def guess(x, sigma):
            traces.append(None)
            return gaussian(x, sigma) + step

        return algebra.ddim(algebra.predictor(guess), eta=eta)

    def draw(seed, *args):
        made = Partial(make, *(jnp.float32(a) for a in args))
        return chunked.run_chunked(made, jax.random.key(seed), X, SIGMAS, chunk=4)[0].x

    first = draw(0, 0.5, 0.1)
    count = len(traces)
    assert count > 0
    assert np.max(np.abs(draw(0, 0.9, 0.3) - first)) > 1e-3
    np.testing.assert_array_equal(draw(0, 0.5, 0.1), first)
    draw(1, 0.5, 0.1)
    assert len(traces) == count
