"""Published samplers of flow models; what holds for all is said in ``methods``.

x_t = (1 - t) x = (1 - t) x0 + t z,   v = (x_t - D) / t = z - x0
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

from temdiff_jax.diffusion import algebra, consistency, schedule, solvers
from temdiff_jax.diffusion.algebra import Sampler, State
from temdiff_jax.diffusion.guidance import Denoiser
from temdiff_jax.inverse.problem import Measurement

# The program's gamma = 1 over the largest eigenvalue of its A^T A: 40 views of images
# of 512 rows, in pixels.
FMCT_ANCHOR = 1.0 / (40 * 512)


def pnp_flow(
    denoise: Denoiser,
    problem: Measurement,
    *,
    sigmas: jax.Array | None = None,
    step_size: float | jax.Array = 1.0,
    power: float | jax.Array = 1.0,
    average: int = 5,
) -> Sampler:
    """Gradient step, noise of flow time t, mean of several denoised draws.

    ``w = x - c (1-t)^alpha A^T W (A x - y)`` with ``t = 1 / (1 + s)`` (data at t = 1),
    then ``solvers.averaged``, from zero.  A point estimate.

    Default grid: ``flow_uniform(100)``.

    Source: Martin et al., ICLR 2025, algorithm 3 and its released program.
    """
    sigmas = schedule.flow_uniform(100) if sigmas is None else sigmas
    relative = step_size / consistency.largest_curvature(problem)

    def size(sigma):
        return relative * (sigma / (1.0 + sigma)) ** power

    guess, rule = algebra.predictor(denoise), consistency.gradient(problem, size)
    return algebra.sampler(
        solvers.averaged(guess, rule, count=average),
        sigmas,
        lambda key, shape: jnp.zeros(shape, sigmas.dtype),
        calls=average,
    )


def flow_dps(
    denoise: Denoiser,
    problem: Measurement,
    *,
    sigmas: jax.Array | None = None,
    step_size: float | jax.Array = 1.0,
    num_steps: int = 3,
) -> Sampler:
    """Gradient steps on the clean part of a flow, blended; noise part partly renewed.

    ``solvers.blended``, the clean part taking ``num_steps`` gradient steps.  In volume
    space, not in a latent one.

    Default grid: ``flow_uniform(28)``.

    Source: Kim et al., ICCV 2025, algorithm 1.
    """
    sigmas = schedule.flow_uniform(28) if sigmas is None else sigmas
    relative = step_size / consistency.largest_curvature(problem)
    one = consistency.gradient(problem, relative)
    rule = functools.reduce(algebra.chain, [one] * num_steps)
    kernel = solvers.blended(algebra.predictor(denoise), rule)
    return algebra.sampler(kernel, sigmas)


def fmct(
    denoise: Denoiser,
    problem: Measurement,
    *,
    sigmas: jax.Array | None = None,
    anchor: float | jax.Array = FMCT_ANCHOR,
    num_iters: int = 5,
) -> Sampler:
    """Euler step of the flow; x moves as far as a fit moves its clean end.

        x' = x_t + (t' - t) v,   x0 = x' - t' v
        x' += argmin(|A x - y|^2 + g |x - x0|^2) - x0

    The fit is ``num_iters`` conjugate-gradient steps from x0; g is ``anchor`` in units
    of the largest eigenvalue of ``A^T A``.  Data are not clipped.  No noise is added.

    Default grid: ``flow_uniform(50)``.

    Source: Shi et al., MICCAI 2026, and its released program (EFMCT/EFMCT,
    ``flow_recon.py``).
    """
    return efmct(
        denoise,
        problem,
        sigmas=sigmas,
        anchor=anchor,
        num_iters=num_iters,
        max_reuse=0,
    )


def efmct(
    denoise: Denoiser,
    problem: Measurement,
    *,
    sigmas: jax.Array | None = None,
    anchor: float | jax.Array = FMCT_ANCHOR,
    num_iters: int = 5,
    tolerance: float | jax.Array = 1.05,
    max_reuse: int = 10,
) -> Sampler:
    """FMCT that keeps a velocity as long as the data do not object.

    A step is proposed with the velocity of the step before.  It is taken if
    ``|A x' - y| <= tolerance |A x_t - y|``; otherwise, after ``max_reuse`` steps in a
    row, and in the last step, the network is called.  Samples of a batch decide each
    for itself; the call is saved where all of them agree.  ``calls`` of the sampler is
    the largest number.

    Default grid: ``flow_uniform(50)``.

    Source: Shi et al., MICCAI 2026, and its released program, as ``fmct``.
    """
    sigmas = schedule.flow_uniform(50) if sigmas is None else sigmas
    plain = problem.unweighted()
    strength = anchor * consistency.largest_curvature(plain)
    fit = consistency.proximal(plain, lambda sigma: strength, num_iters=num_iters)

    def misfit(x):
        return jnp.linalg.norm((plain.precision * plain.residual(x)).ravel())

    def init(x):
        # No velocity yet: as if it had been used as often as it may.
        spent = jnp.full(x.shape[:1], max_reuse, jnp.int32)
        return State(x, jnp.zeros_like(x), (jnp.zeros_like(x), spent))

    def step(key, state, sigma, sigma_next):
        del key  # nothing is drawn
        time, after = sigma / (1.0 + sigma), sigma_next / (1.0 + sigma_next)
        velocity, used = state.aux
        inside = (1.0 - time) * state.x
        proposed = inside + (after - time) * velocity
        fits = jax.vmap(misfit)(proposed) <= tolerance * jax.vmap(misfit)(inside)
        keep = fits & (used < max_reuse) & (sigma_next > 0)

        def renew():
            fresh = (inside - denoise(state.x, sigma)) / time
            return jnp.where(_wide(keep, fresh), velocity, fresh)

        velocity = lax.cond(jnp.all(keep), lambda: velocity, renew)
        inside = inside + (after - time) * velocity
        x0 = inside - after * velocity
        fitted, _ = fit.apply(x0, sigma, fit.init(x0))
        x = (inside + fitted - x0) / (1.0 - after)
        aux = (velocity, jnp.where(keep, used + 1, 0))
        return State(x, fitted, aux), algebra.Info(sigma, algebra.rms(x - state.x))

    return algebra.sampler(algebra.Kernel(init, step), sigmas)


def _wide(flags: jax.Array, like: jax.Array) -> jax.Array:
    """``[b]`` as ``[b, 1, ...]``."""
    return flags.reshape(-1, *[1] * (like.ndim - 1))
