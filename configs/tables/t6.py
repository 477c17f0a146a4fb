"""Table T6: cost, seconds, memory, network calls and projector pairs.

Command:
    python -m launch.evaluate --config=configs/tables/t6.py --data_dir=DATA \\
        --out=runs/tables

Each line is measured in a process of its own on one block of 64^3 voxels; the machine
should do nothing else meanwhile. `--set=crop=128` for larger ones: the samplers take
hours there on one core.
"""

from configs.tables import t1
from temdiff_jax.evaluation.plan import TablePlan


def get_config() -> TablePlan:
    """The table."""
    return TablePlan(
        name="t6",
        title="T6: cost",
        kind="cost",
        volumes=t1.FIB25[:1],
        cases=("40/2",),
        runs=t1.RUNS,
        crop=64,
        repeats=1,
    )
