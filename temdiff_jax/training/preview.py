"""Slices of held-out reconstructions, to be looked at while a run goes on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding

from temdiff_jax import parallel
from temdiff_jax.model import Network
from temdiff_jax.series.inputs import ResidualScale
from temdiff_jax.simulator import ALIGNED
from temdiff_jax.training import step as steps
from temdiff_jax.training.config import DataConfig, Scenario
from temdiff_jax.training.data import Batch


class Preview(NamedTuple):
    """One block of a scenario, cut at its middle y: slices ``[z, x]``, one unit.

    Attributes:
      name: The scenario in words.
      truth: What was simulated.
      condition: The quadratic estimate.
      estimate: What the network makes of it, see ``step.best_guess``.
    """

    name: str
    truth: np.ndarray
    condition: np.ndarray
    estimate: np.ndarray


def middle_slice(
    params: dict, batch: Batch, scale: ResidualScale, *, network: Network
) -> jax.Array:
    """The estimate of the first crop at its middle y, ``[z, x]``, as the truth."""
    guess, _, _ = steps.best_guess(params, batch, scale, network=network)
    spread = scale(batch.features)[0]
    middle = batch.truth.shape[-1] // 2
    if network.config.target == "volume":
        return guess[0, :, :, middle] * (1.0 + spread**2) ** 0.5
    return batch.estimate[0, :, :, middle] + guess[0, :, :, middle] * spread


def make_previewer(
    network: Network, put: Callable[[Batch], Batch], data: DataConfig
) -> Callable[[dict, Sequence[Batch], ResidualScale], list[Preview]]:
    """A function ``(params, batches, scale) -> previews``, one of each scenario.

    The batches are NumPy arrays, the scenarios interleaved; the first of each is
    shown.  All processes of a run call it, and each has the result.

    Args:
      network: Of the run.
      put: Brings a batch of NumPy arrays to the devices, ``Placement.put_central``.
      data: Names the scenarios.
    """

    @functools.cache
    def compiled(mesh):
        return _compile(network, mesh)

    def preview(params, batches, scale):
        here = jax.tree.leaves(params)[0].sharding
        estimate = compiled(here.mesh if isinstance(here, NamedSharding) else None)
        found = []
        for batch, scenario in zip(batches, data.scenarios):
            middle = batch.truth.shape[-1] // 2
            fields = (batch.truth, batch.estimate)
            slices = [np.asarray(field[0, :, :, middle]) for field in fields]
            guess = np.asarray(estimate(params, put(batch), scale))
            found.append(Preview(describe(scenario), *slices, guess))
        return found

    return preview


def _compile(network: Network, mesh: jax.sharding.Mesh | None) -> Callable:
    """On a mesh parameters are gathered, see ``placement``, and so is the result."""
    if mesh is None:
        return jax.jit(functools.partial(middle_slice, network=network))

    def gathered(params, batch, scale):
        whole = parallel.repeated_like(params, mesh)
        params = jax.lax.with_sharding_constraint(params, whole)
        return middle_slice(params, batch, scale, network=network)

    return jax.jit(gathered, out_shardings=parallel.repeated(mesh, 2))


def describe(scenario: Scenario) -> str:
    """A scenario in words."""
    low, high = scenario.half_range_deg
    text = (
        f"half-range {low:g}-{high:g} deg, {scenario.num_tilts} tilts, "
        f"{scenario.thickness} voxels thick"
    )
    return text if scenario.errors == ALIGNED else f"{text}, misaligned"
