"""Uncertainty weighting: how much each ray, tilt and pixel counts.

From noise, what is known of the misalignment, masks and residuals to a ``Precision``,
which stands wherever a weight array stands: ``precision * residual``.
"""

from temdiff_jax.series.weighting.derivatives import Spread as Spread
from temdiff_jax.series.weighting.derivatives import (
    derivative_images as derivative_images,
)
from temdiff_jax.series.weighting.derivatives import scale_images as scale_images
from temdiff_jax.series.weighting.masks import Masks as Masks
from temdiff_jax.series.weighting.masks import find_masks as find_masks
from temdiff_jax.series.weighting.masks import outside_mask as outside_mask
from temdiff_jax.series.weighting.masks import repair as repair
from temdiff_jax.series.weighting.misalignment import (
    estimate_misalignment as estimate_misalignment,
)
from temdiff_jax.series.weighting.robust import chi2_per_tilt as chi2_per_tilt
from temdiff_jax.series.weighting.robust import tilt_factors as tilt_factors
from temdiff_jax.series.weighting.series import FORMS as FORMS
from temdiff_jax.series.weighting.series import Weighted as Weighted
from temdiff_jax.series.weighting.series import weigh as weigh
