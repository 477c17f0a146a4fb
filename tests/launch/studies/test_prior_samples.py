import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.errors import InputError
from temdiff_jax.model import NetworkConfig, make_network


@pytest.fixture(scope="module")
def prior_samples(load_program):
    return load_program("launch.studies.prior_samples")


NETWORK = make_network(NetworkConfig(channels=(8, 8), blocks=(1, 1), groups=4))


@pytest.mark.slow
def test_network_that_knows_nothing_samples_white_noise(prior_samples):
    """Its denoiser x / (s^2 + 1) is exact for that prior."""
    params = NETWORK.init(jax.random.key(0))
    draw = prior_samples.sample(
        jax.random.key(1), params, jnp.float32(1.0), network=NETWORK, size=16, steps=60
    )
    assert draw.shape == (16, 16, 16)
    assert float(jnp.std(draw)) == pytest.approx(1.0, abs=0.06)
    frequency, power = prior_samples.mean_spectrum([np.asarray(draw)])
    assert power[2:].mean() == pytest.approx(float(jnp.ones(())), abs=0.2)
    assert frequency[-1] == 0.5


def test_real_blocks_are_parts_of_the_volumes_in_unit_variance(prior_samples):
    volumes = [
        np.random.default_rng(i).integers(0, 255, (20, 24, 22), np.uint8)
        for i in range(2)
    ]
    blocks = prior_samples.real_blocks(volumes, 3, 16, seed=5)
    assert len(blocks) == 3 and all(b.shape == (16, 16, 16) for b in blocks)
    for block in blocks:
        assert block.mean() == pytest.approx(0.0, abs=1e-5)
        assert block.std() == pytest.approx(1.0, abs=1e-5)
    again = prior_samples.real_blocks(volumes, 3, 16, seed=5)
    assert all(np.array_equal(a, b) for a, b in zip(blocks, again, strict=True))
    with pytest.raises(InputError, match="--size: expected at most 20"):
        prior_samples.real_blocks(volumes, 1, 32, seed=0)
