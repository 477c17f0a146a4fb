"""Reconstructs a measured series from narrow ranges with every method, and scores it.

    python -m launch.studies.real_data_figures --tilts=temdiff_jax/data/needle.mrc \\
        --angles=temdiff_jax/data/needle.rawtlt --thickness=128 --ranges=20,60 \\
        --outside=vacuum --out=runs/needle
    python -m launch.studies.real_data_figures --tilts=cryo.mrc --angles=cryo.tlt \\
        --log=on --thickness=80 --ranges=40,120 --outside=slab --out=runs/cryo

Nobody knows the true volume of a measured series.  Three questions are asked instead,
and printed as a Markdown table:

- Reference: correlation and RMSE to the reconstruction of all tilts by SIRT and by the
  quadratic estimate, after the best gain and offset, over the voxels seen by all
  tilts.  RMSE is in units of the reference's standard deviation there.  The reference
  has a missing wedge of its own, and looks like the method that made it.
- Held out: the tilts next to the range, which no method saw, are predicted by
  projection.  RMSE after the best gain and offset of each tilt, in units of the
  tilt's standard deviation; 1 is a blank image.
- Residual: mean chi2 of the tilts that were used, 1 being the noise that the tilts
  show themselves.

In vacuum there is a fourth, the elongation: extent along z over extent along x of the
section of a rod, at half its level, the median over its length.  A round one has 1.

The volumes end at the field of view.  --outside=vacuum takes what lies beyond as
empty; --outside=slab scores those columns alone whose rays stay inside.
"""

from __future__ import annotations

import os
import pathlib
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from scipy import ndimage

from launch import program
from temdiff_jax import baselines, layout
from temdiff_jax.errors import InputError
from temdiff_jax.evaluation import metrics
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.io import tilt_series, write
from temdiff_jax.model import conv
from temdiff_jax.projector import project
from temdiff_jax.reconstruction import reconstruct
from temdiff_jax.report import compare
from temdiff_jax.series import intensity, noise

CLASSICAL = {
    "fbp": baselines.fbp,
    "sirt": baselines.sirt,
    "tikhonov": baselines.tikhonov,
}
REFERENCES = ("sirt", "tikhonov")
METHODS = (*CLASSICAL, "mean", "posterior")
OUTSIDE = ("vacuum", "slab")
# A prediction needs this many columns before its score says anything.
FEWEST_COLUMNS = 8
# Elongation: half-width of the square at the axis that sets the level of a section,
# narrowest section, lowest level of one as a part of the brightest.
CORE_HALF_WIDTH = 3
NARROWEST = 8
FAINTEST = 0.1

_TILTS = flags.DEFINE_string("tilts", None, "Stack, tilt axis along y.", required=True)
_ANGLES = flags.DEFINE_string("angles", None, "Its angles.", required=True)
_THICKNESS = flags.DEFINE_integer("thickness", None, "Voxels along the beam.", 1)
_RANGES = flags.DEFINE_list("ranges", ["20", "60"], "Each a width or LO:HI, degrees.")
_OUT = flags.DEFINE_string("out", None, "Folder for the figures.", required=True)
_METHODS = flags.DEFINE_list("methods", list(METHODS), f"Of {', '.join(METHODS)}.")
_OUTSIDE = flags.DEFINE_enum("outside", "vacuum", OUTSIDE, "Beyond the field of view.")
_HELD_OUT = flags.DEFINE_integer("held_out", 3, "Tilts beyond each edge to score.", 1)
_LOG = flags.DEFINE_enum("log", "off", intensity.LOG_CHOICES, "See temdiff --log.")
_CONTRAST = flags.DEFINE_enum(
    "contrast", "auto", intensity.CONTRAST_CHOICES, "Sense of dense matter."
)
_PRIOR = flags.DEFINE_string("prior", "default", "Name or file of the prior.")
_SAMPLES = flags.DEFINE_integer("num_samples", 8, "Posterior samples.", 1)
_STEPS = flags.DEFINE_integer("num_steps", None, "Steps of the sampler.", 2)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the samples.", 0)
_SLICE_Y = flags.DEFINE_integer("slice_y", None, "Row of the xz slices.", 0)
_SLICE_Z = flags.DEFINE_integer("slice_z", None, "Section of the xy slices.", 0)
_OVERWRITE = flags.DEFINE_boolean("overwrite", False, "Replace existing files.")


