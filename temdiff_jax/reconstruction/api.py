"""From tilts and angles to a volume with its uncertainty, in the input's units."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from temdiff_jax.errors import InputError
from temdiff_jax.geometry import CONVENTION, TiltGeometry
from temdiff_jax.inverse.precision import Precision
from temdiff_jax.inverse.tikhonov import TikhonovSettings, settings_for
from temdiff_jax.priors import Prior, load_prior, range_verdict
from temdiff_jax.reconstruction import posterior
from temdiff_jax.series import checks, inputs, preparation
from temdiff_jax.series import weighting as weighting_lib

SAMPLERS = ("default", "mean", "posterior")
DEFAULT_SAMPLES = 8
DEFAULT_STEPS = 8
# By table T1, see docs/weighting.md.
DEFAULT_WEIGHTING = "adaptive"
Progress = Callable[[int, int, str], None]


@dataclasses.dataclass(frozen=True)
class Result:
    """A reconstruction; volumes ``[z, y, x]``, tilts ``[n_tilts, y, x]``, float32.

    Everything per tilt is in the order of the tilts that were given.

    Attributes:
      mean: The conditional mean by one call of the network and one projection
        update; for "posterior" the mean of the samples.
      std: Standard deviation over the posterior samples; zeros for "mean".
      samples: ``[s, z, y, x]`` when asked for.
      tikhonov: The quadratic estimate from the same tilts, for comparison.
      reprojection: Projection of ``mean`` (margin included), input units.
      residual: ``reprojection`` minus measured line integrals.
      chi2: Per tilt, mean squared residual over its variance, masked pixels apart; 1
        is what was expected.  The factor of a tilt that disagrees does not hide in it.
      weights: Data precision per tilt, inverse squared input units, ``[n_tilts]``.
      provenance: JSON-ready record of everything that led here.
    """

    mean: np.ndarray
    std: np.ndarray
    samples: np.ndarray | None
    tikhonov: np.ndarray
    reprojection: np.ndarray
    residual: np.ndarray
    chi2: np.ndarray
    weights: np.ndarray
    provenance: dict[str, Any]


class _Choices(NamedTuple):
    """How to reconstruct, checked."""

    prior: Prior
    sampler: str
    num_samples: int
    num_steps: int
    key: jax.Array
    options: posterior.Options
    knobs: posterior.Knobs
    weighting: str
    spread: weighting_lib.Spread | None


class _Drawn(NamedTuple):
    """Samples ``[s, z, x, y]``, input units; their mean, wide and normalised."""

    kept: np.ndarray
    wide: jax.Array


def reconstruct(
    tilts: ArrayLike,
    angles: ArrayLike,
    *,
    thickness: int | None = None,
    prior: str | Path | Prior = "default",
    sampler: str = "default",
    num_samples: int | None = DEFAULT_SAMPLES,
    num_steps: int | None = None,
    key: int | jax.Array = 0,
    voxel_size_angstrom: float | None = None,
    log: str = "off",
    contrast: str = "auto",
    tilt_weights: ArrayLike | None = None,
    weighting: str = DEFAULT_WEIGHTING,
    spread: weighting_lib.Spread | None = None,
    keep_samples: bool = False,
    options: posterior.Options | None = None,
    knobs: posterior.Knobs | None = None,
    on_progress: Progress | None = None,
) -> Result:
    """Reconstructs a volume from a tilt series of any range.

    Args:
      tilts: Line integrals ``[n_tilts, y, x]``, tilt axis along y, aligned; any
        unit (see ``log`` for intensities).
      angles: Degrees, one per tilt, in any order.
      thickness: Slab thickness in voxels; default the tilts' width.
      prior: Name or path of a released prior, or a loaded one.
      sampler: "default" takes the mean from one call of the network and the spread
        from posterior samples; "mean" leaves out the samples, "posterior" the call
        (the mean of a few samples still holds their scatter: docs/results.md).
      num_samples, num_steps: Posterior samples; noise levels of each, default 8.
      key: Seed or typed JAX key.
      voxel_size_angstrom: Recorded in the provenance.
      log: "off": tilts are line integrals; "on": bright-field intensities, of
        which -log is taken; "auto" decides by the data and records its verdict.
      contrast: Sense of dense matter in the line integrals: "bright", "dark" or
        "auto" (skewness); the volume keeps the sense of the tilts.
      tilt_weights: Trust in each tilt, [0, 1]; 0 leaves it out.
      weighting: "off", one noise level per tilt; "robust", masks and a factor for
        each tilt that disagrees; "adaptive", the variances of a misalignment as well,
        as large as the series speaks for; "low-rank" or, pixel by pixel, "diagonal",
        of one as large as ``spread`` (docs/weighting.md, "Which to choose").
      spread: What is known of that misalignment; ``None``: nothing.
      keep_samples: Return all samples.
      options, knobs: Of the sampler; see ``posterior``.
      on_progress: Called with (done, total, message) as work proceeds.

    Raises:
      InputError: Anything wrong with the input; one line with expected, got and
        what to do.
    """
    started = time.monotonic()
    choices = _choose(
        prior, sampler, num_samples, num_steps, key, options, knobs, weighting, spread
    )
    job = preparation.enter(
        tilts, angles, thickness, voxel_size_angstrom, log, contrast, tilt_weights
    )
    calls = 0 if choices.sampler == "posterior" else 1
    draws = 0 if choices.sampler == "mean" else choices.num_samples
    total = 1 + calls + draws * choices.num_steps

    def tell(done: int, text: str) -> None:
        if on_progress is not None:
            on_progress(done, total, text)

    tell(0, "quadratic estimate")
    settings = settings_for(job.series.angles_deg)
    ready, trusted = preparation.prepare(
        job, settings, choices.weighting, choices.spread
    )
    tell(1, "compiling the sampler (first run)")
    here = (choices, ready, job.geometry)
    found = []
    if calls:
        found.append(_call_once(*here))
        tell(2, "sampling" if draws else "done")
    if draws:
        found.append(_draw_samples(*here, lambda n, text: tell(1 + calls + n, text)))
    provenance = _provenance(choices, job, settings, time.monotonic() - started)
    provenance["weighting"] = trusted
    return _leave(found[0], found[-1], ready, job, keep_samples, provenance)


def _choose(
    prior: str | Path | Prior,
    sampler: str,
    num_samples: int | None,
    num_steps: int | None,
    key: int | jax.Array,
    options: posterior.Options | None,
    knobs: posterior.Knobs | None,
    weighting: str,
    spread: weighting_lib.Spread | None,
) -> _Choices:
    """Checks everything but the data, the prior last since it is read from disk."""
    if sampler not in SAMPLERS:
        raise InputError(
            f"sampler: expected one of {list(SAMPLERS)}, got {sampler!r}; choose one"
        )
    if weighting not in weighting_lib.FORMS:
        raise InputError(
            f"weighting: expected one of {list(weighting_lib.FORMS)}, got "
            f"{weighting!r}; choose one"
        )
    samples = DEFAULT_SAMPLES if num_samples is None else num_samples
    steps = DEFAULT_STEPS if num_steps is None else num_steps
    samples = checks.check_count("num_samples", samples, 1)
    steps = checks.check_count("num_steps", steps, 2)
    if sampler == "mean":
        samples = steps = 1
    seed = checks.check_key(key)
    knobs = knobs or posterior.Knobs()
    options = options or posterior.Options()
    loaded = prior if isinstance(prior, Prior) else load_prior(prior)
    if loaded.network.config.target != "residual":
        raise InputError(
            "prior: expected a network of the residual, got one of the volume; use "
            "temdiff_jax.rivals for it"
        )
    posterior.check_options(options, loaded.network)
    return _Choices(
        loaded, sampler, samples, steps, seed, options, knobs, weighting, spread
    )


def _call_once(
    choices: _Choices, ready: inputs.Prepared, geometry: TiltGeometry
) -> _Drawn:
    """The one-call estimate, as the only sample."""
    prior = choices.prior
    wide, _ = posterior.mean_estimate(
        prior.params,
        ready,
        geometry,
        prior.residual_scale,
        prior.metric_mean,
        jnp.float32(choices.knobs.outside),
        network=prior.network,
        options=choices.options,
    )
    return _Drawn(
        np.asarray(posterior.to_input_units(wide, ready, geometry))[None], wide
    )


def _draw_samples(
    choices: _Choices,
    ready: inputs.Prepared,
    geometry: TiltGeometry,
    report: Callable[[int, str], None],
) -> _Drawn:
    """All samples, group after group."""
    prior = choices.prior
    groups = posterior.draw_groups(
        choices.key,
        prior.params,
        ready,
        geometry,
        prior.residual_scale,
        prior.metric_sample,
        choices.knobs,
        network=prior.network,
        options=choices.options,
        num_samples=choices.num_samples,
        num_steps=choices.num_steps,
        report=report,
    )
    kept, wide = [], jnp.zeros(geometry.volume_shape)
    for volumes in groups:
        wide = wide + jnp.sum(volumes, axis=0) / choices.num_samples
        kept.append(np.asarray(posterior.to_input_units(volumes, ready, geometry)))
    return _Drawn(np.concatenate(kept), wide)


_judge = jax.jit(inputs.judge)


def _to_file(array: ArrayLike) -> np.ndarray:
    """Core layout to file layout on the host, contiguous."""
    return np.ascontiguousarray(np.swapaxes(np.asarray(array), -1, -2))


def _leave(
    estimate: _Drawn,
    drawn: _Drawn,
    ready: inputs.Prepared,
    job: preparation.Job,
    keep_samples: bool,
    provenance: dict[str, Any],
) -> Result:
    """Back to the sense, the layout and the order of the input."""
    sign, rows = np.float32(job.intensity["sign"]), job.rows
    projected, chi2 = _judge(estimate.wide, ready, job.geometry)
    reprojection = sign * _to_file(projected)[rows]
    tikhonov = posterior.to_input_units(ready.tikhonov, ready, job.geometry)
    mean = estimate.kept.mean(axis=0)
    # Unbiased; a single sample has no spread.
    spread = drawn.kept.std(axis=0, ddof=min(1, len(drawn.kept) - 1))
    precision = ready.weight
    if isinstance(precision, Precision):
        precision = precision.per_tilt(job.geometry.tilts_shape)
    weights = np.asarray(precision)[:, 0, 0] / float(ready.scaling.contrast) ** 2
    factors = np.array(provenance["weighting"].get("factors", 1.0), np.float32)
    return Result(
        mean=sign * _to_file(mean),
        std=_to_file(spread),
        samples=sign * _to_file(drawn.kept) if keep_samples else None,
        tikhonov=sign * _to_file(tikhonov),
        reprojection=reprojection,
        residual=reprojection - sign * job.tilts[rows],
        chi2=np.asarray(chi2)[rows] / np.maximum(factors, np.float32(1e-30)),
        weights=weights[rows],
        provenance=provenance,
    )


def _provenance(
    choices: _Choices, job: preparation.Job, settings: TikhonovSettings, seconds: float
) -> dict[str, Any]:
    """JSON-ready record of a run."""
    series, prior = job.series, choices.prior
    return {
        "convention": CONVENTION,
        "sampler": choices.sampler,
        "num_samples": choices.num_samples,
        "num_steps": choices.num_steps,
        "key": [int(k) for k in np.ravel(jax.random.key_data(choices.key))],
        "thickness": job.geometry.volume_shape[0],
        "lateral_margin": job.geometry.margin,
        "voxel_size_angstrom": series.voxel_size_angstrom,
        "angles_deg": [float(a) for a in series.angles_deg[job.rows]],
        "tilt_weights": [float(t) for t in job.trust[job.rows]],
        "intensity": job.intensity,
        "options": choices.options._asdict(),
        "knobs": {k: float(v) for k, v in choices.knobs._asdict().items()},
        "tikhonov": settings._asdict(),
        "prior": {"name": prior.card.get("name"), "sha256": prior.sha256},
        "calibrated": False,
        "range_seen_in_training": range_verdict(prior, series.angles_deg),
        "warnings": list(series.warnings),
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "seconds": seconds,
    }
