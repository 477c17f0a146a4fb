"""Published samplers that back-propagate through the network.

What holds for all published samplers is said in ``methods``.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from temdiff_jax.diffusion import algebra, consistency, schedule, solvers
from temdiff_jax.diffusion.algebra import Sampler
from temdiff_jax.diffusion.guidance import (
    Denoiser,
    moment_matching,
    residual_norm,
    search_input,
    white_guess,
    with_gradient,
)
from temdiff_jax.diffusion.methods.unguided import CG_ITERS
from temdiff_jax.inverse.problem import Measurement


def dps(
    denoise: Denoiser,
    problem: Measurement,
    *,
    sigmas: jax.Array | None = None,
    scale: float | jax.Array = 0.05,
) -> Sampler:
    """Ancestral step, then ``x' -= zeta grad_x |y - A D(x)|`` (the norm).

    In the variance-preserving scale of the paper zeta is constant; here it is
    multiplied by ``sqrt((1 + s^2) (1 + s'^2))``.  It is given in units of the expected
    norm of the noise, in which the paper's 1 on images of 196608 data with noise 0.05
    is about 0.05.  A heuristic: the step does not know the spread of the guess.

    Default grid: ``vp_linear(1000)``.

    Source: Chung et al., ICLR 2023, algorithm 1 and its released program.
    """
    sigmas = schedule.vp_linear(1000) if sigmas is None else sigmas
    return algebra.sampler(_norm_kernel(denoise, problem, scale), sigmas, backward=1)


def _norm_kernel(
    denoise: Denoiser, problem: Measurement, scale: float | jax.Array
) -> algebra.Kernel:
    zeta = scale * problem.noise_std() * jnp.sqrt(problem.data.size)

    def change(key, before, after, sigma, sigma_next):
        view = jnp.sqrt((1.0 + sigma**2) * (1.0 + sigma_next**2))
        return after.x + zeta * view * after.aux

    guess = with_gradient(denoise, residual_norm(problem))
    return algebra.then(solvers.ancestral(guess), change)


def mcg(
    denoise: Denoiser,
    problem: Measurement,
    *,
    sigmas: jax.Array | None = None,
    scale: float | jax.Array = 0.05,
    num_iters: int = CG_ITERS,
) -> Sampler:
    """The step of DPS, then projection onto data noised to the level of x'.

    ``x' <- x' + A^+ (y + s' A z - A x')``.  Departs from the paper in using one norm
    gradient as DPS does, and A^+ instead of problem-specific projections.  The
    projection fits the noise of the data by construction.

    Default grid: ``vp_linear(1000)``.

    Source: Chung et al., NeurIPS 2022, algorithm 1; noised data as in Song et al.,
    ICLR 2022.
    """
    sigmas = schedule.vp_linear(1000) if sigmas is None else sigmas
    rule = consistency.replace_range(problem, num_iters=num_iters)

    def project(key, before, after, sigma, sigma_next):
        # A^+ (y + s' A z - A x) + x, with z moved to the volume.
        noise = sigma_next * jax.random.normal(key, after.x.shape, after.x.dtype)
        return rule.apply(after.x - noise, sigma, rule.init(after.x))[0] + noise

    kernel = algebra.then(_norm_kernel(denoise, problem, scale), project)
    return algebra.sampler(kernel, sigmas, backward=1)


def pigdm(
    denoise: Denoiser,
    problem: Measurement,
    *,
    sigmas: jax.Array | None = None,
    eta: float | jax.Array = 1.0,
    scale: float | jax.Array = 1.0,
    num_iters: int = CG_ITERS,
) -> Sampler:
    """DDIM with the plain guess, then ``x' += J^T A^T (A A^T + s_y^2 / r^2)^{-1} e``.

    ``e = y - A D`` and ``r^2 = s^2 / (s^2 + 1)``, data of unit variance.  The weight is
    the released program's, not the one that the score would have
    (``guide(..., white_guess(...))`` is that one).  Starts from
    ``A^+ y`` plus noise.

    Default grid: ``vp_linear(100)``.

    Source: Song et al., ICLR 2023, algorithm 1; NVlabs/RED-diff, algos/pgdm.py.
    """
    sigmas = schedule.vp_linear(100) if sigmas is None else sigmas
    guess = with_gradient(denoise, white_guess(problem, num_iters=num_iters))

    def change(key, before, after, sigma, sigma_next):
        spread = sigma**2 / (1.0 + sigma**2)
        return after.x + scale * spread * after.aux

    kernel = solvers.ddim(guess, eta=eta)
    start = algebra.from_noise(
        sigmas, consistency.pseudo_inverse(problem, num_iters=num_iters)
    )
    return algebra.sampler(algebra.then(kernel, change), sigmas, start, backward=1)


def mmps(
    denoise: Denoiser,
    problem: Measurement,
    *,
    sigmas: jax.Array | None = None,
    eta: float | jax.Array = 1.0,
    num_iters: int = 3,
) -> Sampler:
    """Guidance with the covariance ``s^2 J`` of the guess, solved by a few steps.

    Exact for Gaussian data when solved to convergence, as steps are added.  Every
    conjugate-gradient step is a back-propagation through the network.

    Default grid: ``vp_linear(100)``.

    Source: Rozet et al., NeurIPS 2024 (arXiv 2405.13712).
    """
    sigmas = schedule.vp_linear(100) if sigmas is None else sigmas
    guess = moment_matching(denoise, problem, num_iters=num_iters)
    kernel = solvers.ddim(guess, eta=eta)
    return algebra.sampler(kernel, sigmas, backward=num_iters + 2)


def sitcom(
    denoise: Denoiser,
    problem: Measurement,
    *,
    sigmas: jax.Array | None = None,
    inner_steps: int = 30,
    learning_rate: float = 0.02,
) -> Sampler:
    """``D(v)`` with v near x that meets the data, then noise of the next level.

    The search stops at a residual of ``(s_y + 1e-3)^2`` a datum.  The fresh noise is
    independent of x, and the fit uses the noise level as a tolerance only, so the
    spread is not the posterior's.

    Default grid: ``vp_linear(20)``.

    Source: Alkhouri et al., ICML 2025, algorithm 1.
    """
    sigmas = schedule.vp_linear(20) if sigmas is None else sigmas
    tolerance = (problem.noise_std() + 1e-3) ** 2 * problem.data.size
    found = search_input(
        denoise,
        problem,
        num_iters=inner_steps,
        learning_rate=learning_rate,
        tolerance=tolerance,
    )
    kernel = solvers.renoise(algebra.predictor(found), eta=1.0)
    return algebra.sampler(kernel, sigmas, calls=inner_steps + 1, backward=inner_steps)
