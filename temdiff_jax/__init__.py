"""TEMDiff-style 3-D reconstruction from electron tilt series of any range.

Example:
    from temdiff_jax import reconstruct
    result = reconstruct(tilts, angles)      # [n_tilts, y, x], degrees
    result.mean, result.std                  # [z, y, x]

Public names load on first use, so that reading files or asking for help does not
wait for JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from temdiff_jax.errors import InputError
    from temdiff_jax.geometry import TiltGeometry
    from temdiff_jax.inverse.problem import Problem
    from temdiff_jax.io.tilt_series import TiltSeries, load_tilt_series
    from temdiff_jax.priors import Prior, load_prior
    from temdiff_jax.projector import backproject, project
    from temdiff_jax.reconstruction import Result, reconstruct
    from temdiff_jax.reconstruction.api import make_problem
    from temdiff_jax.reconstruction.method import Method
    from temdiff_jax.reconstruction.settings import Settings

__version__ = "0.1.0"

_HOMES = {
    "InputError": "errors",
    "Method": "reconstruction.method",
    "Prior": "priors",
    "Problem": "inverse.problem",
    "Result": "reconstruction",
    "Settings": "reconstruction.settings",
    "TiltGeometry": "geometry",
    "TiltSeries": "io.tilt_series",
    "backproject": "projector",
    "load_prior": "priors",
    "load_tilt_series": "io.tilt_series",
    "make_problem": "reconstruction.api",
    "project": "projector",
    "reconstruct": "reconstruction",
}

__all__ = [
    "InputError",
    "Method",
    "Prior",
    "Problem",
    "Result",
    "Settings",
    "TiltGeometry",
    "TiltSeries",
    "__version__",
    "backproject",
    "load_prior",
    "load_tilt_series",
    "make_problem",
    "project",
    "reconstruct",
]


def __getattr__(name: str) -> Any:
    """Loads a public name from the module that defines it (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
