"""A new consistency rule, and how far its samples are from the exact posterior.

    python examples/new_sampler.py

The rule below trusts the data more as the noise falls: P2 whose strength grows.  Put
your own in its place; the row that is printed belongs to the table of docs/samplers.md.
"""

from __future__ import annotations

import sys

import jax

from temdiff_jax.diffusion import algebra, consistency, gaussian, schedule, solvers


def my_sampler(denoise, data, *, num_steps=50):
    """Denoiser and data in, sampler out: rule, guess, solver, grid."""

    def precision(sigma):  # of the guess: 1 / r^2, and a little less at the end
        return (1.0 + 1.0 / sigma**2) / (1.0 + 0.2 / (1.0 + sigma))

    rule = consistency.proximal(data, precision, num_iters=12)
    guess = algebra.constrain(algebra.predictor(denoise), algebra.every(rule, 1))
    kernel = solvers.dpm_solver_2m(guess, eta=1.0)
    return algebra.sampler(kernel, schedule.karras(num_steps))


def main(count: int = 2048) -> str:
    """The row of the new sampler in the table of samplers."""
    with jax.enable_x64(True):
        problem = gaussian.make_problem()
        row = gaussian.report(
            "mine", my_sampler, problem, jax.random.key(0), count=count
        )
    print(gaussian.HEADER, row, sep="\n")
    return row


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
