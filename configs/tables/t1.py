"""Table T1: accuracy at six tilt ranges, aligned and hand-aligned series.

Command:
    python -m launch.evaluate --config=configs/tables/t1.py --data_dir=DATA \\
        --out=runs/tables

Specimens: the five validation crops of FIB-25 and, as other tissues, the test crop of
an earlier data set of the medulla (50 voxels thick) and a block whose sections jitter.
Nothing of them was trained on; docs/evaluation.md says what was tuned on which.
Blocks are 96 voxels thick and wide and 32 along the tilt axis, for the time of the
learned ones: rays do not leave their plane of constant y.
Methods with a network of their own are left out unless its file is given, for instance
--prior=dolce=FILE.safetensors.
"""

from temdiff_jax.evaluation.plan import PERFECT, Run, TablePlan, Volume, imperfect

FIB25 = tuple(
    Volume(
        file=f"fib25_medulla/validation_crop{i}_128.npz:volume",
        name=f"crop{i}",
        tissue="FIB-25",
    )
    for i in range(5)
)
OTHERS = (
    Volume(file="gala_medulla/gala_crops.npz:test", name="gala", tissue="gala"),
    Volume(
        file="dvidspark_fibsem/dvidspark_crop.npz:volume",
        name="dvidspark",
        tissue="jittered",
    ),
)
HEIGHT = 32
# These rows were computed when the one-call estimate was averaged over its eight mirror
# images; without them, as is the default now, it is as good (table T7, "no mirrors").
MIRRORS: dict[str, object] = {"mirrors": True}
CASES = ("8/2", "10/1", "20/2", "40/2", "60/3", "120/3")
RUNS = (
    *(Run(name=name) for name in ("fbp", "sart", "sirt", "tv", "tikhonov")),
    Run(name="regression", weights="regression", settings=MIRRORS),
    Run(
        name="regression, robust",
        method="regression",
        weights="regression",
        settings=MIRRORS | {"weighting": "robust"},
    ),
    Run(
        name="regression, adaptive",
        method="regression",
        weights="regression",
        settings=MIRRORS | {"weighting": "adaptive"},
    ),
    Run(name="dolce_fast", weights="dolce"),
    Run(name="diffusion_mbir_fast", weights="diffusion_mbir"),
    Run(name="dds_3d", weights="diffusion_mbir"),
    Run(name="dds"),
    Run(name="dds_tuned"),
    Run(name="mean", settings=MIRRORS),
    Run(
        name="margin as sure, in the update",
        method="mean",
        settings=MIRRORS | {"outside": 1.0},
    ),
    Run(name="mean, robust", method="mean", settings=MIRRORS | {"weighting": "robust"}),
    Run(
        name="mean, low-rank",
        method="mean",
        settings=MIRRORS | {"weighting": "low-rank"},
    ),
    Run(
        name="mean, adaptive",
        method="mean",
        settings=MIRRORS | {"weighting": "adaptive"},
    ),
    Run(name="posterior", samples=8, steps=8),
    Run(
        name="posterior, robust",
        method="posterior",
        samples=8,
        steps=8,
        settings={"weighting": "robust"},
    ),
    Run(
        name="posterior, adaptive",
        method="posterior",
        samples=8,
        steps=8,
        settings={"weighting": "adaptive"},
    ),
)


def get_config() -> TablePlan:
    """The table."""
    return TablePlan(
        name="t1",
        title="T1: accuracy",
        kind="accuracy",
        volumes=(*FIB25, *OTHERS),
        cases=CASES,
        runs=RUNS,
        regimes=(PERFECT, imperfect(1.0)),
        columns=("rmse", "psnr", "ssim", "ssim_xz"),
        ours=("mean, adaptive", "mean", "posterior, mean of 8"),
        height=HEIGHT,
    )
