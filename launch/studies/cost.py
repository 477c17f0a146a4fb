"""Where the time of a reconstruction goes: network, projector, solves, transfers.

    python -m launch.studies.cost --sizes=64x64x64 --sizes=128x128x128 --out=cost.md

Extents are x, y, z.  Every program is compiled apart and run three times, of which the
least counts; a second start with a compile cache pays the column "from the cache".
Seconds are those of all cores together (the time of the process on its processors), so
that a machine that others use as well gives the same numbers; on an accelerator, whose
work they do not contain, they are those of the clock.

    python -m launch.studies.cost --quadratic=256x256x64

compares starts of the quadratic estimate: conjugate gradients from zero, and from the
solution on a grid of twice the voxel size, by the residual after so many pairs.
"""

from __future__ import annotations

import dataclasses
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from launch import program
from temdiff_jax.errors import InputError
from temdiff_jax.inverse import cg
from temdiff_jax.inverse.problem import Problem
from temdiff_jax.inverse.quadratic import Metric, apply_metric, proximal_update
from temdiff_jax.inverse.tikhonov import settings_for
from temdiff_jax.io import write
from temdiff_jax.priors import load_prior
from temdiff_jax.projector import backproject, project
from temdiff_jax.reconstruction import api
from temdiff_jax.reconstruction.denoiser import denoiser
from temdiff_jax.reconstruction.method import on_host
from temdiff_jax.reconstruction.settings import Settings
from temdiff_jax.series.preparation import SeriesOptions

NUM_TILTS, HALF_RANGE_DEG, REPEATS = 21, 20.0, 3
SAMPLES, STEPS = 8, 8
LEVELS = 25  # conjugate-gradient steps on the coarse grid


class Cost(NamedTuple):
    """Of a stage: seconds of a call, calls of a default run, seconds to compile."""

    name: str
    seconds: float
    calls: int
    compile: float
    cached: float


def clock() -> float:
    """Seconds of the process, on a CPU those of all its cores."""
    on_cpu = jax.default_backend() == "cpu"
    return time.process_time() if on_cpu else time.monotonic()


def extents_of(text: str) -> tuple[int, int, int]:
    """Extents ``(x, y, z)`` of a text such as 64x64x32.

    Raises:
      InputError: It is none.
    """
    parts = text.split("x")
    if len(parts) != 3 or not all(p.isdigit() and int(p) >= 8 for p in parts):
        raise InputError(
            f"size: expected X x Y x Z of 8 voxels and more, got {text!r}; write for "
            "example 64x64x64"
        )
    return int(parts[0]), int(parts[1]), int(parts[2])


def angles() -> np.ndarray:
    """Of all series here, degrees."""
    return np.linspace(-HALF_RANGE_DEG, HALF_RANGE_DEG, NUM_TILTS)


