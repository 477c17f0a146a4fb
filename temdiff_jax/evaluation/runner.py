"""Simulated series of known volumes and the methods that reconstruct them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
from numpy.typing import ArrayLike

from temdiff_jax import baselines, layout
from temdiff_jax.errors import InputError
from temdiff_jax.evaluation import costs
from temdiff_jax.evaluation.protocol import AnyEstimate, Estimate
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.priors import Prior, load_prior
from temdiff_jax.reconstruction import posterior, rivals
from temdiff_jax.reconstruction.api import DEFAULT_SAMPLES, DEFAULT_STEPS, reconstruct
from temdiff_jax.simulator import ALIGNED, ErrorConfig, ImagingConfig, simulate_series

BASELINES = ("fbp", "sirt", "sart", "tv", "tikhonov")
LEARNED = ("mean", "posterior")
# Methods with weights of their own, which are no part of the package.
OWN_WEIGHTS = ("regression", *rivals.RIVALS)

# One fixed imaging condition, so that tables compare: 5000 electrons per pixel and
# tilt, resin t / Lambda 0.8, standard deviation of the stain's -ln T 0.3, no blur.
PROTOCOL_IMAGING = ImagingConfig(
    dose=(5000.0, 5000.0),
    resin_path=(0.8, 0.8),
    contrast=(0.3, 0.3),
    blur_px=(0.0, 0.0),
)

Simulate = Callable[[np.ndarray, ArrayLike, int], np.ndarray]
Method = Callable[[np.ndarray, np.ndarray, int], np.ndarray | dict[str, AnyEstimate]]
AnyPrior = str | Path | Prior
Weights = TypeVar("Weights", bound=AnyPrior)


def make_simulate(
    imaging: ImagingConfig = PROTOCOL_IMAGING, errors: ErrorConfig = ALIGNED
) -> Simulate:
    """A function ``(truth [z, y, x], angles_deg, seed) -> tilts [n_tilts, y, x]``.

    The truth is taken as stain density after scaling to [0, 1]; outside the field
    of view the slab continues by mirroring, as far as the largest tilt sees.
    """
    config = dataclasses.replace(imaging, errors=errors)

    def simulate(truth: np.ndarray, angles_deg: ArrayLike, seed: int) -> np.ndarray:
        nz, ny, nx = truth.shape
        geometry = TiltGeometry.from_degrees(
            angles_deg, thickness=nz, width=nx, height=ny
        )
        low, high = float(truth.min()), float(truth.max())
        stain = (np.asarray(truth, np.float32) - low) / max(high - low, 1e-12)
        margin = geometry.margin
        stain = np.pad(stain, ((0, 0), (0, 0), (margin, margin)), mode="symmetric")
        series = _simulate(
            jax.random.key(seed), layout.volume_to_core(stain), geometry, config
        )
        return np.asarray(layout.tilts_from_core(series.tilts))

    return simulate


_simulate = jax.jit(simulate_series, static_argnums=3)

# The aligned protocol of the result tables.
simulate_case = make_simulate()


def standard_methods(
    names: Sequence[str],
    *,
    num_samples: int | None = None,
    num_steps: int | None = None,
    seed: int = 0,
    prior: AnyPrior = "default",
    priors: Mapping[str, AnyPrior] | None = None,
    weighting: str = "off",
) -> dict[str, Method]:
    """Methods by name, each ``(tilts, angles_deg, thickness) -> volume(s)``.

    Args:
      names: Among ``BASELINES``, ``LEARNED`` and ``OWN_WEIGHTS``.
      num_samples, num_steps: Of "posterior"; a rival has its own, see ``rivals``.
      seed: Of all that sample.
      prior: Of the learned ones.
      priors: Weights by the name of the method, for those of ``OWN_WEIGHTS``.  Some
        share them, see ``rivals.SHARED_WEIGHTS``; "dds" and "dds_tuned" take
        ``prior`` without any.
      weighting: Of "mean" and "posterior", as ``reconstruct`` takes it.

    Returns:
      Callables; "posterior" yields two rows, the mean and one sample.

    Raises:
      InputError: Unknown name, or no weights for one that needs its own.
    """
    methods: dict[str, Method] = {}
    for name in names:
        if name in BASELINES:
            methods[name] = _baseline(getattr(baselines, name))
        elif name == "mean":
            function = _mean_call(prior, weighting)
            methods[name] = Learned(function, prior, weighting, _defaults(name))
        elif name == "posterior":
            num_samples = DEFAULT_SAMPLES if num_samples is None else num_samples
            num_steps = DEFAULT_STEPS if num_steps is None else num_steps
            function = _posterior(prior, num_samples, num_steps, seed, weighting)
            sizes = {"samples": num_samples, "steps": num_steps, "seed": seed}
            defaults = _defaults(name) | sizes
            methods[name] = Learned(function, prior, weighting, defaults)
        elif name == "regression":
            methods[name] = _mean_call(own_weights(name, priors or {}, None))
        elif name in rivals.RIVALS:
            settings = rivals.RIVALS[name]
            # Those that take any network take the prior's.
            fallback = prior if settings.conditional is None else None
            weights = own_weights(name, priors or {}, fallback)
            methods[name] = Rival(settings, weights, seed)
        else:
            known = [*BASELINES, *LEARNED, *OWN_WEIGHTS]
            raise InputError(
                f"methods: expected some of {known}, got {name!r}; correct the list"
            )
    return methods


def _defaults(kind: str) -> dict[str, bool | float | str]:
    return choices(kind, posterior.Options(), posterior.Knobs())


def choices(
    kind: str, options: posterior.Options, knobs: posterior.Knobs
) -> dict[str, bool | float | str]:
    """What a learned method depends on among the options and numbers of a sampler.

    All by their values, so that rows made before a default changed are known as such.
    """
    chosen: dict[str, bool | float | str]
    if kind == "posterior":
        chosen = {"cg_iters": options.cg_iters, "solver": options.solver}
        chosen |= {name: float(value) for name, value in knobs._asdict().items()}
    elif kind in ("mean", "regression"):
        chosen = {"mean_cg_iters": options.mean_cg_iters, "mirrors": options.mirrors}
        chosen["outside"] = float(knobs.outside)
    else:
        return {}
    return {"window": options.window, "lateral": options.lateral, **chosen}


def own_weights(
    name: str, priors: Mapping[str, Weights], fallback: Weights | None
) -> Weights:
    """Weights of a method, of the one whose weights it shares, or the fallback.

    Raises:
      InputError: None of them.
    """
    for key in (name, rivals.SHARED_WEIGHTS.get(name, name)):
        if key in priors:
            return priors[key]
    if fallback is None:
        raise InputError(
            f"methods: expected a prior for {name!r}, got none; give the path of its "
            f"weights, {name}=FILE.safetensors (docs/rivals.md)"
        )
    return fallback


@dataclasses.dataclass(frozen=True)
class Rival:
    """A method of ``rivals`` with its weights."""

    settings: rivals.Settings
    prior: AnyPrior
    seed: int

    def __call__(
        self, tilts: np.ndarray, angles_deg: np.ndarray, thickness: int
    ) -> np.ndarray:
        """Reconstructs ``[z, y, x]``."""
        return rivals.reconstruct(
            tilts,
            angles_deg,
            thickness=thickness,
            settings=self.settings,
            prior=self.prior,
            seed=self.seed,
        )

    @property
    def calls(self) -> int:
        """Network calls of one run, on whole volumes."""
        own = self.settings
        return own.num_samples * own.num_steps * own.calls

    def pairs(self, angles_deg: ArrayLike) -> int | None:
        """Projector pairs of one run, those of its condition among them."""
        solved = rivals.solver_pairs(self.settings)
        return None if solved is None else costs.tikhonov_pairs(angles_deg) + solved


@dataclasses.dataclass(frozen=True)
class Learned:
    """A method of the prior, with what its rows must share to be one method's."""

    function: Method
    prior: AnyPrior
    weighting: str
    choices: Mapping[str, bool | float | str]

    def __call__(
        self, tilts: np.ndarray, angles_deg: np.ndarray, thickness: int
    ) -> np.ndarray | dict[str, AnyEstimate]:
        """As ``function``."""
        return self.function(tilts, angles_deg, thickness)

    @property
    def settings(self) -> dict[str, bool | float | str]:
        """Digits of the sha256 of the prior, the weighting, and how it samples."""
        prior = self.prior
        loaded = load_prior(prior) if isinstance(prior, str | Path) else prior
        own = {"prior": loaded.sha256[:16], "weighting": self.weighting}
        return {**self.choices, **own}


