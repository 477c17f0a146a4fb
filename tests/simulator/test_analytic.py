"""Closed forms against quadrature, and grids against closed forms."""

import math

import numpy as np
import pytest

from temdiff_jax.errors import InputError
from temdiff_jax.simulator import analytic
from temdiff_jax.simulator.analytic import Body

CENTRE = (0.2, -0.1, 0.15)
SEMI_AXES = (0.5, 0.8, 0.35)


def turn(first, second):
    """Rows of a rotation about z, then about x."""
    c, s = math.cos(first), math.sin(first)
    about_z = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1.0]])
    c, s = math.cos(second), math.sin(second)
    about_x = np.array([[1.0, 0, 0], [0, c, s], [0, -s, c]])
    return about_x @ about_z


def along_ray(body, angle, u, y, count=200_001, reach=3.0):
    """The integral by the midpoint rule."""
    step = 2 * reach / count
    s = (np.arange(count) + 0.5) * step - reach
    c, n = math.cos(angle), math.sin(angle)
    return np.sum(body.density(u * c - s * n, y + 0 * s, u * n + s * c)) * step


@pytest.mark.parametrize("axes", [None, turn(0.4, -0.7)], ids=["straight", "turned"])
@pytest.mark.parametrize("kind", analytic.KINDS)
def test_line_integrals_equal_quadrature(kind, axes):
    body = Body(kind, 1.7, CENTRE, SEMI_AXES, axes)
    seen = 0
    for angle in np.deg2rad([-90.0, -37.0, 0.0, 20.0, 45.0, 71.0]):
        u0 = CENTRE[0] * math.cos(angle) + CENTRE[2] * math.sin(angle)
        for du, dy in [(0.0, 0.0), (0.11, 0.2), (-0.23, -0.31), (0.05, 0.6), (2.5, 0)]:
            expected = along_ray(body, angle, u0 + du, CENTRE[1] + dy)
            found = body.line_integral(angle, u0 + du, CENTRE[1] + dy)
            # An end of an interval falls anywhere in a step of 3e-5.
            assert float(found) == pytest.approx(expected, abs=2e-4)
            seen += expected > 0.1
    assert seen > 12


def test_rays_broadcast_and_are_odd_in_nothing():
    body = Body("cone", 1.0, (0, 0, 0), SEMI_AXES)
    u, y = np.linspace(-1, 1, 9)[None, :], np.linspace(-1, 1, 5)[:, None]
    image = body.line_integral(0.3, u, y)
    assert image.shape == (5, 9)
    np.testing.assert_allclose(image, image[::-1, ::-1], atol=1e-15)


def test_a_cone_seen_through_its_tip_is_half_as_long_as_it_is_wide():
    body = Body("cone", 2.0, (0, 0, 0), (0.5, 0.5, 0.5))
    assert float(body.line_integral(0.7, 0.0, 0.0)) == pytest.approx(2.0 * 0.5)


@pytest.mark.parametrize("kind", analytic.KINDS)
def test_reach_holds_the_body_and_is_not_loose(kind):
    axes = turn(0.6, 0.5)
    body = Body(kind, 1.0, CENTRE, SEMI_AXES, axes)
    x, y, z = np.meshgrid(*[np.linspace(-2, 2, 81)] * 3, indexing="ij")
    found = body.density(x, y, z) > 2.0**-15.9
    for axis, centre, reach in zip((x, y, z), CENTRE, body.reach()):
        extent = np.max(np.abs(axis[found] - centre))
        # The grid has a spacing of 0.05, and corners are thin.
        assert extent <= reach + 1e-9 and extent > reach - 0.13


@pytest.mark.parametrize(
    ("kind", "share"),
    [
        ("ellipsoid", 4 / 3 * math.pi),
        ("cone", math.pi / 3),
        ("paraboloid", math.pi**2 / 4),
        ("gaussian", (math.pi / (4 * math.log(2))) ** 1.5),
        ("elliptical_cylinder", 2 * math.pi),
        ("cuboid", 8.0),
    ],
)
def test_mass_of_volumes_and_of_tilts(kind, share):
    body = Body(kind, 1.3, (0.05, -0.02, 0.1), (0.4, 0.5, 0.3), turn(0.3, 0.2))
    mass = 1.3 * share * 0.4 * 0.5 * 0.3
    pitch = 0.05
    volume = analytic.volume([body], (61, 60, 59), pitch)
    assert volume.sum() * pitch**3 == pytest.approx(mass, rel=3e-3)
    tilts = analytic.tilts([body], [-50.0, 10.0], (60, 59), pitch)
    np.testing.assert_allclose(tilts.sum(axis=(1, 2)) * pitch**2, mass, rtol=1e-2)


def test_bodies_add_up_and_lie_where_they_should():
    one = Body("gaussian", 1.0, (0.5, -0.25, 0.75), (0.3, 0.3, 0.3))
    other = Body("cuboid", -0.5, (0.0, 0.0, 0.0), (0.25, 0.25, 0.25))
    both = analytic.volume([one, other], (24, 24, 24), 0.125, supersample=2)
    apart = [
        analytic.volume([b], (24, 24, 24), 0.125, supersample=2) for b in (one, other)
    ]
    np.testing.assert_allclose(both, sum(apart), atol=1e-15)
    mean = [np.average(a, weights=apart[0]) for a in np.indices(both.shape)]
    places = [(index - 11.5) * 0.125 for index in mean]
    np.testing.assert_allclose(places, (0.75, -0.25, 0.5), atol=2e-3)  # z, y, x


def test_mean_of_a_pixel_is_the_mean_of_its_rays():
    body = Body("cone", 1.0, CENTRE, SEMI_AXES)
    means = analytic.tilts([body], [33.0], (8, 6), 0.25, supersample=3)
    rays = analytic.tilts([body], [33.0], (24, 18), 0.25 / 3)
    rays = rays.reshape(1, 8, 3, 6, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(means, rays, atol=1e-14)


def test_a_body_outside_the_volume_leaves_it_empty():
    body = Body("ellipsoid", 1.0, (9.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert not analytic.volume([body], (6, 6, 6)).any()


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match="expected a kind among ellipsoid, .* 'egg'"):
        Body("egg", 1.0, CENTRE, SEMI_AXES)
    with pytest.raises(InputError, match="expected positive semi-axes"):
        Body("cone", 1.0, CENTRE, (1.0, 0.0, 1.0))
    with pytest.raises(InputError, match="supersample >= 1, got 0"):
        analytic.volume([], (3, 3, 3), supersample=0)
    with pytest.raises(InputError, match="supersample >= 1, got 0"):
        analytic.tilts([], [0.0], (3, 3), supersample=0)
