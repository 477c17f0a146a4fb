"""Guidance that differentiates through the denoiser.

Tweedie's formula turns a likelihood of the noisy volume into a better guess:

    D_y(x) = D(x) + s^2 grad_x log p(y | x),   grad_x log p(y | x) = J^T q

with J the Jacobian of the denoiser and q the gradient of a modelled log-likelihood
with respect to x0.  ``guide`` is that transform for any q; a solver around it follows
the guided score as it follows the plain one.  Papers that instead add a multiple of
``J^T q`` to x after a step use ``pull_back`` with ``algebra.then``.

One back-propagation through the network costs two to four times its memory.  The
published samplers that need it stand at the end, the others in ``published``, which
says what holds for all of them.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import lax

from temdiff_jax import linear
from temdiff_jax.diffusion import algebra, consistency, schedule, solvers
from temdiff_jax.diffusion.algebra import Sampler
from temdiff_jax.diffusion.consistency import Measurement

# Conjugate-gradient steps where a paper solves exactly.
CG_ITERS = 30

Denoiser = Callable[[jax.Array, jax.Array], jax.Array]
# (x0 [b, ...], sigma) -> gradient of a log-likelihood with respect to x0, [b, ...]
Direction = Callable[[jax.Array, jax.Array], jax.Array]


def guide(inner: algebra.Predictor, direction: Direction) -> algebra.Predictor:
    """``D + s^2 J^T q(D, s)``: the guess under a modelled likelihood."""

    def apply(x, sigma, aux):
        x0, pull, aux = jax.vjp(lambda x: inner.apply(x, sigma, aux), x, has_aux=True)
        (gradient,) = pull(direction(x0, sigma))
        return x0 + sigma**2 * gradient, aux

    return algebra.Predictor(inner.init, apply)


def pull_back(denoise: Denoiser, direction: Direction) -> Direction:
    """``(x, s) -> J^T q(D(x), s)``."""

    def apply(x, sigma):
        x0, pull = jax.vjp(lambda x: denoise(x, sigma), x)
        return pull(direction(x0, sigma))[0]

    return apply


def sure_guess(problem: Measurement) -> Direction:
    """``q = A^T W (y - A x0)``: the likelihood as if x0 were known without error.

    Source: Chung et al., ICLR 2023 (DPS), before its choice of a step size.
    """
    one = jax.vmap(lambda x0: problem.pull(problem.residual(x0)))
    return lambda x0, sigma: one(x0)


def residual_norm(problem: Measurement) -> Direction:
    """``q = A^T (y - A x0) / |y - A x0|``: minus the gradient of the norm.

    Source: Chung et al., ICLR 2023 (DPS), algorithm 1 with step zeta / norm.
    """
    problem = problem.unweighted()

    def one(x0):
        residual = jnp.sqrt(problem.weight) * problem.residual(x0)
        norm = jnp.linalg.norm(residual)
        return problem.pull(residual) / jnp.where(norm > 0, norm, 1.0)

    return lambda x0, sigma: jax.vmap(one)(x0)


def white_guess(
    problem: Measurement, *, num_iters: int, prior_variance: float | jax.Array = 1.0
) -> Direction:
    """``q = A^T (r^2 A A^T + 1 / W)^{-1} (y - A x0)``: x0 has variance r^2.

    ``r^2 = s^2 c / (s^2 + c)`` with c the variance of the data.  Solved over volumes,
    ``(A^T W A + 1 / r^2)^{-1} A^T W (y - A x0) / r^2``, which allows W = 0.

    Source: Song et al., ICLR 2023 (PiGDM), the pseudoinverse-guided score.
    """

    def one(x0, sigma):
        inverse = 1.0 / prior_variance + 1.0 / sigma**2
        step, _ = linear.conjugate_gradient(
            lambda v: problem.normal(v) + inverse * v,
            problem.pull(problem.residual(x0)),
            jnp.zeros_like(x0),
            num_iters=num_iters,
        )
        return step * inverse

    return lambda x0, sigma: jax.vmap(one, (0, None))(x0, jnp.asarray(sigma, x0.dtype))


def moment_matching(
    denoise: Denoiser, problem: Measurement, *, num_iters: int
) -> algebra.Predictor:
    """``D + s^2 J^T A^T (1 / W + A (s^2 J) A^T)^{-1} (y - A D)``.

    ``s^2 J`` is the covariance of x0 given x, exactly; only the shape of that law is
    modelled, as Gaussian.  For Gaussian data with an exact denoiser this is the exact
    conditional guess.  J^T stands for J, which are equal for an exact denoiser.

    Args:
      denoise: Without memory; back-propagated ``num_iters + 2`` times a call.
      problem: Data.
      num_iters: Conjugate-gradient steps in data space.

    Returns:
      A predictor.

    Source: Rozet et al., NeurIPS 2024 (MMPS, arXiv 2405.13712); the same covariance in
    Boys et al. (TMPD, arXiv 2310.06721).
    """
    # W^(1/2) on both sides keeps the system symmetric and allows W = 0.
    root = jnp.sqrt(jnp.asarray(problem.weight))

    def one(x, sigma):
        x0, pull = jax.vjp(lambda x: denoise(x[None], sigma)[0], x)

        def operator(q):
            spread = sigma**2 * pull(problem.adjoint(root * q))[0]
            return q + root * problem.forward(spread)

        rhs = root * problem.residual(x0)
        q, _ = linear.conjugate_gradient(
            operator, rhs, jnp.zeros_like(rhs), num_iters=num_iters
        )
        return x0 + sigma**2 * pull(problem.adjoint(root * q))[0]

    return algebra.predictor(
        lambda x, sigma: jax.vmap(one, (0, None))(x, jnp.asarray(sigma, x.dtype))
    )


def classifier_free(
    conditional: algebra.Predictor,
    unconditional: algebra.Predictor,
    amount: float | jax.Array,
) -> algebra.Predictor:
    """``(1 + g) D(x | c) - g D(x)``; g > 0 sharpens and breaks calibration.

    Source: Ho and Salimans, arXiv 2207.12598, equation 6.
    """

    def apply(x, sigma, aux):
        first, second = aux
        with_it, first = conditional.apply(x, sigma, first)
        without, second = unconditional.apply(x, sigma, second)
        return (1.0 + amount) * with_it - amount * without, (first, second)

    return algebra.Predictor(lambda: (conditional.init(), unconditional.init()), apply)


def search_input(
    denoise: Denoiser,
    problem: Measurement,
    *,
    num_iters: int,
    learning_rate: float,
    tolerance: float | jax.Array,
) -> Denoiser:
    """``D(v)`` with v near x such that ``A D(v)`` meets the data: SITCOM's search.

    Adam on ``|W' (A D(v) - y)|^2`` from v = x, W' the mask, in the variable
    ``v / sqrt(1 + s^2)`` of unit variance.  A sample stops where the square falls to
    ``tolerance``.

    Source: Alkhouri et al., ICML 2025 (SITCOM), algorithm 1.
    """
    problem = problem.unweighted()
    optimiser = optax.adam(learning_rate)

    def squares(unit, sigma):
        x0 = denoise(unit * jnp.sqrt(1.0 + sigma**2), sigma)
        residual = jax.vmap(problem.residual)(x0)
        square = problem.weight * residual**2
        return jnp.sum(square, axis=tuple(range(1, square.ndim)))

    def apply(x, sigma):
        unit = x / jnp.sqrt(1.0 + sigma**2)

        def move(carry, _):
            unit, state = carry
            found, pull = jax.vjp(lambda u: squares(u, sigma), unit)
            (gradient,) = pull(jnp.ones_like(found))
            change, state = optimiser.update(gradient, state)
            open_ = (found > tolerance).reshape((-1,) + (1,) * (unit.ndim - 1))
            return (jnp.where(open_, unit + change, unit), state), None

        carry = (unit, optimiser.init(unit))
        (unit, _), _ = lax.scan(move, carry, length=num_iters)
        return denoise(unit * jnp.sqrt(1.0 + sigma**2), sigma)

    return apply


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
    kernel = solvers.ancestral(algebra.predictor(denoise))
    kernel = algebra.then(kernel, _norm_step(denoise, problem, scale))
    return algebra.sampler(kernel, sigmas, calls=2, backward=1)


def _norm_step(denoise: Denoiser, problem: Measurement, scale):
    pull = pull_back(denoise, residual_norm(problem))
    zeta = scale * problem.noise_std() * jnp.sqrt(problem.data.size)

    def change(key, before, after, sigma, sigma_next):
        view = jnp.sqrt((1.0 + sigma**2) * (1.0 + sigma_next**2))
        return after.x + zeta * view * pull(before.x, sigma)

    return change


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
        return rule.apply(after.x - noise, sigma, rule.init())[0] + noise

    kernel = solvers.ancestral(algebra.predictor(denoise))
    kernel = algebra.then(kernel, _norm_step(denoise, problem, scale))
    return algebra.sampler(algebra.then(kernel, project), sigmas, calls=2, backward=1)


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
    direction = white_guess(problem, num_iters=num_iters)
    pull = pull_back(denoise, direction)

    def change(key, before, after, sigma, sigma_next):
        spread = sigma**2 / (1.0 + sigma**2)
        return after.x + scale * spread * pull(before.x, sigma)

    kernel = solvers.ddim(algebra.predictor(denoise), eta=eta)
    start = algebra.from_noise(
        sigmas, consistency.pseudo_inverse(problem, num_iters=num_iters)
    )
    return algebra.sampler(
        algebra.then(kernel, change), sigmas, start, calls=2, backward=1
    )


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
