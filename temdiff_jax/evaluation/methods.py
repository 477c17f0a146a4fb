"""Rows of the table of methods bound to weights, settings and a seed.

`make_method` is the one way from a name in a table's plan, or on the command line, to
what `protocol.evaluate` calls.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from temdiff_jax import baselines
from temdiff_jax.errors import InputError
from temdiff_jax.evaluation.plan import Run
from temdiff_jax.evaluation.protocol import AnyEstimate, Estimate
from temdiff_jax.inverse.tikhonov import settings_for
from temdiff_jax.priors import Prior, load_prior
from temdiff_jax.reconstruction import reconstruct
from temdiff_jax.reconstruction.method import Method
from temdiff_jax.reconstruction.methods import method_of
from temdiff_jax.reconstruction.settings import Settings

# What of the settings a method of the prior depends on, so that rows made before a
# default changed are known as such.
_ONCE = ("window", "lateral", "mean_cg_iters", "mirrors", "outside")
_DRAWN = (
    *("window", "lateral", "cg_iters", "solver", "eta"),
    *("prior_precision", "consistency_from", "outside"),
)
_CHOICES = {
    "mean": _ONCE,
    "regression": _ONCE,
    "posterior": _DRAWN,
    "default": tuple(dict.fromkeys((*_ONCE, *_DRAWN))),
}
_METRIC = ("smoothness", "ridge")
# Argument of `reconstruct`.
_WEIGHTING = "weighting"

Priors = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Bound:
    """A method ready to be called, with what it costs and what its rows must share.

    Attributes:
      name: As the plan has it.
      row: Of the table of methods.
      chosen: Samples, steps and so on.
      prior: Name or file of the weights; None without a network.
      metric: "smoothness" and "ridge" of the update's error metric instead of the
        prior's.
      seed: Of its samples.
      weighting: As `reconstruct` takes it.
    """

    name: str
    row: Method
    chosen: Settings
    prior: str | None
    metric: Mapping[str, float]
    seed: int
    weighting: str

    def __call__(
        self, tilts: np.ndarray, angles_deg: np.ndarray, thickness: int
    ) -> np.ndarray | dict[str, AnyEstimate]:
        """Reconstructs: ``[z, y, x]``; "posterior" its mean and one sample."""
        if not self.row.needs:
            function = getattr(baselines, self.row.name)
            return function(tilts, angles_deg, thickness=thickness)
        result = reconstruct(
            tilts,
            angles_deg,
            thickness=thickness,
            prior=self._loaded(),
            method=self.row,
            settings=self.chosen,
            log="off",
            contrast="bright",
            weighting=self.weighting,
            key=self.seed,
            keep_samples=True,
            examined=False,
        )
        if self.row.name != "posterior" or result.samples is None:
            return result.mean
        count = len(result.samples)
        if result.std is None:
            return result.mean
        return {
            f"mean of {count}": Estimate(result.mean, result.std, count),
            "one sample": result.samples[0],
        }

    def _loaded(self) -> Prior:
        assert self.prior is not None
        prior = load_prior(self.prior)
        # Numbers as arrays: another value compiles nothing.
        numbers = {name: jnp.float32(value) for name, value in self.metric.items()}
        field = "metric_sample" if self.row.name == "posterior" else "metric_mean"
        metric = getattr(prior, field)._replace(**numbers)
        return dataclasses.replace(prior, **{field: metric})

    @property
    def calls(self) -> int:
        """Network calls of one run, on whole volumes."""
        return self.row.calls(self.chosen)

    def pairs(self, angles_deg: ArrayLike) -> int | None:
        """Projector pairs of one run, those of a network's inputs among them.

        Those that estimate an operator norm are not counted.
        """
        angles = np.asarray(angles_deg, np.float64)
        own = self.row.pairs(self.chosen, angles)
        if own is None or not self.row.needs:
            return own
        return own + settings_for(angles).num_iters + 1

    @property
    def settings(self) -> dict[str, Any]:
        """JSON values that rows must share to be one method's."""
        row, chosen = self.row, self.chosen
        found: dict[str, Any] = {"method": self.name}
        if "num_samples" in row.takes:
            sizes = {"samples": chosen.num_samples, "steps": chosen.num_steps}
            found |= {**sizes, "seed": self.seed}
        if row.sampling is not None:
            found |= {**dict(row.sampling.numbers), **dict(row.sampling.counts)}
        described = chosen.describe()
        found |= {name: described[name] for name in _CHOICES.get(row.name, ())}
        found |= self.metric
        if row.needs:
            found[_WEIGHTING] = self.weighting
            found["prior"] = digest(self.prior)
        return found


def make_method(run: Run, seed: int, priors: Priors) -> Bound:
    """The method of a run.

    Its settings are numbers of `Settings`, "smoothness" and "ridge" of the error metric
    of its update instead of the prior's, and "weighting" as `reconstruct` takes it.

    Args:
      run: As configured.
      seed: Of its samples.
      priors: Files by name of the method, or of the weights that it needs; "default"
        for those without one.

    Raises:
      InputError: Unknown method or setting, or a prior that cannot be used.
    """
    row = method_of(run.kind)
    settings = _settings(run, row)
    sizes = {"num_samples": run.samples, "num_steps": run.steps}
    if row.sampling is None and "num_samples" in row.takes:
        # A published sampler is compared as it was published.
        settings |= {k: v for k, v in sizes.items() if v is not None}
    return Bound(
        run.kind,
        row,
        dataclasses.replace(row.settings, **settings),
        _weights(run, row, priors),
        {k: v for k, v in run.settings.items() if k in _METRIC},
        seed,
        run.settings.get(_WEIGHTING, "off"),
    )


def _settings(run: Run, row: Method) -> dict[str, Any]:
    """The settings of a run that are fields of `Settings`.

    Raises:
      InputError: A setting that nobody knows, or of a method that takes none.
    """
    known = [*_CHOICES["default"], *_METRIC, _WEIGHTING]
    unknown = [name for name in run.settings if name not in known]
    own = [name for name in run.settings if name != _WEIGHTING]
    if (
        unknown
        or (own and row.name not in _CHOICES)
        or (run.settings and not row.needs)
    ):
        raise InputError(
            f"run {run.name}: expected settings among {known} for a method among "
            f"{list(_CHOICES)}, got {unknown or dict(run.settings)} for "
            f"{run.kind}; correct the configuration"
        )
    apart = (*_METRIC, _WEIGHTING)
    return {name: value for name, value in run.settings.items() if name not in apart}


def _weights(run: Run, row: Method, priors: Priors) -> str | None:
    """File or name of the network of a run."""
    if not row.needs:
        return None
    for name in (run.kind, row.needs, run.weights):
        if name in priors:
            return priors[name]
    if row.needs == "prior":
        return priors.get("default", "default")
    raise InputError(
        f"methods: expected a prior for {run.kind!r}, got none; give the path of its "
        f"weights, {row.needs}=FILE.safetensors (docs/reports/learned_baselines.md)"
    )


def digest(weights: str | None) -> str:
    """First digits of the sha256 of weights, by their name or file.

    Raises:
      InputError: No such file.
    """
    name = "default" if weights is None else weights
    if not name.endswith(".safetensors"):
        return load_prior(name).sha256[:16]
    if not pathlib.Path(name).is_file():
        raise InputError(
            f"--prior: expected the file {name}, found none; check the path"
        )
    return hashlib.sha256(pathlib.Path(name).read_bytes()).hexdigest()[:16]
