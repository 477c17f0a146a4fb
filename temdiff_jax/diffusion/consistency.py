"""Data consistency: pulls a guessed volume to the measured tilts.

Rules act on a ``Measurement``: any linear operator given as functions, so that the
same code runs on a small matrix and on the projector.

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
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from temdiff_jax.diffusion import algebra
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.inverse import cg
from temdiff_jax.inverse.quadratic import Metric
from temdiff_jax.inverse.quadratic import proximal_update as proximal_update
from temdiff_jax.projector.project import backproject, project

# How much less sure than inside a guess is beside the field of view, where it is the
# quadratic estimate, in series of wide range: OUTSIDE times from the second of these
# largest tilts on, no less sure up to the first (docs/results.md).
OUTSIDE = 10.0
OUTSIDE_FROM_DEG = (20.0, 40.0)
# (key, guess [b, ...], variance of its error) -> sample [b, ...]
ConditionalDraw = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class ResidualFrame(NamedTuple):
    """How sampler variables stand for volumes.

    ``volume = base + unit * residual`` inside the field of view; the margin keeps
    ``base``.

    Attributes:
      base: Quadratic estimate over the wide volume, ``[z, x, y]``, normalised.
      unit: Intensity of one unit of the residual, scalar.
      tilts: Normalised tilts ``[n_tilts, u, y]``.
      weight: Data precision.
    """

    base: jax.Array
    unit: jax.Array
    tilts: jax.Array
    weight: jax.Array


def to_volume(
    residual: jax.Array, frame: ResidualFrame, geometry: TiltGeometry
) -> jax.Array:
    """Wide normalised volume of a residual ``[z, x, y]`` over the field of view."""
    return frame.base + frame.unit * geometry.pad_lateral(residual)


def to_residual(
    volume: jax.Array, frame: ResidualFrame, geometry: TiltGeometry
) -> jax.Array:
    """Inverse of ``to_volume`` inside the field of view."""
    return geometry.crop(volume - frame.base) / frame.unit


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
    frame: ResidualFrame,
    geometry: TiltGeometry,
    metric: Metric,
    *,
    num_iters: int,
    outside: jax.Array | float = OUTSIDE,
) -> algebra.Constraint:
    """Weighted proximal update around every guess (P2, P4).

    The metric is the precision of a guess made without knowing the residual; at
    noise level s the guess is sharper by ``r^2 = s^2 / (s^2 + 1)``, and the metric
    is divided by it.

    Args:
      frame: Data and units.
      geometry: Rays.
      metric: g and e at infinite noise, inverse squared normalised intensity.
      num_iters: Conjugate-gradient steps.
      outside: See ``guess_spread``; no noise level sharpens the margin.

    Returns:
      A constraint on residuals ``[b, z, x, y]``.
    """

    def one(residual, sigma):
        spread = sigma**2 / (sigma**2 + 1.0)
        here = Metric(metric.smoothness / spread, metric.ridge / spread)
        volume = to_volume(residual, frame, geometry)
        volume, _ = proximal_update(
            volume,
            frame.tilts,
            geometry,
            frame.weight,
            here,
            num_iters=num_iters,
            spread=guess_spread(geometry, outside, jnp.sqrt(spread)),
        )
        return to_residual(volume, frame, geometry)

    def apply(x0, sigma):
        return jax.vmap(one, (0, None))(x0, jnp.asarray(sigma, x0.dtype))

    return algebra.constraint(apply)


class Measurement(NamedTuple):
    """Data ``y = A x + n`` with ``n ~ N(0, 1 / weight)``, of one volume.

    Attributes:
      forward: A, of one volume ``[...]``, without a batch.
      adjoint: A^T, exact.
      data: y.
      weight: W, precision of every datum, broadcastable to them; 0 where masked.
    """

    forward: Callable[[jax.Array], jax.Array]
    adjoint: Callable[[jax.Array], jax.Array]
    data: jax.Array
    weight: jax.Array | float

    def residual(self, x: jax.Array) -> jax.Array:
        """``y - A x``."""
        return self.data - self.forward(x)

    def pull(self, residual: jax.Array) -> jax.Array:
        """``A^T W r``."""
        return self.adjoint(self.weight * residual)

    def normal(self, x: jax.Array) -> jax.Array:
        """``A^T W A x``."""
        return self.pull(self.forward(x))

    def unweighted(self) -> Measurement:
        """The same with W = 1, masked data apart."""
        seen = jnp.where(jnp.asarray(self.weight) > 0, 1.0, 0.0)
        return self._replace(weight=seen.astype(self.data.dtype))

    def empty(self) -> jax.Array:
        """A volume of zeros."""
        like = jax.eval_shape(self.adjoint, self.data)
        return jnp.zeros(like.shape, like.dtype)

    def noise_std(self) -> jax.Array:
        """Root mean variance of the data that are not masked."""
        weight = jnp.broadcast_to(self.weight, self.data.shape)
        seen = weight > 0
        variance = jnp.where(seen, 1.0 / jnp.where(seen, weight, 1.0), 0.0)
        return jnp.sqrt(jnp.sum(variance) / jnp.maximum(jnp.sum(seen), 1))


def projector_measurement(frame: ResidualFrame, geometry: TiltGeometry) -> Measurement:
    """Tilts as linear data about a residual ``[z, x, y]`` over the field of view."""

    def forward(residual):
        return project(frame.unit * geometry.pad_lateral(residual), geometry)

    def adjoint(tilts):
        return frame.unit * geometry.crop(backproject(tilts, geometry))

    data = frame.tilts - project(frame.base, geometry)
    return Measurement(forward, adjoint, data, frame.weight)


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


def gradient(problem: Measurement, step: float | jax.Array) -> algebra.Constraint:
    """One gradient step, ``x0 + step A^T W (y - A x0)``.

    Stable for step < 2 / ``largest_curvature``.
    """
    return _each(lambda x0, sigma: x0 + step * problem.pull(problem.residual(x0)))


def sart(
    problem: Measurement, *, relaxation: float | jax.Array = 1.0, num_sweeps: int = 1
) -> algebra.Constraint:
    """P1: sweeps of ``x0 + c A^T[W (y - A x0) / (A 1)] / (A^T W)``, element by element.

    Simultaneous over all rays.  Rays of no length and voxels of no ray are left
    alone.  A must be non-negative, as a projector is.

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
        total = problem.pull(jnp.ones_like(problem.data))
        rays, voxels = lengths > 0, total > 0

        def sweep(x, _):
            per_length = problem.residual(x) / jnp.where(rays, lengths, 1.0)
            pulled = problem.pull(jnp.where(rays, per_length, 0.0))
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
        residual = problem.weight * problem.residual(x0)
        descent = problem.adjoint(residual)
        first = square(descent)
        enough = (1e3 * jnp.finfo(x0.dtype).eps) ** 2 * first

        def step(carry, _):
            x, residual, direction, size = carry
            image = problem.weight * problem.forward(direction)
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
    return rule.apply(zero[None], jnp.ones((), zero.dtype), rule.init())[0][0]


def perturb_and_solve(problem: Measurement, *, num_iters: int) -> ConditionalDraw:
    """Exact draws from ``exp(-|y - A x|_W^2 / 2 - |x - x0|^2 / (2 v))``.

        (v A^T W A + I) u = sqrt(v) A^T W^(1/2) (W^(1/2) (y - A x0) + n1) + n2
        x = x0 + sqrt(v) u,   n1, n2 standard normal

    Source: Papandreou and Yuille, NeurIPS 2010.
    """

    def one(key, x0, root):
        key_data, key_volume = jax.random.split(key)
        noise = jax.random.normal(key_data, problem.data.shape, x0.dtype)
        fresh = jax.random.normal(key_volume, x0.shape, x0.dtype)
        disturbed = problem.pull(problem.residual(x0)) + problem.adjoint(
            jnp.sqrt(problem.weight) * noise
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
