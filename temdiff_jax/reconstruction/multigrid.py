"""Samples on several grids, coarse to fine, by a prior that knows its voxel size.

The chain of ``diffusion.pyramid`` with the denoiser of one network on every grid: the
tilts are binned, estimated and normalised on each as in training.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from temdiff_jax.diffusion import algebra, pyramid, schedule
from temdiff_jax.inverse.precision import Precision, low_rank
from temdiff_jax.inverse.problem import Problem
from temdiff_jax.inverse.tikhonov import TikhonovSettings
from temdiff_jax.priors import Prior
from temdiff_jax.projector import ray_lengths
from temdiff_jax.reconstruction.denoiser import denoiser, frame_of
from temdiff_jax.reconstruction.settings import Solver
from temdiff_jax.series import inputs, noise

# Noise level of a coarse grid at which the next finer one begins.
HAND_OVER = 1.1
SIGMA_LAST = 0.05


class Steps(NamedTuple):
    """Binnings, coarsest first, noise levels on each, and where they begin."""

    factors: tuple[int, ...] = (4, 2, 1)
    counts: tuple[int, ...] = (10, 4, 4)
    sigma_max: float = 80.0


def renormalised(problem: Problem) -> Problem:
    """A problem in units of its own tilts, with the noise floor of its grid.

    A network is shown every grid in the units that the grid's own tilts ask for.
    """
    units, geometry = problem.units, problem.geometry
    lengths = ray_lengths(geometry)
    tilts = problem.tilts * units.contrast + units.mean * lengths
    seen = jnp.any(problem.precision.seen(), axis=(1, 2)).astype(tilts.dtype)
    own = noise.estimate_units(tilts, geometry, seen)
    tilts = noise.normalise_tilts(tilts, geometry, own)
    ratio = own.contrast / units.contrast
    floor = (noise.NOISE_FLOOR * jnp.std(tilts, axis=(1, 2)))[:, None, None]
    old = problem.precision
    weight = jnp.broadcast_to(old.weight * ratio**2, tilts.shape)
    weight = weight / (1.0 + weight * floor**2)
    precision = Precision(weight)
    if old.modes is not None:
        precision = low_rank(weight, old.modes / ratio)
    return dataclasses.replace(problem, tilts=tilts, precision=precision, units=own)


@functools.partial(jax.jit, static_argnames=("factors", "num_iters"))
def _grids(problem, smoothness, ridge, *, factors, num_iters):
    settings = TikhonovSettings(smoothness, ridge, num_iters)
    return tuple(
        inputs.with_inputs(renormalised(problem.binned(factor)), settings)
        for factor in factors
    )


def grids_of(
    problem: Problem, settings: TikhonovSettings, factors: tuple[int, ...]
) -> tuple[Problem, ...]:
    """The problem on each grid, with the inputs of a network.

    Args:
      problem: Whose field of view and thickness the largest factor divides.
      settings: Of the quadratic estimates.
      factors: Binnings.
    """
    numbers = (jnp.float32(settings.smoothness), jnp.float32(settings.ridge))
    return _grids(problem, *numbers, factors=factors, num_iters=settings.num_iters)


@functools.partial(jax.jit, static_argnames="window")
def mean_of(
    prior: Prior, problem: Problem, *, window: tuple[int, int, int]
) -> jax.Array:
    """The conditional mean on one grid, field of view ``[z, x, y]``, input units."""
    zeros = jnp.zeros((1, *problem.field_of_view))
    guess = denoiser(prior, problem, window)
    residual = guess(zeros, jnp.float32(prior.sigma_mean))[0]
    return problem.to_input_units(problem.to_volume(residual, frame_of(problem, prior)))


@functools.partial(jax.jit, static_argnames=("count", "steps", "solver", "window"))
def draw(
    key: jax.Array,
    prior: Prior,
    grids: tuple[Problem, ...],
    means: tuple[jax.Array, ...],
    *,
    count: int,
    steps: Steps,
    solver: Solver,
    window: tuple[int, int, int],
) -> jax.Array:
    """Samples of the finest grid, ``[count, z, x, y]`` over the field of view.

    Args:
      key: Of all samples.
      prior: A network that refines a linear guess.
      grids: Of ``grids_of``, coarsest first.
      means: Of ``mean_of``, one each.
      count: Samples.
      steps: Noise levels.
      solver: Of the reverse process.
      window: Largest extents given to the network at once.
    """
    levels: list[pyramid.Grid] = []
    high = jnp.float32(steps.sigma_max)
    for index, (problem, mean) in enumerate(zip(grids, means)):
        frame = frame_of(problem, prior)
        unit = frame.unit * problem.units.contrast
        if index:
            high = pyramid.SHRINK * HAND_OVER * levels[-1].unit / unit
        last = index + 1 == len(grids)
        steps_here = steps.counts[index]
        if last:
            sigmas = schedule.karras(steps_here, sigma_max=high, sigma_min=SIGMA_LAST)
        else:
            sigmas = schedule.karras(
                steps_here + 1, sigma_max=high, sigma_min=HAND_OVER
            )[:-1]
        base = problem.to_input_units(frame.base)
        guess = algebra.predictor(denoiser(prior, problem, window))
        levels.append(pyramid.Grid(guess, base, unit, mean, sigmas))
    return pyramid.sample(key, levels, solver, count)
