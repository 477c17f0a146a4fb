"""From tilts to a volume with its uncertainty: ``reconstruct`` and what it calls."""

from temdiff_jax.reconstruction.api import Result as Result
from temdiff_jax.reconstruction.api import reconstruct as reconstruct