class Data(NamedTuple):
    """Line integrals with dense matter bright.

    Attributes:
      tilts: ``[n_tilts, y, x]`` float32.
      angles_deg: ``[n_tilts]`` ascending.
      thickness: Voxels along the beam.
      voxel_size_angstrom: Or None.
    """

    tilts: np.ndarray
    angles_deg: np.ndarray
    thickness: int
    voxel_size_angstrom: float | None

    def take(self, chosen: np.ndarray) -> Data:
        """The tilts of a mask or an index list."""
        return self._replace(
            tilts=self.tilts[chosen], angles_deg=self.angles_deg[chosen]
        )


class Row(NamedTuple):
    """Scores of one method on one range; see the module's docstring."""

    method: str
    references: tuple[tuple[float, float], ...]
    held_out: float
    chi2: float
    elongation: float
    seconds: float


def parse_range(text: str) -> tuple[float, float]:
    """``"40"`` to (-20, 20), ``"-20:60"`` to (-20, 60).

    Raises:
      InputError: neither of the two.
    """
    try:
        low, colon, high = text.partition(":")
        if not colon:
            return -0.5 * float(low), 0.5 * float(low)
        return float(low), float(high)
    except ValueError:
        raise InputError(
            f"--ranges: expected a width or LO:HI in degrees, got {text!r}; write 40 "
            "or -20:60"
        ) from None


def load() -> Data:
    """Reads the series and brings it to line integrals, dense matter bright."""
    series = tilt_series.load_tilt_series(_TILTS.value, _ANGLES.value)
    for line in series.warnings:
        logging.warning("%s", line)
    tilts, record = intensity.to_dense_bright(
        series.tilts, series.angles_deg, log=_LOG.value, contrast=_CONTRAST.value
    )
    logging.info("intensity: %s", record)
    thickness = _THICKNESS.value or tilts.shape[2]
    return Data(tilts, series.angles_deg, thickness, series.voxel_size_angstrom)


def run_method(method: str, data: Data) -> np.ndarray:
    """Volume ``[z, y, x]`` of one method with its defaults."""
    if method in CLASSICAL:
        return CLASSICAL[method](data.tilts, data.angles_deg, thickness=data.thickness)
    result = reconstruct(
        data.tilts,
        data.angles_deg,
        thickness=data.thickness,
        prior=_PRIOR.value,
        method=method,
        num_samples=_SAMPLES.value,
        num_steps=_STEPS.value,
        key=_SEED.value,
        log="off",
        contrast="bright",
        examined=False,
    )
    return result.mean


def reference(method: str, data: Data, outside: str) -> np.ndarray:
    """Reconstruction of all tilts; in vacuum nothing needs room beyond the view."""
    margin = 0 if outside == "vacuum" else "auto"
    return CLASSICAL[method](
        data.tilts, data.angles_deg, thickness=data.thickness, lateral_margin=margin
    )


def predict(volume: np.ndarray, data: Data) -> np.ndarray:
    """Projections ``[n_tilts, y, x]`` of a volume that ends at the field of view."""
    _, height, width = volume.shape
    geometry = TiltGeometry.from_degrees(
        data.angles_deg,
        thickness=data.thickness,
        width=width,
        height=height,
        lateral_margin=0,
    )
    tilts = project(layout.volume_to_core(volume), geometry)
    return np.asarray(layout.tilts_from_core(tilts))


