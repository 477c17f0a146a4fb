"""Samples of the volume given the tilts: any sampler bound to a prior and a problem.

The jitted programs here take parameters and data as arguments, so that a second
series of the same extents compiles nothing.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from temdiff_jax import parallel
from temdiff_jax.diffusion import algebra, chunked, consistency, solvers
from temdiff_jax.inverse.problem import Measurement, Problem
from temdiff_jax.inverse.quadratic import Metric
from temdiff_jax.priors import Prior
from temdiff_jax.reconstruction.denoiser import denoiser, frame_of
from temdiff_jax.reconstruction.settings import Rule, Schedule, Settings, Solver
from temdiff_jax.reconstruction.watch import Watch

# Voxels of all samples advanced together; bounds the memory of the network.
BATCH_VOXELS = 2_500_000
# Steps of one compiled chunk, at most: the time between two reports.
CHUNK_STEPS = 5

MakeSampler = Callable[..., algebra.Sampler]


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How samples are drawn.

    Attributes:
      make: ``(denoise, measurement, *, sigmas, **numbers, **counts) -> Sampler``, as
        the functions of ``diffusion.methods``.
      schedule: ``num_steps -> sigmas``.
      num_samples, num_steps: Samples, and noise levels of each.
      numbers: Arguments of ``make`` that do not recompile, pytrees by name.
      counts: Arguments that do, such as the number of solver steps.
      window: Largest extents given to the network at once, voxels.
      together: Whether several samples advance at once where memory allows it.
    """

    make: MakeSampler
    schedule: Schedule
    num_samples: int
    num_steps: int
    numbers: tuple[tuple[str, Any], ...] = ()
    counts: tuple[tuple[str, Any], ...] = ()
    window: tuple[int, int, int] = (128, 128, 128)
    together: bool = False


class Numbers(NamedTuple):
    """Of ``residual_sampler``; see ``Settings`` and ``Prior.metric_sample``."""

    metric: Metric
    eta: jax.Array
    prior_precision: jax.Array
    consistency_from: jax.Array
    outside: jax.Array


def residual_sampler(
    denoise: Callable[[jax.Array, jax.Array], jax.Array],
    data: Measurement,
    *,
    sigmas: jax.Array,
    numbers: Numbers,
    solver: Solver,
    rule: Rule | None,
    num_iters: int,
) -> algebra.Sampler:
    """The default sampler: denoiser, a rule in every step, a solver.

    Without a rule that is the proximal update in the metric of the guess (P4).
    """
    if rule is None:
        metric = Metric(
            numbers.metric.smoothness * numbers.prior_precision,
            numbers.metric.ridge * numbers.prior_precision,
        )
        pull = consistency.proximal_consistency(
            data, metric, num_iters=num_iters, outside=numbers.outside
        )
    else:
        pull = rule(data)
    pull = algebra.within(pull, high=numbers.consistency_from)
    guess = algebra.constrain(algebra.predictor(denoise), pull)
    if solver is solvers.ddim:
        kernel = solvers.ddim(guess, eta=numbers.eta)
    else:
        kernel = solver(guess)

    return algebra.sampler(kernel, sigmas)


def residual_sampling(prior: Prior, settings: Settings) -> Sampling:
    """The default sampler under some settings."""
    numbers = Numbers(
        prior.metric_sample,
        # Arrays, not Python numbers: another value compiles nothing.
        *(
            jnp.float32(getattr(settings, name))
            for name in ("eta", "prior_precision", "consistency_from", "outside")
        ),
    )
    return Sampling(
        residual_sampler,
        settings.the_schedule(),
        settings.num_samples,
        settings.num_steps,
        (("numbers", numbers),),
        (
            ("solver", settings.the_solver()),
            ("rule", settings.the_rule()),
            ("num_iters", settings.cg_iters),
        ),
        settings.windows,
        together=True,
    )


def sample(
    key: jax.Array, prior: Prior, problem: Problem, sampling: Sampling
) -> jax.Array:
    """All samples: wide normalised volumes ``[s, z, x, y]``."""
    return jnp.concatenate(
        [
            draw_group(group, key, prior, problem, sampling, Watch())
            for group in groups(problem, sampling)
        ]
    )


