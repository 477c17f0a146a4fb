"""Fits the factors by which the spread of samples becomes an interval, and tests them.

    python -m launch.studies.intervals --prior=FILE.safetensors --size=64 \\
        --fit=DATA/fib25_medulla/validation_crop0_128.npz:volume \\
        --test=DATA/fib25_medulla/validation_crop1_128.npz:volume \\
        --cases=10/1,40/2,60/3,120/3 --card=CARD.json --out=intervals.md

Blocks of ``--fit`` volumes are imaged as by ``launch.evaluate_prior`` (bright stain,
1 % noise) and reconstructed by the method default; a factor is the quantile of
``|truth - mean| / std`` over their voxels, or cells of voxels, that the level names.
Blocks of ``--test`` volumes, which no factor saw, tell the coverage, and the mean width
beside that of an interval of constant width, both widened to cover 90 % there.  The
card is written with the factors in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from absl import app, flags

from launch import evaluate_prior, program
from temdiff_jax.errors import InputError
from temdiff_jax.evaluation.protocol import Case, seed_for
from temdiff_jax.inverse.tikhonov import settings_for
from temdiff_jax.io import write
from temdiff_jax.priors import Prior, load_prior
from temdiff_jax.reconstruction import methods
from temdiff_jax.reconstruction.denoiser import regressed
from temdiff_jax.reconstruction.intervals import CELLS, LEVELS, cells_of
from temdiff_jax.reconstruction.settings import Settings
from temdiff_jax.reconstruction.watch import Watch
from temdiff_jax.series import inputs

# Errors and spreads of one block, by the edge of the cells.
Scores = dict[int, tuple[np.ndarray, np.ndarray]]


def define_flags() -> None:
    """Defines the flags; not on import, so that programs can be imported together."""
    flags.DEFINE_string("prior", None, "Name or file of the prior.")
    flags.DEFINE_multi_string("fit", None, "npz file:key the factors are fitted to.")
    flags.DEFINE_multi_string("test", None, "npz file:key that tells the coverage.")
    flags.DEFINE_string("cases", "10/1,40/2,60/3,120/3", "Tilt schemes, range/step.")
    flags.DEFINE_integer("size", 64, "Edge of a block, voxels.", 8)
    flags.DEFINE_integer("blocks", 4, "Blocks of each volume.", 1)
    flags.DEFINE_float("voxel_nm", 10.0, "Voxel size of the volumes.")
    flags.DEFINE_integer("samples", 8, "Samples of each series.", 2)
    flags.DEFINE_integer("seed", 0, "Of the noise and the samples.")
    flags.DEFINE_string("card", None, "Card to write the factors into.")
    flags.DEFINE_string("out", None, "Markdown page to write.")
    flags.mark_flags_as_required(["prior", "fit", "test"])


def blocks_of(name: str, size: int, count: int) -> Iterator[np.ndarray]:
    """Cubes of a volume that do not overlap, ``[z, x, y]``, spread over it."""
    with np.load(name.partition(":")[0], allow_pickle=False) as archive:
        key = name.partition(":")[2]
        extent = min(archive[key].shape) if key in archive else 0
    whole = evaluate_prior.read_volume(name, max(size, extent))
    corners = np.stack(
        np.meshgrid(*(range(0, n - size + 1, size) for n in whole.shape), indexing="ij")
    ).reshape(3, -1)
    if corners.shape[1] < count:
        raise InputError(
            f"--blocks: expected at most {corners.shape[1]} of edge {size} in {name}, "
            f"got {count}"
        )
    for index in np.linspace(0, corners.shape[1] - 1, count).round().astype(int):
        yield whole[tuple(slice(s, s + size) for s in corners[:, index])]


def scores(
    prior: Prior, truth: np.ndarray, case: Case, seed: int, settings: Settings
) -> Scores:
    """Errors and spreads of one block, in units of the deviation of the truth.

    The voxel size is that of ``--voxel_nm``.
    """
    problem = evaluate_prior.simulate(truth, case, seed, flags.FLAGS.voxel_nm)
    ready = inputs.with_inputs(problem, settings_for(case.angles_deg))
    ready = regressed(ready, prior, settings.windows)
    run = methods.table()["default"].run
    found = run(jax.random.key(seed), ready, prior, settings, Watch())
    assert found.samples is not None
    made = {}
    for cell in CELLS:
        known, mean = cells_of(truth, cell), cells_of(found.volume, cell)
        spread = cells_of(found.samples, cell).std(axis=0, ddof=1)
        unit = truth.std()
        made[cell] = (np.abs(known - mean) / unit, spread / unit)
    return made


def _pooled(rows: Sequence[Scores], cell: int) -> tuple[np.ndarray, np.ndarray]:
    errors, spreads = zip(*(row[cell] for row in rows))
    return np.concatenate(errors, axis=None), np.concatenate(spreads, axis=None)


def factors(rows: Sequence[Scores], cell: int) -> dict[str, float]:
    """By level."""
    error, spread = _pooled(rows, cell)
    ratio = error / np.maximum(spread, 1e-9)
    return {f"{level:g}": float(np.quantile(ratio, level)) for level in LEVELS}


def judge(rows: Sequence[Scores], cell: int, fitted: dict[str, float]) -> dict:
    """What factors are worth on other blocks.

    Returns:
      ``coverage`` by level; ``width`` of the interval that covers 90 % of these blocks,
      and ``constant``, that of the one that is everywhere as wide, deviations of the
      truth.
    """
    error, spread = _pooled(rows, cell)
    ratio = error / np.maximum(spread, 1e-9)
    return {
        "coverage": {k: float(np.mean(ratio <= f)) for k, f in fitted.items()},
        "width": float(2 * np.quantile(ratio, 0.9) * spread.mean()),
        "constant": float(2 * np.quantile(error, 0.9)),
    }


def page(rows: Sequence[dict]) -> str:
    """One line a range and cell."""
    lines = [
        "| case | cell | factors 50, 80, 90 % | blocks fit, test | coverage of 50, 80, "
        "90 % | width | constant width |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        fitted = ", ".join(f"{v:.2f}" for v in row["factors"].values())
        covered = ", ".join(f"{v:.3f}" for v in row["coverage"].values())
        lines.append(
            f"| {row['case']} | {row['cell']} | {fitted} | {row['blocks'][0]}, "
            f"{row['blocks'][1]} | {covered} | {row['width']:.2f} | "
            f"{row['constant']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str]) -> None:
    """Reconstructs, fits, tests, writes."""
    given = flags.FLAGS
    with program.refusals("intervals", argv):
        prior = load_prior(given.prior)
        settings = Settings(num_samples=given.samples, mirrors=False)
        found = []
        for text in given.cases.split(","):
            case = Case.from_name(text)
            kinds: dict[str, list[Scores]] = {"fit": [], "test": []}
            for kind, rows in kinds.items():
                for name in getattr(given, kind):
                    for number, truth in enumerate(
                        blocks_of(name, given.size, given.blocks)
                    ):
                        seed = seed_for(given.seed, f"{Path(name).name}/{number}", text)
                        rows.append(scores(prior, truth, case, seed, settings))
            degrees = np.asarray(case.angles_deg)
            for cell in CELLS:
                fitted = factors(kinds["fit"], cell)
                row = {
                    "case": text,
                    "half_range_deg": float(degrees.max() - degrees.min()) / 2,
                    "cell": cell,
                    "factors": fitted,
                    "blocks": [len(kinds["fit"]), len(kinds["test"])],
                }
                found.append(row | judge(kinds["test"], cell, fitted))
                print(page(found[-1:]).splitlines()[-1], flush=True)
        if given.card:
            path = Path(given.card)
            card = json.loads(path.read_text(encoding="utf-8"))
            card["interval_factors"] = {
                "num_samples": given.samples,
                "rows": found,
                "fit": [Path(n).name for n in given.fit],
                "test": [Path(n).name for n in given.test],
            }
            write.write_json(path, card, overwrite=True)
        if given.out:
            write.write_bytes(Path(given.out), page(found).encode(), overwrite=True)


if __name__ == "__main__":
    define_flags()
    app.run(main)
