"""Published posterior samplers, each a few lines of the algebra.

Every method is a function ``(denoise, problem, ...) -> Sampler`` of a denoiser
``(x [b, ...], sigma) -> x0`` and a ``Measurement``; ``algebra.draw`` runs
it.  Defaults follow the papers or their programs where they apply.  What holds for
all:

- everything is written in the variance-exploding scale of data of unit variance, with
  factors translated, not re-tuned; step sizes of gradient methods are relative to
  ``largest_curvature``, so that they do not depend on the operator's units;
- grids start at the largest level of ``schedule`` (20), not at the papers' (up to 150),
  and end at zero after the smallest;
- pseudo-inverses are conjugate-gradient solves, not singular value decompositions.

What each one gets wrong on a posterior known in closed form:
docs/reports/samplers.md.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from temdiff_jax.diffusion import algebra, consistency, schedule, solvers
from temdiff_jax.diffusion.algebra import Sampler
from temdiff_jax.diffusion.methods import flows, guided, slicewise, unguided
from temdiff_jax.errors import check_known
from temdiff_jax.inverse.problem import Measurement

SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "proximal-ddim": unguided.proximal_ddim,
    "mmps": guided.mmps,
    "daps": unguided.daps,
    "pnp-dm": unguided.pnp_dm,
    "pigdm": guided.pigdm,
    "dps": guided.dps,
    "mcg": guided.mcg,
    "ddnm": unguided.ddnm,
    "ddnm+": unguided.ddnm_plus,
    "dds": unguided.dds,
    "diffpir": unguided.diffpir,
    "resample": unguided.resample,
    "sitcom": guided.sitcom,
    "flow-dps": flows.flow_dps,
    "pnp-flow": flows.pnp_flow,
    "fmct": flows.fmct,
    "efmct": flows.efmct,
    "red-diff": unguided.red_diff,
    "dds-3d": slicewise.dds_3d,
    "diffusion-mbir": slicewise.diffusion_mbir,
    "dolce": slicewise.dolce,
}
SOLVERS: dict[str, Callable[..., algebra.Kernel]] = {
    "ancestral": solvers.ancestral,
    "ddim": solvers.ddim,
    "dpm++2m": solvers.dpm_solver_2m,
    "dpm++2m_sde": solvers.dpm_solver_2m_sde,
    "euler": solvers.euler,
    "flow-euler": solvers.flow_euler,
    "flow-heun": solvers.flow_heun,
    "heun": solvers.heun,
}
SCHEDULES: dict[str, Callable[..., jax.Array]] = {
    "flow": schedule.flow_uniform,
    "karras": schedule.karras,
    "log-snr": schedule.log_snr_uniform,
    "ve": schedule.ve_geometric,
    "vp-cosine": schedule.vp_cosine,
    "vp-linear": schedule.vp_linear,
}


# The grids of the samplers by their papers, ``num_steps -> sigmas``.
GRIDS: dict[str, Callable[[int], jax.Array]] = {
    **dict.fromkeys(SAMPLERS, schedule.vp_linear),
    **dict.fromkeys(["flow-dps", "pnp-flow", "fmct", "efmct"], schedule.flow_uniform),
    "proximal-ddim": schedule.karras,
    "daps": functools.partial(schedule.karras, sigma_min=0.1),
    "pnp-dm": unguided.annealed,
    "diffusion-mbir": schedule.ve_geometric,
}


def _gradient(data: Measurement) -> algebra.Constraint:
    """One gradient step of the length of the inverse largest curvature."""
    largest = consistency.largest_curvature(data)
    return consistency.gradient(data, 1.0 / jnp.where(largest > 0, largest, 1.0))


def _none(data: Measurement) -> algebra.Constraint:
    """Leaves every guess as it is."""
    del data
    return algebra.identity()


# Ways to pull a guess to the data, each ``Measurement -> Constraint``.
RULES: dict[str, Callable[[Measurement], algebra.Constraint]] = {
    "gradient": _gradient,
    "none": _none,
    "proximal": functools.partial(consistency.proximal, num_iters=8),
    "replace-range": functools.partial(consistency.replace_range, num_iters=8),
    "sart": consistency.sart,
    "sirt": consistency.sirt,
}


def named(kind: str, value: Any, table: Mapping[str, Any]) -> Any:
    """What is meant by a name of one of the tables; what is no name stays.

    Args:
      kind: What the table holds, for the message.
      value: A name, a function, or None.
      table: One of those above.

    Raises:
      InputError: No such name; the message lists those that exist, and the nearest.
    """
    if not isinstance(value, str):
        return value
    check_known(kind, value, table)
    return table[value]
