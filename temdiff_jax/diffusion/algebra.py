"""The sampler as a product of values: predictor, constraint, kernel.

    sampler = run(kernel(constrain(predictor, constraint)), key, x_init, sigmas)

Each part is a ``NamedTuple`` of functions; solvers never know of constraints, and
constraints never know of networks.  All arrays are batched over samples,
``[b, z, x, y]``.  Here are the parts, how they combine, and the default solver;
more solvers are in ``solvers``, rules in ``consistency`` and ``guidance``, whole
samplers in ``methods``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Predictor(NamedTuple):
    """Best guess of the clean volume: ``(x, sigma, aux) -> (x0, aux)``.

    ``init(x)`` gives the first aux for arrays like ``x [b, ...]``.
    """

    init: Callable[[jax.Array], Any]
    apply: Callable[[jax.Array, jax.Array, Any], tuple[jax.Array, Any]]


class Constraint(NamedTuple):
    """Pulls a guess toward the data: ``(x0, sigma, aux) -> (x0, aux)``.

    ``init(x)`` gives the first aux for arrays like ``x [b, ...]``.
    """

    init: Callable[[jax.Array], Any]
    apply: Callable[[jax.Array, jax.Array, Any], tuple[jax.Array, Any]]


class Kernel(NamedTuple):
    """A solver bound to a predictor: ``(key, state, sigma, sigma_next)``."""

    init: Callable[[jax.Array], State]
    step: Callable[..., tuple[State, Info]]


class State(NamedTuple):
    """What a step carries: the noisy volume, the last guess, the predictor's aux."""

    x: jax.Array
    x0: jax.Array
    aux: Any


class Info(NamedTuple):
    """What is worth looking at: noise level and size of the step."""

    sigma: jax.Array
    update_rms: jax.Array


def predictor(function: Callable[[jax.Array, jax.Array], jax.Array]) -> Predictor:
    """A denoiser without memory."""
    return Predictor(lambda x: (), lambda x, sigma, aux: (function(x, sigma), aux))


def constraint(function: Callable[[jax.Array, jax.Array], jax.Array]) -> Constraint:
    """A constraint without memory."""
    return Constraint(lambda x: (), lambda x0, sigma, aux: (function(x0, sigma), aux))


def identity() -> Constraint:
    """Changes nothing."""
    return constraint(lambda x0, sigma: x0)


def constrain(inner: Predictor, rule: Constraint) -> Predictor:
    """A predictor whose guess is pulled to the data."""

    def apply(x, sigma, aux):
        own, other = aux
        x0, own = inner.apply(x, sigma, own)
        x0, other = rule.apply(x0, sigma, other)
        return x0, (own, other)

    return Predictor(lambda x: (inner.init(x), rule.init(x)), apply)


def chain(first: Constraint, second: Constraint) -> Constraint:
    """One constraint after the other."""

    def apply(x0, sigma, aux):
        a, b = aux
        x0, a = first.apply(x0, sigma, a)
        x0, b = second.apply(x0, sigma, b)
        return x0, (a, b)

    return Constraint(lambda x: (first.init(x), second.init(x)), apply)


def within(
    rule: Constraint,
    *,
    low: float | jax.Array = 0.0,
    high: float | jax.Array = jnp.inf,
) -> Constraint:
    """Applies a constraint only for ``low <= sigma <= high``."""

    def apply(x0, sigma, aux):
        active = (sigma >= low) & (sigma <= high)
        return lax.cond(
            active,
            lambda operand: rule.apply(operand[0], sigma, operand[1]),
            lambda operand: operand,
            (x0, aux),
        )

    return Constraint(rule.init, apply)


def every(rule: Constraint, count: int) -> Constraint:
    """Applies a constraint at the first of every ``count`` calls."""

    def apply(x0, sigma, aux):
        calls, own = aux
        x0, own = lax.cond(
            calls % count == 0,
            lambda operand: rule.apply(operand[0], sigma, operand[1]),
            lambda operand: operand,
            (x0, own),
        )
        return x0, (calls + 1, own)

    return Constraint(lambda x: (jnp.int32(0), rule.init(x)), apply)


def then(kernel: Kernel, change: Callable[..., jax.Array], *, every: int = 1) -> Kernel:
    """Changes x after the step of a kernel, or after every so many of its steps.

    Args:
      kernel: Any solver.
      change: ``(key, before, after, sigma, sigma_next) -> x``; before and after are
        the states around the step, the key is not the kernel's.
      every: Steps from one change to the next; the last of so many is changed.

    Returns:
      A kernel whose ``aux`` is that of the inner kernel and a count of steps.
    """

    def init(x):
        state = kernel.init(x)
        return state._replace(aux=(state.aux, jnp.int32(0)))

    def step(key, state, sigma, sigma_next):
        inner, count = state.aux
        before = state._replace(aux=inner)
        after, info = kernel.step(key, before, sigma, sigma_next)
        x = lax.cond(
            (count + 1) % every == 0,
            lambda: change(
                jax.random.fold_in(key, 1), before, after, sigma, sigma_next
            ),
            lambda: after.x,
        )
        info = info._replace(update_rms=rms(x - state.x))
        return State(x, after.x0, (after.aux, count + 1)), info

    return Kernel(init, step)


