"""Scores a published sampler over a grid of its numbers on simulated series.

    python -m launch.studies.tune_published --method=dolce-fast \\
        --weights=dolce.safetensors --cases=10/1,40/2 \\
        --volumes='DATA/fib25_medulla/validation_*.npz' \\
        --grid=strength=0.02,0.1,0.5,2.1
    python -m launch.studies.tune_published --method=diffusion-mbir-fast \\
        --weights=diffusion_mbir.safetensors --volumes=... \\
        --grid=coupling=0.025,0.1 --grid=threshold=0.016,0.16 --grid=num_iters=1,3

A strength or coupling is in units of the largest eigenvalue of A^T A.  Every point of
the grid is run on the middle of every volume; the score is the PSNR after the best gain
and offset, over the voxels seen by all views, averaged over the volumes.  Prints
Markdown, a row per point.  Numbers without a point are steps of a solver, see
``Sampling.counts``: write 1.0 for a strength of one.
"""

from __future__ import annotations

import dataclasses
import glob
import itertools
import os
import pathlib
import time
from collections.abc import Iterator, Sequence

import numpy as np
from absl import app, flags

from launch import program
from temdiff_jax.errors import InputError
from temdiff_jax.evaluation import metrics, protocol, runner
from temdiff_jax.io.formats import npz
from temdiff_jax.model import conv
from temdiff_jax.priors import load_prior
from temdiff_jax.reconstruction import methods, reconstruct
from temdiff_jax.reconstruction.method import Method
from temdiff_jax.simulator import grey_to_stain

Numbers = dict[str, float | int]


def define_flags() -> None:
    """Defines the flags; not on import, so that programs can be imported together."""
    flags.DEFINE_string("method", None, "A sampler of temdiff methods.")
    flags.DEFINE_string("weights", None, "Its weights, .safetensors.")
    flags.DEFINE_string("volumes", None, "Glob of .npz volumes whose stain is dark.")
    flags.DEFINE_list("cases", ["10/1", "40/2"], "Tilt schemes, range/step.")
    flags.DEFINE_multi_string("grid", [], "name=value,value,...; repeatable.")
    flags.DEFINE_integer("steps", None, "Instead of the method's own.", 1)
    flags.DEFINE_integer("samples", None, "Instead of the method's own.", 1)
    flags.DEFINE_integer("crop", 64, "Edge of the central cube, voxels.", 16)
    flags.DEFINE_integer("seed", 0, "Of noises and samples.")
    flags.mark_flags_as_required(["method", "weights", "volumes"])


def parse_grid(given: Sequence[str]) -> Iterator[Numbers]:
    """Every combination of the values; one empty point without any.

    Raises:
      InputError: Not ``name=value,value``.
    """
    axes: list[list[tuple[str, float | int]]] = []
    for text in given:
        name, _, values = text.partition("=")
        try:
            # A whole number counts steps and stays one.
            found = [
                (name, int(v) if v.strip().isdigit() else float(v))
                for v in values.split(",")
            ]
        except ValueError as error:
            raise InputError(
                f"--grid: expected name=number,number, got {text!r}; write for example "
                "--grid=strength=0.1,0.5"
            ) from error
        axes.append(found)
    return (dict(point) for point in itertools.product(*axes))


def load_stains(pattern: str, crop: int) -> dict[str, np.ndarray]:
    """Central cubes ``[z, y, x]`` of the volumes as stain, by file name.

    Raises:
      InputError: No file, or one that is smaller.
    """
    found = {}
    for path in sorted(glob.glob(pattern)):
        stain = grey_to_stain(npz.read_npz(pathlib.Path(path)).data)
        if min(stain.shape) < crop:
            raise InputError(
                f"{path}: expected at least {crop} voxels along every axis, got "
                f"{list(stain.shape)}; lower --crop"
            )
        middle = tuple(slice((n - crop) // 2, (n + crop) // 2) for n in stain.shape)
        found[pathlib.Path(path).name] = stain[middle]
    if not found:
        raise InputError(
            f"--volumes: expected at least one file, got none for {pattern}; correct "
            "the glob"
        )
    return found


def score(
    method: Method,
    weights: str,
    stains: dict[str, np.ndarray],
    case: protocol.Case,
    seed: int,
) -> tuple[float, float]:
    """Mean PSNR in dB over the volumes, and seconds of one of them."""
    found, began = [], time.perf_counter()
    for name, stain in stains.items():
        noise = protocol.seed_for(seed, name, case.name)
        volume = reconstruct(
            runner.simulate_case(stain, case.angles_deg, noise),
            case.angles_deg,
            thickness=stain.shape[0],
            method=method,
            prior=weights,
            log="off",
            contrast="bright",
            weighting="off",
            key=seed,
            examined=False,
        ).mean
        mask = metrics.seen_by_all_views(stain.shape, case.angles_deg)
        match = metrics.affine_match(volume, stain, mask)
        found.append(metrics.psnr(match.volume, stain, mask))
    return float(np.mean(found)), (time.perf_counter() - began) / len(stains)


def run() -> None:
    """Prints the table, a row as soon as it is known."""
    given = flags.FLAGS
    method = methods.method_of(given.method)
    settings = dataclasses.replace(
        method.settings,
        num_steps=given.steps or method.settings.num_steps,
        num_samples=given.samples or method.settings.num_samples,
    )
    method = dataclasses.replace(method, own=settings)
    methods.check_network(method, load_prior(given.weights))
    points = list(parse_grid(given.grid))
    cases = [protocol.Case.from_name(name) for name in given.cases]
    stains = load_stains(given.volumes, given.crop)
    heads = [given.method, *(f"{case.name}, dB" for case in cases), "seconds a volume"]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|", flush=True)
    for point in points:
        here = method.with_numbers(**point)
        rows = [score(here, given.weights, stains, case, given.seed) for case in cases]
        name = ", ".join(f"{key} {value:g}" for key, value in point.items())
        cells = [name or "as it is", *(f"{psnr:.2f}" for psnr, _ in rows)]
        cells.append(f"{np.mean([seconds for _, seconds in rows]):.0f}")
        print(f"| {' | '.join(cells)} |", flush=True)


def main(argv: Sequence[str]) -> None:
    """Exits with 2 on unusable input."""
    conv.prefer_own(os.environ)
    with program.refusals("tune_published", argv):
        run()


if __name__ == "__main__":
    define_flags()
    app.run(main)