def groups(problem: Problem, sampling: Sampling) -> list[range]:
    """Samples that advance together, groups of equal size: one program serves all.

    On a mesh as many more as there are devices to share them out to.
    """
    mesh, voxels = problem.geometry.mesh, int(np.prod(problem.field_of_view))
    shares, slabs = (1, 1) if mesh is None else mesh.devices.shape
    count, most = sampling.num_samples, BATCH_VOXELS * slabs // voxels
    each = largest_divisor(count // shares, most) if sampling.together else 1
    size = shares * each
    return [range(first, first + size) for first in range(0, count, size)]


def stage(group: range, sampling: Sampling) -> str:
    """What a user is told while a group is drawn."""
    return f"sampling {group.stop} of {sampling.num_samples}"


def draw_group(
    group: range,
    key: jax.Array,
    prior: Prior,
    problem: Problem,
    sampling: Sampling,
    watch: Watch,
) -> jax.Array:
    """The samples of one group: wide normalised volumes ``[group, z, x, y]``.

    Args:
      group: Of ``groups``.
      key: Of all samples.
      prior, problem: What is sampled.
      sampling: How.
      watch: Told of the sample-steps done; keeps the state after every chunk.
    """
    steps = sampling.num_steps
    bound = _Bound(
        prior,
        problem,
        sampling.schedule(steps),
        dict(sampling.numbers),
        jnp.int32(group.start),
    )
    program = _Program(sampling.make, sampling.counts, sampling.window)
    begin, go_on = jax.random.split(key)
    start, sigmas = _begin(begin, bound, group=len(group), program=program)

    def tell(done: int, total: int, info: algebra.Info) -> None:
        watch(group.start * steps + done * len(group), stage(group, sampling))

    state, _ = chunked.run_chunked(
        jax.tree_util.Partial(program, bound),
        go_on,
        start,
        sigmas,
        chunk=largest_divisor(steps, CHUNK_STEPS),
        on_progress=tell,
        # Several processes keep whole groups only: none has the others' states.
        path=None
        if jax.process_count() > 1
        else watch.file(f"samples_{group.start}_running"),
    )
    return _to_volumes(state.x, bound)


def largest_divisor(number: int, most: int) -> int:
    """Largest divisor of a positive number that is at most ``most``, at least 1."""
    sizes = range(1, max(1, min(number, most)) + 1)
    return max(size for size in sizes if number % size == 0)


class _Bound(NamedTuple):
    """What a compiled program is given."""

    prior: Prior
    problem: Problem
    sigmas: jax.Array
    numbers: dict[str, Any]
    first: jax.Array


@dataclasses.dataclass(frozen=True)
class _Program:
    """What it is compiled for, see ``Sampling``; called, it gives the kernel."""

    make: MakeSampler
    counts: tuple[tuple[str, Any], ...]
    window: tuple[int, int, int]

    def bind(self, bound: _Bound) -> algebra.Sampler:
        """The sampler of a series."""
        prior, problem, sigmas, numbers, _ = bound
        guess = denoiser(prior, problem, self.window)
        data = problem.measurement(frame_of(problem, prior))
        options = {**numbers, **dict(self.counts)}
        return self.make(guess, data, sigmas=sigmas, **options)

    def __call__(self, bound: _Bound) -> algebra.Kernel:
        """The kernel of ``bind``, every sample by itself."""
        return algebra.each(self.bind(bound).kernel, bound.first)


@functools.partial(jax.jit, static_argnames=("group", "program"))
def _begin(key, bound, *, group, program):
    sampler = program.bind(bound)
    shape = (1, *bound.problem.field_of_view)
    numbers = bound.first + jnp.arange(group)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
    start = jax.vmap(lambda own: sampler.start(own, shape)[0])(keys)
    return parallel.keep_layout(start, bound.problem.geometry.mesh), sampler.sigmas


@jax.jit
def _to_volumes(variables: jax.Array, bound: _Bound) -> jax.Array:
    frame = frame_of(bound.problem, bound.prior)
    volumes = jax.vmap(lambda v: bound.problem.to_volume(v, frame))(variables[:, 0])
    return parallel.keep_layout(volumes, bound.problem.geometry.mesh)
