"""Prepares a cryo tilt series with Warp's alignment for reconstruction.

    python -m launch.prepare_cryo --source=empiar10499_00254_bin2.npz --out=DIR
    python -m launch.prepare_cryo --source=... --out=DIR --compare_signs

The source holds raw bright-field images and, for every tilt, the angle, the angle of
the tilt axis and the offsets in Angstrom, as Warp refined them.  Warp places a point r
of the volume in the image of the view with angle A at

    p = R(axis angle) q + offset,    q = (r_x cos(A) - r_z sin(A),  r_y),

lengths from its centres n / 2 (the rotation `Matrix3.Euler` and the addition in
`TiltSeries.GetPositionInAllTilts` of warpem/warp).  That is the formula of
`temdiff_jax.io.alignment.inplane` with theta = -A, so the angles are negated.  The flag
AreAnglesInverted concerns the defocus only.

The images are turned, shifted and cropped in one interpolation, to a square around
the tilt axis that every view covers, and binned.  Views 39 and 40 are left out by
default: their offsets are wrong, see docs/reports/real_data.md.

What is written is the logarithm of the transmission, ln(I / I0): line integrals in
which dense matter stays dark, for `--contrast dark` without `--log`.  No image shows
the incident intensity I0, since the specimen fills all of them; it follows from how
the mean falls with the path through a slab,

    mean ln I = ln I0 - m / cos(theta - lean).

--compare_signs writes no files.  It asks which senses of axis angle and offset make
the views consistent: every second view is reconstructed, projected to the angles of
the others and correlated with them.  The sense of the tilt angles is not among the
questions, since it only mirrors the volume.
"""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from absl import app, flags
from scipy import ndimage

from launch import program
from temdiff_jax import baselines, layout
from temdiff_jax.errors import InputError
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.io import binning, write
from temdiff_jax.io.alignment import inplane
from temdiff_jax.io.formats import npz
from temdiff_jax.projector import project

NAME = "cryo"
LABELS = (
    "EMPIAR-10499, tilt series 00254, Mycoplasma pneumoniae; CC0",
    "temdiff_jax launch.prepare_cryo: aligned, axis along y, ln(I/I0), dark is dense",
)
KEYS = ("axis_angle_deg", "axis_offset_x_A", "axis_offset_y_A")
# The source was binned by this factor before; Warp's centre n / 2 counts in the
# pixels from before, half of one beyond (n - 1) / 2.
SOURCE_BINNING = 2
# Leans of the specimen that are tried, degrees.
LEANS_DEG = np.arange(-15.0, 15.25, 0.25)
# For --compare_signs: further binning, thickness in these pixels, width of the
# background that is taken away, iterations, border left out of the score.
COMPARE_BIN = 2
COMPARE_THICKNESS = 64
COMPARE_BACKGROUND = 6.0
COMPARE_ITERATIONS = 20
COMPARE_BORDER = 16

_SOURCE = flags.DEFINE_string("source", None, "Series, .npz.", required=True)
_OUT = flags.DEFINE_string("out", None, "Folder for the two files.", required=True)
_BIN = flags.DEFINE_integer("bin", 2, "Further binning.", 1)
_SIZE = flags.DEFINE_integer("size", 256, "Edge of the square, source pixels.", 8)
_DROP = flags.DEFINE_list("drop", ["39", "40"], "Views to leave out, from 0.")
_COMPARE = flags.DEFINE_boolean("compare_signs", False, "Print a table instead.")
_OVERWRITE = flags.DEFINE_boolean("overwrite", False, "Replace existing files.")


class Slab(NamedTuple):
    """Fit of the mean logarithm of the intensity; see the module's docstring.

    Attributes:
      incident: I0, counts.
      depth: m, the mean of the logarithm's fall at normal incidence.
      lean_deg: Angle at which the path is shortest.
      residual: Root mean square of what is left, over the views.
    """

    incident: float
    depth: float
    lean_deg: float
    residual: float


