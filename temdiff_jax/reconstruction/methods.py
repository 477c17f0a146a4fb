"""The one table of methods: what each is, what it costs, what it needs, how it runs.

Every method is a function of a ``Problem``.  `reconstruct`, the commands, the tables of
evaluation and the benchmarks read this list; a new method is one more row.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from temdiff_jax import baselines
from temdiff_jax.baselines import shared
from temdiff_jax.baselines.fbp import fbp_normalised
from temdiff_jax.baselines.sart import TUNED as SART_TUNED
from temdiff_jax.baselines.sart import farthest_first, sart_normalised
from temdiff_jax.baselines.sirt import TUNED as SIRT_TUNED
from temdiff_jax.baselines.sirt import sirt_normalised
from temdiff_jax.baselines.tv import NUM_ITERS as TV_ITERS
from temdiff_jax.baselines.tv import TUNED as TV_TUNED
from temdiff_jax.baselines.tv import tv_normalised
from temdiff_jax.diffusion import methods as published
from temdiff_jax.errors import InputError, check_known
from temdiff_jax.inverse.problem import Measurement, Problem
from temdiff_jax.inverse.tikhonov import settings_for
from temdiff_jax.priors import Prior
from temdiff_jax.reconstruction import estimate, sample
from temdiff_jax.reconstruction.settings import Schedule, Settings

# Called with the steps done, of those that ``Method.steps`` counts, and a message.
Report = Callable[[int, str], None]
MIRRORS = 8
# These are given tilts resampled to the aligned frame; the others leave shifts and
# turns to the projector.
RESAMPLE = ("fbp", "sirt", "sart", "tv")


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


Run = Callable[[jax.Array, Problem, Prior | None, Settings, Report], Estimate]


@dataclasses.dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
      name: As written on the command line.
      run: ``(key, problem, prior, settings, report) -> Estimate``.
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

    def with_numbers(self, **numbers: Any) -> Method:
        """The row with other arguments of its sampler.

        Whole numbers and words are compiled in, real numbers are not.

        Raises:
          InputError: No sampler, or not one of its arguments.
        """
        if self.sampling is None:
            raise InputError(
                f"numbers: expected a published sampler, got {self.name}; see "
                "temdiff methods"
            )
        known = inspect.signature(self.sampling.make).parameters
        free, fixed = dict(self.sampling.numbers), dict(self.sampling.counts)
        for name, value in numbers.items():
            check_known(f"numbers of {self.name}", name, list(known)[3:])
            (free if isinstance(value, float) else fixed)[name] = value
        sampling = dataclasses.replace(
            self.sampling, numbers=tuple(free.items()), counts=tuple(fixed.items())
        )
        return dataclasses.replace(self, **_bound(sampling, self.landing))

    def steps(self, settings: Settings) -> int:
        """How many steps ``run`` reports."""
        draws = "num_samples" in self.takes
        once = 1 if self.name in ("default", "mean") or not draws else 0
        return once + draws * settings.num_samples * settings.num_steps


# ----- classical ----------------------------------------------------------------------


def _degrees(problem: Problem) -> np.ndarray:
    return np.rad2deg(np.asarray(problem.geometry.angles_rad, np.float64))


@functools.partial(jax.jit, static_argnames=("solve", "static"))
def _solve(problem, numbers, *, solve, static):
    aligned, back = problem.straightened()
    return back(solve(aligned, **numbers, **dict(static)))


def _fbp(angles: np.ndarray):
    return fbp_normalised, {}, ()


def _sart(angles: np.ndarray):
    lam, sweeps = shared.tuned_row(SART_TUNED, angles)
    numbers = {"order": farthest_first(angles), "lam": lam, "sweeps": int(sweeps)}
    return sart_normalised, numbers, ()


def _sirt(angles: np.ndarray):
    (iterations,) = shared.tuned_row(SIRT_TUNED, angles)
    return sirt_normalised, {"iterations": int(iterations)}, ()


def _tv(angles: np.ndarray):
    (lam,) = shared.tuned_row(TV_TUNED, angles)
    return tv_normalised, {"lam": float(lam), "iterations": TV_ITERS}, ()


def _classical(choose: Callable[[np.ndarray], tuple]) -> Run:
    def run(key, problem, prior, settings, report):
        del key, prior, settings
        solve, numbers, static = choose(_degrees(problem))
        wide = _solve(problem, numbers, solve=solve, static=static)
        report(1, "done")
        return Estimate(wide, on_host(problem, wide))

    return run


def _tikhonov(key, problem, prior, settings, report) -> Estimate:
    """The quadratic estimate, which every problem with inputs holds already."""
    del key, prior, settings
    wide = problem.shown.tikhonov
    report(1, "done")
    return Estimate(wide, on_host(problem, wide))


# ----- the prior's own ----------------------------------------------------------------


@jax.jit
def _to_input_units(problem: Problem, volume: jax.Array) -> jax.Array:
    return problem.to_input_units(volume)


def on_host(problem: Problem, volume: jax.Array) -> np.ndarray:
    """Field of view of wide normalised volumes, in input units."""
    bare = dataclasses.replace(problem, inputs=None)
    return np.asarray(_to_input_units(bare, volume))


def _mean(key, problem, prior, settings, report) -> Estimate:
    del key
    wide, _ = estimate.mean_estimate(prior, problem, settings)
    found = Estimate(wide, on_host(problem, wide))
    report(1, "done")
    return found


def _collect(
    key: jax.Array,
    problem: Problem,
    prior: Prior,
    sampling: sample.Sampling,
    report: Report,
) -> Estimate:
    """The mean of the samples, and all of them, group after group."""
    kept, wide = [], jnp.zeros(problem.geometry.volume_shape)
    for volumes in sample.draw_groups(key, prior, problem, sampling, report):
        wide = wide + jnp.sum(volumes, axis=0) / sampling.num_samples
        kept.append(on_host(problem, volumes))
    samples = np.concatenate(kept)
    return Estimate(wide, samples.mean(axis=0), samples)


def _posterior(key, problem, prior, settings, report) -> Estimate:
    sampling = sample.residual_sampling(prior, settings)
    return _collect(key, problem, prior, sampling, report)


def _default(key, problem, prior, settings, report) -> Estimate:
    found = _mean(key, problem, prior, settings, lambda n, _: report(n, "sampling"))
    drawn = _posterior(
        key, problem, prior, settings, lambda n, text: report(1 + n, text)
    )
    return found._replace(samples=drawn.samples)


def _mean_pairs(settings: Settings, angles: np.ndarray) -> int:
    return settings.mean_cg_iters + 1


def _sample_pairs(settings: Settings, angles: np.ndarray) -> int:
    return settings.num_samples * settings.num_steps * (settings.cg_iters + 1)


def _mean_calls(settings: Settings) -> int:
    return MIRRORS if settings.mirrors else 1


def _sample_calls(settings: Settings) -> int:
    return settings.num_samples * settings.num_steps


# ----- published samplers -------------------------------------------------------------


def _documented(function: Callable[..., Any]) -> tuple[str, str]:
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
    summary, paper = _documented(make)
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

    def run(key, problem, prior, settings, report):
        chosen = settings.schedule is not None
        here = dataclasses.replace(
            sampling,
            schedule=settings.the_schedule() if chosen else sampling.schedule,
            num_samples=settings.num_samples,
            num_steps=settings.num_steps,
            numbers=tuple((n, jnp.float32(v)) for n, v in sampling.numbers),
            window=settings.windows,
        )
        return _collect(key, problem, prior, here, report)

    def pairs(settings, angles):
        if landing is None:
            return None
        known = inspect.signature(sampling.make).parameters["num_iters"].default
        solved = dict(sampling.counts).get("num_iters", known) + 1
        return settings.num_samples * (settings.num_steps * solved + landing)

    return {"run": run, "pairs": pairs, "sampling": sampling}


def _published_rows() -> list[Method]:
    """Samplers of ``diffusion.methods``, and some of them under other numbers."""
    grids = published.GRIDS
    volumes: dict[str, Any] = {"volume": True}
    dolce = volumes | {"needs": "dolce", "conditional": True}
    dolce |= {"schedule": grids["dolce"]}
    mbir = volumes | {"needs": "diffusion_mbir", "conditional": False}
    own = {
        "dolce": dolce | {"settings": Settings(num_samples=8, num_steps=40)},
        "diffusion-mbir": mbir | {"schedule": grids["diffusion-mbir"], "landing": 2},
        "dds-3d": mbir | {"landing": 0},
        "dds": {"schedule": grids["dds"], "landing": 0},
    }
    rows = [
        sampler_method(name, make, **({"schedule": grids[name]} | own.get(name, {})))
        for name, make in published.SAMPLERS.items()
    ]
    samplers = published.SAMPLERS
    # Shorter runs.  Fewer steps make fewer updates of the data, so each is stronger.
    # Numbers that differ from the program's are the best of scans, see
    # docs/reports/learned_baselines.md.
    rows += [
        sampler_method(
            "dolce-fast",
            samplers["dolce"],
            **dolce | {"settings": Settings(num_samples=4, num_steps=20)},
        ),
        sampler_method(
            "diffusion-mbir-fast",
            samplers["diffusion-mbir"],
            numbers={"coupling": 0.006, "threshold": 0.3},
            counts={"num_iters": 3},
            settings=Settings(num_samples=1, num_steps=100),
            **own["diffusion-mbir"],
        ),
        sampler_method(
            "dds-tuned",
            samplers["dds"],
            numbers={"eta": 0.0},
            counts={"num_iters": 1},
            **own["dds"],
        ),
    ]
    return rows


# ----- the table ----------------------------------------------------------------------


def _table() -> dict[str, Method]:
    def no_calls(settings):
        return 0

    def classical(name, run, pairs):
        summary, paper = _documented(getattr(baselines, name))
        return Method(name, run, summary, paper, no_calls, lambda s, a: pairs(a))

    solver = ("rule", "solver", "schedule", "num_steps", "num_samples")
    one_call = "One call of the network and one pull to the tilts"
    rows = [
        Method(
            "default",
            _default,
            f"{one_call}; the spread from posterior samples",
            "this library",
            lambda s: _mean_calls(s) + _sample_calls(s),
            lambda s, a: _mean_pairs(s, a) + _sample_pairs(s, a),
            needs="prior",
            takes=solver,
            conditional=True,
            volume=False,
        ),
        Method(
            "mean",
            _mean,
            one_call,
            "this library",
            _mean_calls,
            _mean_pairs,
            needs="prior",
            takes=("rule",),
            conditional=True,
            volume=False,
        ),
        Method(
            "posterior",
            _posterior,
            "Mean of posterior samples",
            "this library",
            _sample_calls,
            _sample_pairs,
            needs="prior",
            takes=solver,
            conditional=True,
            volume=False,
        ),
        Method(
            "regression",
            _mean,
            f"{one_call} that was trained for nothing else",
            "this library",
            _mean_calls,
            _mean_pairs,
            needs="regression",
            takes=("rule",),
            conditional=True,
            volume=False,
        ),
        classical("fbp", _classical(_fbp), lambda a: 1),
        classical(
            "sirt",
            _classical(_sirt),
            lambda a: int(shared.tuned_row(SIRT_TUNED, a)[0]),
        ),
        classical(
            "sart",
            _classical(_sart),
            lambda a: int(shared.tuned_row(SART_TUNED, a)[1]),
        ),
        classical("tv", _classical(_tv), lambda a: TV_ITERS),
        classical("tikhonov", _tikhonov, lambda a: settings_for(a).num_iters + 1),
        *_published_rows(),
    ]
    return {row.name: row for row in rows}


@functools.cache
def table() -> dict[str, Method]:
    """All methods by name."""
    return _table()


def method_of(value: str | Method | sample.MakeSampler) -> Method:
    """The method that is meant: a name, a row, or a sampler's function.

    Raises:
      InputError: No such name; the message lists those that exist, and the nearest.
    """
    if isinstance(value, Method):
        return value
    if callable(value):
        return sampler_method(getattr(value, "__name__", "sampler"), value)
    name = value.replace("_", "-") if isinstance(value, str) else value
    check_known("method", name, table())
    return table()[name]


def check_network(method: Method, prior: Prior) -> None:
    """Refuses weights that were trained for something else.

    Raises:
      InputError: Conditional where it must not be, or asked for another thing.
    """
    config = prior.network.config
    volume = config.target == "volume"
    fits = method.conditional in (None, config.conditional)
    if fits and method.volume in (None, volume):
        return
    wanted = "a conditional" if method.conditional else "an unconditional"
    target = "volumes" if method.volume else "the residual"
    got = "a conditional" if config.conditional else "an unconditional"
    raise InputError(
        f"prior: expected {wanted} network of {target} for {method.name}, got {got} "
        f"one of the {config.target} in {prior.card.get('name')!r}; see "
        "docs/reports/learned_baselines.md"
    )
