"""A prior of random weights, for what holds for any weights."""

import pytest


@pytest.fixture(scope="module")
def prior(tiny_prior):
    """Path of the prior."""
    return tiny_prior
