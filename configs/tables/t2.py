"""Table T2: where it hurts, in the wedge and along the beam, at three tilt ranges.

Command:
    python -m launch.evaluate --config=configs/tables/t2.py --data_dir=DATA \\
        --out=runs/tables

With the folder of table T1 nothing is computed: the rows hold all scores.
"""

from configs.tables import t1
from temdiff_jax.evaluation.plan import PERFECT, TablePlan, imperfect
from temdiff_jax.evaluation.tables import T2_METRICS


def get_config() -> TablePlan:
    """The table."""
    return TablePlan(
        name="t2",
        title="T2: where it hurts",
        kind="hard",
        volumes=(*t1.FIB25, *t1.OTHERS),
        cases=("8/2", "10/1", "60/3"),
        runs=t1.RUNS,
        regimes=(PERFECT, imperfect(1.0)),
        columns=(*T2_METRICS, "tau"),
        height=t1.HEIGHT,
    )
