"""Guidance that differentiates through the denoiser.

Tweedie's formula turns a likelihood of the noisy volume into a better guess:

    D_y(x) = D(x) + s^2 grad_x log p(y | x),   grad_x log p(y | x) = J^T q

with J the Jacobian of the denoiser and q the gradient of a modelled log-likelihood
with respect to x0.  ``guide`` is that transform for any q; a solver around it follows
the guided score as it follows the plain one.  Papers that instead add a multiple of
``J^T q`` to x after a step use ``with_gradient`` and ``algebra.then``.

One back-propagation through the network costs two to four times its memory.  The
published samplers that need it are in ``methods.guided``.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import lax

from temdiff_jax.diffusion import algebra
from temdiff_jax.inverse import cg
from temdiff_jax.inverse.problem import Measurement

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


def with_gradient(denoise: Denoiser, direction: Direction) -> algebra.Predictor:
    """The plain guess D, whose aux is ``J^T q(D, s)``: both from one call of D."""

    def apply(x, sigma, aux):
        del aux
        x0, pull = jax.vjp(lambda x: denoise(x, sigma), x)
        return x0, pull(direction(x0, sigma))[0]

    return algebra.Predictor(jnp.zeros_like, apply)


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
        residual = problem.precision * problem.residual(x0)
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
        step, _ = cg.conjugate_gradient(
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
    # L of ``W = L^T L`` on both sides keeps the system symmetric and allows W = 0.
    precision = problem.precision

    def spread_out(pull, white):
        return pull(problem.adjoint(precision.whiten_transpose(white)))[0]

    def one(x, sigma):
        x0, pull = jax.vjp(lambda x: denoise(x[None], sigma)[0], x)

        def operator(q):
            spread = sigma**2 * spread_out(pull, q)
            return q + precision.whiten(problem.forward(spread))

        rhs = precision.whiten(problem.residual(x0))
        q, _ = cg.conjugate_gradient(
            operator, rhs, jnp.zeros_like(rhs), num_iters=num_iters
        )
        return x0 + sigma**2 * spread_out(pull, q)

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

    return algebra.Predictor(
        lambda x: (conditional.init(x), unconditional.init(x)), apply
    )


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
        square = residual * jax.vmap(lambda r: problem.precision * r)(residual)
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
