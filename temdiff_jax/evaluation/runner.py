"""Simulated series of known volumes and the methods that reconstruct them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np
from numpy.typing import ArrayLike

from temdiff_jax import baselines, layout
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.priors import Prior
from temdiff_jax.reconstruction import DEFAULT_SAMPLES, DEFAULT_STEPS, reconstruct
from temdiff_jax.simulator import ALIGNED, ErrorConfig, ImagingConfig, simulate_series
from temdiff_jax.types import InputError

BASELINES = ("fbp", "sirt", "sart", "tv", "tikhonov")
LEARNED = ("mean", "posterior")

# One fixed imaging condition, so that tables compare: 5000 electrons per pixel and
# tilt, resin t / Lambda 0.8, standard deviation of the stain's -ln T 0.3, no blur.
PROTOCOL_IMAGING = ImagingConfig(
    dose=(5000.0, 5000.0),
    resin_path=(0.8, 0.8),
    contrast=(0.3, 0.3),
    blur_px=(0.0, 0.0),
)

Simulate = Callable[[np.ndarray, ArrayLike, int], np.ndarray]
Method = Callable[[np.ndarray, np.ndarray, int], np.ndarray | dict[str, np.ndarray]]


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
    prior: str | Prior = "default",
) -> dict[str, Method]:
    """Methods by name, each ``(tilts, angles_deg, thickness) -> volume(s)``.

    Args:
      names: Among ``BASELINES`` and ``LEARNED``.
      num_samples, num_steps: Of "posterior".
      seed: Of "posterior".
      prior: Of the learned ones.

    Returns:
      Callables; "posterior" yields two rows, the mean and one sample.

    Raises:
      InputError: Unknown name.
    """
    methods: dict[str, Method] = {}
    for name in names:
        if name in BASELINES:
            methods[name] = _baseline(getattr(baselines, name))
        elif name == "mean":
            methods[name] = _mean_call(prior)
        elif name == "posterior":
            methods[name] = _posterior(prior, num_samples, num_steps, seed)
        else:
            raise InputError(
                f"methods: expected some of {list(BASELINES + LEARNED)}, got {name!r}; "
                "correct the list"
            )
    return methods


def _baseline(function: Callable[..., np.ndarray]) -> Method:
    def method(tilts: np.ndarray, angles_deg: np.ndarray, thickness: int) -> np.ndarray:
        return function(tilts, angles_deg, thickness=thickness)

    return method


def _mean_call(prior: str | Prior) -> Method:
    def method(tilts: np.ndarray, angles_deg: np.ndarray, thickness: int) -> np.ndarray:
        result = reconstruct(
            tilts,
            angles_deg,
            thickness=thickness,
            sampler="mean",
            prior=prior,
            contrast="bright",
        )
        return result.mean

    return method


def _posterior(
    prior: str | Prior, num_samples: int | None, num_steps: int | None, seed: int
) -> Method:
    samples = DEFAULT_SAMPLES if num_samples is None else num_samples
    steps = DEFAULT_STEPS if num_steps is None else num_steps

    def method(
        tilts: np.ndarray, angles_deg: np.ndarray, thickness: int
    ) -> dict[str, np.ndarray]:
        result = reconstruct(
            tilts,
            angles_deg,
            thickness=thickness,
            num_samples=samples,
            num_steps=steps,
            key=seed,
            prior=prior,
            contrast="bright",
            keep_samples=True,
        )
        assert result.samples is not None  # keep_samples
        return {f"mean of {samples}": result.mean, "one sample": result.samples[0]}

    return method
