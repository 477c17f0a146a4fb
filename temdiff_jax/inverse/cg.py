"""Conjugate gradients with a fixed number of steps and a residual trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class CGInfo(NamedTuple):
    """Relative residual norm before each step and after the last, ``[steps+1]``."""

    relative_residual: jax.Array


def conjugate_gradient(
    operator: Callable[[jax.Array], jax.Array],
    rhs: jax.Array,
    start: jax.Array,
    *,
    num_iters: int,
) -> tuple[jax.Array, CGInfo]:
    """Solves ``operator(x) = rhs`` for a symmetric positive definite operator.

    The number of steps is fixed, so that the solve can stand inside a scan and
    under ``vmap``; a step after exact convergence changes nothing.

    Args:
      operator: Linear map of arrays shaped like ``rhs``.
      rhs: Right-hand side, any shape.
      start: First guess, shape and dtype of ``rhs``.
      num_iters: Steps.

    Returns:
      The last iterate and the trace of relative residuals.

    Source: Hestenes and Stiefel, J. Res. NBS 49 (1952) 409.
    """
    norm = jnp.sqrt(_dot(rhs, rhs))
    norm = jnp.where(norm > 0, norm, 1.0)
    residual = rhs - operator(start)
    square = _dot(residual, residual)

    def step(carry, _):
        x, residual, direction, square = carry
        image = operator(direction)
        curvature = _dot(direction, image)
        alpha = jnp.where(curvature > 0, square / jnp.maximum(curvature, 1e-38), 0.0)
        alpha = alpha.astype(x.dtype)
        x = x + alpha * direction
        residual = residual - alpha * image
        new_square = _dot(residual, residual)
        beta = jnp.where(square > 0, new_square / jnp.maximum(square, 1e-38), 0.0)
        direction = residual + beta.astype(x.dtype) * direction
        return (x, residual, direction, new_square), jnp.sqrt(square) / norm

    carry = (start, residual, residual, square)
    (x, _, _, square), trace = lax.scan(step, carry, length=num_iters)
    trace = jnp.concatenate([trace, (jnp.sqrt(square) / norm)[None]])
    return x, CGInfo(trace)


def _dot(first: jax.Array, second: jax.Array) -> jax.Array:
    """Inner product; ``vdot`` would flatten, which gathers a sharded array."""
    return jnp.sum(first * second)
