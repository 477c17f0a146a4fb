"""What is told of a finished volume from its tilts."""

import jax
import numpy as np

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.projector import project
from temdiff_jax.reconstruction import api, examine
from temdiff_jax.series.preparation import SeriesOptions
from temdiff_jax.simulator import phantoms

ANGLES = np.linspace(-12.0, 12.0, 9)
DEPTH = 12


def test_the_quadratic_estimate_is_measured_and_noise_is_not():
    """The share is that of the volume: small for the estimate, large for noise."""
    geometry = TiltGeometry.from_degrees(ANGLES, thickness=DEPTH, width=20, height=16)
    specimen = phantoms.random_phantom(jax.random.key(2), geometry.volume_shape)
    tilts = np.swapaxes(np.asarray(project(specimen, geometry)), 1, 2)
    options = SeriesOptions(thickness=DEPTH, log="off", contrast="bright")
    problem = api.make_problem(tilts, ANGLES, options)
    estimate = np.swapaxes(
        np.asarray(problem.to_input_units(problem.shown.tikhonov)), 1, 2
    )
    share, whole = examine.prior_share(problem, estimate)
    assert share.shape == estimate.shape == (DEPTH, 16, 20)
    assert 0.0 <= share.min() and share.max() <= 1.0
    noise = np.random.default_rng(0).normal(size=estimate.shape).astype(np.float32)
    _, unseen = examine.prior_share(problem, noise)
    assert whole < 0.3 < 0.6 < unseen