class Series(NamedTuple):
    """Raw images with their alignment, in Warp's senses.

    Attributes:
      tilts: ``[n_tilts, y, x]`` intensities, float32.
      angles_deg: Warp's A, ``[n_tilts]``.
      axis_angle_deg: ``[n_tilts]``.
      offsets_px: ``[n_tilts, 2]``, (x, y), from Warp's centre.
      pixel_angstrom: Pixel of the images.
    """

    tilts: np.ndarray
    angles_deg: np.ndarray
    axis_angle_deg: np.ndarray
    offsets_px: np.ndarray
    pixel_angstrom: float


def read(path: str) -> Series:
    """Reads the series and its alignment.

    Raises:
      InputError: anything missing in the file.
    """
    image = npz.read_npz(path)
    with np.load(path, allow_pickle=False) as members:
        absent = [key for key in KEYS if key not in members.files]
        table = {key: members[key] for key in KEYS if key not in absent}
    if absent or image.angles_deg is None or image.voxel_size_angstrom is None:
        raise InputError(
            f"{path}: expected angles_deg, pixel_nm, {', '.join(KEYS)}, got a file "
            f"without {', '.join(absent) or 'angles_deg or pixel_nm'}; pass "
            "empiar10499_00254_bin2.npz"
        )
    pixel = image.voxel_size_angstrom[2]
    offsets = np.stack([table["axis_offset_x_A"], table["axis_offset_y_A"]], axis=1)
    return Series(
        image.data, image.angles_deg, table["axis_angle_deg"], offsets / pixel, pixel
    )


def without(series: Series, views: Sequence[int]) -> Series:
    """The series without some views, counted from 0 in the order of the file.

    Raises:
      InputError: a view that is not there.
    """
    count = len(series.angles_deg)
    wrong = [view for view in views if not 0 <= view < count]
    if wrong:
        raise InputError(
            f"prepare_cryo: expected views from 0 to {count - 1} in --drop, got "
            f"{wrong[0]}; correct the list"
        )
    kept = np.setdiff1d(np.arange(count), views)
    return Series(*(field[kept] for field in series[:-1]), series.pixel_angstrom)


def align(
    series: Series, size: int, *, turn: float = 1.0, move: float = 1.0
) -> np.ndarray:
    """Turned, shifted and cropped images.

    Args:
      series: Raw images and alignment.
      size: Edge of the square in source pixels.
      turn: Sense of the axis angle, 1 or -1.
      move: Sense of the offsets, 1 or -1.

    Returns:
      ``[n_tilts, size, size]`` intensities, float32.

    Raises:
      InputError: some view does not cover the square.
    """
    shifts = move * series.offsets_px + 0.5 / SOURCE_BINNING
    options = {
        "axis_angle_deg": turn * series.axis_angle_deg,
        "shifts_px": shifts,
        "shape": (size, size),
    }
    reached = inplane.covered(series.tilts.shape, **options)
    if not reached.all():
        short = np.flatnonzero(~reached.all(axis=(1, 2)))
        raise InputError(
            f"prepare_cryo: expected a square of {size} pixels inside every view, got "
            f"{short.size} views that leave it, first {short[0]}; pass a smaller --size"
        )
    return inplane.apply_inplane(series.tilts, order=3, **options)


def fit_slab(tilts: np.ndarray, theta_deg: np.ndarray) -> Slab:
    """Least squares of the slab's formula, the lean by scanning.

    Args:
      tilts: ``[n_tilts, y, x]`` positive intensities.
      theta_deg: ``[n_tilts]``.

    Raises:
      InputError: intensities that are not positive.
    """
    if tilts.min() <= 0:
        raise InputError(
            "prepare_cryo: expected positive intensities, got a smallest value of "
            f"{tilts.min():g}; pass counts, not normalised images"
        )
    mean = np.log(tilts).mean(axis=(1, 2), dtype=np.float64)
    fits = []
    for lean in LEANS_DEG:
        path = 1.0 / np.cos(np.deg2rad(theta_deg - lean))
        slope, start = np.polyfit(path, mean, 1)
        residual = float(np.sqrt(np.mean((mean - start - slope * path) ** 2)))
        fits.append(Slab(float(np.exp(start)), -float(slope), float(lean), residual))
    return min(fits, key=lambda fit: fit.residual)


