"""Uncertainty weighting: how far each ray, tilt and pixel is to be believed.

From noise, what is known of the misalignment, masks and residuals to a ``Precision``,
which stands wherever a weight array stands: ``precision * residual``.
"""

from temdiff_jax.weighting.derivatives import Spread as Spread
from temdiff_jax.weighting.derivatives import derivative_images as derivative_images
from temdiff_jax.weighting.derivatives import (
    derivative_images_of_tilts as derivative_images_of_tilts,
)
from temdiff_jax.weighting.derivatives import mix_images as mix_images
from temdiff_jax.weighting.derivatives import scale_images as scale_images
from temdiff_jax.weighting.gains import TiltGain as TiltGain
from temdiff_jax.weighting.gains import fit_gain_offset as fit_gain_offset
from temdiff_jax.weighting.levels import expected_counts as expected_counts
from temdiff_jax.weighting.levels import noise_from_residual as noise_from_residual
from temdiff_jax.weighting.levels import relative_variance as relative_variance
from temdiff_jax.weighting.levels import variance_of_log as variance_of_log
from temdiff_jax.weighting.masks import Masks as Masks
from temdiff_jax.weighting.masks import find_masks as find_masks
from temdiff_jax.weighting.masks import repair as repair
from temdiff_jax.weighting.misalignment import (
    estimate_misalignment as estimate_misalignment,
)
from temdiff_jax.weighting.precision import Precision as Precision
from temdiff_jax.weighting.precision import diagonal as diagonal
from temdiff_jax.weighting.precision import low_rank as low_rank
from temdiff_jax.weighting.precision import with_variances as with_variances
from temdiff_jax.weighting.robust import chi2_per_tilt as chi2_per_tilt
from temdiff_jax.weighting.robust import tilt_factors as tilt_factors
from temdiff_jax.weighting.robust import unreliable as unreliable
from temdiff_jax.weighting.series import FORMS as FORMS
from temdiff_jax.weighting.series import Weighted as Weighted
from temdiff_jax.weighting.series import weigh as weigh
