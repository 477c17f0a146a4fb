"""Published posterior samplers, each a few lines of the algebra.

Every method is a function ``(denoise, problem, ...) -> Sampler`` of a denoiser
``(x [b, ...], sigma) -> x0`` and a ``consistency.Measurement``; ``algebra.draw`` runs
it.  Defaults follow the papers or their programs where they apply.  What holds for
all:

- everything is written in the variance-exploding scale of data of unit variance, with
  factors translated, not re-tuned; step sizes of gradient methods are relative to
  ``largest_curvature``, so that they do not depend on the operator's units;
- grids start at the largest level of ``schedule`` (20), not at the papers' (up to 150),
  and end at zero after the smallest;
- pseudo-inverses are conjugate-gradient solves, not singular value decompositions.

What each one gets wrong on a posterior known in closed form is in docs/samplers.md.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from temdiff_jax.diffusion import algebra, schedule, solvers
from temdiff_jax.diffusion.algebra import Sampler
from temdiff_jax.diffusion.methods import flows, guided, slicewise, unguided
from temdiff_jax.errors import InputError

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
    "dpm-solver-2m": solvers.dpm_solver_2m,
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


def lookup(table: Mapping[str, Any], name: str) -> Any:
    """Entry of one of the tables above.

    Raises:
      InputError: No such name; the message lists those that exist.
    """
    if name not in table:
        raise InputError(
            f"name: expected one of {', '.join(sorted(table))}, got {name!r}; write "
            f"one of them, or pass the function itself"
        )
    return table[name]
