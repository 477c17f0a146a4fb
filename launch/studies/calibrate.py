"""Chooses the numbers of a prior's projection update on validation blocks.

For a few settings of the error metric (smoothness, ridge) it scores the one-call
estimate, and for the sampler the mean, one sample and the calibration ratio tau,
on simulated series of volumes that the prior never saw.

    python -m launch.studies.calibrate --prior=default --data_dir=DATA \\
        --volumes=fib25_medulla/validation_crop0_128.npz:volume \\
        --cases=10/1,40/2 --crop=64
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from launch import program
from temdiff_jax import evaluation
from temdiff_jax.diffusion import methods
from temdiff_jax.evaluation import metrics, runner
from temdiff_jax.inverse.quadratic import Metric
from temdiff_jax.model import conv
from temdiff_jax.priors import load_prior
from temdiff_jax.reconstruction import reconstruct
from temdiff_jax.reconstruction.settings import Settings
from temdiff_jax.simulator import grey_to_stain
from temdiff_jax.training.volumes import load_sources

_PRIOR = flags.DEFINE_string("prior", "default", "Name or path.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of the volumes.")
_VOLUMES = flags.DEFINE_list(
    "volumes", ["fib25_medulla/validation_crop0_128.npz:volume"], "path:key entries."
)
_CASES = flags.DEFINE_list("cases", ["10/1", "40/2", "120/3"], "Range/step.")
_CROP = flags.DEFINE_integer("crop", 96, "Thickness and width, voxels.")
_HEIGHT = flags.DEFINE_integer("height", 48, "Extent along the tilt axis.")
_SMOOTHNESS = flags.DEFINE_list("smoothness", ["1", "3", "10"], "Grid.")
_RIDGE = flags.DEFINE_list("ridge", ["0.03", "0.3"], "Grid.")
_ETA = flags.DEFINE_list("eta", ["0.5", "0.85"], 'Grid, solver "ddim" only.')
_SOLVER = flags.DEFINE_enum(
    "solver", Settings().solver, list(methods.SOLVERS), "Of the sampler."
)
_SAMPLES = flags.DEFINE_integer("samples", 0, "Samples; 0 leaves the sampler out.")
_STEPS = flags.DEFINE_integer("steps", 16, "Steps of the sampler.")
_OUT = flags.DEFINE_string("out", None, "JSON lines to append to.")


def centre(volume: np.ndarray, crop: int, height: int) -> np.ndarray:
    """Central ``[crop, height, crop]`` of ``[z, y, x]`` as stain density."""
    stain = grey_to_stain(volume)
    sizes = (crop, height, crop)
    start = [(n - m) // 2 for n, m in zip(stain.shape, sizes, strict=True)]
    return stain[tuple(slice(s, s + m) for s, m in zip(start, sizes, strict=True))]


def psnr(volume: np.ndarray, truth: np.ndarray) -> float:
    """PSNR after the affine match of the protocol, whole field of view."""
    return metrics.psnr(metrics.affine_match(volume, truth).volume, truth)


def score_setting(
    prior, series, *, samples: int, steps: int, solver: str, eta: float
) -> dict:
    """Mean scores of one setting over (tilts, angles, truth) triples."""
    rows = []
    for tilts, angles, truth in series:
        kwargs = {"thickness": truth.shape[0], "prior": prior}
        kwargs |= {"log": "off", "contrast": "bright"}
        if not samples:
            result = reconstruct(tilts, angles, method="mean", examined=False, **kwargs)
            rows.append([psnr(result.mean, truth) - psnr(result.tikhonov, truth)])
            continue
        result = reconstruct(
            tilts,
            angles,
            num_samples=samples,
            num_steps=steps,
            keep_samples=True,
            examined=False,
            settings=Settings(solver=solver, eta=eta),
            **kwargs,
        )
        base = psnr(result.tikhonov, truth)
        match = metrics.affine_match(result.mean, truth)
        error = metrics.rmse(match.volume, truth)
        spread = metrics.mean_spread(result.std, match.gain)
        rows.append(
            [
                psnr(result.mean, truth) - base,
                psnr(result.samples[0], truth) - base,
                metrics.tau(error, spread, samples),
            ]
        )
    return {
        "per_series": np.round(rows, 3).tolist(),
        "average": np.round(np.mean(rows, axis=0), 3).tolist(),
    }


def run() -> None:
    """Prints one JSON line per setting."""
    prior = load_prior(_PRIOR.value)
    volumes = load_sources(_DATA_DIR.value, tuple(_VOLUMES.value))
    cases = [evaluation.Case.from_name(name) for name in _CASES.value]
    series = []
    for index, volume in enumerate(volumes):
        truth = centre(volume, _CROP.value, _HEIGHT.value)
        for case in cases:
            angles = np.asarray(case.angles_deg)
            tilts = runner.simulate_case(truth, angles, index)
            series.append((tilts, angles, truth))
    has_eta = _SAMPLES.value and _SOLVER.value == "ddim"
    etas = [float(e) for e in _ETA.value] if has_eta else [0.0]
    for smoothness in map(float, _SMOOTHNESS.value):
        for ridge in map(float, _RIDGE.value):
            metric = Metric(jnp.float32(smoothness), jnp.float32(ridge))
            here = dataclasses.replace(prior, metric_mean=metric, metric_sample=metric)
            for eta in etas:
                row = {
                    "smoothness": smoothness,
                    "ridge": ridge,
                    "solver": _SOLVER.value,
                    "eta": eta,
                    "samples": _SAMPLES.value,
                    "cases": _CASES.value,
                    "jax": jax.__version__,
                }
                row |= score_setting(
                    here,
                    series,
                    samples=_SAMPLES.value,
                    steps=_STEPS.value,
                    solver=_SOLVER.value,
                    eta=eta,
                )
                line = json.dumps(row)
                print(line, flush=True)
                if _OUT.value:
                    with open(_OUT.value, "a", encoding="utf-8") as file:
                        file.write(line + "\n")


def main(argv: Sequence[str]) -> None:
    """Runs, and exits with 2 on bad input."""
    conv.prefer_own(os.environ)
    with program.refusals("calibrate", argv):
        run()


if __name__ == "__main__":
    flags.mark_flags_as_required(["data_dir"])
    app.run(main)
