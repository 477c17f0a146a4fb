"""The conditional mean from one call of the network."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
from jax import lax

from temdiff_jax.diffusion import consistency
from temdiff_jax.inverse.problem import Problem
from temdiff_jax.inverse.quadratic import proximal_update
from temdiff_jax.priors import Prior
from temdiff_jax.reconstruction.denoiser import (
    denoiser,
    frame_of,
    mirror,
    mirror_problem,
)
from temdiff_jax.reconstruction.settings import Settings


def mean_estimate(
    prior: Prior, problem: Problem, settings: Settings
) -> tuple[jax.Array, jax.Array]:
    """The conditional mean by the network, and one pull to the tilts.

    The denoiser at infinite noise is the conditional mean, averaged over mirror
    images if asked for.  Then the rule of the settings is applied, or, without one, an
    update in the metric of the mean's error (P4).

    Returns:
      Wide normalised volumes ``[z, x, y]``: after and before the pull.
    """
    return _mean(
        prior,
        problem,
        jnp.float32(settings.outside),
        settings=_compiled(settings),
        rule=settings.the_rule(),
    )


def _compiled(settings: Settings) -> Settings:
    """Only what the program depends on, so that other numbers compile nothing."""
    return Settings(
        window=settings.window,
        lateral=settings.lateral,
        rows=settings.rows,
        mean_cg_iters=settings.mean_cg_iters,
        mirrors=settings.mirrors,
    )


@functools.partial(jax.jit, static_argnames=("settings", "rule"))
def _mean(prior, problem, outside, *, settings, rule):
    geometry = problem.geometry
    frame = frame_of(problem, prior)
    zeros = jnp.zeros((1, *problem.field_of_view))

    def one_mirror(flips: jax.Array) -> jax.Array:
        here = mirror_problem(problem, flips)
        guess = denoiser(prior, here, settings.windows)
        return mirror(guess(zeros, jnp.float32(prior.sigma_mean))[0], flips)

    flips = jnp.asarray(list(itertools.product((False, True), repeat=3)))
    raw = lax.map(one_mirror, flips if settings.mirrors else flips[:1])
    variable = jnp.mean(raw, axis=0)
    before = problem.to_volume(variable, frame)
    if rule is None:
        after, _ = proximal_update(
            before,
            problem.tilts,
            geometry,
            problem.precision,
            prior.metric_mean,
            num_iters=settings.mean_cg_iters,
            spread=consistency.guess_spread(geometry, outside),
        )
        return after, before
    pull, batch = rule(problem.measurement(frame)), variable[None]
    level = jnp.asarray(prior.sigma_mean, batch.dtype)
    pulled, _ = pull.apply(batch, level, pull.init(batch))
    return problem.to_volume(pulled[0], frame), before
