"""Priors that see the moments of the tilts, in `reconstruct`."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.model import NetworkConfig, make_network
from temdiff_jax.priors import load_prior, save_prior
from temdiff_jax.reconstruction import posterior, reconstruct

# Compiles for tens of seconds.

NETWORK = NetworkConfig(
    channels=(8, 8),
    blocks=(1, 1),
    groups=4,
    norm="rms",
    axial_taps=3,
    filters=2,
    grown=(0, 1),
    features=5,
    moments=True,
)
ANGLES = np.array([-12.0, -5.0, 0.0, 6.0, 13.0])
SHAPE = (5, 8, 12)
OPTIONS = posterior.Options(window=32, cg_iters=2, mean_cg_iters=3)
CARD = {
    "name": "tiny",
    "network": dataclasses.asdict(NETWORK),
    "residual_scale": {"intercept": -0.5, "slopes": [0.0] * 5},
    "metric_mean": {"smoothness": 2.0, "ridge": 0.1},
    "metric_sample": {"smoothness": 2.0, "ridge": 0.1},
    "half_range_deg": [4.0, 30.0],
}


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    """Read back from its file."""
    abstract = jax.eval_shape(make_network(NETWORK).init, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.1 * rng.normal(size=leaf.shape), leaf.dtype),
        abstract,
    )
    path = tmp_path_factory.mktemp("prior") / "tiny.safetensors"
    card = {**CARD, "network": {**CARD["network"], "channels": [8, 8]}}
    save_prior(path, params, card)
    return load_prior(path)


def call(prior, tilts, angles=ANGLES, **options):
    return reconstruct(
        tilts,
        angles,
        thickness=8,
        prior=prior,
        contrast="bright",
        options=OPTIONS,
        **options,
    )


TILTS = np.random.default_rng(1).normal(10.0, 1.0, SHAPE).astype(np.float32)


def test_the_network_comes_back_as_it_was_saved(prior):
    assert prior.network.config == NETWORK


@pytest.mark.slow
def test_the_mean_of_mirrored_tilts_is_the_mirrored_mean(prior):
    """Turning the detector and the angles is a mirror image along x.

    The estimate of a misalignment draws random signs, which are not mirrored.
    """
    options = {"sampler": "mean", "weighting": "robust"}
    here = call(prior, TILTS, **options).mean
    there = call(prior, TILTS[:, :, ::-1], -ANGLES, **options).mean
    np.testing.assert_allclose(there, here[:, :, ::-1], atol=2e-4 * np.std(here))


@pytest.mark.slow
def test_the_moments_reach_the_answer(prior):
    blind = prior._replace(params=without_moments(prior.params))
    here, there = (call(p, TILTS, sampler="mean").mean for p in (prior, blind))
    assert np.max(np.abs(here - there)) > 1e-4 * np.std(here)


def without_moments(params):
    """The rows of the stem that see them set to zero: channels 3 to 5 of 6."""
    kernel = np.array(params["stem"]["kernel"])
    rows = np.arange(kernel.shape[-2]) % 6 >= 3
    kernel[..., rows, :] = 0.0
    return params | {"stem": params["stem"] | {"kernel": jnp.asarray(kernel)}}


@pytest.mark.slow
@pytest.mark.parametrize("form", ["robust", "low-rank"])
def test_samples_and_weighting_go_with_them(prior, form):
    options = {"num_samples": 2, "num_steps": 3, "weighting": form}
    result = call(prior, TILTS, **options)
    assert np.all(np.isfinite(result.mean)) and np.std(result.std) > 0
