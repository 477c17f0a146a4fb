"""Classical reconstructions, one call shape.

``f(tilts, angles, *, thickness=None, lateral_margin="auto", ...)`` takes line
integrals ``[n_tilts, y, x]`` and degrees, and returns a volume ``[z, y, x]``
float32 in the intensity of the input.  A function hides the module of its name as an
attribute of this package; ``from temdiff_jax.baselines.tv import TUNED`` reaches it.
"""

from temdiff_jax.baselines.fbp import fbp as fbp
from temdiff_jax.baselines.sart import sart as sart
from temdiff_jax.baselines.sirt import sirt as sirt
from temdiff_jax.baselines.tikhonov import tikhonov as tikhonov
from temdiff_jax.baselines.tv import tv as tv

__all__ = ["fbp", "sart", "sirt", "tikhonov", "tv"]
