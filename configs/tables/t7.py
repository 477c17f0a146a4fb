"""Table T7: ablations, one line each, as differences to the default.

Command:
    python -m launch.evaluate --config=configs/tables/t7.py --data_dir=DATA \\
        --out=runs/tables

What the defaults were chosen by, and why, is in docs/reports/samplers.md.  One block of
64 x 32 x 64 voxels (z, y, x) of each validation crop of FIB-25.
"""

from typing import Any

from configs.tables import t1
from temdiff_jax.evaluation.plan import Run, TablePlan

SAMPLES, STEPS = 8, 8


def posterior(name: str, samples: int = SAMPLES, steps: int = STEPS, **settings: Any):
    """One variant of the sampler."""
    return Run(
        name=name,
        method="posterior",
        samples=samples,
        steps=steps,
        settings=settings,
        against="posterior",
    )


DDIM = "ddim"
SAMPLER = (
    Run(name="posterior", samples=SAMPLES, steps=STEPS),
    posterior("DDIM, eta 0.85", solver=DDIM),
    posterior("DDIM, eta 0", solver=DDIM, eta=0.0),
    posterior("DDIM, eta 1", solver=DDIM, eta=1.0),
    posterior("4 steps", steps=4),
    posterior("16 steps", steps=16),
    posterior("2 samples", samples=2),
    posterior("16 samples", samples=16),
    posterior("lambda_c 0.25", prior_precision=0.25),
    posterior("lambda_c 4", prior_precision=4.0),
    posterior("lambda_c 16", prior_precision=16.0),
    posterior("2 CG iterations", cg_iters=2),
    # P2 weighs the error of a guess alike at all frequencies, P4 by their wavelength.
    posterior("P2: white error metric", smoothness=0.0, ridge=1.0),
    posterior("no data in the sampler", consistency_from=0.0),
    posterior("margin as sure as the inside", outside=1.0),
)
MEAN = (
    Run(name="mean", settings=t1.MIRRORS),
    Run(name="no mirrors", method="mean", settings={"mirrors": False}, against="mean"),
    Run(
        name="no update",
        method="mean",
        settings=t1.MIRRORS | {"mean_cg_iters": 0},
        against="mean",
    ),
    Run(
        name="5 CG iterations of the update",
        method="mean",
        settings=t1.MIRRORS | {"mean_cg_iters": 5},
        against="mean",
    ),
    Run(
        name="margin as sure, in the update",
        method="mean",
        settings=t1.MIRRORS | {"outside": 1.0},
        against="mean",
    ),
    Run(
        name="P2 in the update",
        method="mean",
        settings=t1.MIRRORS | {"smoothness": 0.0, "ridge": 1.0},
        against="mean",
    ),
)


def get_config() -> TablePlan:
    """The table."""
    return TablePlan(
        name="t7",
        title="T7: ablations",
        kind="ablation",
        volumes=t1.FIB25,
        cases=("10/1", "60/3"),
        runs=(*SAMPLER, *MEAN),
        columns=("psnr", "ssim_xz", "e_out", "tau"),
        crop=64,
        height=32,
    )
