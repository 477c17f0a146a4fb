"""One series on several grids: what a network is shown on each."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from temdiff_jax.inverse.precision import Precision, low_rank
from temdiff_jax.inverse.problem import Problem
from temdiff_jax.inverse.tikhonov import TikhonovSettings
from temdiff_jax.projector import ray_lengths
from temdiff_jax.series import inputs, noise


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


def binned(volume: jax.Array, factor: int) -> jax.Array:
    """Means of cubes of ``factor`` voxels, ``[z, x, y]`` of extents it divides."""
    nz, nx, ny = (n // factor for n in volume.shape)
    blocks = volume.reshape(nz, factor, nx, factor, ny, factor)
    return jnp.mean(blocks, axis=(1, 3, 5))


def with_regression(problem: Problem, volume: jax.Array) -> Problem:
    """A problem with inputs, which a regression's estimate is added to.

    Args:
      problem: With inputs.
      volume: Over the field of view ``[z, x, y]``, input units.
    """
    geometry, units, shown = problem.geometry, problem.units, problem.shown
    inside = (volume - units.mean) / units.contrast - geometry.crop(shown.tikhonov)
    wide = shown.tikhonov + geometry.pad_lateral(inside)
    return dataclasses.replace(problem, inputs=shown._replace(regression=wide))


@functools.partial(jax.jit, static_argnames=("factors", "num_iters"))
def _grids(problem, regression, smoothness, ridge, *, factors, num_iters):
    settings = TikhonovSettings(smoothness, ridge, num_iters)
    grids = tuple(
        inputs.with_inputs(renormalised(problem.binned(factor)), settings)
        for factor in factors
    )
    if regression is not None:
        grids = tuple(
            with_regression(grid, binned(regression, factor))
            for grid, factor in zip(grids, factors)
        )
    if problem.inputs is None or factors[-1] != 1:
        return grids
    # Priors are trained with the scalars of plain weights, see ``inputs.reweigh``.
    change = problem.shown.features - grids[-1].shown.features
    return tuple(
        dataclasses.replace(
            grid, inputs=grid.shown._replace(features=grid.shown.features + change)
        )
        for grid in grids
    )


def grids_of(
    problem: Problem,
    settings: TikhonovSettings,
    factors: tuple[int, ...],
    regression: jax.Array | None = None,
) -> tuple[Problem, ...]:
    """The problem on each grid, with the inputs of a network.

    Args:
      problem: Whose field of view and thickness the largest factor divides; with
        inputs, the scalars that it shows hold for the finest grid, factor 1.
      settings: Of the quadratic estimates.
      factors: Binnings.
      regression: Estimate of a regression network over the field of view ``[z, x, y]``,
        input units; None for none.
    """
    numbers = (jnp.float32(settings.smoothness), jnp.float32(settings.ridge))
    return _grids(
        problem, regression, *numbers, factors=factors, num_iters=settings.num_iters
    )