def scored_columns(data: Data, outside: str) -> list[np.ndarray]:
    """Columns of every tilt whose rays the field of view answers for.

    In a slab the ray at u meets the faces z = +-t/2 at (u -+ (t/2) sin) / cos, so it
    stays inside for |u| <= (w/2) cos - (t/2) |sin|.
    """
    width = data.tilts.shape[2]
    distance = np.abs(np.arange(width) - (width - 1) / 2)
    reach = np.full(len(data.angles_deg), np.inf)
    if outside == "slab":
        theta = np.deg2rad(data.angles_deg)
        reach = width / 2 * np.cos(theta)
        reach -= data.thickness / 2 * np.abs(np.sin(theta))
    return [distance <= limit for limit in reach]


def held_out_score(volume: np.ndarray, data: Data, outside: str) -> float:
    """RMSE of predicted tilts after gain and offset, over their deviation; the mean.

    NaN where no tilt has enough columns, or none was held out.
    """
    if not data.tilts.size:
        return float("nan")
    scores = []
    columns = scored_columns(data, outside)
    for tilt, guess, keep in zip(data.tilts, predict(volume, data), columns):
        if keep.sum() < FEWEST_COLUMNS:
            continue
        a, b = guess[:, keep].ravel(), tilt[:, keep].ravel()
        matched = metrics.affine_match(a[None, None], b[None, None])
        error = metrics.rmse(matched.volume, b[None, None])
        scores.append(error / b.std(dtype=np.float64))
    return float(np.mean(scores)) if scores else float("nan")


def chi2(volume: np.ndarray, data: Data, outside: str) -> float:
    """Mean squared residual of the used tilts over their noise variance."""
    geometry = TiltGeometry.from_degrees(
        data.angles_deg,
        thickness=data.thickness,
        width=data.tilts.shape[2],
        height=data.tilts.shape[1],
    )
    core = layout.tilts_to_core(jnp.asarray(data.tilts))
    scaling = noise.estimate_units(core, geometry)
    weight = noise.data_precision(noise.normalise_tilts(core, geometry, scaling))
    variance = float(scaling.contrast) ** 2 / np.asarray(weight)[:, 0, 0]
    residual = predict(volume, data) - data.tilts
    columns = scored_columns(data, outside)
    values = [
        np.mean(np.square(r[:, keep], dtype=np.float64)) / v
        for r, keep, v in zip(residual, columns, variance)
        if keep.sum() >= FEWEST_COLUMNS
    ]
    return float(np.mean(values)) if values else float("nan")


def against(
    volume: np.ndarray, truth: np.ndarray, mask: np.ndarray
) -> tuple[float, float]:
    """Correlation, and RMSE after gain and offset over the reference's deviation."""
    matched = metrics.affine_match(volume, truth, mask)
    spread = float(truth[mask].std(dtype=np.float64))
    relative = metrics.rmse(matched.volume, truth, mask) / spread
    correlation = np.corrcoef(volume[mask], truth[mask])[0, 1]
    return float(correlation), float(relative)


