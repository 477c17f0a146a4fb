"""Tunes the classical methods per tilt range on simulated series.

    python -m launch.studies.tune_baselines --volumes='data/fib25/validation_*.npz'

Every validation block becomes a stain density, is imaged as an aligned bright-field
series, and reconstructed with every option of the printed grids by the functions a
user calls.  The score is the PSNR after the best gain and offset, over the voxels
seen by all views, with the data range of the truth, averaged over the blocks.

By default a grid is walked, not exhausted: from the best point of the case before
(at first the middle), along every axis, until no neighbour is better.  The file
lists each point that was scored, and whether the best lies on a grid's end; with
--resume a wider grid costs its new points alone.

Beyond the cropped block the specimen continues by reflection, as far as the largest
tilt sees.
"""

from __future__ import annotations

import functools
import glob
import itertools
import json
import pathlib
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging

from launch import program
from temdiff_jax import baselines, layout, simulator
from temdiff_jax import geometry as geometry_lib
from temdiff_jax.errors import InputError
from temdiff_jax.evaluation import metrics, protocol
from temdiff_jax.io import formats
from temdiff_jax.io import write as files

Point = tuple[float, ...]

# Method -> option -> values, ascending.
GRIDS: dict[str, dict[str, tuple[float, ...]]] = {
    "tikhonov": {
        "smoothness": (0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
        "ridge": (0.001, 0.003, 0.01, 0.03, 0.1),
    },
    "sirt": {"iterations": (5, 10, 20, 50, 100, 200, 500)},
    "sart": {"lam": (0.1, 0.3, 1.0), "sweeps": (5, 10, 20, 50)},
    "tv": {"lam": (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)},
    "fbp": {},
}
IMAGING = simulator.ImagingConfig(
    dose=(5000.0, 5000.0),
    resin_path=(0.8, 0.8),
    contrast=(0.3, 0.3),
    blur_px=(0.0, 0.0),
    errors=simulator.ALIGNED,
)

_VOLUMES = flags.DEFINE_string(
    "volumes", None, "Glob of validation blocks (.npz, .npy or MRC).", required=True
)
_CROP = flags.DEFINE_integer("crop", 96, "Central extent along z and x, voxels.", 16)
_HEIGHT = flags.DEFINE_integer("height", 32, "Central extent along y, voxels.", 3)
_CASES = flags.DEFINE_list(
    "cases", [case.name for case in protocol.CASES], "Tilt schemes range/step."
)
_METHODS = flags.DEFINE_list("methods", list(GRIDS), "Methods to tune.")
_OUT = flags.DEFINE_string("out", "configs/baselines.json", "File to write.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the simulated noise.")
_RESUME = flags.DEFINE_boolean(
    "resume", False, "Go on from the scores in --out, made with the same setup."
)
_EXHAUSTIVE = flags.DEFINE_boolean("exhaustive", False, "Score every grid point.")


class Specimen(NamedTuple):
    """One simulated series: tilts ``[n_tilts, y, x]``, truth and mask ``[z, y, x]``."""

    tilts: np.ndarray
    truth: np.ndarray
    mask: np.ndarray


def load_stain(path: str, crop: int, height: int) -> np.ndarray:
    """The middle of a block as stain density, ``[z, y, x]`` float32 in [0, 1]."""
    name = pathlib.Path(path)
    array = formats.read_image(name).data
    if min(array.shape[0], array.shape[2]) < crop or array.shape[1] < height:
        raise InputError(
            f"{path}: expected at least {crop} x {height} x {crop} voxels (z, y, x), "
            f"got {list(array.shape)}; lower --crop or --height"
        )
    stain = simulator.grey_to_stain(array)
    middle = tuple(
        slice((have - want) // 2, (have - want) // 2 + want)
        for have, want in zip(array.shape, (crop, height, crop))
    )
    return stain[middle]


def simulate(stain: np.ndarray, angles_deg: np.ndarray, seed: int) -> Specimen:
    """Images one block; beyond its sides it is reflected."""
    nz, ny, nx = stain.shape
    rays = geometry_lib.TiltGeometry.from_degrees(
        angles_deg, thickness=nz, width=nx, height=ny
    )
    wide = [(0, 0), (rays.margin, rays.margin), (0, 0)]
    core = np.pad(np.swapaxes(stain, 1, 2), wide, mode="symmetric")
    series = simulator.simulate_series(
        jax.random.key(seed), jnp.asarray(core), rays, IMAGING
    )
    return Specimen(
        np.asarray(layout.tilts_from_core(series.tilts)),
        np.asarray(layout.volume_from_core(rays.crop(series.volume))),
        metrics.seen_by_all_views(stain.shape, angles_deg),
    )


def matched_psnr(volume: np.ndarray, specimen: Specimen) -> float:
    """PSNR in dB after the best gain and offset, over the seen voxels."""
    match = metrics.affine_match(volume, specimen.truth, specimen.mask)
    return metrics.psnr(match.volume, specimen.truth, specimen.mask)


def score_point(
    method: str,
    options: dict[str, float],
    specimens: Sequence[Specimen],
    angles_deg: np.ndarray,
) -> list[float]:
    """PSNR of every specimen with one set of options."""
    reconstruct = getattr(baselines, method)
    return [
        matched_psnr(
            reconstruct(
                specimen.tilts,
                angles_deg,
                thickness=specimen.truth.shape[0],
                **options,
            ),
            specimen,
        )
        for specimen in specimens
    ]


def walk(
    score: Callable[[Point], float],
    axes: Sequence[Sequence[float]],
    start: Point,
    *,
    exhaustive: bool = False,
) -> Point:
    """Best point of a grid by steps to better neighbours, or of all points.

    Args:
      score: Higher is better; called once per point.
      axes: Values along each axis.
      start: Grid point to begin at.
      exhaustive: Score every point.
    """
    score = functools.cache(score)
    if exhaustive:
        return max(itertools.product(*axes), key=score)
    best = start
    while True:
        near = [best]
        for axis, values in enumerate(axes):
            at = values.index(best[axis])
            near += [
                (*best[:axis], values[i], *best[axis + 1 :])
                for i in (at - 1, at + 1)
                if 0 <= i < len(values)
            ]
        found = max(near, key=score)
        if score(found) <= score(best):
            return best
        best = found


def tune(
    method: str,
    specimens: Sequence[Specimen],
    angles_deg: np.ndarray,
    start: Point | None,
    *,
    known: dict[str, Any] | None = None,
    exhaustive: bool = False,
) -> dict[str, Any]:
    """Tunes one method for one case; the record that the file keeps.

    Args:
      method: Name in ``GRIDS``.
      specimens: Simulated series of the case.
      angles_deg: ``[n_tilts]``.
      start: Grid point to begin at; ``None`` is the middle.
      known: An earlier record, whose scores are not computed again.
      exhaustive: Score every point.
    """
    names, axes = list(GRIDS[method]), list(GRIDS[method].values())
    known = known or {"scores": [], "seconds": 0.0}
    scored: dict[Point, list[float]] = {
        tuple(row[name] for name in names): row["psnr_db"] for row in known["scores"]
    }

    def score(point: Point) -> float:
        if point not in scored:
            options = dict(zip(names, point))
            values = score_point(method, options, specimens, angles_deg)
            scored[point] = [round(value, 3) for value in values]
        return float(np.mean(scored[point]))

    begin = time.perf_counter()
    middle = tuple(values[len(values) // 2] for values in axes)
    best = walk(score, axes, start or middle, exhaustive=exhaustive)
    total = int(np.prod([len(values) for values in axes]))
    return {
        "best": dict(zip(names, best)),
        "psnr_db": round(float(np.mean(scored[best])), 3),
        "on_grid_end": [
            name
            for name, values, value in zip(names, axes, best)
            if value in (values[0], values[-1])
        ],
        "points_scored": len(scored),
        "points_in_grid": total,
        "seconds": round(known["seconds"] + time.perf_counter() - begin, 1),
        "scores": [
            {**dict(zip(names, point)), "psnr_db": values}
            for point, values in sorted(scored.items())
        ],
    }


def tuned_rows(cases: dict[str, dict[str, Any]], method: str) -> list[list[float]]:
    """Rows (half-range, best options...) as the method's ``TUNED`` has them."""
    return [
        [protocol.Case.from_name(name).half_range_deg, *row[method]["best"].values()]
        for name, row in cases.items()
        if method in row
    ]


def header(files: Sequence[str]) -> dict[str, Any]:
    """What was run on what; ``setup`` is what scores depend on."""
    return {
        "commands": [
            "python -m launch.studies.tune_baselines " + shlex.join(sys.argv[1:])
        ],
        "search": "every point" if _EXHAUSTIVE.value else "walk to better neighbours",
        "grids": {
            name: {option: list(values) for option, values in grid.items()}
            for name, grid in GRIDS.items()
        },
        "setup": {
            "volumes": [pathlib.Path(path).name for path in files],
            "crop_zyx": [_CROP.value, _HEIGHT.value, _CROP.value],
            "seed": _SEED.value,
            "score": "PSNR (dB) after affine match, voxels seen by all views, data "
            "range of the truth, one value per volume",
            "imaging": {
                "mode": IMAGING.mode,
                "electrons_per_pixel": IMAGING.dose[0],
                "resin_path": IMAGING.resin_path[0],
                "contrast": IMAGING.contrast[0],
                "read_noise": IMAGING.read_noise,
                "errors": "none (aligned)",
            },
        },
    }


def begin_report(files: Sequence[str]) -> dict[str, Any]:
    """An empty report, or the one to go on from."""
    head = header(files)
    if not _RESUME.value:
        return {"header": head, "tuned": {}, "cases": {}}
    report = json.loads(pathlib.Path(_OUT.value).read_text(encoding="utf-8"))
    if report["header"]["setup"] != head["setup"]:
        raise InputError(
            f"--resume: expected {_OUT.value} made with the setup of this call, got "
            "another one; repeat its flags, or leave --resume out"
        )
    head["commands"] = report["header"]["commands"] + head["commands"]
    return {**report, "header": head}


def write(report: dict[str, Any]) -> None:
    """Replaces the output by the report so far."""
    pathlib.Path(_OUT.value).parent.mkdir(parents=True, exist_ok=True)
    files.write_json(_OUT.value, report, overwrite=True, indent=None)


def run() -> None:
    """Tunes every method for every case and writes the file after each."""
    unknown = sorted(set(_METHODS.value) - set(GRIDS))
    if unknown:
        raise InputError(
            f"--methods: expected some of {', '.join(GRIDS)}, got {unknown[0]}; "
            "correct the name"
        )
    files = sorted(glob.glob(_VOLUMES.value))
    if not files:
        raise InputError(
            f"--volumes: expected at least one file, got none for {_VOLUMES.value}; "
            "correct the glob"
        )
    stains = [load_stain(path, _CROP.value, _HEIGHT.value) for path in files]
    for name in _METHODS.value:
        print(f"grid of {name}: {GRIDS[name] or 'no options'}")

    report = begin_report(files)
    cases: dict[str, dict[str, Any]] = report["cases"]
    starts: dict[str, Point] = {}
    for case in (protocol.Case.from_name(name) for name in _CASES.value):
        specimens = [
            simulate(
                stain,
                case.angles_deg,
                protocol.seed_for(_SEED.value, pathlib.Path(path).name, case.name),
            )
            for path, stain in zip(files, stains)
        ]
        for method in _METHODS.value:
            known = cases.get(case.name, {}).get(method)
            start = tuple(known["best"].values()) if known else starts.get(method)
            record = tune(
                method,
                specimens,
                case.angles_deg,
                start,
                known=known,
                exhaustive=_EXHAUSTIVE.value,
            )
            starts[method] = tuple(record["best"].values())
            cases.setdefault(case.name, {})[method] = record
            if GRIDS[method]:
                report["tuned"][method] = tuned_rows(cases, method)
            write(report)
            print(
                f"{case.name} {method}: {record['best']} {record['psnr_db']:.2f} dB, "
                f"{record['points_scored']} of {record['points_in_grid']} points, "
                f"{record['seconds']:.0f} s, at the end of: "
                f"{', '.join(record['on_grid_end']) or 'no axis'}",
                flush=True,
            )
    logging.info("wrote %s", _OUT.value)


def main(argv: Sequence[str]) -> None:
    """Runs, and exits with 2 on bad input."""
    with program.refusals("tune_baselines", argv):
        run()


if __name__ == "__main__":
    app.run(main)
