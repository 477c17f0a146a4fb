"""What a method is, and how a sampler of ``diffusion.methods`` becomes one."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from temdiff_jax import parallel
from temdiff_jax.errors import InputError, check_known
from temdiff_jax.inverse.problem import Measurement, Problem
from temdiff_jax.priors import Prior
from temdiff_jax.reconstruction import sample
from temdiff_jax.reconstruction.settings import Schedule, Settings
from temdiff_jax.reconstruction.watch import Watch


class Estimate(NamedTuple):
    """What a method found.

    Attributes:
      wide: Best guess, wide and normalised, ``[z, x, y]``.
      volume: Its field of view in input units, ``[z, x, y]``.
      samples: ``[s, z, x, y]`` in input units; None where none are drawn.
    """

    wide: jax.Array
    volume: np.ndarray
    samples: np.ndarray | None = None


# The watch is told of the steps that ``Method.steps`` counts.
Run = Callable[[jax.Array, Problem, Prior | None, Settings, Watch], Estimate]


@dataclasses.dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
      name: As written on the command line.
      run: ``(key, problem, prior, settings, watch) -> Estimate``.
      summary: What it is, one line.
      paper: Where it comes from.
      calls: Network calls on whole volumes, given the settings.
      backward: Back-propagations through the network, likewise.
      pairs: Projections with back projections, given settings and degrees; those of
        the quadratic estimate apart, None where nobody counted.
      needs: "" for no network; "prior" for the prior; else the name of weights of its
        own, which are no part of the package.
      takes: Which of rule, solver and schedule, num_steps and num_samples it takes.
      own: Settings of its own; None for one sample on the grid of its sampler.
      conditional, volume: The network it needs: whether it sees the tilts, and
        whether it is asked for the volume; None takes either.
      sampling: How it draws samples, if it is a sampler of ``diffusion.methods``.
      landing: Pairs after the last step of such a sampler whose steps are solves of a
        known number of iterations; None for others.
    """

    name: str
    run: Run
    summary: str
    paper: str
    calls: Callable[[Settings], int]
    pairs: Callable[[Settings, np.ndarray], int | None]
    backward: Callable[[Settings], int] = lambda settings: 0
    needs: str = ""
    takes: tuple[str, ...] = ()
    own: Settings | None = Settings()
    conditional: bool | None = None
    volume: bool | None = None
    sampling: sample.Sampling | None = None
    landing: int | None = None

    @property
    def settings(self) -> Settings:
        """What it is run with unless others are given."""
        if self.own is not None:
            return self.own
        assert self.sampling is not None
        return Settings(num_samples=1, num_steps=_grid_of(self.sampling.make).steps)

    @property
    def numbers(self) -> dict[str, Any]:
        """Arguments of its sampler that are its own, with their values."""
        if self.sampling is None:
            return {}
        known = list(inspect.signature(self.sampling.make).parameters.values())[3:]
        own = {p.name: p.default for p in known if p.default is not p.empty}
        return own | dict(self.sampling.numbers) | dict(self.sampling.counts)

    def with_numbers(self, **numbers: Any) -> Method:
        """The row with other arguments of its sampler, named as ``numbers`` names them.

        Whole numbers and words are compiled in, real numbers are not.

        Raises:
          InputError: No sampler, not one of its arguments, or not of its kind.
        """
        if self.sampling is None:
            raise InputError(
                f"numbers: expected a published sampler, got {self.name}; see "
                "temdiff methods"
            )
        known = self.numbers
        free, fixed = dict(self.sampling.numbers), dict(self.sampling.counts)
        for name, value in numbers.items():
            option = f"numbers of {self.name}"
            check_known(option, name, known)
            value = _like(known[name], value, f"{option}: expected {name}")
            (free if isinstance(value, float) else fixed)[name] = value
        sampling = dataclasses.replace(
            self.sampling, numbers=tuple(free.items()), counts=tuple(fixed.items())
        )
        return dataclasses.replace(self, **_bound(sampling, self.landing))

    def steps(self, settings: Settings) -> int:
        """How many steps ``run`` tells of."""
        draws = "num_samples" in self.takes
        once = 1 if self.name in ("default", "mean") or not draws else 0
        return once + draws * settings.num_samples * settings.num_steps


def _like(default: Any, value: Any, expected: str) -> Any:
    """A number of the kind of the one it replaces; other things as they are."""
    kind = type(default)
    if kind not in (int, float):
        return value
    try:
        number = float(value)
        fits = number >= 1 and number.is_integer() if kind is int else True
        fits = fits and math.isfinite(number)
    except (TypeError, ValueError):
        fits = False
    if not fits:
        wanted = "a whole number of at least 1" if kind is int else "a finite number"
        raise InputError(
            f"{expected} as {wanted}, got {value!r}; {default} is its own value"
        )
    return kind(value if kind is float else number)


