"""A tilt series at the door: checked, turned dense-bright, weighed, estimated."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from temdiff_jax import layout
from temdiff_jax.errors import InputError
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.inverse.tikhonov import TikhonovSettings
from temdiff_jax.io import tilt_series
from temdiff_jax.series import checks, inputs, intensity, weighting

# The noise of a tilt is estimated from second differences along both axes.
MIN_PIXELS = 3


class Job(NamedTuple):
    """A checked series by ascending angle; ``rows`` leads back to the order given."""

    series: tilt_series.TiltSeries
    rows: np.ndarray
    geometry: TiltGeometry
    tilts: np.ndarray
    trust: np.ndarray
    intensity: dict[str, Any]


def enter(
    tilts: ArrayLike,
    angles: ArrayLike,
    thickness: int | None,
    voxel_size_angstrom: float | None,
    log: str,
    contrast: str,
    tilt_weights: ArrayLike | None,
) -> Job:
    """Checks the data and turns them so that dense matter is bright."""
    series = tilt_series.tilt_series_from_arrays(
        np.asarray(tilts), np.asarray(angles), voxel_size_angstrom=voxel_size_angstrom
    )
    num, height, width = series.tilts.shape
    if min(height, width) < MIN_PIXELS:
        raise InputError(
            f"tilts: expected at least {MIN_PIXELS} x {MIN_PIXELS} pixels, got "
            f"{height} x {width}; pass whole tilts, not rows"
        )
    depth = (
        width if thickness is None else checks.check_count("thickness", thickness, 1)
    )
    geometry = TiltGeometry.from_degrees(
        series.angles_deg, thickness=depth, width=width, height=height
    )
    prepared, record = intensity.to_dense_bright(
        series.tilts, series.angles_deg, log=log, contrast=contrast
    )
    # The series was sorted by angle, stably, as here.
    order = np.argsort(np.asarray(angles, np.float64).ravel(), kind="stable")
    trust = checks.check_trust(tilt_weights, num)[order]
    return Job(series, np.argsort(order), geometry, prepared, trust, record)


@functools.partial(jax.jit, static_argnames=("num_iters",))
def _prepare_series(
    tilts: jax.Array,
    geometry: TiltGeometry,
    smoothness: Any,
    ridge: Any,
    valid: jax.Array,
    *,
    num_iters: int,
) -> inputs.Prepared:
    settings = TikhonovSettings(smoothness, ridge, num_iters)
    return inputs.prepare(tilts, geometry, settings, valid)


def prepare(
    job: Job,
    settings: TikhonovSettings,
    form: str = "off",
    spread: weighting.Spread | None = None,
) -> tuple[inputs.Prepared, dict[str, Any]]:
    """Data, weights and quadratic estimate, and what is believed less and why."""
    record: dict[str, Any] = {"form": form}
    tilts, keep = layout.tilts_to_core(job.tilts), None
    if form != "off":
        masks = weighting.find_masks(tilts, job.geometry)
        tilts = jnp.asarray(weighting.repair(tilts, masks.keep))
        keep, record["masked"] = jnp.asarray(masks.keep), masks.shares()
    ready = _prepare_series(
        tilts,
        job.geometry,
        jnp.float32(settings.smoothness),
        jnp.float32(settings.ridge),
        jnp.asarray(job.trust),
        num_iters=settings.num_iters,
    )
    if form != "off":
        ready, found = inputs.reweigh(
            ready, job.geometry, settings, form=form, spread=spread, keep=keep
        )
        factors = np.asarray(found.factors)[job.rows]
        angles = job.series.angles_deg[job.rows]
        record["factors"] = [float(f) for f in factors]
        record["unreliable"] = weighting.unreliable(factors, angles)
        if form == "adaptive":
            told = weighting.Spread() if spread is None else spread
            record["misalignment_px"] = float(found.misalignment * told.shift_px)
    jax.block_until_ready(ready.tikhonov)
    return ready, record
