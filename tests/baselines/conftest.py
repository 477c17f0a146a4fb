"""A smooth specimen, and its noiseless tilts from a full and from a narrow range."""

import dataclasses

import numpy as np
import pytest

from temdiff_jax import layout, projector
from temdiff_jax.geometry import TiltGeometry

SIZE, HEIGHT = 24, 6
BLOBS = ((1.0, 0.0, 0.0, 3.5), (0.6, 3.0, -3.0, 2.2), (0.8, -3.0, 3.0, 2.6))


@dataclasses.dataclass
class Scene:
    """Volume [z, y, x] alone in vacuum, tilts [n_tilts, y, x], degrees, rays."""

    volume: np.ndarray
    tilts: np.ndarray
    angles: np.ndarray
    geometry: TiltGeometry


def smooth_volume() -> np.ndarray:
    axes = [np.arange(n) - (n - 1) / 2 for n in (SIZE, HEIGHT, SIZE)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    along = 1.0 + 0.1 * y / HEIGHT
    blobs = [
        height * np.exp(-((z - at_z) ** 2 + (x - at_x) ** 2) / (2 * width**2))
        for height, at_z, at_x, width in BLOBS
    ]
    return (sum(blobs) * along).astype(np.float32)


def make_scene(angles: np.ndarray) -> Scene:
    volume = smooth_volume()
    geometry = TiltGeometry.from_degrees(
        angles, thickness=SIZE, width=SIZE, height=HEIGHT, lateral_margin=0
    )
    tilts = projector.project(layout.volume_to_core(volume), geometry)
    return Scene(volume, np.array(layout.tilts_from_core(tilts)), angles, geometry)


@pytest.fixture(scope="session")
def full() -> Scene:
    return make_scene(np.linspace(-90.0, 90.0, 31))


@pytest.fixture(scope="session")
def narrow() -> Scene:
    return make_scene(np.linspace(-20.0, 20.0, 9))


@pytest.fixture(scope="session")
def noisy(narrow) -> Scene:
    noise = np.random.default_rng(0).normal(0.0, 0.2, narrow.tilts.shape)
    tilts = (narrow.tilts + noise).astype(np.float32)
    return dataclasses.replace(narrow, tilts=tilts)
