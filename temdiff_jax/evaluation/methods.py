"""Methods of a plan, with their settings and what they cost."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from temdiff_jax.errors import InputError
from temdiff_jax.evaluation import costs, runner
from temdiff_jax.evaluation.plan import Run
from temdiff_jax.evaluation.protocol import AnyEstimate, Estimate
from temdiff_jax.priors import load_prior
from temdiff_jax.reconstruction import posterior, reconstruct, rivals

# Methods that take settings of their own.
_SETTABLE = ("mean", "posterior", "regression")
_METRIC = ("smoothness", "ridge")
# Argument of `reconstruct`.
_WEIGHTING = "weighting"

Priors = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Method:
    """A method with what it costs and how it is set, as `protocol.evaluate` reads."""

    function: runner.Method
    calls: Any
    pairs: Any
    settings: dict[str, Any]

    def __call__(
        self, tilts: np.ndarray, angles_deg: np.ndarray, thickness: int
    ) -> np.ndarray | dict[str, AnyEstimate]:
        """Reconstructs."""
        return self.function(tilts, angles_deg, thickness)


def make_method(run: Run, seed: int, priors: Priors) -> Method:
    """The method of a run.

    Its settings are the fields of `posterior.Options` and `posterior.Knobs`,
    "smoothness" and "ridge" of the error metric of its update instead of the prior's,
    and "weighting" as `reconstruct` takes it.

    Args:
      run: As configured.
      seed: Of its samples.
      priors: Files by name of the method; "default" for those without one.

    Raises:
      InputError: Unknown method or setting, or a prior that cannot be used.
    """
    options, knobs, metric = split_settings(run)
    rival = rivals.RIVALS.get(run.kind)
    samples = run.samples or runner.DEFAULT_SAMPLES
    steps = run.steps or runner.DEFAULT_STEPS
    if rival is not None:
        samples, steps = rival.num_samples, rival.num_steps
    if run.settings:
        function = configured(run, seed, priors, options, knobs, metric)
    else:
        others = {k: v for k, v in priors.items() if k != "default"}
        function = runner.standard_methods(
            [run.kind],
            num_samples=samples,
            num_steps=steps,
            seed=seed,
            prior=priors.get("default", "default"),
            priors=others,
        )[run.kind]
    calls = costs.network_calls(
        run.kind, samples=samples, steps=steps, mirrors=options.mirrors
    )
    pairs = costs.projector_pairs(
        run.kind,
        samples=samples,
        steps=steps,
        cg_iters=options.cg_iters,
        mean_cg_iters=options.mean_cg_iters,
    )
    settings: dict[str, Any] = {"method": run.kind, **run.settings}
    if rival is not None:
        settings |= {"samples": samples, "steps": steps, "seed": seed}
        settings |= {**dict(rival.numbers), **dict(rival.counts)}
    elif run.kind == "posterior":
        settings |= {"samples": samples, "steps": steps, "seed": seed}
    settings |= runner.choices(run.kind, options, knobs)
    if run.kind in runner.LEARNED:
        settings.setdefault(_WEIGHTING, "off")
    if run.kind not in runner.BASELINES:
        shared = rivals.SHARED_WEIGHTS.get(run.kind, run.weights)
        own = priors.get(run.kind, priors.get(shared))
        settings["prior"] = _digest(own, priors)
    return Method(
        function,
        getattr(function, "calls", calls),
        getattr(function, "pairs", pairs),
        settings,
    )


def _digest(own: str | None, priors: Priors) -> str:
    """First digits of the sha256 of the weights that a method uses."""
    if own is None:
        return load_prior(priors.get("default", "default")).sha256[:16]
    if not pathlib.Path(own).is_file():
        raise InputError(
            f"--prior: expected the file {own}, found none; check the path"
        )
    return hashlib.sha256(pathlib.Path(own).read_bytes()).hexdigest()[:16]


def split_settings(
    run: Run,
) -> tuple[posterior.Options, posterior.Knobs, dict[str, float]]:
    """Settings of a run by where they belong.

    Raises:
      InputError: A setting that nobody knows, or of a method that takes none.
    """
    options = {k: v for k, v in run.settings.items() if k in posterior.Options._fields}
    knobs = {k: v for k, v in run.settings.items() if k in posterior.Knobs._fields}
    metric = {k: v for k, v in run.settings.items() if k in _METRIC}
    known = [
        *posterior.Options._fields,
        *posterior.Knobs._fields,
        *_METRIC,
        _WEIGHTING,
    ]
    unknown = [name for name in run.settings if name not in known]
    if unknown or (run.settings and run.kind not in _SETTABLE):
        raise InputError(
            f"run {run.name}: expected settings among {known} for a method among "
            f"{list(_SETTABLE)}, got {unknown or dict(run.settings)} for "
            f"{run.kind}; correct the configuration"
        )
    return posterior.Options(**options), posterior.Knobs(**knobs), metric


def configured(
    run: Run,
    seed: int,
    priors: Priors,
    options: posterior.Options,
    knobs: posterior.Knobs,
    metric: Mapping[str, float],
) -> runner.Method:
    """A learned method with options of its own; "regression" is a "mean" call."""
    sampler = "posterior" if run.kind == "posterior" else "mean"
    fallback = priors.get("default", "default")
    own = run.kind in runner.OWN_WEIGHTS
    prior = load_prior(runner.own_weights(run.kind, priors, None) if own else fallback)
    # Numbers as arrays: another value compiles nothing.
    numbers = {name: jnp.float32(value) for name, value in metric.items()}
    if sampler == "mean":
        prior = prior._replace(metric_mean=prior.metric_mean._replace(**numbers))
    else:
        prior = prior._replace(metric_sample=prior.metric_sample._replace(**numbers))

    def method(
        tilts: np.ndarray, angles_deg: np.ndarray, thickness: int
    ) -> np.ndarray | dict[str, AnyEstimate]:
        result = reconstruct(
            tilts,
            angles_deg,
            thickness=thickness,
            prior=prior,
            contrast="bright",
            sampler=sampler,
            num_samples=run.samples,
            num_steps=run.steps,
            key=seed,
            weighting=run.settings.get(_WEIGHTING, "off"),
            keep_samples=True,
            options=options,
            knobs=knobs,
        )
        if sampler == "mean" or result.samples is None:
            return result.mean
        count = len(result.samples)
        return {
            f"mean of {count}": Estimate(result.mean, result.std, count),
            "one sample": result.samples[0],
        }

    return method
