"""Every number of the geometry, alone and with every other, against the formula.

A Gaussian ball is imaged by the operators; the middle of mass of its image must lie
where a plain NumPy statement of the conventions puts the middle of the ball.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.projector import backproject, no_motion, project, project_moving
from temdiff_jax.projector.stage.alignment import motion_from_degrees

pytestmark = pytest.mark.usefixtures("short_loops")

ANGLES = np.array([-55.0, 12.0, 38.0])
SHAPE = (50, 52, 54)  # z, x, y
CENTRE = np.array([1.7, -1.2, 1.4])  # x, y, z from the middle
WIDTH = 4.2

MOVES = {
    "shift": {"shifts_px": [[1.2, -0.5], [-0.7, 0.8], [0.4, 1.1]]},
    "rotation": {"rotations_deg": [14.0, -9.0, 3.0]},
    "magnification": {"magnifications": [1.15, 0.85, 1.0]},
    "tilt error": {"tilt_errors_deg": [4.0, -3.0, 6.0]},
    "axis offset": {"axis_offset_px": 0.8},
    "chi": {"x_tilt_deg": 11.0},
}
SUBSETS = [
    names
    for count in range(len(MOVES) + 1)
    for names in itertools.combinations(MOVES, count)
]


def ball(shape=SHAPE, centre=CENTRE):
    z, x, y = (np.arange(n) - (n - 1) / 2 for n in shape)
    square = (x[:, None] - centre[0]) ** 2 + (y - centre[1]) ** 2
    square = square + (z[:, None, None] - centre[2]) ** 2
    return jnp.asarray(np.exp(-square / 2 / WIDTH**2), jnp.float32)


def middle(images):
    """Middle of mass (u, v) of ``[n_tilts, u, y]`` from the images' centre."""
    images = np.asarray(images, np.float64)
    total = images.sum(axis=(1, 2))
    u, v = (np.arange(n) - (n - 1) / 2 for n in images.shape[1:])
    at_u = (images.sum(axis=2) * u).sum(axis=1) / total
    return np.stack([at_u, (images.sum(axis=1) * v).sum(axis=1) / total], axis=1)


def fields(names):
    """Arguments of ``motion_from_degrees``; chi is there always, to compile once."""
    out = {"x_tilt_deg": 0.0}
    for name in names:
        out |= MOVES[name]
    return out


def rotation(axis, degrees):
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = c
    matrix[i, j], matrix[j, i] = -s, s
    return matrix


def formula(names, *, angles=ANGLES):
    """p = t + m Rz(psi) (a + Ry(theta) Rx(chi) r) as (x, y)."""
    given = fields(names)
    out = []
    for k, angle in enumerate(angles):
        theta = angle + given.get("tilt_errors_deg", [0, 0, 0])[k]
        at = rotation("y", theta) @ rotation("x", given["x_tilt_deg"]) @ CENTRE
        at[0] += given.get("axis_offset_px", 0.0)
        at = rotation("z", given.get("rotations_deg", [0, 0, 0])[k]) @ at
        at = given.get("magnifications", [1, 1, 1])[k] * at[:2]
        shift = np.asarray(given.get("shifts_px", np.zeros((3, 2)))[k])
        out.append(at + shift)
    return np.stack(out)


def about_y(num_u=SHAPE[1]):
    return TiltGeometry(jnp.deg2rad(jnp.asarray(ANGLES, jnp.float32)), SHAPE, num_u)


@pytest.mark.slow
def test_every_combination_about_one_axis():
    volume, image = ball(), jax.jit(project_moving)
    for names in SUBSETS:
        seen = image(volume, about_y(), motion_from_degrees(3, **fields(names)))
        np.testing.assert_allclose(
            middle(seen), formula(names), atol=1e-3, err_msg=str(names)
        )
    assert len(SUBSETS) == 64


@pytest.mark.parametrize("margin", [0, 7])
def test_a_slab_that_goes_on_beside_the_detector(margin):
    """The margin moves no centre, and what lies in it is seen from the side."""
    geometry = TiltGeometry.from_degrees(
        [0.0, 40.0], thickness=44, width=46, height=40, lateral_margin=margin
    )
    geometry = dataclasses.replace(geometry, steep=None)
    volume = ball(geometry.volume_shape)
    expected = formula((), angles=[0.0, 40.0])
    np.testing.assert_allclose(middle(project(volume, geometry)), expected, atol=1e-3)
    if margin:
        beside = np.zeros(geometry.volume_shape, np.float32)
        beside[39, 3] = 1.0  # x = -26.5, z = 17.5; the detector ends at -23
        level, tilted = np.asarray(project(jnp.asarray(beside), geometry))[:, :, 0]
        assert np.abs(level).max() == 0.0
        at = -26.5 * np.cos(np.deg2rad(40)) + 17.5 * np.sin(np.deg2rad(40))
        assert np.abs((np.arange(46) - 22.5)[tilted > 0] - at).max() < 1


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_repeated_tilts_are_tilts():
    """A tilt given twice is seen twice and counts twice."""
    volume = ball((8, 9, 5), np.zeros(3))
    once = TiltGeometry(jnp.asarray([0.3, -0.2]), (8, 9, 5), 9)
    twice = TiltGeometry(jnp.asarray([0.3, -0.2, 0.3]), (8, 9, 5), 9)
    image = project(volume, twice)
    np.testing.assert_array_equal(image[0], image[2])
    np.testing.assert_allclose(image[:2], project(volume, once), atol=1e-6)
    weight = jnp.asarray([2.0, 1.0])[:, None, None]
    np.testing.assert_allclose(
        backproject(image, twice), backproject(weight * image[:2], once), atol=1e-4
    )
    moving = project_moving(volume, twice, no_motion(3))
    np.testing.assert_allclose(moving, image, atol=1e-5)
