"""Series of Gaussian blobs in a slab, whose projections are known in closed form."""

from typing import NamedTuple

import numpy as np
import pytest

from temdiff_jax.trust.causes import Given
from temdiff_jax.trust.coherence import Views

ANGLES = np.arange(-24.0, 33.0, 4.0)
SIZE, THICKNESS, NOISE = 32, 16, 0.1


def blob_images(angles_deg, shifts=None, *, seed=0, thickness=THICKNESS, size=SIZE):
    """Line integrals ``[n, u, y]`` of blobs that reach beyond every edge, no noise."""
    rng = np.random.default_rng(seed)
    count = 40 * thickness
    x, y = rng.uniform(-1.2 * size, 1.2 * size, (2, count))
    z = rng.uniform(-thickness / 2, thickness / 2, count)
    mass = rng.normal(size=count)
    angles = np.deg2rad(angles_deg)[:, None]
    at_u = x * np.cos(angles) + z * np.sin(angles)
    at_y = np.broadcast_to(y, at_u.shape)
    if shifts is not None:
        at_u, at_y = at_u + shifts[:, :1], at_y + shifts[:, 1:]
    grid = np.arange(size) - (size - 1) / 2
    along_u = np.exp(-((grid - at_u[..., None]) ** 2) / (2 * 1.5**2))
    along_y = np.exp(-((grid - at_y[..., None]) ** 2) / (2 * 1.5**2))
    return np.einsum("j,kju,kjy->kuy", mass, along_u, along_y, optimize=True)


class Bench(NamedTuple):
    """What the tests share."""

    angles: np.ndarray
    thickness: int

    def images(self, seed: int = 0) -> np.ndarray:
        """Without noise."""
        return blob_images(self.angles, seed=seed)

    def series(self, shifts=None, seed=0, thickness=THICKNESS) -> Given:
        """With a tenth of noise, in a volume of ``self.thickness``."""
        images = blob_images(self.angles, shifts, seed=seed, thickness=thickness)
        sigma = NOISE * images.std()
        rng = np.random.default_rng(seed + 1)
        noisy = images + sigma * rng.normal(size=images.shape)
        count = len(self.angles)
        still = np.zeros((count, 2))
        views = Views(noisy, np.deg2rad(self.angles), np.full(count, sigma), still)
        return Given(views, self.thickness, 1, np.arange(count))


@pytest.fixture(scope="session")
def bench() -> Bench:
    """Fifteen tilts of a slab."""
    return Bench(ANGLES, THICKNESS)
