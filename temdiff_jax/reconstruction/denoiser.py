"""The prior bound to one prepared series: a denoiser, and the frame it works in."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from temdiff_jax.diffusion import parameterisation, spectrum
from temdiff_jax.inverse.problem import UNIT_NM, Frame, Problem
from temdiff_jax.model import NUM_FEATURES, NUM_SERIES, Condition
from temdiff_jax.priors import Prior
from temdiff_jax.reconstruction import tiling

# Voxels so much smaller or larger than those of its card are shown a regression.
VOXEL_SLACK = 1.06


def frame_of(problem: Problem, prior: Prior) -> Frame:
    """Units in which the network of a prior sees the series.

    What the quadratic estimate, or a regression's, leaves over, for a network of the
    residual.  For one of the volume: around the mean, in units of the volume's expected
    spread; the quadratic estimate stays where the sampler does not reach.
    """
    shown, geometry = problem.shown, problem.geometry
    spread = prior.residual_scale(shown.features)
    if prior.network.config.target == "residual":
        return Frame(shown.best, shown.level * spread)
    inside = geometry.pad_lateral(geometry.crop(shown.tikhonov))
    return Frame(shown.tikhonov - inside, shown.level * jnp.sqrt(1.0 + spread**2))


def denoiser(
    prior: Prior, problem: Problem, window: tuple[int, int, int]
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """``(x, sigma) -> x0`` over the field of view, in windows where needed.

    x is ``[b, z, x, y]`` in the frame of the prior, sigma a scalar.
    """
    network, params = prior.network, prior.params

    def guess(x, sigmas, here, power):
        def answer(scaled, level, guess=None):
            return network.apply(params, scaled, level, here._replace(guess=guess))

        if power is None:
            return parameterisation.denoise(answer, x, sigmas)
        return spectrum.denoise(answer, x, sigmas, power)

    return _in_windows(prior, problem, window, guess)


def spread_of_guess(
    prior: Prior, problem: Problem, window: tuple[int, int, int]
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """``(x, sigma) -> std`` of the error of the denoiser, by the head for the variance.

    Of a network that refines a linear guess and has such a head; else as `denoiser`.
    """
    network, params = prior.network, prior.params
    assert network.apply_both is not None
    both = network.apply_both

    def spread(x, sigmas, here, power):
        def answer(scaled, level, guess):
            return both(params, scaled, level, here._replace(guess=guess))

        (_, log), _, left = spectrum.denoise_with(answer, x, sigmas, power)
        return left[:, None, None, None] * jnp.exp(0.5 * log)

    return _in_windows(prior, problem, window, spread)


def _in_windows(prior, problem, window, function):
    """``(x, sigma) -> function(x, sigmas, condition, power)``, blended."""
    shown, geometry = problem.shown, problem.geometry
    estimate = geometry.crop(shown.tikhonov) / shown.level
    seen = jnp.broadcast_to(geometry.crop(shown.coverage), estimate.shape)
    law = prior.residual_scale.spectrum if prior.network.config.refines else None
    first = shown.regression
    added = jnp.zeros_like(estimate)
    if first is not None:
        added = geometry.crop(first) / shown.level - estimate

    def apply(x, sigma):
        batch = x.shape[0]
        sigmas, ones = jnp.full((batch,), sigma), jnp.ones((batch,))
        features = jnp.broadcast_to(shown.features, (batch, *shown.features.shape))

        def one_window(x, estimate, seen, added):
            here = Condition(estimate, seen, features, ones, regression=added)
            power = None
            if law is not None:
                after = jnp.zeros(1) if first is None else ones[:1]
                power = law(x.shape[1:], features[:1], ones[:1], after)
                power = jnp.broadcast_to(power, x.shape)
            return function(x, sigmas, here, power)

        fields = [x, *(jnp.broadcast_to(f, x.shape) for f in (estimate, seen, added))]
        return tiling.apply_windowed(
            one_window,
            fields,
            window=window,
            multiple=prior.network.config.multiple,
        )

    return apply


def regressed(
    problem: Problem, prior: Prior | None, window: tuple[int, int, int]
) -> Problem:
    """The problem with the estimate around which a prior samples.

    As it is for a prior without regression, and where the voxel size is not one that
    the regression was trained on: the prior then samples around the quadratic estimate.
    """
    first = None if prior is None else prior.regression
    if first is None:
        return problem
    low, high = first.card.get("voxel_size_nm") or (0.0, np.inf)
    if not low / VOXEL_SLACK <= float(problem.voxel_nm) <= high * VOXEL_SLACK:
        return problem
    return _regressed(problem, first, window=window)


@functools.partial(jax.jit, static_argnames="window")
def _regressed(problem, first, *, window):
    zeros = jnp.zeros((1, *problem.field_of_view))
    guess = denoiser(first, problem, window)
    residual = guess(zeros, jnp.float32(first.sigma_mean))[0]
    wide = problem.to_volume(residual, frame_of(problem, first))
    inputs = problem.shown._replace(regression=wide)
    return dataclasses.replace(problem, inputs=inputs)


def unconditional(
    prior: Prior, voxel_nm: jax.Array | float
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """``(x, sigma) -> x0`` of specimens of unit variance that no tilts show.

    Args:
      prior: A network that refines a linear guess.
      voxel_nm: Voxel size of what is drawn.

    Returns:
      A denoiser of x ``[b, z, x, y]``, extents multiples of the network's.
    """
    network, params = prior.network, prior.params
    law = prior.residual_scale.spectrum

    def apply(x, sigma):
        batch = x.shape[0]
        size = jnp.log(jnp.float32(voxel_nm) / UNIT_NM)
        features = jnp.zeros((batch, NUM_FEATURES)).at[:, NUM_SERIES].set(size)
        nothing, absent = jnp.zeros_like(x), jnp.zeros(batch)
        here = Condition(nothing, nothing, features, absent)

        def answer(scaled, level, guess):
            return network.apply(params, scaled, level, here._replace(guess=guess))

        power = law(x.shape[1:], features, absent)
        return spectrum.denoise(answer, x, jnp.full((batch,), sigma), power)

    return apply


def mirror(volume: jax.Array, flips: jax.Array) -> jax.Array:
    """Mirrors ``[..., z, x, y]`` along the axes whose flag is set, ``[3]``."""
    for axis in range(3):
        volume = jnp.where(flips[axis], jnp.flip(volume, axis - 3), volume)
    return volume


def mirror_problem(problem: Problem, flips: jax.Array) -> Problem:
    """A problem with the inputs of the mirrored specimen."""
    shown = problem.shown
    mirrored = shown._replace(
        tikhonov=mirror(shown.tikhonov, flips),
        coverage=mirror(shown.coverage, flips),
        regression=None
        if shown.regression is None
        else mirror(shown.regression, flips),
    )
    return dataclasses.replace(problem, inputs=mirrored)
