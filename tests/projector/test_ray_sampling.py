"""How exact projections and reconstructions are, for one, two and four rays a pixel.

Run with ``-s`` for the tables of the page on the projector.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.inverse.quadratic import Metric, proximal_update
from temdiff_jax.projector import project

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("short_loops")]

RAYS = (1, 2, 4)
DEGREES = np.asarray([-58, -45, -37, -21, -9, 0, 5, 14, 29, 45, 51, 63.0])
# Lengths in units of the field of view: z, x of the centre; four sections y / b of an
# ellipsoid with half axes a in z and x.
CENTRE = (0.03, -0.05)
HALF_AXES = (0.28, 0.36)
SECTIONS = np.sqrt(1 - np.asarray([0, 0.3, 0.6, 0.8]) ** 2)
SIGMA = 0.1


def edges(n):
    return (np.arange(n + 1) - n / 2) / n


def series(degrees, n, rays):
    steep = tuple(bool(abs(degree) > 45) for degree in degrees)
    return TiltGeometry(jnp.asarray(np.deg2rad(degrees)), (n, n, 1), n, steep, rays)


def shadow(degrees, a_z, a_x):
    """Middle and half width of an ellipse's image, ``[n_tilts, 1, 1]``."""
    cos, sin = (f(np.deg2rad(degrees))[:, None, None] for f in (np.cos, np.sin))
    return CENTRE[1] * cos + CENTRE[0] * sin, np.hypot(a_x * cos, a_z * sin)


def ellipsoid(n, parts=8):
    """Averages over voxels, of 64 points each, ``[z, x, section]``."""
    fine = (np.arange(n * parts) - (n * parts - 1) / 2) / (n * parts)
    square = ((fine[:, None] - CENTRE[0]) / HALF_AXES[0]) ** 2
    square = square + ((fine[None, :] - CENTRE[1]) / HALF_AXES[1]) ** 2
    full = square[:, :, None] <= SECTIONS**2
    return full.reshape(n, parts, n, parts, -1).mean((1, 3))


def ellipsoid_image(n):
    """Chords averaged over pixels, ``[n_tilts, u, section]``."""
    middle, half = shadow(DEGREES, *HALF_AXES)
    half = half * SECTIONS
    s = np.clip((edges(n)[None, :, None] - middle) / half, -1, 1)
    area = HALF_AXES[0] * HALF_AXES[1] * SECTIONS**2
    return np.diff(area * (s * np.sqrt(1 - s * s) + np.arcsin(s)), axis=1) * n


def gaussian(n):
    def average(centre):
        steps = 0.5 * erf((edges(n) - centre) / (SIGMA * math.sqrt(2)))
        return np.diff(steps) * n * SIGMA * math.sqrt(2 * math.pi)

    return (average(CENTRE[0])[:, None] * average(CENTRE[1]))[:, :, None]


def gaussian_image(n):
    middle, _ = shadow(DEGREES, 1, 1)
    steps = 0.5 * erf((edges(n)[None, :, None] - middle) / (SIGMA * math.sqrt(2)))
    return np.diff(steps, axis=1) * n * 2 * math.pi * SIGMA**2


def errors_of(volume, image, rays):
    """RMS errors as shares of the RMS image, for voxels halved twice."""
    found = []
    for n in (24, 48, 96):
        exact = image(n)
        got = np.asarray(project(jnp.asarray(volume(n)), series(DEGREES, n, rays))) / n
        found.append(np.sqrt(np.mean((got - exact) ** 2) / np.mean(exact**2)))
    orders = np.log2(np.asarray(found[:-1]) / found[1:])
    numbers = " ".join(f"{error:.1e}" for error in found)
    print(f"{rays} rays: {numbers}, orders {np.round(orders, 2)}")
    return found, orders


