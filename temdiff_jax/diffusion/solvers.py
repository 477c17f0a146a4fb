"""Solvers of the reverse process: kernels around any predictor.

Written in the variance-exploding scale ``x = x0 + s z`` with D the predictor's guess;
``s`` and ``s'`` are the levels before and after a step.  All take the grids of
``schedule``.  A guess that was pulled to data or guided makes the same solver a
sampler of a posterior.

    probability-flow ODE   dx/ds = (x - D(x, s)) / s

Variance-preserving and flow forms are the same equations in other variables, so a
solver that is linear in its guess (DDIM, ancestral, DPM-Solver++) is one function for
all of them.  Orders are measured in ``tests/diffusion/test_solvers.py``.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from temdiff_jax.diffusion import algebra, schedule
from temdiff_jax.diffusion.algebra import Constraint, Info, Kernel, Predictor, State
from temdiff_jax.diffusion.algebra import ddim as ddim
from temdiff_jax.diffusion.consistency import ConditionalDraw

# Largest relative increase of the noise in a churned step (Karras et al., 2022).
MAX_CHURN = 2.0**0.5 - 1.0


def _plain_init(guess: Predictor):
    return lambda x: State(x, jnp.zeros_like(x), guess.init(x))


def _info(sigma, x, before) -> Info:
    return Info(sigma, algebra.rms(x - before))


def ancestral(guess: Predictor) -> Kernel:
    """A draw from ``q(x' | x, x0 = D)``: DDIM with eta = 1.

        x' = (s'^2 / s^2) x + (1 - s'^2 / s^2) D + s' sqrt(1 - s'^2 / s^2) z

    Source: Ho et al., NeurIPS 2020 (DDPM), equations 6 and 7 (the smaller variance).
    """
    return ddim(guess, eta=1.0)


def dpm_solver_2m_sde(guess: Predictor) -> Kernel:
    """``dpm_solver_2m`` with eta = 1: the SDE form, second order in its drift."""
    return dpm_solver_2m(guess, eta=1.0)


def euler(guess: Predictor) -> Kernel:
    """``x' = x + (s' - s) (x - D) / s``: first order.

    Source: Karras et al., NeurIPS 2022, equations 1 and 3 with sigma(t) = t.
    """

    def step(key, state, sigma, sigma_next):
        x0, aux = guess.apply(state.x, sigma, state.aux)
        x = state.x + (sigma_next - sigma) * (state.x - x0) / sigma
        return State(x, x0, aux), _info(sigma, x, state.x)

    return Kernel(_plain_init(guess), step)


def heun(
    guess: Predictor,
    *,
    churn: float | jax.Array = 0.0,
    churn_low: float = 0.0,
    churn_high: float = jnp.inf,
    inflate: float | jax.Array = 1.0,
) -> Kernel:
    """Trapezoidal step, second order, with optional fresh noise before it.

        s^ = s (1 + churn),  x^ = x + inflate sqrt(s^^2 - s^2) z
        p  = x^ + (s' - s^) d(x^, s^),   d(x, s) = (x - D(x, s)) / s
        x' = x^ + (s' - s^) (d(x^, s^) + d(p, s')) / 2     p itself at s' = 0

    Args:
      guess: Called twice a step.
      churn: Relative increase of the noise, ``S_churn / N`` of the source, cut at
        sqrt(2) - 1.
      churn_low, churn_high: Levels between which noise is added.
      inflate: Factor on the added noise, ``S_noise``.

    Returns:
      A kernel; with churn 0 it is deterministic.

    Source: Karras et al., NeurIPS 2022, algorithms 1 and 2.
    """

    def step(key, state, sigma, sigma_next):
        active = (sigma >= churn_low) & (sigma <= churn_high)
        rise = jnp.where(active, jnp.minimum(churn, MAX_CHURN), 0.0)
        raised = sigma * (1.0 + rise)
        noise = jax.random.normal(key, state.x.shape, state.x.dtype)
        # s^^2 - s^2 as a product, which rounding cannot make negative.
        fresh = sigma * jnp.sqrt(rise * (2.0 + rise))
        x = state.x + inflate * fresh * noise
        x0, aux = guess.apply(x, raised, state.aux)
        slope = (x - x0) / raised
        predicted = x + (sigma_next - raised) * slope

        def correct(aux):
            x0, aux = guess.apply(predicted, sigma_next, aux)
            other = (predicted - x0) / sigma_next
            return x + (sigma_next - raised) * 0.5 * (slope + other), x0, aux

        after, x0, aux = lax.cond(
            sigma_next > 0, correct, lambda aux: (predicted, x0, aux), aux
        )
        return State(after, x0, aux), _info(sigma, after, state.x)

    return Kernel(_plain_init(guess), step)


def dpm_solver_2m(guess: Predictor, *, eta: float | jax.Array = 0.0) -> Kernel:
    """Two-step exponential integrator in ``ln s``: second order, one call a step.

        D' = D + (h / (2 h_last)) (D - D_last),   h = ln(s / s')
        x' = q x + (1 - q) D' + s' sqrt(1 - (s'/s)^(2 eta)) z,   q = (s'/s)^(1 + eta)

    The first step and the one to s' = 0 use D alone.  eta = 0 is the deterministic
    solver, of second order; eta = 1 the SDE form, whose first-order version is the
    ancestral step.

    Args:
      guess: Called once a step; its last value and level are remembered.
      eta: Share of fresh noise.

    Returns:
      A kernel whose ``aux`` is the predictor's and the last level.

    Source: Lu et al., arXiv 2211.01095 (DPM-Solver++), algorithm 2 (2M) and its
    SDE form; eta interpolates as in public implementations of both.
    """

    def init(x):
        return State(x, jnp.zeros_like(x), (guess.init(x), jnp.zeros((), x.dtype)))

    def step(key, state, sigma, sigma_next):
        inner, last = state.aux
        x0, inner = guess.apply(state.x, sigma, inner)
        usable = (last > 0) & (sigma_next > 0)
        span = jnp.log(sigma / jnp.where(usable, sigma_next, 0.5 * sigma))
        span_last = jnp.log(jnp.where(usable, last, 2.0 * sigma) / sigma)
        slope = jnp.where(usable, span / (2.0 * span_last), 0.0)
        better = x0 + slope * (x0 - state.x0)
        ratio = sigma_next / sigma
        keep = ratio ** (1.0 + eta)
        noise = jax.random.normal(key, x0.shape, x0.dtype)
        fresh = sigma_next * jnp.sqrt(1.0 - ratio ** (2.0 * eta))
        x = keep * state.x + (1.0 - keep) * better + fresh * noise
        aux = (inner, jnp.asarray(sigma, x.dtype))
        return State(x, x0, aux), _info(sigma, x, state.x)

    return Kernel(init, step)


def flow_euler(guess: Predictor) -> Kernel:
    """Euler step of a rectified flow, the same map as DDIM with eta = 0.

        t = s / (1 + s),  x_t = (1 - t) x,  v = (x_t - D) / t
        x_t' = x_t + (t' - t) v

    Source: Liu et al., ICLR 2023, equation 1; Lipman et al., ICLR 2023.
    """

    def step(key, state, sigma, sigma_next):
        time, after = sigma / (1.0 + sigma), sigma_next / (1.0 + sigma_next)
        x0, aux = guess.apply(state.x, sigma, state.aux)
        inside = (1.0 - time) * state.x
        inside = inside + (after - time) * (inside - x0) / time
        x = inside / (1.0 - after)
        return State(x, x0, aux), _info(sigma, x, state.x)

    return Kernel(_plain_init(guess), step)


def flow_heun(guess: Predictor) -> Kernel:
    """Trapezoidal step of a rectified flow, second order in flow time.

    Not the same map as ``heun``: the rule averages slopes of another variable.

    Source: as for ``flow_euler``, with the rule of Heun.
    """

    def step(key, state, sigma, sigma_next):
        time, after = sigma / (1.0 + sigma), sigma_next / (1.0 + sigma_next)
        x0, aux = guess.apply(state.x, sigma, state.aux)
        inside = (1.0 - time) * state.x
        velocity = (inside - x0) / time
        predicted = inside + (after - time) * velocity

        def correct(aux):
            x0, aux = guess.apply(predicted / (1.0 - after), sigma_next, aux)
            mean = 0.5 * (velocity + (predicted - x0) / after)
            return inside + (after - time) * mean, x0, aux

        inside, x0, aux = lax.cond(
            sigma_next > 0, correct, lambda aux: (predicted, x0, aux), aux
        )
        x = inside / (1.0 - after)
        return State(x, x0, aux), _info(sigma, x, state.x)

    return Kernel(_plain_init(guess), step)


def renoise(
    guess: Predictor,
    *,
    eta: float | jax.Array,
    rule: Constraint | None = None,
) -> Kernel:
    """Replaces a fixed share of the noise in every step, however short.

        x' = R(D) + s' (sqrt(1 - eta^2) (x - D) / s + eta z)

    R is a constraint that the direction does not see; to let it see, constrain the
    guess instead.  Unlike DDIM's, the fresh noise does not shrink with the step, so
    that the spread of the samples depends on the number of steps.

    Source: the released programs of DDNM (Wang et al., ICLR 2023) and DDS (Chung et
    al., ICLR 2024); DiffPIR (Zhu et al., CVPR-W 2023), with eta^2 = zeta.
    """
    rule = algebra.identity() if rule is None else rule

    def init(x):
        return State(x, jnp.zeros_like(x), (guess.init(x), rule.init(x)))

    def step(key, state, sigma, sigma_next):
        own, other = state.aux
        x0, own = guess.apply(state.x, sigma, own)
        direction = (state.x - x0) / sigma
        pulled, other = rule.apply(x0, sigma, other)
        noise = jax.random.normal(key, x0.shape, x0.dtype)
        mixed = jnp.sqrt(1.0 - jnp.square(eta)) * direction + eta * noise
        x = pulled + sigma_next * mixed
        return State(x, pulled, (own, other)), _info(sigma, x, state.x)

    return Kernel(init, step)


def noise_matched(
    guess: Predictor, rule: Constraint, noise_std: float | jax.Array
) -> Kernel:
    """Ancestral step whose correction and noise make room for the noise of the data.

        D' = D + l (R(D) - D),   a = 1 - s'^2 / s^2,   b^2 = s'^2 a
        l  = min(1, b / (a n)),  x' = a D' + (1 - a) x + sqrt(b^2 - (a l n)^2) z

    with n the deviation that a full correction R carries.

    Source: Wang et al., ICLR 2023 (DDNM+), section 3.3, the simplified form.
    """

    def init(x):
        return State(x, jnp.zeros_like(x), (guess.init(x), rule.init(x)))

    def step(key, state, sigma, sigma_next):
        own, other = state.aux
        x0, own = guess.apply(state.x, sigma, own)
        full, other = rule.apply(x0, sigma, other)
        share = 1.0 - (sigma_next / sigma) ** 2
        fresh = sigma_next * jnp.sqrt(share)
        amount = jnp.minimum(1.0, fresh / (share * noise_std))
        x0 = x0 + amount * (full - x0)
        left = jnp.maximum(fresh**2 - (share * amount * noise_std) ** 2, 0.0)
        noise = jax.random.normal(key, x0.shape, x0.dtype)
        x = share * x0 + (1.0 - share) * state.x + jnp.sqrt(left) * noise
        return State(x, x0, (own, other)), _info(sigma, x, state.x)

    return Kernel(init, step)


def _inner_grid(count: int, sigma: jax.Array, dtype) -> jax.Array:
    lowest = jnp.minimum(schedule.SIGMA_MIN, 0.5 * sigma)
    grid = schedule.karras(count, sigma_max=sigma, sigma_min=lowest)
    return grid.astype(dtype)


def decoupled(guess: Predictor, draw: ConditionalDraw, *, ode_steps: int) -> Kernel:
    """Flow from x to x0, a draw around it given the data, noise of the next level.

    The guess must have no memory: it is started anew in every step.

    Source: Zhang et al., CVPR 2025 (DAPS), algorithm 1.
    """
    flow = euler(guess)

    def step(key, state, sigma, sigma_next):
        key_draw, key_noise = jax.random.split(key)
        grid = _inner_grid(ode_steps, sigma, state.x.dtype)
        x0 = algebra.run(flow, key, state.x, grid)[0].x
        noise = jax.random.normal(key_noise, x0.shape, x0.dtype)
        x = draw(key_draw, x0, sigma**2) + sigma_next * noise
        return State(x, x0, ()), _info(sigma, x, state.x)

    return Kernel(lambda x: State(x, jnp.zeros_like(x), ()), step)


def split_gibbs(guess: Predictor, draw: ConditionalDraw, *, inner_steps: int) -> Kernel:
    """A draw around x given the data, then an ancestral run from it down to zero.

    The guess must have no memory.  The next level is not used.

    Source: Wu et al., NeurIPS 2024 (PnP-DM), algorithm 1.
    """
    prior = ancestral(guess)

    def step(key, state, sigma, sigma_next):
        key_data, key_prior = jax.random.split(key)
        fitted = draw(key_data, state.x, sigma**2)
        grid = _inner_grid(inner_steps, sigma, state.x.dtype)
        x = algebra.run(prior, key_prior, fitted, grid)[0].x
        return State(x, fitted, ()), _info(sigma, x, state.x)

    return Kernel(lambda x: State(x, jnp.zeros_like(x), ()), step)


def averaged(guess: Predictor, rule: Constraint, *, count: int) -> Kernel:
    """``x' = mean_k D(R(x) + s z_k)``: x is clean, noise is added to be removed.

    The next level is not used; the guess is called ``count`` times a step.

    Source: Martin et al., ICLR 2025 (PnP-Flow), algorithm 3.
    """

    def init(x):
        return State(x, jnp.zeros_like(x), (guess.init(x), rule.init(x)))

    def step(key, state, sigma, sigma_next):
        own, other = state.aux
        moved, other = rule.apply(state.x, sigma, other)

        def one(own, key):
            noise = jax.random.normal(key, moved.shape, moved.dtype)
            x0, own = guess.apply(moved + sigma * noise, sigma, own)
            return own, x0

        own, guesses = lax.scan(one, own, jax.random.split(key, count))
        x = jnp.mean(guesses, axis=0)
        return State(x, moved, (own, other)), _info(sigma, x, state.x)

    return Kernel(init, step)


def blended(guess: Predictor, rule: Constraint) -> Kernel:
    """Clean part of a flow pulled in proportion to its time, noise part partly renewed.

        D' = (1 - t) D + t R(D),   t = s / (1 + s)
        x' = D' + s' (sqrt(t') (x - D) / s + sqrt(1 - t') z)

    Source: Kim et al., ICCV 2025 (FlowDPS), algorithm 1.
    """

    def init(x):
        return State(x, jnp.zeros_like(x), (guess.init(x), rule.init(x)))

    def step(key, state, sigma, sigma_next):
        own, other = state.aux
        time, after = sigma / (1.0 + sigma), sigma_next / (1.0 + sigma_next)
        x0, own = guess.apply(state.x, sigma, own)
        pulled, other = rule.apply(x0, sigma, other)
        clean = (1.0 - time) * x0 + time * pulled
        noise = jax.random.normal(key, x0.shape, x0.dtype)
        direction = (state.x - x0) / sigma
        mixed = jnp.sqrt(after) * direction + jnp.sqrt(1.0 - after) * noise
        x = clean + sigma_next * mixed
        return State(x, clean, (own, other)), _info(sigma, x, state.x)

    return Kernel(init, step)
