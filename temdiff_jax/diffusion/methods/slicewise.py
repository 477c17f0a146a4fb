"""Published samplers whose network sees slices; see also ``methods``.

A 2-D network guesses slices ``[z, x]`` of constant y, the planes that hold the beams;
the y of a volume ``[z, x, y]``, its last axis, is the rotation axis that papers on CT
call z.  The denoiser passed in takes whole volumes as any other, a planar network
folding y into its batch.  What joins the slices is a total variation along y
(DiffusionMBIR, DDS) or nothing but the solver's scalars (DOLCE).

Numbers that a released program gives in the units of its projector and its images are
translated once, here:

- strengths are divided by the largest eigenvalue of its ``A^T A``, and multiplied by
  that of the problem at hand;
- differences of images are divided by the standard deviation of its images, since ours
  have unit variance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
from jax import lax

from temdiff_jax.diffusion import algebra, consistency, schedule, solvers
from temdiff_jax.diffusion.algebra import Constraint, Info, Kernel, Sampler, State
from temdiff_jax.diffusion.guidance import Denoiser
from temdiff_jax.errors import InputError
from temdiff_jax.inverse import cg
from temdiff_jax.inverse.problem import Measurement

# DiffusionMBIR: 256 rows, back projection times pi / 2 over the number of views, hence
# an eigenvalue of about 256 pi / 2; images in [0, 1] of a deviation of about 1/4.
MBIR_COUPLING = 10.0 / (256 * 1.5708)
MBIR_THRESHOLD = 0.04 / 10.0 / 0.25
# The same for the DDS of a limited angle, whose lambda is ten times larger.
DDS_THRESHOLD = 0.4 / 10.0 / 0.25

# DOLCE: 360 views of 512 rows of 0.8 mm; images of a deviation of about 0.1.
DOLCE_EIGENVALUE = 360 * 512 * 0.8**2
DOLCE_STRENGTH = 2.5e5 / DOLCE_EIGENVALUE
APGM_STEP = 5e-6 * DOLCE_EIGENVALUE
APGM_NOISE = 1.0 / (0.1 * DOLCE_EIGENVALUE**0.5)

# Split variable v and scaled multiplier u, ``[b, ..., y]`` each.
Duals = tuple[jax.Array, jax.Array]


def difference(x: jax.Array) -> jax.Array:
    """D: the next slice minus this one, along the last axis, circular."""
    return jnp.roll(x, -1, axis=-1) - x


def difference_adjoint(x: jax.Array) -> jax.Array:
    """D^T."""
    return jnp.roll(x, 1, axis=-1) - x


def soft(x: jax.Array, threshold: float | jax.Array) -> jax.Array:
    """``sign(x) max(|x| - threshold, 0)``."""
    return jnp.sign(x) * jnp.maximum(jnp.abs(x) - threshold, 0.0)


def admm_tv(
    problem: Measurement,
    *,
    coupling: float | jax.Array = MBIR_COUPLING,
    threshold: float | jax.Array = MBIR_THRESHOLD,
    num_iters: int = 1,
) -> Callable[[jax.Array, Duals], tuple[jax.Array, Duals]]:
    """One step of ADMM on ``|A x - y|^2 / 2 + lambda |D x|_1``.

        (A^T A + rho D^T D) x = A^T y + rho D^T (v - u)    num_iters CG steps from x
        v = soft(D x + u, lambda / rho),   u += D x - v

    There is no term that holds x to the guess: stopping early keeps it near.

    Args:
      problem: Data; W = 1, masked ones apart, as in the programs.
      coupling: rho in units of the largest eigenvalue of ``A^T A``; 0 leaves CG on
        ``A^T A x = A^T y``.
      threshold: ``lambda / rho``, in units of the data.
      num_iters: Conjugate-gradient steps.

    Returns:
      ``(x [b, ..., y], (v, u)) -> (x, (v, u))``; ``no_duals`` begins.

    Source: Chung et al., CVPR 2023 (DiffusionMBIR), and its released program; Boyd et
    al., Found. Trends Mach. Learn. 3 (2011) 1.
    """
    plain = problem.unweighted()
    rho = coupling * consistency.largest_curvature(plain)

    def one(x, v, u):
        x, _ = cg.conjugate_gradient(
            lambda d: plain.normal(d) + rho * difference_adjoint(difference(d)),
            plain.pull(plain.data) + rho * difference_adjoint(v - u),
            x,
            num_iters=num_iters,
        )
        moved = difference(x) + u
        v = soft(moved, threshold)
        return x, (v, moved - v)

    return lambda x, duals: jax.vmap(one)(x, *duals)


def no_duals(x: jax.Array) -> Duals:
    """v and u before the first step."""
    return jnp.zeros_like(x), jnp.zeros_like(x)


def dds_3d(
    denoise: Denoiser,
    problem: Measurement,
    *,
    sigmas: jax.Array | None = None,
    eta: float | jax.Array = 0.85,
    coupling: float | jax.Array = MBIR_COUPLING,
    threshold: float | jax.Array = DDS_THRESHOLD,
    num_iters: int = 5,
) -> Sampler:
    """DDS of volumes with a network of slices: ``admm_tv`` on every guess.

    The defaults are those of a limited angle.

    Default grid: ``vp_linear(50)``.

    Source: Chung et al., ICLR 2024 (DDS), the 3-D form, and its released program.
    """
    sigmas = schedule.vp_linear(50) if sigmas is None else sigmas
    fit = admm_tv(problem, coupling=coupling, threshold=threshold, num_iters=num_iters)
    rule = Constraint(no_duals, lambda x0, sigma, duals: fit(x0, duals))
    kernel = solvers.renoise(algebra.predictor(denoise), eta=eta, rule=rule)
    return algebra.sampler(kernel, sigmas)


def langevin_correct(
    key: jax.Array, x: jax.Array, score: jax.Array, snr: float | jax.Array
) -> jax.Array:
    """``x + h score + sqrt(2 h) z`` with ``h = 2 (snr |z| / |score|)^2``.

    Norms are those of slices, averaged over the slices of a volume ``[b, ..., y]``.

    Source: Song et al., ICLR 2021, algorithm 4.
    """
    noise = jax.random.normal(key, x.shape, x.dtype)

    def mean_norm(values):
        slices = jnp.sqrt(jnp.sum(values**2, axis=tuple(range(1, x.ndim - 1))))
        return jnp.mean(slices, axis=-1).reshape(-1, *[1] * (x.ndim - 1))

    size = mean_norm(score)
    ratio = snr * mean_norm(noise) / jnp.where(size > 0, size, 1.0)
    step = 2.0 * jnp.where(size > 0, ratio, 0.0) ** 2
    return x + step * score + jnp.sqrt(2.0 * step) * noise


def diffusion_mbir(
    denoise: Denoiser,
    problem: Measurement,
    *,
    sigmas: jax.Array | None = None,
    snr: float | jax.Array = 0.16,
    coupling: float | jax.Array = MBIR_COUPLING,
    threshold: float | jax.Array = MBIR_THRESHOLD,
    num_iters: int = 1,
) -> Sampler:
    """Predictor, corrector, one step of ``admm_tv``; at the end one of SIRT.

        x += d score(x, s) + sqrt(d) z,   d = s^2 - s'^2,   score = (D(x, s) - x) / s^2
        x <- langevin_correct(x, score(x, s)),   x <- admm_tv(x)
        last:  x += A^T (y - A x) / (A^T A 1)

    As in the program the corrector is given the level before the predictor's step, and
    the last predictor adds noise of the smallest level.

    Default grid: ``ve_geometric(2000)``.

    Source: Chung et al., CVPR 2023 (DiffusionMBIR), and its released program
    (HJ-harry/DiffusionMBIR).
    """
    sigmas = schedule.ve_geometric(2000) if sigmas is None else sigmas
    plain = problem.unweighted()
    fit = admm_tv(plain, coupling=coupling, threshold=threshold, num_iters=num_iters)

    def score(x, sigma):
        return (denoise(x, sigma) - x) / sigma**2

    def step(key, state, sigma, sigma_next):
        key_predict, key_correct = jax.random.split(key)
        drop = sigma**2 - sigma_next**2
        noise = jax.random.normal(key_predict, state.x.shape, state.x.dtype)
        x = state.x + drop * score(state.x, sigma) + jnp.sqrt(drop) * noise
        x = langevin_correct(key_correct, x, score(x, sigma), snr)
        x, duals = fit(x, state.aux)
        x = lax.cond(sigma_next > 0, lambda x: x, jax.vmap(_land(plain)), x)
        return State(x, x, duals), Info(sigma, algebra.rms(x - state.x))

    def init(x):
        return State(x, jnp.zeros_like(x), no_duals(x))

    return algebra.sampler(Kernel(init, step), sigmas, calls=2)


def _land(problem: Measurement) -> Callable[[jax.Array], jax.Array]:
    """``x + A^T (y - A x) / (A^T A 1)`` where some ray passes."""

    def one(x):
        total = problem.normal(jnp.ones_like(x))
        step = problem.pull(problem.residual(x)) / jnp.where(total > 0, total, 1.0)
        return x + jnp.where(total > 0, step, 0.0)

    return one


def dolce(
    denoise: Denoiser,
    problem: Measurement,
    *,
    sigmas: jax.Array | None = None,
    eta: float | jax.Array = 1.0,
    strength: float | jax.Array = DOLCE_STRENGTH,
    num_iters: int = 100,
    solver: str = "cgrad",
) -> Sampler:
    """DDIM whose result x', not its guess, is pulled to the data.

        cgrad   x' <- argmin |A x - y|^2 + l |x - x'|^2
        apgm    30 accelerated steps  x -= h A^T (A x - y_t) + r_t (x - x')

    in the variance-preserving scale of x'.  "cgrad" meets data of full size at every
    level, so that at high noise the data and x', whose clean part is small, contradict
    each other; "apgm" meets ``y_t = sqrt(ab) y + sqrt(1 - ab) z``, with r_t rising from
    ``1 / (8 n)`` to ``1 - exp(-1/8)`` over n steps.  The denoiser is conditional on a
    regularised least-squares estimate; guesses are not clipped, our data having no
    bounds.  The paper's estimate is the mean of several samples.

    Args:
      denoise, problem: As everywhere; W = 1, masked data apart.
      sigmas: Default grid: ``vp_linear(40)``.
      eta: Share of fresh noise.
      strength: l of "cgrad" in units of the largest eigenvalue of ``A^T A``.
      num_iters: Most conjugate-gradient steps, which end at rounding error.
      solver: "cgrad" or "apgm".

    Raises:
      InputError: Another solver.

    Source: Liu et al., ICCV 2023 (DOLCE), and its released program
    (wustl-cig/DOLCE).
    """
    if solver not in ("cgrad", "apgm"):
        raise InputError(
            f"solver: expected 'cgrad' or 'apgm', got {solver!r}; choose one"
        )
    sigmas = schedule.vp_linear(40) if sigmas is None else sigmas
    plain = problem.unweighted()
    largest = consistency.largest_curvature(plain)

    def cgrad(key, candidate, sigma):
        del key, sigma
        return _solve(plain, strength * largest, candidate, num_iters)

    def apgm(key, candidate, sigma):
        done = jnp.sum(sigmas[:-1] >= sigma)
        hold = -jnp.expm1(-done.astype(candidate.dtype) / (8.0 * len(sigmas[1:])))
        noise = jax.random.normal(key, plain.data.shape, candidate.dtype)
        noise = APGM_NOISE * jnp.sqrt(largest) * sigma * noise
        data = (plain.data + noise) / jnp.sqrt(1.0 + sigma**2)
        step = APGM_STEP / jnp.where(largest > 0, largest, 1.0)
        return _accelerated(replace(plain, data=data), step, hold, candidate)

    pull = cgrad if solver == "cgrad" else apgm

    def change(key, before, after, sigma, sigma_next):
        scale = jnp.sqrt(1.0 + sigma_next**2)
        keys = jax.random.split(key, after.x.shape[0])
        one = jax.vmap(pull, (0, 0, None))
        return scale * one(keys, after.x / scale, sigma)

    kernel = solvers.ddim(algebra.predictor(denoise), eta=eta)
    return algebra.sampler(algebra.then(kernel, change), sigmas)


def _solve(
    problem: Measurement, strength: jax.Array, centre: jax.Array, num_iters: int
) -> jax.Array:
    """``argmin |A x - y|^2 + l |x - centre|^2`` by CG, ended at rounding error."""
    rhs = problem.pull(problem.residual(centre))
    first = jnp.sum(rhs**2)
    enough = (10.0 * jnp.finfo(rhs.dtype).eps) ** 2 * first

    def going(carry):
        count, _, _, _, square = carry
        return (count < num_iters) & (square > enough)

    def step(carry):
        count, x, residual, direction, square = carry
        image = problem.normal(direction) + strength * direction
        alpha = square / jnp.sum(direction * image)
        residual = residual - alpha * image
        after = jnp.sum(residual**2)
        return (
            count + 1,
            x + alpha * direction,
            residual,
            residual + after / square * direction,
            after,
        )

    start = (jnp.int32(0), jnp.zeros_like(rhs), rhs, rhs, first)
    return centre + lax.while_loop(going, step, start)[1]


def _accelerated(
    problem: Measurement,
    step: jax.Array,
    hold: jax.Array,
    centre: jax.Array,
    num_iters: int = 30,
) -> jax.Array:
    """Steps of Nesterov's method toward the data and the centre.

    Source: Beck and Teboulle, SIAM J. Imaging Sci. 2 (2009) 183 (the acceleration).
    """

    def move(carry, _):
        x, ahead, weight = carry
        pulled = step * problem.pull(problem.residual(ahead))
        new = ahead + pulled - hold * (ahead - centre)
        after = 0.5 * (1.0 + jnp.sqrt(1.0 + 4.0 * weight**2))
        return (new, new + (weight - 1.0) / after * (new - x), after), None

    carry = (centre, centre, jnp.ones((), centre.dtype))
    return lax.scan(move, carry, length=num_iters)[0][0]