def _baseline(function: Callable[..., np.ndarray]) -> Method:
    def method(tilts: np.ndarray, angles_deg: np.ndarray, thickness: int) -> np.ndarray:
        return function(tilts, angles_deg, thickness=thickness)

    return method


def _mean_call(prior: AnyPrior, weighting: str = "off") -> Method:
    def method(tilts: np.ndarray, angles_deg: np.ndarray, thickness: int) -> np.ndarray:
        result = reconstruct(
            tilts,
            angles_deg,
            thickness=thickness,
            sampler="mean",
            prior=prior,
            weighting=weighting,
            contrast="bright",
        )
        return result.mean

    return method


def _posterior(
    prior: AnyPrior,
    samples: int,
    steps: int,
    seed: int,
    weighting: str = "off",
) -> Method:
    def method(
        tilts: np.ndarray, angles_deg: np.ndarray, thickness: int
    ) -> dict[str, AnyEstimate]:
        result = reconstruct(
            tilts,
            angles_deg,
            thickness=thickness,
            sampler="posterior",
            weighting=weighting,
            num_samples=samples,
            num_steps=steps,
            key=seed,
            prior=prior,
            contrast="bright",
            keep_samples=True,
        )
        assert result.samples is not None  # keep_samples
        return {
            f"mean of {samples}": Estimate(result.mean, result.std, samples),
            "one sample": result.samples[0],
        }

    return method
