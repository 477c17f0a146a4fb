"""Measured tilts beside simulated ones, in pictures and in numbers.

    python -m launch.studies.simulator_gallery --data_dir=DATA --out=runs/gallery
    python -m launch.studies.simulator_gallery --data_dir=DATA --out=runs/gallery \\
        --cryo=cryo.mrc --cryo_angles=cryo.tlt --lamella=lamella.npz

The packaged needle (HAADF) stands beside simulated HAADF series of needle phantoms, a
measured lamella (HAADF, tilt axis along x, angles in its file) beside lamella phantoms,
a measured cryo series (bright field, see launch/prepare_cryo.py) beside simulated
bright field of FIB-SEM tissue.  Printed as a Markdown table, for each: noise over
signal of a tilt, skewness of its grey levels, slope of its power spectrum, and the
share of the power above half of Nyquist.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from scipy import stats

from launch import program
from temdiff_jax import layout
from temdiff_jax.evaluation import fourier
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.io import tilt_series
from temdiff_jax.report import gallery
from temdiff_jax.series import intensity, noise
from temdiff_jax.simulator import (
    ImagingConfig,
    make_bank,
    phantoms,
    sample_stain,
    simulate_series,
)
from temdiff_jax.training.config import DataConfig
from temdiff_jax.training.volumes import load_sources

_DATA = flags.DEFINE_string("data_dir", None, "Folder of the volumes.", required=True)
_OUT = flags.DEFINE_string("out", None, "Folder for the figure.", required=True)
_CRYO = flags.DEFINE_string("cryo", None, "Aligned bright-field stack.")
_CRYO_ANGLES = flags.DEFINE_string("cryo_angles", None, "Its angles.")
_LAMELLA = flags.DEFINE_string("lamella", None, "HAADF stack of a lamella.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the simulated series.", 0)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace earlier files.")

HAADF = ImagingConfig(mode="haadf")
BRIGHT_FIELD = ImagingConfig()
NUM_SIMULATED = 4
# Frequencies, cycles per pixel, between which the slope of a spectrum is fitted.
SLOPE_RANGE = (0.03, 0.25)
EDGE = 96


class Kind(NamedTuple):
    """Tilts of one origin: pictures ``[y, x]``, dense matter bright."""

    name: str
    tilts: list[np.ndarray]


def describe(tilts: list[np.ndarray]) -> dict[str, float]:
    """Numbers of the docstring, averaged over pictures ``[y, x]``."""
    rows = []
    for tilt in tilts:
        core = jnp.asarray(tilt.T[None], jnp.float32)
        frequency, power = fourier.power_spectrum(tilt)
        fitted = (frequency >= SLOPE_RANGE[0]) & (frequency <= SLOPE_RANGE[1])
        slope = np.polyfit(np.log(frequency[fitted]), np.log(power[fitted]), 1)[0]
        # Shells hold as many frequencies as they are long.
        total = np.sum(frequency * power)
        rows.append(
            {
                "noise / signal": float(noise.noise_per_tilt(core)[0]) / tilt.std(),
                "skewness": float(stats.skew(tilt.ravel())),
                "spectral slope": float(slope),
                "power above Nyquist / 2": float(
                    np.sum((frequency * power)[frequency > 0.25]) / total
                ),
            }
        )
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def measured(
    path, angles, *, contrast: str, name: str, log: str = "off", tilt_axis: str = "y"
) -> Kind:
    """Tilts near -30, 0 and 30 degrees of a series, middle part."""
    series = tilt_series.load_tilt_series(path, angles, tilt_axis=tilt_axis)
    tilts, _ = intensity.to_dense_bright(
        series.tilts, series.angles_deg, log=log, contrast=contrast
    )
    chosen = [int(np.argmin(np.abs(series.angles_deg - a))) for a in (-30, 0, 0, 30)]
    chosen[2] = min(chosen[1] + 3, series.num_tilts - 1)
    return Kind(name, [middle(tilts[i]) for i in chosen])


def middle(image: np.ndarray) -> np.ndarray:
    """Central part of ``[y, x]``, at most ``EDGE`` pixels wide."""
    cut = tuple(
        slice((n - min(n, EDGE)) // 2, (n + min(n, EDGE)) // 2) for n in image.shape
    )
    return image[cut]


def simulated(key, stain_of, config: ImagingConfig, name: str) -> Kind:
    """One tilt each of specimens drawn by ``stain_of(key, shape)``."""
    pictures = []
    for index in range(NUM_SIMULATED):
        here = jax.random.fold_in(key, index)
        key_stain, key_series = jax.random.split(here)
        angles = [-30.0, 0.0, 6.0, 30.0]
        geometry = TiltGeometry.from_degrees(
            angles, thickness=EDGE, width=EDGE, height=EDGE
        )
        stain = stain_of(key_stain, geometry.volume_shape)
        series = simulate_series(key_series, stain, geometry, config)
        pictures.append(np.asarray(layout.tilts_from_core(series.tilts))[index])
    return Kind(name, pictures)


def kinds() -> list[Kind]:
    """All rows of the gallery."""
    folder = pathlib.Path("temdiff_jax/data")
    bank = make_bank(load_sources(_DATA.value, DataConfig().sources))
    draw = dict(phantoms.PHANTOMS)
    key = jax.random.key(_SEED.value)
    rows = [
        measured(
            folder / "needle.mrc",
            folder / "needle.rawtlt",
            contrast="bright",
            name="measured: needle, HAADF-STEM",
        ),
        simulated(key, draw["needle"], HAADF, "simulated: needle phantoms, HAADF"),
    ]
    if _LAMELLA.value:
        rows.append(
            measured(
                _LAMELLA.value,
                None,
                contrast="bright",
                name="measured: FIB lamella, HAADF-STEM",
                tilt_axis="x",
            )
        )
        rows.append(
            simulated(key, draw["lamella"], HAADF, "simulated: lamella phantoms, HAADF")
        )
    if _CRYO.value:
        rows.append(
            measured(
                _CRYO.value,
                _CRYO_ANGLES.value,
                contrast="dark",
                name="measured: cryo, bright field",
            )
        )
    tissue = lambda key, shape: sample_stain(key, bank, shape)  # noqa: E731
    low_dose = dataclasses.replace(BRIGHT_FIELD, dose=(500.0, 1000.0))
    rows.append(
        simulated(key, tissue, BRIGHT_FIELD, "simulated: FIB-SEM tissue, bright field")
    )
    rows.append(
        simulated(key, tissue, low_dose, "simulated: the same, 500-1000 electrons")
    )
    return rows


def run() -> None:
    """Draws the figure, prints the table."""
    rows = kinds()
    numbers = {row.name: describe(row.tilts) for row in rows}
    columns = list(next(iter(numbers.values())))
    print("| tilts | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name, values in numbers.items():
        print(f"| {name} | " + " | ".join(f"{values[c]:.2f}" for c in columns) + " |")
    curves = {}
    for row in rows:
        spectra = [fourier.power_spectrum(tilt) for tilt in row.tilts]
        curves[row.name] = (spectra[0][0], np.mean([p for _, p in spectra], axis=0))
    out = pathlib.Path(_OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    gallery.write_gallery(
        out / "simulator_gallery.png",
        {row.name: row.tilts for row in rows},
        title=f"measured and simulated tilts, seed {_SEED.value}",
        curves=curves,
        curve_labels=("frequency, cycles per pixel", "power, unit variance"),
        overwrite=_OVERWRITE.value,
    )


def main(argv: Sequence[str]) -> None:
    """Runs, and exits with 2 on bad input."""
    with program.refusals("simulator_gallery", argv):
        run()


if __name__ == "__main__":
    app.run(main)
