"""The estimate of a regression network, around which another one samples.

As CorrDiff (Mardani et al., arXiv 2309.15214): a regression gives the mean, and the
diffusion draws what it leaves.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from temdiff_jax.diffusion import parameterisation
from temdiff_jax.inverse.problem import Problem
from temdiff_jax.model import Condition
from temdiff_jax.priors.load import Prior


def regress(prior: Prior, problem: Problem) -> jax.Array:
    """One call of a network of the residual, the whole field of view at once.

    Args:
      prior: Conditional, of the residual, around the quadratic estimate.
      problem: With inputs.

    Returns:
      Conditional mean over the field of view ``[z, x, y]``, input units.
    """
    shown, geometry, network = problem.shown, problem.geometry, prior.network
    estimate = geometry.crop(shown.tikhonov)
    extents = estimate.shape
    pad = [(0, -n % network.config.multiple) for n in extents]
    fields = [
        jnp.pad(jnp.broadcast_to(field, extents), pad, mode="symmetric")[None]
        for field in (estimate / shown.level, geometry.crop(shown.coverage))
    ]
    here = Condition(fields[0], fields[1], shown.features[None], jnp.ones(1))

    def answer(x: jax.Array, level: jax.Array) -> jax.Array:
        return network.apply(prior.params, x, level, here)

    zeros, sigma = jnp.zeros_like(fields[0]), jnp.full((1,), prior.sigma_mean)
    added = parameterisation.denoise(answer, zeros, sigma)[0]
    added = added[tuple(slice(n) for n in extents)]
    unit = shown.level * prior.residual_scale(shown.features)
    return (estimate + unit * added) * problem.units.contrast + problem.units.mean
