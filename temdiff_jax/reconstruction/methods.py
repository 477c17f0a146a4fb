"""The one table of methods: what each is, what it costs, what it needs, how it runs.

Every method is a function of a ``Problem``.  `reconstruct`, the commands, the tables of
evaluation and the benchmarks read this list; a new method is one more row.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

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
from temdiff_jax.errors import InputError, check_known
from temdiff_jax.inverse.problem import Problem
from temdiff_jax.inverse.tikhonov import settings_for
from temdiff_jax.priors import Prior
from temdiff_jax.reconstruction import estimate, sample
from temdiff_jax.reconstruction.method import (
    Estimate,
    Method,
    Run,
    collect,
    documented,
    on_host,
    sampler_method,
)
from temdiff_jax.reconstruction.published import published_rows
from temdiff_jax.reconstruction.settings import Settings

MIRRORS = 8
# These are given tilts resampled to the aligned frame; the others leave shifts and
# turns to the projector.
RESAMPLE = ("fbp", "sirt", "sart", "tv")

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
    def run(key, problem, prior, settings, watch):
        del key, prior, settings
        solve, numbers, static = choose(_degrees(problem))
        wide = _solve(problem, numbers, solve=solve, static=static)
        watch(1, "done")
        return Estimate(wide, on_host(problem, wide))

    return run


def _tikhonov(key, problem, prior, settings, watch) -> Estimate:
    """The quadratic estimate, which every problem with inputs holds already."""
    del key, prior, settings
    wide = problem.shown.tikhonov
    watch(1, "done")
    return Estimate(wide, on_host(problem, wide))


# ----- the prior's own ----------------------------------------------------------------


def _mean(key, problem, prior, settings, watch) -> Estimate:
    del key

    def make():
        wide, _ = estimate.mean_estimate(prior, problem, settings)
        return {"wide": wide, "volume": on_host(problem, wide)}

    found = watch.part("mean", make)
    watch(1, "sampling")
    return Estimate(jnp.asarray(found["wide"]), found["volume"])


def _posterior(key, problem, prior, settings, watch) -> Estimate:
    sampling = sample.residual_sampling(prior, settings)
    return collect(key, problem, prior, sampling, watch)


def _default(key, problem, prior, settings, watch) -> Estimate:
    found = _mean(key, problem, prior, settings, watch)
    drawn = _posterior(key, problem, prior, settings, watch.after(1))
    return found._replace(samples=drawn.samples)


def _mean_pairs(settings: Settings, angles: np.ndarray) -> int:
    return settings.mean_cg_iters + 1


def _sample_pairs(settings: Settings, angles: np.ndarray) -> int:
    return settings.num_samples * settings.num_steps * (settings.cg_iters + 1)


def _mean_calls(settings: Settings) -> int:
    return MIRRORS if settings.mirrors else 1


def _sample_calls(settings: Settings) -> int:
    return settings.num_samples * settings.num_steps


# ----- the table ----------------------------------------------------------------------


def _table() -> dict[str, Method]:
    def no_calls(settings):
        return 0

    def classical(name, run, pairs):
        summary, paper = documented(getattr(baselines, name))
        return Method(name, run, summary, paper, no_calls, lambda s, a: pairs(a))

    def ours(name, run, summary, calls, pairs, **row):
        fields = {"needs": "prior", "conditional": True, "volume": False} | row
        return Method(name, run, summary, "this library", calls, pairs, **fields)

    solver = ("rule", "solver", "schedule", "num_steps", "num_samples")
    one_call = "One call of the network and one pull to the tilts"
    mean = (_mean_calls, _mean_pairs)
    rows = [
        ours(
            "default",
            _default,
            f"{one_call}; the spread from posterior samples",
            lambda s: _mean_calls(s) + _sample_calls(s),
            lambda s, a: _mean_pairs(s, a) + _sample_pairs(s, a),
            takes=solver,
        ),
        ours("mean", _mean, one_call, *mean, takes=("rule",)),
        ours(
            "posterior",
            _posterior,
            "Mean of posterior samples",
            _sample_calls,
            _sample_pairs,
            takes=solver,
        ),
        ours(
            "regression",
            _mean,
            f"{one_call} that was trained for nothing else",
            *mean,
            needs="regression",
            takes=("rule",),
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
        *published_rows(),
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