@jax.jit
def _to_input_units(problem: Problem, volume: jax.Array) -> jax.Array:
    return problem.to_input_units(volume)


def on_host(problem: Problem, volume: jax.Array) -> np.ndarray:
    """Field of view of wide normalised volumes, in input units."""
    bare = dataclasses.replace(problem, inputs=None)
    return parallel.to_host(_to_input_units(bare, volume))


def collect(
    key: jax.Array,
    problem: Problem,
    prior: Prior,
    sampling: sample.Sampling,
    watch: Watch,
) -> Estimate:
    """The mean of the samples, and all of them, group after group."""
    kept, wide = [], jnp.zeros(problem.geometry.volume_shape)
    for group in sample.groups(problem, sampling):

        def make(group: range = group):
            volumes = sample.draw_group(group, key, prior, problem, sampling, watch)
            total = jnp.sum(volumes, axis=0) / sampling.num_samples
            return {"volumes": on_host(problem, volumes), "share": total}

        name = f"samples_{group.start}"
        found = watch.part(name, make)
        watch.forget(f"{name}_running")
        watch(group.stop * sampling.num_steps, sample.stage(group, sampling))
        wide = wide + found["share"]
        kept.append(found["volumes"])
    samples = np.concatenate(kept)
    return Estimate(wide, samples.mean(axis=0), samples)


def documented(function: Callable[..., Any]) -> tuple[str, str]:
    """Summary and paper of a function, from its docstring."""
    text = inspect.getdoc(function) or ""
    summary = text.partition("\n")[0].replace("``", "").rstrip(".")
    _, found, source = text.partition("Source: ")
    paper = " ".join(source.partition("\n\n")[0].split()).rstrip(".") if found else ""
    return summary, paper


class _Grid(NamedTuple):
    steps: int
    calls: int
    backward: int


@functools.cache
def _grid_of(make: Callable[..., Any]) -> _Grid:
    """Steps of a sampler's own grid, and network calls in each; computes nothing."""
    found: list[tuple[int, int]] = []

    def build():
        data = Measurement(lambda x: x, lambda r: r, jnp.zeros(2), 1.0)
        sampler = make(lambda x, sigma: x, data)
        found.append((sampler.calls, sampler.backward))
        return sampler.sigmas

    return _Grid(jax.eval_shape(build).shape[0] - 1, *found[0])


def sampler_method(
    name: str,
    make: sample.MakeSampler,
    *,
    schedule: Schedule | None = None,
    numbers: dict[str, float] | None = None,
    counts: dict[str, Any] | None = None,
    settings: Settings | None = None,
    **row: Any,
) -> Method:
    """A row for a sampler.

    Args:
      name: Of the row.
      make: As the functions of ``diffusion.methods``.
      schedule: Its noise levels by their number; None for "karras".
      numbers: Arguments of ``make`` that do not recompile.
      counts: Those that do.
      settings: Samples and steps.
      row: Further fields of the row.
    """
    # Its own grid is looked at when it is asked for, not when the table is made.
    sampling = sample.Sampling(
        make,
        schedule or Settings().the_schedule(),
        1,
        1,
        tuple((numbers or {}).items()),
        tuple((counts or {}).items()),
    )
    summary, paper = documented(make)
    fields: dict[str, Any] = {
        "summary": summary,
        "paper": paper,
        "calls": lambda s: s.num_samples * s.num_steps * _grid_of(make).calls,
        "backward": lambda s: s.num_samples * s.num_steps * _grid_of(make).backward,
        "needs": "prior",
        "takes": ("num_samples", "num_steps", "schedule"),
        "own": settings,
        **_bound(sampling, row.get("landing")),
    }
    return Method(name, **(fields | row))


def _bound(sampling: sample.Sampling, landing: int | None) -> dict[str, Any]:
    """Fields of a row that depend on how its sampler is set."""

    def run(key, problem, prior, settings, watch):
        chosen = settings.schedule is not None
        here = dataclasses.replace(
            sampling,
            schedule=settings.the_schedule() if chosen else sampling.schedule,
            num_samples=settings.num_samples,
            num_steps=settings.num_steps,
            numbers=tuple((n, jnp.float32(v)) for n, v in sampling.numbers),
            window=settings.windows,
        )
        return collect(key, problem, prior, here, watch)

    def pairs(settings, angles):
        if landing is None:
            return None
        known = inspect.signature(sampling.make).parameters["num_iters"].default
        solved = dict(sampling.counts).get("num_iters", known) + 1
        return settings.num_samples * (settings.num_steps * solved + landing)

    return {"run": run, "pairs": pairs, "sampling": sampling}
