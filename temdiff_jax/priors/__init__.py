"""Released priors: weights with a card that says what they know."""

from temdiff_jax.priors.load import Prior as Prior
from temdiff_jax.priors.load import load_prior as load_prior
from temdiff_jax.priors.load import not_covered as not_covered
from temdiff_jax.priors.load import prior_names as prior_names
from temdiff_jax.priors.load import range_verdict as range_verdict
from temdiff_jax.priors.load import save_prior as save_prior
