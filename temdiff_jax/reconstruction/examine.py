"""How far a finished run can be relied on: the tests of ``trust`` on a plan."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from temdiff_jax.inverse import split
from temdiff_jax.inverse.problem import Problem
from temdiff_jax.inverse.tikhonov import settings_for
from temdiff_jax.projector import project
from temdiff_jax.reconstruction.denoiser import regressed
from temdiff_jax.reconstruction.method import Estimate, Method
from temdiff_jax.reconstruction.methods import method_of
from temdiff_jax.reconstruction.plan import Choice, Plan, doubts_of, prepared
from temdiff_jax.reconstruction.watch import Watch
from temdiff_jax.series import grids, preparation
from temdiff_jax.trust import causes, heldout, levels, residuals, verdict

# Held-out tilts cost a run at most this share of it, or it makes none.
MOST_COST = 0.25
# Methods whose mean is that of "mean", which predicts for them.
PREDICTED = ("default", "posterior")

Series = tuple[causes.Evidence, list[causes.Cause]]
_project = jax.jit(project)


def series(problem: Problem, job: preparation.Job) -> Series:
    """What the images alone say of the series, the same for every method."""
    evidence = causes.compare(causes.given(problem))
    return evidence, levels.causes(job.tilts, job.series.angles_deg, job.intensity)


def result(
    of_series: Series,
    choice: Choice,
    problem: Problem,
    job: preparation.Job,
    found: Estimate,
    predicted: heldout.Heldout | None = None,
) -> dict[str, Any]:
    """The verdict of a result and every figure behind it, JSON-ready.

    Figures per tilt are in the order of the tilts that were given.
    """
    evidence, by_level = of_series
    tilts = np.asarray(problem.tilts, np.float64)
    keep = np.broadcast_to(np.asarray(problem.precision.seen()), tilts.shape)
    noise = residuals.measure_noise(tilts)
    rest = np.asarray(_project(found.wide, problem.geometry)) - tilts
    judged = residuals.judge(rest, noise.sigma, keep)
    spread = tilts.std(axis=(1, 2))
    given = verdict.give(
        evidence, by_level, noise, judged, spread, predicted, doubts_of(choice, job)
    )
    rows, contrast = job.rows, float(problem.units.contrast)
    per_tilt = {
        "noise": contrast * noise.sigma,
        "noise_known": noise.flat,
        "chi2_noise": judged.chi2,
        "excess": judged.excess,
        "p_white": judged.p,
    }
    return given.record() | {
        "agreement": evidence.agreement,
        "visible_px": _finite(evidence.visible_px),
        "shifts_px": _of_all(evidence, evidence.shifts_px, rows),
        "shift_errors_px": _of_all(evidence, evidence.errors_px, rows),
        "per_tilt": {
            name: np.asarray(v)[rows].tolist() for name, v in per_tilt.items()
        },
        "held_out": None
        if predicted is None
        else predicted.record(job.series.angles_deg),
    }


def affordable(choice: Choice) -> bool:
    """Whether held-out tilts cost less than a quarter of a run."""
    if choice.method.name not in PREDICTED:
        return False
    cost = method_of("mean").calls(choice.settings)
    return cost < MOST_COST * choice.method.calls(choice.settings)


def hold_out(
    choice: Choice,
    key: jax.Array,
    problem: Problem,
    job: preparation.Job,
    method: Method | None = None,
) -> heldout.Heldout | None:
    """Both outermost tilts and a middle one, predicted by a method from the rest.

    Args:
      choice, key: Of the run.
      problem, job: Of the series.
      method: Who predicts; the method chosen unless one is given.

    Returns:
      None where the tilts are too few.
    """
    rows = heldout.chosen(job.trust > 0)
    if not len(rows):
        return None
    settings = settings_for(job.series.angles_deg)
    fewer = heldout.without(problem, rows, settings)
    who = choice.method if method is None else method
    fewer = regressed(fewer, choice.prior, choice.settings.windows)
    found = who.run(key, fewer, choice.prior, choice.settings, Watch())
    samples = None
    if found.samples is not None:
        samples = _wide(problem, found.samples, found.wide)
    return heldout.compare(fewer, rows, found.wide, settings, samples)


def holdout(planned: Plan) -> dict[str, Any]:
    """`temdiff holdout`: the prediction of held-out tilts, JSON-ready.

    Args:
      planned: Of ``make_plan``; its method predicts.
    """
    problem, _ = prepared(planned.job, Watch())
    found = hold_out(planned.choice, planned.key, problem, planned.job)
    angles = planned.job.series.angles_deg
    return {
        "method": planned.choice.method.name,
        "tilts": len(angles),
        "held_out": None if found is None else found.record(angles),
    }


def _wide(problem: Problem, samples: np.ndarray, mean: jax.Array) -> jax.Array:
    """Samples in input units as wide normalised volumes, the mean beside them."""
    units, geometry = problem.units, problem.geometry
    inside = (jnp.asarray(samples) - units.mean) / units.contrast
    beside = mean - geometry.pad_lateral(geometry.crop(mean))
    return jax.vmap(functools.partial(geometry.pad_lateral))(inside) + beside


def _of_all(
    evidence: causes.Evidence, values: np.ndarray | None, rows: np.ndarray
) -> list[list[float] | None] | None:
    """Per tilt as given; None for those that were not looked at."""
    if values is None or evidence.rows is None:
        return None
    each: list[list[float] | None] = [None] * len(rows)
    for row, value in zip(evidence.rows, values, strict=True):
        each[int(row)] = [round(float(v), 3) for v in value]
    return [each[row] for row in rows]


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def prior_share(problem: Problem, mean: np.ndarray) -> tuple[np.ndarray, float]:
    """How much of a volume the tilts do not fix, voxel by voxel.

    Args:
      problem: Of ``make_problem``, from the same tilts.
      mean: A volume ``[z, y, x]`` in input units of dense bright matter.

    Returns:
      Share in [0, 1], ``[z, y, x]``, see ``inverse.split``, and that of the whole.
    """
    core = jnp.asarray(np.swapaxes(mean, 1, 2), jnp.float32)
    wide = grids.with_regression(problem, core).shown.best
    found = split.split(problem, wide)
    share = np.swapaxes(np.asarray(found.share), 1, 2)
    return np.ascontiguousarray(share), float(found.total)
