"""Table T5: misalignment, RMSE against the residual shift of the series.

Command:
    python -m launch.evaluate --config=configs/tables/t5.py --data_dir=DATA \\
        --out=runs/tables

All errors of `simulator.IMPERFECT` grow in proportion to its shift. The noise and the
directions of the errors are the same at every level. The rows of 0 and 1 px are those
of table T1.
"""

from configs.tables import t1
from temdiff_jax.evaluation.plan import TablePlan, imperfect


def get_config() -> TablePlan:
    """The table."""
    return TablePlan(
        name="t5",
        title="T5: misalignment",
        kind="misalignment",
        volumes=t1.FIB25,
        cases=("10/1", "40/2", "120/3"),
        runs=t1.RUNS,
        regimes=tuple(imperfect(shift) for shift in (0.0, 0.5, 1.0, 2.0)),
        columns=("rmse",),
        height=t1.HEIGHT,
    )
