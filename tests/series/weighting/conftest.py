"""Volumes and geometries that the weighting tests share."""

import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.geometry import TiltGeometry


@pytest.fixture
def geometry():
    return TiltGeometry.from_degrees(
        [-12.0, -7.0, 0.0, 6.0, 14.0], thickness=10, width=24, height=20
    )


def make_blobs(geometry, *, width=2.5, count=14, seed=0, dtype=jnp.float32):
    """Smooth blobs ``[z, x, y]`` of both signs inside the field of view."""
    rng = np.random.default_rng(seed)
    z, x, y = (np.arange(n) - (n - 1) / 2 for n in geometry.volume_shape)
    reach = np.asarray(
        [geometry.volume_shape[0], geometry.num_u, geometry.volume_shape[2]]
    )
    volume = np.zeros(geometry.volume_shape)
    for centre in rng.uniform(-0.35, 0.35, (count, 3)) * reach:
        square = (
            (z - centre[0])[:, None, None] ** 2
            + (x - centre[1])[None, :, None] ** 2
            + (y - centre[2])[None, None, :] ** 2
        )
        volume += rng.choice([-1.0, 1.0]) * np.exp(-square / (2 * width**2))
    return jnp.asarray(volume, dtype)


@pytest.fixture
def blobs():
    return make_blobs
