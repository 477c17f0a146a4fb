"""TEMDiff-style 3-D reconstruction from electron tilt series of any range.

from temdiff_jax import reconstruct
result = reconstruct(tilts, angles)      # [n_tilts, y, x], degrees
result.mean, result.std                  # [z, y, x]
"""

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.io.tilt_series import TiltSeries, load_tilt_series
from temdiff_jax.posterior import Knobs, Options
from temdiff_jax.priors import Prior, load_prior
from temdiff_jax.projector import backproject, project
from temdiff_jax.reconstruct import Result, reconstruct
from temdiff_jax.types import InputError

__version__ = "0.1.0"

__all__ = [
    "InputError",
    "Knobs",
    "Options",
    "Prior",
    "Result",
    "TiltGeometry",
    "TiltSeries",
    "__version__",
    "backproject",
    "load_prior",
    "load_tilt_series",
    "project",
    "reconstruct",
]
