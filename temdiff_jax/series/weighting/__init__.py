"""Uncertainty weighting: how far each ray, tilt and pixel is to be believed.

From noise, what is known of the misalignment, masks and residuals to a ``Precision``,
which stands wherever a weight array stands: ``precision * residual``.
"""

from temdiff_jax.series.weighting.derivatives import Spread as Spread
from temdiff_jax.series.weighting.derivatives import (
    derivative_images as derivative_images,
)
from temdiff_jax.series.weighting.derivatives import (
    derivative_images_of_tilts as derivative_images_of_tilts,
)
from temdiff_jax.series.weighting.derivatives import mix_images as mix_images
from temdiff_jax.series.weighting.derivatives import scale_images as scale_images
from temdiff_jax.series.weighting.gains import TiltGain as TiltGain
from temdiff_jax.series.weighting.gains import fit_gain_offset as fit_gain_offset
from temdiff_jax.series.weighting.levels import expected_counts as expected_counts
from temdiff_jax.series.weighting.levels import (
    noise_from_residual as noise_from_residual,
)
from temdiff_jax.series.weighting.levels import relative_variance as relative_variance
from temdiff_jax.series.weighting.levels import variance_of_log as variance_of_log
from temdiff_jax.series.weighting.masks import Masks as Masks
from temdiff_jax.series.weighting.masks import find_masks as find_masks
from temdiff_jax.series.weighting.masks import repair as repair
from temdiff_jax.series.weighting.misalignment import (
    estimate_misalignment as estimate_misalignment,
)
from temdiff_jax.series.weighting.robust import chi2_per_tilt as chi2_per_tilt
from temdiff_jax.series.weighting.robust import tilt_factors as tilt_factors
from temdiff_jax.series.weighting.robust import unreliable as unreliable
from temdiff_jax.series.weighting.series import FORMS as FORMS
from temdiff_jax.series.weighting.series import Weighted as Weighted
from temdiff_jax.series.weighting.series import weigh as weigh
