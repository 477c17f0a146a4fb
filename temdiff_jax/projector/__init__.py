"""Forward and back-projection of tilt series, exact adjoints, motions of the stage."""

from temdiff_jax.projector.operators import normal_op as normal_op
from temdiff_jax.projector.operators import operator_norm as operator_norm
from temdiff_jax.projector.operators import ray_lengths as ray_lengths
from temdiff_jax.projector.operators import seen_by_all as seen_by_all
from temdiff_jax.projector.placed import backproject as backproject
from temdiff_jax.projector.placed import project as project
from temdiff_jax.projector.placed import seen_at as seen_at
from temdiff_jax.projector.placed import straightened as straightened
from temdiff_jax.projector.stage.alignment import (
    motion_from_degrees as motion_from_degrees,
)
from temdiff_jax.projector.stage.motion import Motion as Motion
from temdiff_jax.projector.stage.motion import MotionJacobian as MotionJacobian
from temdiff_jax.projector.stage.motion import backproject_moving as backproject_moving
from temdiff_jax.projector.stage.motion import linearize_motion as linearize_motion
from temdiff_jax.projector.stage.motion import no_motion as no_motion
from temdiff_jax.projector.stage.motion import project_moving as project_moving
