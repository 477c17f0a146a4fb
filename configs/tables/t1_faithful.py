"""Table T1 in small: methods as published beside their shorter settings.

Command, with the files of releases/baselines:
    python -m launch.evaluate --config=configs/tables/t1_faithful.py --data_dir=DATA \\
        --out=runs/tables --prior=dolce=dolce.safetensors \\
        --prior=diffusion_mbir=diffusion_mbir.safetensors

DiffusionMBIR takes 4000 network calls and DOLCE 320 solves to convergence: two blocks
of 48 x 16 x 48 voxels (z, y, x) at two ranges are 25 minutes on one core.
"""

from configs.tables import t1
from temdiff_jax.evaluation.plan import Run, TablePlan

RUNS = (
    Run(name="tikhonov"),
    Run(name="dolce", weights="dolce"),
    Run(name="dolce_fast", weights="dolce"),
    Run(name="diffusion_mbir", weights="diffusion_mbir"),
    Run(name="diffusion_mbir_fast", weights="diffusion_mbir"),
    Run(name="mean", settings=t1.MIRRORS),
    Run(name="posterior", samples=8, steps=8),
)


def get_config() -> TablePlan:
    """The table."""
    return TablePlan(
        name="t1_faithful",
        title="T1 in small: methods as published",
        kind="accuracy",
        volumes=t1.FIB25[:2],
        cases=("10/1", "60/3"),
        runs=RUNS,
        columns=("rmse", "psnr", "ssim_xz"),
        ours=("mean", "posterior, mean of 8"),
        crop=48,
        height=16,
    )
