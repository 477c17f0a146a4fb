"""Forward and back-projection of single-axis tilt series, exact adjoints."""

from temdiff_jax.projector.operators import normal_op as normal_op
from temdiff_jax.projector.operators import operator_norm as operator_norm
from temdiff_jax.projector.operators import ray_lengths as ray_lengths
from temdiff_jax.projector.operators import seen_by_all as seen_by_all
from temdiff_jax.projector.project import backproject as backproject
from temdiff_jax.projector.project import project as project
