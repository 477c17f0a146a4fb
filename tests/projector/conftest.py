"""Awkward geometries, and the projector a second time as plain NumPy loops."""

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.projector import kernels

# name: (angles in degrees, (nz, nx, ny), detector columns).  The loops of the
# projector advance by 8 planes or tilts at a time; some extents and counts lie on
# either side of that.
AWKWARD = {
    "one tilt": ([17.0], (7, 16, 5), 12),
    "zero": ([0.0], (5, 8, 3), 8),
    "diagonals": ([45.0, -45.0], (9, 14, 2), 6),
    "upright": ([90.0, -90.0], (6, 15, 3), 11),
    "every kind": ([-90, -67, -45, -12, 0, 31, 45, 46, 90], (9, 20, 4), 14),
    "narrow detector": ([-50.0, 0.0, 50.0], (13, 23, 2), 3),
    "wide detector": ([-70.0, 5.0, 30.0], (5, 4, 3), 15),
    "odd and even": ([-33.0, 61.0], (8, 7, 1), 10),
    "repeated tilts": ([10.0, 10.0, -80.0, 10.0], (4, 9, 2), 9),
    "one voxel": ([25.0, 80.0], (1, 1, 1), 1),
    "thick": (list(np.linspace(-60, 60, 11)), (19, 6, 2), 6),
}


def _build(name: str, dtype, *, traced_steep: bool = False) -> TiltGeometry:
    angles, extents, num_u = AWKWARD[name]
    steep = None if traced_steep else tuple(abs(a) > 45 for a in angles)
    return TiltGeometry(jnp.asarray(np.deg2rad(angles), dtype), extents, num_u, steep)


@pytest.fixture(scope="module", autouse=True)
def loops_as_they_are(long_loops) -> None:
    """The pair is tested here, what is built on it elsewhere."""


@pytest.fixture
def short_loops(monkeypatch) -> None:
    """Loop bodies of one plane or tilt, which compile in a fraction of the time.

    For tests of what is built on the pair; those of the pair's values and of its
    adjointness run the loops as they are.
    """
    monkeypatch.setattr(kernels, "UNROLL", 1)


@pytest.fixture(params=AWKWARD)
def build(request) -> Callable[..., TiltGeometry]:
    """Each awkward geometry in turn, as `build(dtype, traced_steep=False)`."""
    return lambda dtype, **kwargs: _build(request.param, dtype, **kwargs)


@pytest.fixture
def named() -> Callable[..., TiltGeometry]:
    """One awkward geometry, as `named(name, dtype, traced_steep=False)`."""
    return _build


@pytest.fixture
def dense() -> Callable[[TiltGeometry], np.ndarray]:
    """The matrix `[n_tilts * u, z * x]` of one slice, from loops over rays."""
    return _dense


def _dense(geometry: TiltGeometry) -> np.ndarray:
    nz, nx, _ = geometry.volume_shape
    matrix = np.zeros((geometry.num_tilts, geometry.num_u, nz, nx))
    for tilt, angle in enumerate(np.asarray(geometry.angles_rad, np.float64)):
        c, s = math.cos(angle), math.sin(angle)
        shallow = abs(math.degrees(angle)) <= 45 + 1e-9
        for column in range(geometry.num_u):
            u = column - (geometry.num_u - 1) / 2
            if shallow:
                # Where the ray crosses each plane of constant z.
                for k in range(nz):
                    x = (u - (k - (nz - 1) / 2) * s) / c + (nx - 1) / 2
                    for i in (math.floor(x), math.floor(x) + 1):
                        if 0 <= i < nx:
                            matrix[tilt, column, k, i] += (1 - abs(x - i)) / abs(c)
            else:
                # Where it crosses each plane of constant x.
                for i in range(nx):
                    z = (u - (i - (nx - 1) / 2) * c) / s + (nz - 1) / 2
                    for k in (math.floor(z), math.floor(z) + 1):
                        if 0 <= k < nz:
                            matrix[tilt, column, k, i] += (1 - abs(z - k)) / abs(s)
    return matrix.reshape(geometry.num_tilts * geometry.num_u, nz * nx)
