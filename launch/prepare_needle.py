"""Prepares the packaged demonstration series from the NIST needle.

    python -m launch.prepare_needle --source=haadf_aligned.npz \\
        --out=temdiff_jax/data --bin=2

The source holds the aligned HAADF-STEM series of a needle, tilt axis along x.  Each
step below is there for something seen in the data; docs/reports/real_data.md has the
numbers.

1. Vacuum is brought to zero in every tilt: the detector's offset drifts.  The level
   is the median of the pixels, clipped again and again at four standard deviations
   until no pixel leaves; two thirds of every image are vacuum, so this settles there.
2. Pixels that the alignment filled with a constant become vacuum, that is zero.
   Columns where they cut into the needle are cut away.
3. The images are turned so that the tilt axis runs along y (a rotation, no mirror).
4. They move by half a pixel, because the alignment put the axis on row n / 2 and
   this package puts it at (n - 1) / 2.  The mean of two neighbouring pixels does
   it, so that together with step 5 every new pixel is a sum of parts of old ones.
5. They are averaged over bin x bin pixels and divided by bin: line integrals in
   units of the new voxel, hence the same intensity per voxel as before.
6. They are rounded to whole numbers, int16.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np
from absl import app, flags
from scipy import ndimage

from launch import program
from temdiff_jax.errors import InputError
from temdiff_jax.io import axis, binning, write
from temdiff_jax.io.formats import npz

NAME = "needle"
LABELS = (
    "HAADF-STEM tilt series of a needle, NIST, ETSpy test data (public domain)",
    "temdiff_jax launch.prepare_needle: tilt axis along y, vacuum at zero",
)
CLIP_SIGMAS = 4.0
# Standard deviation of a normal distribution over its median absolute deviation.
MAD_TO_SIGMA = 1.4826
# Half-width around the axis in which filled pixels count as missing needle, pixels.
NEEDLE_HALF_WIDTH = 20
# The height becomes a multiple of this many new pixels, for networks that halve it.
HEIGHT_STEP = 8

_SOURCE = flags.DEFINE_string("source", None, "haadf_aligned.npz.", required=True)
_OUT = flags.DEFINE_string("out", None, "Folder for the two files.", required=True)
_BIN = flags.DEFINE_integer("bin", 2, "Pixels per block along both axes.", 1)
_OVERWRITE = flags.DEFINE_boolean("overwrite", False, "Replace existing files.")


def filled_pixels(image: np.ndarray) -> np.ndarray:
    """Mask of what an alignment filled with a constant.

    Args:
      image: ``[y, x]``.

    Returns:
      Boolean ``[y, x]``: blocks of 3 x 3 equal pixels.  Where there is noise, such
      blocks do not happen.
    """
    flat = ndimage.maximum_filter(image, 3) == ndimage.minimum_filter(image, 3)
    return ndimage.binary_dilation(flat, np.ones((3, 3)))


def vacuum_level(values: np.ndarray) -> float:
    """Level of the vacuum among the pixels of one image.

    Args:
      values: Pixels in any order, most of them vacuum.

    Returns:
      Median after clipping at ``CLIP_SIGMAS`` robust standard deviations, repeated
      until no pixel leaves.
    """
    while True:
        level = float(np.median(values))
        sigma = MAD_TO_SIGMA * float(np.median(np.abs(values - level)))
        kept = values[np.abs(values - level) <= max(CLIP_SIGMAS * sigma, 1e-6)]
        if kept.size in (0, values.size):
            return level
        values = kept


def subtract_vacuum(tilts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps 1 and 2 without the cut.

    Args:
      tilts: ``[n_tilts, y, x]``.

    Returns:
      Tilts with vacuum and filled pixels at zero, the mask of filled pixels, and
      the levels ``[n_tilts]``.
    """
    filled = np.stack([filled_pixels(image) for image in tilts])
    levels = np.asarray(
        [vacuum_level(image[~hole]) for image, hole in zip(tilts, filled, strict=True)]
    )
    signal = np.where(filled, 0.0, tilts - levels[:, None, None])
    return signal, filled, levels


def first_complete_row(filled: np.ndarray) -> int:
    """First row along the tilt axis from which the needle is in every tilt.

    Args:
      filled: Mask ``[n_tilts, y, x]``, tilt axis along y in the middle, needle
        entering at row 0.
    """
    _, height, width = filled.shape
    near = slice(width // 2 - NEEDLE_HALF_WIDTH, width // 2 + NEEDLE_HALF_WIDTH)
    missing = filled[:, : height // 2, near].any(axis=(0, 2))
    # One more: the pixel beside a filled one was interpolated from it.
    return int(np.flatnonzero(missing)[-1]) + 2 if missing.any() else 0


def move_half_pixel(tilts: np.ndarray) -> np.ndarray:
    """Move ``[n_tilts, y, x]`` by half a pixel towards larger x; vacuum enters."""
    before = np.pad(tilts, ((0, 0), (0, 0), (1, 0)))[:, :, :-1]
    return 0.5 * (before + tilts)


def prepare(tilts: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """All steps of the module's docstring.

    Args:
      tilts: ``[n_tilts, y, x]`` counts, tilt axis along x on row ``n / 2``.
      factor: Pixels per block.

    Returns:
      ``[n_tilts, y, x]`` int16, tilt axis along y at ``(n - 1) / 2``, and the vacuum
      levels that were subtracted.

    Raises:
      InputError: the result does not fit 16 bits.
    """
    signal, filled, levels = subtract_vacuum(tilts)
    signal = axis.tilts_from_file(signal, "x")
    start = first_complete_row(axis.tilts_from_file(filled, "x"))
    step = HEIGHT_STEP * factor
    height = (signal.shape[1] - start) // step * step
    signal = move_half_pixel(signal[:, signal.shape[1] - height :])
    binned = np.rint(binning.bin_stack(signal, factor) / factor)
    limits = np.iinfo(np.int16)
    if binned.min() < limits.min or binned.max() > limits.max:
        raise InputError(
            f"prepare_needle: expected counts within {limits.min} to {limits.max}, "
            f"got {binned.min():g} to {binned.max():g}; pass a larger --bin"
        )
    return binned.astype(np.int16), levels


def main(argv: Sequence[str]) -> None:
    """Writes needle.mrc and needle.rawtlt."""
    with program.refusals("prepare_needle", argv):
        source = npz.read_npz(_SOURCE.value)
        if source.angles_deg is None or source.voxel_size_angstrom is None:
            raise InputError(
                f"{source.path}: expected angles_deg and pixel_nm, got neither or "
                "one; pass haadf_aligned.npz"
            )
        tilts, levels = prepare(source.data, _BIN.value)
        pixel = source.voxel_size_angstrom[2] * _BIN.value
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
            out / f"{NAME}.rawtlt", source.angles_deg, overwrite=_OVERWRITE.value
        )
    print(
        f"{out / NAME}.mrc: {list(tilts.shape)} {tilts.dtype}, {pixel:g} Angstrom, "
        f"{tilts.min()} to {tilts.max()}; vacuum was {levels.min():g} to "
        f"{levels.max():g} counts"
    )


if __name__ == "__main__":
    app.run(main)
