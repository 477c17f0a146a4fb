"""Data consistency: pulls a guessed volume to the measured tilts.

Rules act on a ``Measurement``: any linear operator given as functions, so that the
same code runs on a small matrix and on the projector, under any ``Precision``.

    P1  sart                  one simultaneous row-action sweep
    P2  proximal              the error of the guess is white
    P3  proximal_voxelwise    it has a variance of its own in every voxel
    P4  proximal_consistency  it is smooth, ``Metric(smoothness, ridge)``; P2 as well

and a gradient step, sweeps of SIRT, replacement of what the data determine, and
exact draws of what they leave open.  ``proximal_consistency`` is the default
sampler's and knows the projector and its metric.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from temdiff_jax.diffusion import algebra
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.inverse import cg
from temdiff_jax.inverse.problem import Measurement
from temdiff_jax.inverse.quadratic import Metric, proximal_update

# How much less sure than inside a guess is beside the field of view, where it is the
# quadratic estimate, in series of wide range: OUTSIDE times from the second of these
# largest tilts on, no less sure up to the first (docs/reports/results.md).
OUTSIDE = 10.0
OUTSIDE_FROM_DEG = (20.0, 40.0)
# (key, guess [b, ...], variance of its error) -> sample [b, ...]
ConditionalDraw = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def guess_spread(
    geometry: TiltGeometry,
    outside: jax.Array | float = OUTSIDE,
    inside: jax.Array | float = 1.0,
) -> jax.Array:
    """Relative standard deviation of a guess, ``[1, x, 1]`` of the wide volume.

    A network improves the guess in the field of view alone; what the margin is wrong by
    would else be corrected inside, by every ray that crosses both.  The steeper the
    rays, the farther out they reach, to where ever fewer tilts see anything.

    Args:
      geometry: Rays; the largest tilt decides how much of ``outside`` counts.
      outside: Of the margin over that of the guess at infinite noise, for series of
        wide range.
      inside: Of the field of view, over the same.
    """
    low, high = OUTSIDE_FROM_DEG
    largest = jnp.rad2deg(jnp.max(jnp.abs(geometry.angles_rad)))
    share = jnp.clip((largest - low) / (high - low), 0.0, 1.0)
    ones = jnp.ones((1, geometry.num_u, 1))
    return geometry.pad_lateral(ones, value=jnp.power(outside, share) / inside)


def proximal_consistency(
    data: Measurement,
    metric: Metric,
    *,
    num_iters: int,
    outside: jax.Array | float = OUTSIDE,
) -> algebra.Constraint:
    """Weighted proximal update around every guess (P2, P4).

    The metric is the precision of a guess made without knowing the variable; at
    noise level s the guess is sharper by ``r^2 = s^2 / (s^2 + 1)``, and the metric
    is divided by it.

    Args:
      data: View of a ``Problem``, which the metric is of.
      metric: g and e at infinite noise, inverse squared normalised intensity.
      num_iters: Conjugate-gradient steps.
      outside: See ``guess_spread``; no noise level sharpens the margin.

    Returns:
      A constraint on variables ``[b, z, x, y]``.
    """
    problem, frame = data.problem, data.frame
    if problem is None or frame is None:
        raise ValueError(
            "proximal_consistency: expected the view of a Problem, got another "
            "operator; use proximal"
        )

    def one(variable, sigma):
        spread = sigma**2 / (sigma**2 + 1.0)
        here = Metric(metric.smoothness / spread, metric.ridge / spread)
        volume, _ = proximal_update(
            problem.to_volume(variable, frame),
            problem.tilts,
            problem.geometry,
            problem.precision,
            here,
            num_iters=num_iters,
            spread=guess_spread(problem.geometry, outside, jnp.sqrt(spread)),
        )
        return problem.to_variable(volume, frame)

    return _each(one)


def largest_curvature(problem: Measurement, *, num_iters: int = 20) -> jax.Array:
    """Largest eigenvalue of ``A^T W A``, by power iteration; 0 where W = 0."""
    like = problem.empty()
    start = 1.0 + 0.1 * jax.random.normal(jax.random.key(0), like.shape, like.dtype)

    def step(x, _):
        image = problem.normal(x / jnp.maximum(jnp.linalg.norm(x), 1e-30))
        return image, jnp.linalg.norm(image)

    _, norms = lax.scan(step, start, length=num_iters)
    return norms[-1]


def _each(one: Callable[[jax.Array, jax.Array], jax.Array]) -> algebra.Constraint:
    """A rule for one volume as a constraint on a batch."""
    return algebra.constraint(
        lambda x0, sigma: jax.vmap(one, (0, None))(x0, jnp.asarray(sigma, x0.dtype))
    )


def white_precision(
    factor: float | jax.Array = 1.0,
) -> Callable[[jax.Array], jax.Array]:
    """``factor / r^2`` with ``r^2 = s^2 / (s^2 + 1)``, the spread of a guess at s."""
    return lambda sigma: factor * (1.0 + 1.0 / jnp.square(sigma))


def proximal(
    problem: Measurement,
    precision: Callable[[jax.Array], jax.Array] | None = None,
    *,
    num_iters: int,
) -> algebra.Constraint:
    """P2: ``argmin |A x - y|_W^2 / 2 + rho(s) |x - x0|^2 / 2``.

    ``precision`` is rho of the noise level, ``1 / r^2`` unless given; ``num_iters``
    conjugate-gradient steps start from the guess.
    """
    precision = white_precision() if precision is None else precision

    def one(x0, sigma):
        rho = precision(sigma)
        step, _ = cg.conjugate_gradient(
            lambda v: problem.normal(v) + rho * v,
            problem.pull(problem.residual(x0)),
            jnp.zeros_like(x0),
            num_iters=num_iters,
        )
        return x0 + step

    return _each(one)


def proximal_voxelwise(
    problem: Measurement,
    variance: Callable[[jax.Array, jax.Array], jax.Array],
    *,
    num_iters: int,
) -> algebra.Constraint:
    """P3: as P2 with a precision ``1 / variance`` in every voxel.

    Voxels of which the guess is sure move less.  ``variance(x0 [b, ...], s)`` gives
    what broadcasts to ``[b, ...]``: a variance head, or the spread over the samples of
    the batch.  Solved in ``(x - x0) / std``, so that a variance of zero is allowed and
    a constant one gives the steps of P2.
    """

    def one(x0, spread):
        root = jnp.sqrt(spread)
        step, _ = cg.conjugate_gradient(
            lambda u: u + root * problem.normal(root * u),
            root * problem.pull(problem.residual(x0)),
            jnp.zeros_like(x0),
            num_iters=num_iters,
        )
        return x0 + root * step

    def apply(x0, sigma):
        spread = jnp.broadcast_to(variance(x0, sigma), x0.shape).astype(x0.dtype)
        return jax.vmap(one)(x0, spread)

    return algebra.constraint(apply)


def gradient(
    problem: Measurement,
    step: float | jax.Array | Callable[[jax.Array], jax.Array],
) -> algebra.Constraint:
    """One gradient step, ``x0 + step A^T W (y - A x0)``.

    Stable for step < 2 / ``largest_curvature``; it may be a function of the level.
    """

    def one(x0, sigma):
        size = step(sigma) if callable(step) else step
        return x0 + size * problem.pull(problem.residual(x0))

    return _each(one)


def sart(
    problem: Measurement, *, relaxation: float | jax.Array = 1.0, num_sweeps: int = 1
) -> algebra.Constraint:
    """P1: sweeps of ``x0 + c A^T[R W R (y - A x0)] / (A^T w)``, ``R^2 = 1 / (A 1)``.

    Simultaneous over all rays.  w is the precision of the independent errors, W that
    of all: coherent errors only lower it, so that the step stays stable.  Rays of no
    length and voxels of no ray are left alone.  A must be non-negative, as a projector
    is.

    Args:
      problem: Data.
      relaxation: c, in (0, 1].
      num_sweeps: Repetitions.

    Returns:
      A constraint.

    Source: Andersen and Kak, Ultrasonic Imaging 6 (1984) 81, all rays at once.
    """

    def one(x0, sigma):
        lengths = problem.forward(jnp.ones_like(x0))
        independent = jnp.broadcast_to(problem.precision.weight, problem.data.shape)
        total = problem.adjoint(independent.astype(x0.dtype))
        rays, voxels = lengths > 0, total > 0
        root = jnp.where(rays, 1.0 / jnp.sqrt(jnp.where(rays, lengths, 1.0)), 0.0)

        def sweep(x, _):
            pulled = problem.adjoint(
                root * (problem.precision * (root * problem.residual(x)))
            )
            step = jnp.where(voxels, pulled / jnp.where(voxels, total, 1.0), 0.0)
            return x + relaxation * step, None

        return lax.scan(sweep, x0, length=num_sweeps)[0]

    return _each(one)


def sirt(
    problem: Measurement, *, relaxation: float | jax.Array = 1.0, num_sweeps: int = 1
) -> algebra.Constraint:
    """``sart`` with W = 1: simultaneous iterative reconstruction, Gilbert 1972."""
    return sart(problem.unweighted(), relaxation=relaxation, num_sweeps=num_sweeps)


def replace_range(problem: Measurement, *, num_iters: int) -> algebra.Constraint:
    """``A^+ y + (I - A^+ A) x0``: keeps of the guess only what no ray sees.

    Least squares with W = 1 from the guess, stopped at rounding error: going on would
    amplify what rounding put into the null space.  Converged, noise of the data passes
    through A^+; few steps regularise by stopping early.

    Source: Hestenes and Stiefel, J. Res. NBS 49 (1952) 409, section 10 (CGLS).
    """
    problem = problem.unweighted()

    def square(values):
        return jnp.vdot(values, values).real

    def one(x0, sigma):
        residual = problem.precision * problem.residual(x0)
        descent = problem.adjoint(residual)
        first = square(descent)
        enough = (1e3 * jnp.finfo(x0.dtype).eps) ** 2 * first

        def step(carry, _):
            x, residual, direction, size = carry
            image = problem.precision * problem.forward(direction)
            length = square(image)
            going = (size > enough) & (length > 0)
            alpha = jnp.where(going, size / jnp.where(length > 0, length, 1.0), 0.0)
            residual = residual - alpha * image
            descent = problem.adjoint(residual)
            after = square(descent)
            beta = after / jnp.where(size > 0, size, 1.0)
            further = jnp.where(going, descent + beta * direction, direction)
            size = jnp.where(going, after, size)
            return (x + alpha * direction, residual, further, size), None

        carry = (x0, residual, descent, first)
        return lax.scan(step, carry, length=num_iters)[0][0]

    return _each(one)


def pseudo_inverse(problem: Measurement, *, num_iters: int) -> jax.Array:
    """``A^+ y`` with W = 1, one volume."""
    zero = problem.empty()
    rule = replace_range(problem, num_iters=num_iters)
    batch = zero[None]
    return rule.apply(batch, jnp.ones((), zero.dtype), rule.init(batch))[0][0]


def perturb_and_solve(problem: Measurement, *, num_iters: int) -> ConditionalDraw:
    """Exact draws from ``exp(-|y - A x|_W^2 / 2 - |x - x0|^2 / (2 v))``.

        (v A^T W A + I) u = sqrt(v) A^T (W (y - A x0) + L^T n1) + n2,   W = L^T L
        x = x0 + sqrt(v) u,   n1, n2 standard normal

    Source: Papandreou and Yuille, NeurIPS 2010.
    """

    def one(key, x0, root):
        key_data, key_volume = jax.random.split(key)
        noise = jax.random.normal(key_data, problem.data.shape, x0.dtype)
        fresh = jax.random.normal(key_volume, x0.shape, x0.dtype)
        disturbed = problem.pull(problem.residual(x0)) + problem.adjoint(
            problem.precision.whiten_transpose(noise)
        )
        step, _ = cg.conjugate_gradient(
            lambda u: u + root**2 * problem.normal(u),
            root * disturbed + fresh,
            jnp.zeros_like(x0),
            num_iters=num_iters,
        )
        return x0 + root * step

    def apply(key, x0, variance):
        keys = jax.random.split(key, x0.shape[0])
        return jax.vmap(one, (0, 0, None))(keys, x0, jnp.sqrt(variance))

    return apply


def langevin(
    problem: Measurement, *, num_steps: int = 100, step: float | jax.Array = 0.1
) -> ConditionalDraw:
    """Unadjusted Langevin steps for the law that ``perturb_and_solve`` draws from.

    ``x += h (A^T W (y - A x) + (x0 - x) / v) + sqrt(2 h) z``, from x0, with
    ``h = step / (largest curvature + 1 / v)``.  Biased by its step and by stopping.
    """
    curvature = largest_curvature(problem)

    def apply(key, x0, variance):
        size = step / (curvature + 1.0 / variance)

        def move(x, index):
            noise = jax.random.normal(jax.random.fold_in(key, index), x.shape, x.dtype)
            pulled = jax.vmap(lambda v: problem.pull(problem.residual(v)))(x)
            drift = pulled + (x0 - x) / variance
            return x + size * drift + jnp.sqrt(2.0 * size) * noise, None

        return lax.scan(move, x0, jnp.arange(num_steps))[0]

    return apply