def test_a_smooth_object_is_seen_to_second_order(x64):
    """What is left is blur: the footprint's, and with more rays the pixel's once more.

    Voxels are averages already, so a ray through their interpolation is blurred as a
    pixel is, by h^2/12, and by the footprint's m^2 h^2 / 6; K rays add (1 - 1/K^2)
    h^2 / 12.
    """
    for rays in RAYS:
        found, orders = errors_of(gaussian, gaussian_image, rays)
        np.testing.assert_allclose(orders, 2, atol=0.1)
        half = np.maximum(*(np.abs(f(np.deg2rad(DEGREES))) for f in (np.cos, np.sin)))
        footprint = half**2 / 6
        # At 0 degrees a ray meets every plane at the same place between two voxels;
        # elsewhere at all places, and 1/6 is the mean of f (1 - f).
        place = np.abs((np.arange(rays) + 0.5) / rays - 0.5)
        footprint[DEGREES == 0] = np.mean(place * (1 - place))
        excess = footprint + (1 - 1 / rays**2) / 12
        # Half the excess times the second derivative of a Gaussian: its RMS is
        # sqrt(3/4) / sigma^2 of the RMS of the Gaussian itself.
        blur = np.sqrt(np.mean(excess**2)) / 2 * math.sqrt(3 / 4) / (96 * SIGMA) ** 2
        assert found[-1] == pytest.approx(blur, rel=0.05)


def test_an_object_with_edges_is_seen_to_first_order(x64):
    for rays in RAYS:
        found, orders = errors_of(ellipsoid, ellipsoid_image, rays)
        np.testing.assert_allclose(orders, 1, atol=0.12)
        assert found[-1] < 0.007


N, RADIUS = 64, 20.3


def disc():
    """A section of a ball, voxel averages in ``[z, x, 1]``, and its interior."""
    fine = (np.arange(N * 8) - (N * 8 - 1) / 2) / 8
    place = np.arange(N) - (N - 1) / 2

    def within(points, radius):
        z, x = points - N * CENTRE[0], points - N * CENTRE[1]
        return z[:, None] ** 2 + x[None, :] ** 2 <= radius**2

    volume = within(fine, RADIUS).reshape(N, 8, N, 8).mean((1, 3))
    return volume[:, :, None], within(place, RADIUS - 3)[:, :, None]


def disc_image(degrees):
    middle, _ = shadow(degrees, 1, 1)
    s = np.clip((N * (edges(N)[None, :, None] - middle)) / RADIUS, -1, 1)
    return np.diff(RADIUS**2 * (s * np.sqrt(1 - s * s) + np.arcsin(s)), axis=1)


@pytest.mark.parametrize(
    "degrees",
    [np.asarray([-45.0, 45.0]), np.linspace(-45, 45, 41), np.linspace(-60, 60, 41)],
    ids=["2 tilts at 45", "41 to 45", "41 to 60"],
)
@pytest.mark.parametrize("data", ["four rays", "integrals"])
def test_one_ray_leaves_the_grid_in_a_reconstruction(degrees, data, x64):
    truth, interior = disc()
    tilts = jnp.asarray(disc_image(degrees))
    if data == "four rays":
        tilts = project(jnp.asarray(truth), series(degrees, N, 4))
    solve = jax.jit(proximal_update, static_argnames="num_iters")
    grid = {}
    for rays in RAYS:
        volume, _ = solve(
            jnp.zeros((N, N, 1)),
            tilts,
            series(degrees, N, rays),
            jnp.asarray(1.0),
            Metric(0.0, jnp.asarray(0.01)),
            num_iters=60,
        )
        volume = np.asarray(volume)
        turned = sum(np.roll(volume, step, axis) for axis in (0, 1) for step in (1, -1))
        # Voxel against the mean of its neighbours, where the truth is constant.
        grid[rays] = np.std((volume - turned / 4)[interior])
        error = volume - truth
        print(
            f"{rays} rays: grid {grid[rays]:.4f}, error inside "
            f"{np.sqrt(np.mean(error[interior] ** 2)):.4f}, "
            f"everywhere {np.sqrt(np.mean(error**2)):.4f}"
        )
    assert grid[4] < 0.5 * grid[1]
