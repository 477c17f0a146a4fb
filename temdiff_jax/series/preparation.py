"""From a tilt series to a problem: checked, turned dense-bright, weighed, estimated."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from temdiff_jax import layout, parallel
from temdiff_jax.errors import InputError, check_known
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.inverse.problem import UNIT_NM, Problem
from temdiff_jax.inverse.quadratic import Metric
from temdiff_jax.inverse.tikhonov import TikhonovSettings
from temdiff_jax.io import tilt_series
from temdiff_jax.projector import motion_from_degrees
from temdiff_jax.series import checks, inputs, intensity, weighting


class SeriesOptions(NamedTuple):
    """What a user says of a series; see ``reconstruct`` for each.

    ``warnings`` are those of its files, a line each.
    """

    thickness: int | None = None
    voxel_size_angstrom: float | None = None
    log: str = "auto"
    contrast: str = "auto"
    tilt_weights: ArrayLike | None = None
    weighting: str = "adaptive"
    spread: weighting.Spread | None = None
    alignment: tilt_series.Alignment | None = None
    warnings: tuple[str, ...] = ()


class Job(NamedTuple):
    """A checked series by ascending angle; ``rows`` leads back to the order given."""

    series: tilt_series.TiltSeries
    rows: np.ndarray
    geometry: TiltGeometry
    tilts: np.ndarray
    trust: np.ndarray
    intensity: dict[str, Any]
    options: SeriesOptions


def check_series(tilts: ArrayLike, angles: ArrayLike, options: SeriesOptions) -> Job:
    """Checks the data and turns them so that dense matter is bright."""
    check_known("weighting", options.weighting, weighting.FORMS)
    series = tilt_series.tilt_series_from_arrays(
        np.asarray(tilts),
        np.asarray(angles),
        voxel_size_angstrom=options.voxel_size_angstrom,
        alignment=options.alignment,
    )
    said = tuple(dict.fromkeys((*options.warnings, *series.warnings)))
    series = dataclasses.replace(series, warnings=said)
    num, height, width = series.tilts.shape
    if min(height, width) < checks.MIN_PIXELS:
        raise InputError(
            f"tilts: expected at least {checks.MIN_PIXELS} x {checks.MIN_PIXELS} "
            f"pixels, got {height} x {width}; pass whole tilts, not rows"
        )
    depth = width
    if options.thickness is not None:
        depth = checks.check_count("thickness", options.thickness)
    geometry = TiltGeometry.from_degrees(
        series.angles_deg, thickness=depth, width=width, height=height
    )
    if series.alignment is not None:
        motion = motion_from_degrees(num, **series.alignment.motion_fields())
        geometry = dataclasses.replace(geometry, motion=motion)
    prepared, record = intensity.to_dense_bright(
        series.tilts, series.angles_deg, log=options.log, contrast=options.contrast
    )
    # The series was sorted by angle, stably, as here.
    order = np.argsort(np.asarray(angles, np.float64).ravel(), kind="stable")
    trust = checks.check_tilt_weights(options.tilt_weights, num)[order]
    rows = np.argsort(order)
    return Job(series, rows, geometry, prepared, trust, record, options)


@functools.partial(jax.jit, static_argnames=("num_iters",))
def _prepare_series(
    tilts: jax.Array,
    geometry: TiltGeometry,
    metric: Any,
    valid: jax.Array,
    voxel_nm: jax.Array,
    seen: jax.Array | None,
    *,
    num_iters: int,
) -> Problem:
    settings = TikhonovSettings(metric.smoothness, metric.ridge, num_iters)
    return inputs.prepare(tilts, geometry, settings, valid, voxel_nm, seen)


def prepare(job: Job, settings: TikhonovSettings) -> tuple[Problem, dict[str, Any]]:
    """Data, weights and quadratic estimate, and what weighs less and why."""
    form, spread = job.options.weighting, job.options.spread
    record: dict[str, Any] = {"form": form}
    tilts, keep = layout.tilts_to_core(job.tilts), None
    if form != "off":
        masks = weighting.find_masks(tilts, job.geometry)
        tilts = jnp.asarray(weighting.repair(tilts, masks.keep))
        keep, record["masked"] = jnp.asarray(masks.keep), masks.shares()
    seen = None
    if job.geometry.motion is not None:  # what looks beside the volume says nothing
        beside = weighting.outside_mask(job.geometry)
        seen = jnp.asarray(~beside, tilts.dtype)
        tilts = jnp.asarray(weighting.repair(tilts, seen))
    mesh = job.geometry.mesh
    tilts = parallel.on_mesh(tilts, mesh)
    if keep is not None:
        keep = parallel.on_mesh(keep, mesh)
    size = job.series.voxel_size_angstrom
    problem = _prepare_series(
        tilts,
        job.geometry,
        Metric(jnp.float32(settings.smoothness), jnp.float32(settings.ridge)),
        jnp.asarray(job.trust),
        jnp.float32(UNIT_NM if size is None else size / 10.0),
        seen,
        num_iters=settings.num_iters,
    )
    if form != "off":
        problem, found = inputs.reweigh(
            problem, settings, form=form, spread=spread, keep=keep
        )
        factors = parallel.to_host(found.factors)[job.rows]
        record["factors"] = [float(f) for f in factors]
        if form in ("adaptive", "low-rank"):
            assumed = weighting.Spread() if spread is None else spread
            record["misalignment_px"] = float(found.misalignment * assumed.shift_px)
    jax.block_until_ready(problem.shown.tikhonov)
    return problem, record
