"""Tilt series as they lie on disk: found, understood, with every source."""

from temdiff_jax.io.projects.find import NoAngles, beside, find
from temdiff_jax.io.projects.found import Decision, Found, Frame, Placement

__all__ = ["Decision", "Found", "Frame", "NoAngles", "Placement", "beside", "find"]