def each(kernel: Kernel, first: int | jax.Array = 0) -> Kernel:
    """A kernel that handles every sample of a batch as if it were alone.

    Sample i of the batch draws its noise from ``fold_in(key, first + i)``, so that
    batches of any size, on any devices, give the same samples.

    Args:
      kernel: Of a batch of one.
      first: Number of the first sample of the batch.
    """

    def init(x):
        return jax.vmap(kernel.init)(x[:, None])

    def step(key, state, sigma, sigma_next):
        numbers = first + jnp.arange(jax.tree.leaves(state)[0].shape[0])
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
        state, info = jax.vmap(kernel.step, (0, 0, None, None))(
            keys, state, sigma, sigma_next
        )
        return state, Info(info.sigma[0], rms(info.update_rms))

    return Kernel(init, step)


def rms(values: jax.Array) -> jax.Array:
    """Root of the mean square of all entries."""
    return jnp.sqrt(jnp.mean(values**2))


class Sampler(NamedTuple):
    """Everything about a method that does not depend on the key.

    Attributes:
      kernel: Solver with its predictor and constraints.
      sigmas: Noise levels ``[n + 1]``, decreasing to zero.
      start: ``(key, shape [b, ...]) -> x`` at the first level.
      calls: Network evaluations of one step.
      backward: Back-propagations through the network in one step.
    """

    kernel: Kernel
    sigmas: jax.Array
    start: Callable[[jax.Array, tuple[int, ...]], jax.Array]
    calls: int
    backward: int


def from_noise(
    sigmas: jax.Array, centre: jax.Array | float = 0.0
) -> Callable[[jax.Array, tuple[int, ...]], jax.Array]:
    """Start of a sampler at a centre plus noise of the first level."""

    def start(key, shape):
        return centre + sigmas[0] * jax.random.normal(key, shape, sigmas.dtype)

    return start


def sampler(
    kernel: Kernel,
    sigmas: jax.Array,
    start: Callable[[jax.Array, tuple[int, ...]], jax.Array] | None = None,
    *,
    calls: int = 1,
    backward: int = 0,
) -> Sampler:
    """A sampler that starts from noise unless given another start."""
    start = from_noise(sigmas) if start is None else start
    return Sampler(kernel, sigmas, start, calls, backward)


def draw(method: Sampler, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Samples of a method, ``shape`` being ``[b, ...]``; dtype of its levels."""
    key_start, key_steps = jax.random.split(key)
    x_init = method.start(key_start, shape)
    return run(method.kernel, key_steps, x_init, method.sigmas)[0].x


def ddim(guess: Predictor, *, eta: float | jax.Array = 0.0) -> Kernel:
    """First-order step with a share ``eta`` of the ancestral noise.

        tau^2 = eta^2 s_next^2 (1 - s_next^2 / s^2)
        x <- x0 + sqrt(s_next^2 - tau^2) (x - x0) / s + tau z

    eta = 0 is the probability-flow step, eta = 1 the ancestral one.  The fresh noise
    shrinks with the step, so that the spread of the samples converges to the
    posterior's as steps are added.  The direction is taken from the constrained
    guess (DiffPIR).

    Source: Song et al., ICLR 2021 (DDIM), equation 16, in the variance-exploding
    scale; Zhu et al., CVPR-W 2023 (DiffPIR).
    """

    def init(x):
        return State(x, jnp.zeros_like(x), guess.init(x))

    def step(key, state, sigma, sigma_next):
        x0, aux = guess.apply(state.x, sigma, state.aux)
        direction = (state.x - x0) / sigma
        noise = jax.random.normal(key, x0.shape, x0.dtype)
        fresh = eta * sigma_next * jnp.sqrt(1.0 - (sigma_next / sigma) ** 2)
        x = x0 + jnp.sqrt(sigma_next**2 - fresh**2) * direction + fresh * noise
        info = Info(sigma, jnp.sqrt(jnp.mean((x - state.x) ** 2)))
        return State(x, x0, aux), info

    return Kernel(init, step)


def run(
    kernel: Kernel, key: jax.Array, x_init: jax.Array, sigmas: jax.Array
) -> tuple[State, Info]:
    """All steps of a grid ``[n + 1]`` in one ``lax.scan``; long ones: `chunked`."""
    count = sigmas.shape[0] - 1
    return run_steps(kernel, key, kernel.init(x_init), sigmas, 0, count)


def run_steps(
    kernel: Kernel,
    key: jax.Array,
    state: State,
    sigmas: jax.Array,
    start: int | jax.Array,
    count: int,
) -> tuple[State, Info]:
    """Steps ``start ... start + count - 1`` of a grid.

    Step i draws its noise from ``fold_in(key, i)``, so that chunks of any length
    give the same bits as one scan.
    """

    def body(state, index):
        step_key = jax.random.fold_in(key, index)
        return kernel.step(step_key, state, sigmas[index], sigmas[index + 1])

    return lax.scan(body, state, start + jnp.arange(count))
