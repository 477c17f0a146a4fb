"""Compares every published sampler with a posterior known in closed form.

    python -m launch.studies.sampler_table
    python -m launch.studies.sampler_table --condition=1 --samplers=proximal-ddim,mmps

A Gaussian prior with an exact denoiser stands for a perfect network, so what the table
shows is wrong with the sampler alone.  The first rows replace the rule by the exact
conditional denoiser: they show what the solver and the number of steps cost by
themselves.  Prints Markdown; needs no data and runs for minutes on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
from absl import app, flags

from launch import program
from temdiff_jax.diffusion import algebra, gaussian, methods, schedule, solvers

_DIM = flags.DEFINE_integer("dim", 12, "Unknowns.", 1)
_NUM_DATA = flags.DEFINE_integer("num_data", 6, "Data.", 1)
_NOISE = flags.DEFINE_float("noise_std", 0.1, "Noise of the data; the prior has 1.")
_CONDITION = flags.DEFINE_float("condition", 10.0, "Of the prior; 1 is white.")
_COUNT = flags.DEFINE_integer("count", 4096, "Samples.", 2)
_SEED = flags.DEFINE_integer("seed", 0, "Of problem and samples.")
_SAMPLERS = flags.DEFINE_list("samplers", [], "Rows by name; all if empty.")

EXACT_STEPS = 50


def exact_rows(problem: gaussian.Bench) -> dict[str, gaussian.MakeSampler]:
    """Solvers with the exact conditional denoiser, and exact rules with many steps."""
    guess = algebra.predictor(gaussian.denoiser(gaussian.posterior(problem)))
    grid, fine = schedule.karras(EXACT_STEPS), schedule.karras(8 * EXACT_STEPS)
    kernels = {
        "DDIM, eta 0": solvers.ddim(guess, eta=0.0),
        "DDIM, eta 0.85": solvers.ddim(guess, eta=0.85),
        "ancestral": solvers.ancestral(guess),
        "Heun": solvers.heun(guess),
        "DPM-Solver++ 2M": solvers.dpm_solver_2m(guess),
        "DPM-Solver++ 2M SDE": solvers.dpm_solver_2m(guess, eta=1.0),
    }
    rows: dict[str, gaussian.MakeSampler] = {
        f"exact guess, {name}": lambda denoise, data, kernel=kernel, name=name: (
            algebra.sampler(kernel, grid, calls=2 if name == "Heun" else 1)
        )
        for name, kernel in kernels.items()
    }
    rows["proximal-ddim, 400 steps"] = lambda denoise, data: (
        methods.unguided.proximal_ddim(denoise, data, sigmas=fine, num_iters=16)
    )
    rows["mmps, 400 steps, converged"] = lambda denoise, data: methods.guided.mmps(
        denoise, data, sigmas=fine, num_iters=8
    )
    return rows


def main(argv: Sequence[str]) -> None:
    """Prints the table."""
    jax.config.update("jax_enable_x64", True)
    with program.refusals("sampler_table", argv):
        problem = gaussian.make_problem(
            _DIM.value,
            _NUM_DATA.value,
            noise_std=_NOISE.value,
            condition=_CONDITION.value,
            seed=_SEED.value,
        )
        rows = {
            name: methods.named("--samplers", name, methods.SAMPLERS)
            for name in _SAMPLERS.value or methods.SAMPLERS
        }
    if not _SAMPLERS.value:
        rows = exact_rows(problem) | rows
    print(gaussian.HEADER, flush=True)
    key = jax.random.key(_SEED.value)
    for name, make in rows.items():
        line = gaussian.report(name, make, problem, key, count=_COUNT.value)
        print(line, flush=True)


if __name__ == "__main__":
    app.run(main)