def consistency(tilts: np.ndarray, theta_deg: np.ndarray) -> tuple[float, float]:
    """How well every second view predicts the others.

    Args:
      tilts: ``[n_tilts, y, x]`` aligned intensities.
      theta_deg: ``[n_tilts]``.

    Returns:
      Mean correlation between predicted and measured views without their smooth
      background, and the 99.99th percentile of the volume over its standard
      deviation, which small dense beads raise when they come into focus.
    """
    lines = -np.log(binning.bin_stack(tilts, COMPARE_BIN))
    lines -= ndimage.gaussian_filter(lines, (0, COMPARE_BACKGROUND, COMPARE_BACKGROUND))
    volume = baselines.sirt(
        lines[::2],
        theta_deg[::2],
        thickness=COMPARE_THICKNESS,
        lateral_margin=0,
        iterations=COMPARE_ITERATIONS,
    )
    geometry = TiltGeometry.from_degrees(
        theta_deg[1::2],
        thickness=COMPARE_THICKNESS,
        width=lines.shape[2],
        height=lines.shape[1],
        lateral_margin=0,
    )
    predicted = project(layout.volume_to_core(volume), geometry)
    predicted = np.asarray(layout.tilts_from_core(predicted))
    inner = slice(COMPARE_BORDER, -COMPARE_BORDER)
    scores = [
        np.corrcoef(a[inner, inner].ravel(), b[inner, inner].ravel())[0, 1]
        for a, b in zip(predicted, lines[1::2], strict=True)
    ]
    peak = np.percentile(volume, 99.99) / volume.std()
    return float(np.mean(scores)), float(peak)


def compare_signs(series: Series, size: int) -> None:
    """Prints the consistency of the four senses as a Markdown table."""
    print("| axis angle | offsets | correlation with the views left out | peak |")
    print("|---|---|---|---|")
    for turn, move in itertools.product((1, -1), (1, -1)):
        score, peak = consistency(
            align(series, size, turn=turn, move=move), -series.angles_deg
        )
        print(f"| {turn:+d} | {move:+d} | {score:.3f} | {peak:.1f} |")


def main(argv: Sequence[str]) -> None:
    """Writes cryo.mrc and cryo.tlt, or prints the table."""
    with program.refusals("prepare_cryo", argv):
        dropped = [int(view) for view in _DROP.value]
        series = without(read(_SOURCE.value), dropped)
        if _COMPARE.value:
            compare_signs(series, _SIZE.value)
            return
        tilts = binning.bin_stack(align(series, _SIZE.value), _BIN.value)
        slab = fit_slab(tilts, -series.angles_deg)
        tilts = np.log(tilts / slab.incident).astype(np.float32)
        pixel = series.pixel_angstrom * _BIN.value
        out = pathlib.Path(_OUT.value)
        out.mkdir(parents=True, exist_ok=True)
        write.write_mrc(
            out / f"{NAME}.mrc",
            tilts,
            pixel,
            labels=LABELS,
            is_stack=True,
            overwrite=_OVERWRITE.value,
        )
        write.write_tlt(
            out / f"{NAME}.tlt", -series.angles_deg, overwrite=_OVERWRITE.value
        )
    print(
        f"{out / NAME}.mrc: {list(tilts.shape)} {tilts.dtype}, {pixel:g} Angstrom, "
        f"{tilts.min():.3g} to {tilts.max():.3g}; without views {dropped}\n"
        f"incident intensity {slab.incident:.1f} counts, depth {slab.depth:.3f}, lean "
        f"{slab.lean_deg:g} degrees, residual {slab.residual:.4f}"
    )


if __name__ == "__main__":
    app.run(main)