def core_levels(volume: np.ndarray) -> np.ndarray:
    """Median near the axis of every section of a rod along y, ``[y]``."""
    z, x = (n // 2 for n in (volume.shape[0], volume.shape[2]))
    half = CORE_HALF_WIDTH
    core = volume[z - half : z + half, :, x - half : x + half]
    return np.median(core, axis=(0, 2))


def elongation(volume: np.ndarray, truth: np.ndarray) -> float:
    """Median over y of z extent over x extent; rows where ``truth`` has a rod."""
    levels, brightness = core_levels(volume), core_levels(truth)
    z, x = (n // 2 for n in (volume.shape[0], volume.shape[2]))
    ratios = []
    for y in np.flatnonzero(brightness > FAINTEST * brightness.max()):
        parts, _ = ndimage.label(volume[:, y] > 0.5 * levels[y])
        rows, columns = np.nonzero(parts == parts[z, x])
        if levels[y] > 0 and parts[z, x] and np.ptp(columns) + 1 >= NARROWEST:
            ratios.append((np.ptp(rows) + 1) / (np.ptp(columns) + 1))
    return float(np.median(ratios)) if ratios else float("nan")


def score_range(
    data: Data, limits: tuple[float, float], references: dict[str, np.ndarray]
) -> tuple[list[Row], dict[str, np.ndarray]]:
    """Rows of the table and volumes of every method for one range."""
    low, high = limits
    used = (data.angles_deg >= low - 1e-6) & (data.angles_deg <= high + 1e-6)
    if not used.any():
        raise InputError(
            f"--ranges: expected tilts between {low:g} and {high:g} degrees, got "
            "none; widen the range"
        )
    inside = np.flatnonzero(used)
    below = np.arange(max(inside[0] - _HELD_OUT.value, 0), inside[0])
    above = np.arange(inside[-1] + 1, len(used))[: _HELD_OUT.value]
    held_out = data.take(np.concatenate([below, above]))
    part = data.take(used)
    first = next(iter(references.values()))
    mask = metrics.seen_by_all_views(first.shape, data.angles_deg)
    rod = _OUTSIDE.value == "vacuum"
    rows, volumes = [], {}
    for method in _METHODS.value:
        started = time.monotonic()
        volume = volumes[method] = run_method(method, part)
        seconds = time.monotonic() - started
        rows.append(
            Row(
                method,
                tuple(against(volume, v, mask) for v in references.values()),
                held_out_score(volume, held_out, _OUTSIDE.value),
                chi2(volume, part, _OUTSIDE.value),
                elongation(volume, first) if rod else float("nan"),
                seconds,
            )
        )
        logging.info("%s", rows[-1])
    return rows, volumes


def table(rows: Sequence[Row], names: Sequence[str]) -> str:
    """Markdown of one range; NaN prints as a dash."""
    heads = ["method"]
    for name in names:
        heads += [f"correlation, {name} ref.", f"RMSE, {name} ref."]
    heads += ["held-out RMSE", "chi2", "elongation", "seconds"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        numbers = [f"{number:.3f}" for pair in row.references for number in pair]
        numbers += [_number(row.held_out, 3), _number(row.chi2, 2)]
        numbers += [_number(row.elongation, 2), f"{row.seconds:.0f}"]
        lines.append(f"| {row.method} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def _number(value: float, digits: int) -> str:
    return "-" if np.isnan(value) else f"{value:.{digits}f}"


def run() -> None:
    """All ranges: tables to standard output, one figure each."""
    unknown = [method for method in _METHODS.value if method not in METHODS]
    if unknown:
        raise InputError(
            f"--methods: expected some of {', '.join(METHODS)}, got {unknown[0]!r}; "
            "correct the list"
        )
    ranges = [parse_range(text) for text in _RANGES.value]
    out = pathlib.Path(_OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    targets = [out / f"{low:g}_{high:g}.png" for low, high in ranges]
    for target in targets:
        write.check_output(target, overwrite=_OVERWRITE.value)
    data = load()
    references = {name: reference(name, data, _OUTSIDE.value) for name in REFERENCES}
    if _OUTSIDE.value == "vacuum":
        first = next(iter(references.values()))
        for name, volume in references.items():
            print(f"elongation, {name} ref.: {elongation(volume, first):.2f}")
    span = f"{data.angles_deg[0]:.3g} to {data.angles_deg[-1]:.3g}"
    for (low, high), target in zip(ranges, targets):
        rows, volumes = score_range(data, (low, high), references)
        print(f"\n{low:g} to {high:g} degrees, reference {span} degrees\n")
        print(table(rows, list(references)))
        named = {f"{name}, {span} deg": v for name, v in references.items()}
        compare.write_comparison(
            target,
            volumes | named,
            compare.Cut(_SLICE_Y.value, _SLICE_Z.value, next(iter(named))),
            title=f"{pathlib.Path(_TILTS.value).stem}, {low:g} to {high:g} degrees",
            voxel_size_angstrom=data.voxel_size_angstrom,
            overwrite=_OVERWRITE.value,
        )


def main(argv: Sequence[str]) -> None:
    """Runs, and exits with 2 on bad input."""
    conv.prefer_own(os.environ)
    with program.refusals("real_data_figures", argv):
        run()


if __name__ == "__main__":
    app.run(main)