def series(extents: tuple[int, int, int]) -> Problem:
    """A problem of smooth random tilts with noise."""
    width, height, depth = extents
    rng = np.random.default_rng(0)
    coarse = rng.normal(size=(NUM_TILTS, height // 4 + 1, width // 4 + 1))
    smooth = coarse.repeat(4, axis=1).repeat(4, axis=2)[:, :height, :width]
    tilts = smooth + 0.1 * rng.normal(size=smooth.shape)
    options = SeriesOptions(thickness=depth, contrast="bright", weighting="off")
    return api.make_problem(tilts.astype(np.float32), angles(), options)


def measure(
    name: str, function: Callable[..., Any], calls: int, *arguments: Any
) -> Cost:
    """Compiles a function twice, the second time from the cache, and times it."""
    compiling = []
    for _ in range(2):
        jax.clear_caches()
        began = clock()
        compiled = jax.jit(function).lower(*arguments).compile()
        compiling.append(clock() - began)
    seconds = []
    for _ in range(REPEATS):
        began = clock()
        jax.block_until_ready(compiled(*arguments))
        seconds.append(clock() - began)
    return Cost(name, min(seconds), calls, *compiling)


def profile(extents: tuple[int, int, int]) -> list[Cost]:
    """Costs of the stages of the default method on a volume."""
    prior, settings = load_prior("default"), Settings()
    problem = series(extents)
    drawn = SAMPLES * STEPS
    x = jnp.zeros((1, *problem.field_of_view))
    wide = problem.shown.tikhonov
    numbers = settings_for(angles())
    metric = Metric(jnp.float32(numbers.smoothness), jnp.float32(numbers.ridge))

    def network(prior, problem, x):
        return denoiser(prior, problem, settings.windows)(x, jnp.float32(1.0))

    def pair(volume, problem):
        return backproject(project(volume, problem.geometry), problem.geometry)

    def solve(count):
        def run(volume, problem, metric):
            return proximal_update(
                volume,
                problem.tilts,
                problem.geometry,
                problem.precision,
                metric,
                num_iters=count,
            )[0]

        return run

    pairs = numbers.num_iters + settings.mean_cg_iters + 2
    pairs += drawn * (settings.cg_iters + 1)
    here = dataclasses.replace(problem, inputs=None)
    few, more = (
        measure("solve", solve(count), 1, wide, here, metric) for count in (2, 6)
    )
    both = measure("projector, a pair", pair, pairs, wide, here)
    # What a step of a solve costs beside its pair.
    rest = max((more.seconds - few.seconds) / 4 - both.seconds, 0.0)
    began = clock()
    jax.block_until_ready(jax.device_put(on_host(problem, wide)))
    moved = clock() - began
    return [
        measure("network, a call", network, 1 + drawn, prior, problem, x),
        both,
        Cost("rest of a CG step", rest, pairs, more.compile, more.cached),
        Cost("transfer of a volume", moved, 2 * SAMPLES + 4, 0.0, 0.0),
    ]


def rows(sizes: Sequence[str]) -> Iterator[str]:
    """Lines of a table in Markdown."""
    yield (
        "| x, y, z | stage | seconds | calls | share of the run | ns a voxel and call "
        "| compiled in, s | from the cache, s | peak memory so far, GB |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for text in sizes:
        extents = extents_of(text)
        costs = profile(extents)
        whole = sum(cost.seconds * cost.calls for cost in costs)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        for cost in costs:
            share = cost.seconds * cost.calls / whole
            nano = 1e9 * cost.seconds / np.prod(extents)
            yield (
                f"| {text} | {cost.name} | {cost.seconds:.3g} | {cost.calls} | "
                f"{share:.0%} | {nano:.3g} | {cost.compile:.1f} | {cost.cached:.1f} | "
                f"{peak:.1f} |"
            )


def quadratic(extents: tuple[int, int, int]) -> Iterator[str]:
    """Relative residual of the quadratic estimate by the start and the steps."""
    problem = series(extents)
    numbers = settings_for(angles())
    metric = Metric(jnp.float32(numbers.smoothness), jnp.float32(numbers.ridge))
    problem = dataclasses.replace(problem, inputs=None)

    def from_start(problem, start, metric, count):
        """Residuals of ``(A^T W A + M) x = A^T W y`` over the size of the right side.

        In ``x = start + step`` the metric pulls the whole to zero, not the step alone.
        """
        geometry, precision = problem.geometry, problem.precision

        def operator(x):
            data = backproject(precision * project(x, geometry), geometry)
            return data + apply_metric(x, metric)

        rhs = backproject(precision * problem.tilts, geometry)
        x, info = cg.conjugate_gradient(operator, rhs, start, num_iters=count)
        return x, info.relative_residual

    solve = jax.jit(from_start, static_argnames="count")
    zero = jnp.zeros(problem.geometry.volume_shape)
    _, plain = solve(problem, zero, metric, numbers.num_iters)
    binned = problem.binned(2)
    # Of the same function on voxels twice as large: 8 in 1, and slopes half as steep.
    own = Metric(2.0 * metric.smoothness, 8.0 * metric.ridge)
    small, _ = solve(binned, jnp.zeros(binned.geometry.volume_shape), own, LEVELS)
    fine = jax.image.resize(small, [2 * n for n in small.shape], "linear")
    beside = [(n - m) // 2 for n, m in zip(fine.shape, zero.shape)]
    start = jax.lax.dynamic_slice(fine, beside, zero.shape)
    _, warm = solve(problem, start, metric, numbers.num_iters)
    yield "| steps | from zero | from the coarse grid |"
    yield "|---|---|---|"
    for count in (0, 1, 2, 5, 10, 20, 30, numbers.num_iters):
        yield f"| {count} | {float(plain[count]):.2e} | {float(warm[count]):.2e} |"
    yield ""
    yield (
        f"The coarse grid costs {LEVELS} steps of an eighth of the voxels and half of "
        f"the rows and columns of the tilts: about {LEVELS / 8:.1f} fine ones."
    )


def main(argv: Sequence[str]) -> None:
    """Writes a table, or prints it."""
    given = flags.FLAGS
    with (
        program.refusals("cost", argv),
        tempfile.TemporaryDirectory() as folder,
    ):
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        if given.quadratic:
            lines = list(quadratic(extents_of(given.quadratic)))
        else:
            lines = list(rows(given.sizes))
        text = "".join(f"{line}\n" for line in lines)
        if given.out:
            write.write_text(given.out, text, overwrite=True)
        print(text, end="")


if __name__ == "__main__":
    flags.DEFINE_multi_string("sizes", ["64x64x64"], "Extents x, y, z.")
    flags.DEFINE_string("quadratic", None, "Extents of the comparison of starts.")
    flags.DEFINE_string("out", None, "Where the table is written; default nowhere.")
    app.run(main)
