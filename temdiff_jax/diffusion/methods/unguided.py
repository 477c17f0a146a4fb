"""Published samplers that only call the network; what holds for all: ``methods``."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from temdiff_jax.diffusion import algebra, consistency, schedule, solvers
from temdiff_jax.diffusion.algebra import Sampler, State
from temdiff_jax.diffusion.guidance import Denoiser
from temdiff_jax.inverse.problem import Measurement

# Conjugate-gradient steps where a paper solves exactly.
CG_ITERS = 30


def proximal_ddim(
    denoise: Denoiser,
    problem: Measurement,
    *,
    sigmas: jax.Array | None = None,
    eta: float | jax.Array = 0.85,
    precision: float | jax.Array = 1.0,
    num_iters: int = 8,
) -> Sampler:
    """The default of this library on a generic operator: P2 in every step of DDIM.

    Exact for white Gaussian data as steps are added; for others the error of the guess
    is not white, which P2 assumes.  Default grid: ``karras(50)``.
    """
    sigmas = schedule.karras(50) if sigmas is None else sigmas
    rule = consistency.proximal(
        problem, consistency.white_precision(precision), num_iters=num_iters
    )
    guess = algebra.constrain(algebra.predictor(denoise), rule)
    return algebra.sampler(solvers.ddim(guess, eta=eta), sigmas)


def ddnm(
    denoise: Denoiser,
    problem: Measurement,
    *,
    sigmas: jax.Array | None = None,
    eta: float | jax.Array = 0.85,
    num_iters: int = CG_ITERS,
) -> Sampler:
    """``A^+ y + (I - A^+ A) D`` in every step, for data without noise.

    Noise of the data passes through A^+ into the result.  Default grid:
    ``vp_linear(100)``.

    Source: Wang et al., ICLR 2023, equation 13 and algorithm 1 with the DDIM sampling
    of the released program.
    """
    sigmas = schedule.vp_linear(100) if sigmas is None else sigmas
    rule = consistency.replace_range(problem, num_iters=num_iters)
    guess = algebra.predictor(denoise)
    return algebra.sampler(solvers.renoise(guess, eta=eta, rule=rule), sigmas)


def ddnm_plus(
    denoise: Denoiser,
    problem: Measurement,
    *,
    sigmas: jax.Array | None = None,
    num_iters: int = CG_ITERS,
) -> Sampler:
    """DDNM with the correction and the fresh noise scaled by the noise of the data.

    ``solvers.noise_matched``, the paper's simplified form: it takes the noise of A^+ y
    as white with the deviation of the data, which holds for singular values of 1.
    Without time travel.  Default grid: ``vp_linear(100)``.

    Source: Wang et al., ICLR 2023, section 3.3.
    """
    sigmas = schedule.vp_linear(100) if sigmas is None else sigmas
    rule = consistency.replace_range(problem, num_iters=num_iters)
    kernel = solvers.noise_matched(
        algebra.predictor(denoise), rule, problem.noise_std()
    )
    return algebra.sampler(kernel, sigmas)


def dds(
    denoise: Denoiser,
    problem: Measurement,
    *,
    sigmas: jax.Array | None = None,
    eta: float | jax.Array = 0.85,
    num_iters: int = 5,
) -> Sampler:
    """A few conjugate-gradient steps on ``A^T A x = A^T y`` from every guess.

    Stopping early is the only regulariser, so the strength of the data is set by the
    number of steps and not by their noise.  Without the total variation of the
    paper's 3-D form.

    Default grid: ``vp_linear(50)``.

    Source: Chung et al., ICLR 2024, algorithm 1.
    """
    sigmas = schedule.vp_linear(50) if sigmas is None else sigmas
    return ddnm(denoise, problem, sigmas=sigmas, eta=eta, num_iters=num_iters)


def diffpir(
    denoise: Denoiser,
    problem: Measurement,
    *,
    sigmas: jax.Array | None = None,
    strength: float | jax.Array = 1.0,
    zeta: float | jax.Array = 0.1,
    num_iters: int = CG_ITERS,
) -> Sampler:
    """``argmin |y - A x|^2 / s_y^2 + (lambda / s^2) |x - D|^2``, direction from it.

    Takes the error of the guess as s, which is right for small s only (P2 takes
    ``s / sqrt(s^2 + 1)``), and replaces a fixed share zeta of the noise.

    Default grid: ``vp_linear(100)``.

    Source: Zhu et al., CVPR-W 2023, algorithm 1.
    """
    sigmas = schedule.vp_linear(100) if sigmas is None else sigmas
    rule = consistency.proximal(
        problem, lambda sigma: strength / sigma**2, num_iters=num_iters
    )
    guess = algebra.constrain(algebra.predictor(denoise), rule)
    return algebra.sampler(solvers.renoise(guess, eta=jnp.sqrt(zeta)), sigmas)


def red_diff(
    denoise: Denoiser,
    problem: Measurement,
    *,
    sigmas: jax.Array | None = None,
    weight: float | jax.Array = 0.25,
    learning_rate: float = 0.02,
    num_iters: int = CG_ITERS,
) -> Sampler:
    """Adam on ``|y - A mu|^2 / 2 + lambda s <sg[(x - D) / s - z], mu>``, x = mu + s z.

    A point estimate from ``A^+ y``: the samples of a key differ by the noise of the
    optimisation, which is no posterior spread.

    Default grid: ``vp_linear(1000)``.

    Source: Mardani et al., ICLR 2024, algorithm 1, weight linear in s.
    """
    sigmas = schedule.vp_linear(1000) if sigmas is None else sigmas
    optimiser = optax.adam(learning_rate, b1=0.9, b2=0.99)
    plain = problem.unweighted()

    def init(x):
        return State(x, jnp.zeros_like(x), optimiser.init(x))

    def step(key, state, sigma, sigma_next):
        noise = jax.random.normal(key, state.x.shape, state.x.dtype)
        noisy = state.x + sigma * noise
        x0 = denoise(noisy, sigma)
        data = jax.vmap(lambda x: plain.pull(plain.residual(x)))(state.x)
        gradient = weight * sigma * ((noisy - x0) / sigma - noise) - data
        change, moments = optimiser.update(gradient, state.aux)
        info = algebra.Info(sigma, algebra.rms(change))
        return State(state.x + change, x0, moments), info

    begin = consistency.pseudo_inverse(problem, num_iters=num_iters)
    return algebra.sampler(
        algebra.Kernel(init, step),
        sigmas,
        lambda key, shape: jnp.broadcast_to(begin, shape).astype(sigmas.dtype),
    )


def daps(
    denoise: Denoiser,
    problem: Measurement,
    *,
    sigmas: jax.Array | None = None,
    draw: consistency.ConditionalDraw | None = None,
    ode_steps: int = 5,
) -> Sampler:
    """Flow to x0, a draw near it that fits the data, noise of the next level.

    The law of x0 given x is taken as Gaussian of variance s^2 around the end of the
    flow.  The draw is exact for a linear operator (``perturb_and_solve``), a departure:
    the paper's Langevin steps are ``consistency.langevin``.

    Default grid: ``karras(200)`` down to 0.1.

    Source: Zhang et al., CVPR 2025, algorithm 1.
    """
    sigmas = schedule.karras(200, sigma_min=0.1) if sigmas is None else sigmas
    if draw is None:
        draw = consistency.perturb_and_solve(problem, num_iters=CG_ITERS)
    kernel = solvers.decoupled(algebra.predictor(denoise), draw, ode_steps=ode_steps)
    return algebra.sampler(kernel, sigmas, calls=ode_steps)


def annealed(num_steps: int) -> jax.Array:
    """``max(0.1, 0.9^i 10)``, then zero, ``[num_steps + 1]``: the grid of PnP-DM."""
    levels = jnp.maximum(0.1, 10.0 * 0.9 ** jnp.arange(num_steps))
    return jnp.append(levels, 0.0)


def pnp_dm(
    denoise: Denoiser,
    problem: Measurement,
    *,
    sigmas: jax.Array | None = None,
    inner_steps: int = 20,
    num_iters: int = CG_ITERS,
) -> Sampler:
    """Split Gibbs: a draw that fits the data, then a draw from the denoising posterior.

        w ~ exp(-|y - A w|_W^2 / 2 - |w - x|^2 / (2 rho^2)),  x ~ p(x0 | x0 + rho z = w)

    rho is the level; the second draw is an ancestral run from it.  Its stationary law
    tends to the posterior as rho and the inner step vanish, and mixes more slowly.

    Default grid: ``annealed(100)``.

    Source: Wu et al., NeurIPS 2024, algorithm 1.
    """
    sigmas = annealed(100) if sigmas is None else sigmas
    draw = consistency.perturb_and_solve(problem, num_iters=num_iters)
    guess = algebra.predictor(denoise)
    return algebra.sampler(
        solvers.split_gibbs(guess, draw, inner_steps=inner_steps),
        sigmas,
        lambda key, shape: jnp.zeros(shape, sigmas.dtype),
        calls=inner_steps,
    )


def resample(
    denoise: Denoiser,
    problem: Measurement,
    *,
    sigmas: jax.Array | None = None,
    strength: float | jax.Array = 40.0,
    every: int = 10,
    num_iters: int = CG_ITERS,
) -> Sampler:
    """DDIM; after every so many steps the guess is fitted and x' drawn anew near it.

        xf = A^+ y + (I - A^+ A) D,   q = gamma (1-ab')/(1-ab) (1 - ab/ab')
        x_vp ~ N((q sqrt(ab') xf + (1-ab') x_vp') / (q + 1-ab'), q (1-ab')/(q + 1-ab'))

    In volume space, not in a latent one, and without the gradient steps between.  A
    hard fit: noise of the data is fitted too.

    Default grid: ``vp_linear(500)``.

    Source: Song et al., ICLR 2024 (ReSample), algorithm 1 and proposition 1.
    """
    sigmas = schedule.vp_linear(500) if sigmas is None else sigmas
    rule = consistency.replace_range(problem, num_iters=num_iters)

    def change(key, before, after, sigma, sigma_next):
        fitted, _ = rule.apply(after.x0, sigma, rule.init(after.x0))
        level, low = sigma**2 / (1 + sigma**2), sigma_next**2 / (1 + sigma_next**2)
        # 1 - ab / ab' with ab = 1 / (1 + s^2).
        gap = 1.0 - (1.0 + sigma_next**2) / (1.0 + sigma**2)
        q = strength * low / level * gap
        share = q / jnp.where(low > 0, q + low, 1.0)
        noise = jax.random.normal(key, fitted.shape, fitted.dtype)
        spread = jnp.sqrt(share * low * (1.0 + sigma_next**2))
        drawn = share * fitted + (1.0 - share) * after.x + spread * noise
        return jnp.where(low > 0, drawn, fitted)

    kernel = solvers.ddim(algebra.predictor(denoise), eta=0.0)
    return algebra.sampler(algebra.then(kernel, change, every=every), sigmas)
