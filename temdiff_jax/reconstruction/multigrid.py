"""Samples on several grids, coarse to fine, by a prior that knows its voxel size.

The chain of ``diffusion.pyramid`` with the denoiser of one network on every grid: the
tilts are binned, estimated and normalised on each as in training.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from temdiff_jax.diffusion import algebra, consistency, pyramid, schedule
from temdiff_jax.inverse.problem import Problem
from temdiff_jax.inverse.tikhonov import settings_for
from temdiff_jax.priors import Prior
from temdiff_jax.reconstruction.denoiser import denoiser, frame_of
from temdiff_jax.reconstruction.sample import BATCH_VOXELS, largest_divisor
from temdiff_jax.reconstruction.settings import Rule, Settings, Solver
from temdiff_jax.reconstruction.watch import Watch
from temdiff_jax.series.grids import grids_of

# Noise level of a coarse grid at which the next finer one begins.
HAND_OVER = 1.1
SIGMA_LAST = 0.05
# Binnings, voxels of the coarsest grid at most so large, and the least of its extents.
FACTORS, COARSEST_NM, LEAST_EXTENT = (4, 2, 1), 54.0, 8
FINER_STEPS = 4


class Steps(NamedTuple):
    """Binnings, coarsest first, noise levels on each, and where they begin."""

    factors: tuple[int, ...] = FACTORS
    counts: tuple[int, ...] = (10, FINER_STEPS, FINER_STEPS)
    sigma_max: float = 80.0


def steps_for(problem: Problem, settings: Settings) -> Steps:
    """Grids that suit a series: those that its voxels, extents and the prior allow.

    ``settings.num_steps`` are those of the coarsest grid, ``FINER_STEPS`` come on each
    finer one.  Extents across the tilt axis that are odd have one grid alone, since
    they cannot grow without moving the axis.
    """
    nz, nx, ny = problem.field_of_view
    size = float(problem.voxel_nm)
    regressed = problem.inputs is not None and problem.inputs.regression is not None

    def fits(factor):
        least = min(nz, nx, ny) >= LEAST_EXTENT * factor
        even = -nz % factor % 2 == 0 and -nx % factor % 2 == 0
        return factor == 1 or (size * factor <= COARSEST_NM and least and even)

    # What a regression leaves is small structure.
    possible = FACTORS[1:] if regressed else FACTORS
    factors = tuple(f for f in possible if fits(f))
    finer = (FINER_STEPS,) * (len(factors) - 1)
    return Steps(factors, (settings.num_steps, *finer))


def _grown(volume: jax.Array, extents: tuple[int, ...]) -> jax.Array:
    """Repeats the border of ``[z, x, y]``, as many voxels on either side."""
    missing = [n - m for n, m in zip(extents, volume.shape)]
    return jnp.pad(volume, [(m // 2, m - m // 2) for m in missing], mode="edge")


@functools.partial(jax.jit, static_argnames="window")
def mean_of(
    prior: Prior, problem: Problem, *, window: tuple[int, int, int]
) -> jax.Array:
    """The conditional mean on one grid, field of view ``[z, x, y]``, input units."""
    zeros = jnp.zeros((1, *problem.field_of_view))
    guess = denoiser(prior, problem, window)
    residual = guess(zeros, jnp.float32(prior.sigma_mean))[0]
    return problem.to_input_units(problem.to_volume(residual, frame_of(problem, prior)))


class Pull(NamedTuple):
    """How guesses are pulled to the tilts of their grid.

    Attributes:
      rule: A rule of ``diffusion.methods``; None for the proximal update in the metric
        of the prior's guess.
      num_iters: Conjugate-gradient steps of that update; 0 for no pull without a rule.
      high: Largest noise level at which it acts.
    """

    rule: Rule | None = None
    num_iters: int = 0
    high: float = 0.0

    def bind(self, problem: Problem, prior: Prior) -> algebra.Constraint | None:
        """The constraint on x of a grid, if there is one."""
        data = problem.measurement(frame_of(problem, prior))
        if self.rule is not None:
            pull = self.rule(data)
        elif self.num_iters:
            pull = consistency.proximal_consistency(
                data, prior.metric_sample, num_iters=self.num_iters
            )
        else:
            return None
        return algebra.within(pull, high=self.high)


NO_PULL = Pull()


class Chain(NamedTuple):
    """How samples are drawn.

    Attributes:
      steps: Noise levels.
      solver: Of the reverse process.
      window: Largest extents given to the network at once.
      pull: To the tilts of every grid.
    """

    steps: Steps
    solver: Solver
    window: tuple[int, int, int]
    pull: Pull = NO_PULL


@functools.partial(jax.jit, static_argnames=("count", "chain"))
def draw(
    key: jax.Array,
    prior: Prior,
    grids: tuple[Problem, ...],
    means: tuple[jax.Array, ...],
    *,
    count: int,
    chain: Chain,
) -> jax.Array:
    """Samples of the finest grid, ``[count, z, x, y]`` over the field of view.

    Args:
      key: Of all samples.
      prior: A network that refines a linear guess.
      grids: Of ``grids_of``, coarsest first.
      means: Of ``mean_of``, one each.
      count: Samples.
      chain: How they are drawn.
    """
    steps, solver, window, pull = chain
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
        to_data = pull.bind(problem, prior)
        if to_data is not None:
            guess = algebra.constrain(guess, to_data)
        levels.append(pyramid.Grid(guess, base, unit, mean, sigmas))
    return pyramid.sample(key, levels, solver, count)


def draw_groups(
    key: jax.Array,
    prior: Prior,
    problem: Problem,
    settings: Settings,
    watch: Watch,
) -> Iterator[np.ndarray]:
    """Samples of a series, in groups of one size.

    Args:
      key: Of all samples.
      prior: A network that refines a linear guess.
      problem: With inputs.
      settings: ``num_samples``, ``num_steps`` of the coarsest grid, solver, rule,
        ``cg_iters``, ``consistency_from`` and the windows are read.
      watch: Told the sample-steps done; keeps finished groups.

    Yields:
      ``[group, z, x, y]`` over the field of view, input units.
    """
    extents, count = problem.field_of_view, settings.num_samples
    steps = steps_for(problem, settings)
    even = problem.grown(steps.factors[0])
    if steps.factors[0] == 1 or even.field_of_view == extents:
        even = problem
    else:
        even = dataclasses.replace(even, inputs=problem.inputs)
    degrees = np.rad2deg(np.asarray(problem.geometry.angles_rad, np.float64))
    known = problem.shown.regression
    if known is not None:
        known = _grown(problem.to_input_units(known), even.field_of_view)
    grids = grids_of(even, settings_for(degrees), steps.factors, known)
    means = tuple(mean_of(prior, grid, window=settings.windows) for grid in grids)
    pull = Pull(settings.the_rule(), settings.cg_iters, settings.consistency_from)
    chain = Chain(steps, settings.the_solver(), settings.windows, pull)
    group = largest_divisor(count, BATCH_VOXELS // int(np.prod(extents)))
    start = [(n - m) // 2 for n, m in zip(even.field_of_view, extents)]
    cut = tuple(slice(s, s + n) for s, n in zip(start, extents))
    for first in range(0, count, group):

        def make(first: int = first):
            drawn = draw(
                jax.random.fold_in(key, first),
                prior,
                grids,
                means,
                count=group,
                chain=chain,
            )
            return {"volumes": np.asarray(drawn)[(slice(None), *cut)]}

        found = watch.part(f"samples_{first}", make)
        done = (first + group) * settings.num_steps
        watch(done, f"sampling {first + group} of {count}")
        yield found["volumes"]
