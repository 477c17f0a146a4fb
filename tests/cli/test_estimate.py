"""Quick estimates: the axis of images that have one, and no word about others."""

import numpy as np
import pytest

from temdiff_jax.cli import estimate
from temdiff_jax.io.alignment.record import Alignment

ANGLES = np.arange(-60.0, 61.0, 12.0)
BEADS = [(-9, -8, 4), (7, 9, -5), (2, -3, 6), (-4, 6, -2), (10, -10, 0)]


def doubt(tilts, alignment=None):
    axis = estimate.axis_angle(tilts, alignment)
    return estimate.axis_doubt(axis, len(tilts))


def beads(psi=0.0, shifts=None):
    """Tilts [11, 48, 48] of beads, the axis psi degrees from +y towards -x."""
    y, x = np.indices((48, 48)) - 23.5
    cos, sin = np.cos(np.deg2rad(psi)), np.sin(np.deg2rad(psi))
    stack = np.zeros((len(ANGLES), 48, 48))
    for n, angle in enumerate(np.deg2rad(ANGLES)):
        dx, dy = (0.0, 0.0) if shifts is None else shifts[n]
        for bx, by, bz in BEADS:
            u = bx * np.cos(angle) + bz * np.sin(angle)
            px, py = cos * u - sin * by + dx, sin * u + cos * by + dy
            stack[n] += np.exp(-((x - px) ** 2 + (y - py) ** 2) / 8)
    rng = np.random.default_rng(0)
    return (stack + 0.02 * rng.standard_normal(stack.shape)).astype(np.float32)


@pytest.mark.parametrize("psi", [0.0, 30.0, -52.0, 84.0])
def test_the_axis_is_where_the_profiles_stay(psi):
    found, contrast = estimate.axis_angle(beads(psi))
    assert abs((found - psi + 90) % 180 - 90) <= 2 and contrast < 0.1
    line = estimate.axis_line((found, contrast), 120)
    assert ("NOT where it is taken to be" in line) is (psi != 0)


def test_a_drifting_beam_does_not_hide_it():
    gain = np.linspace(0.7, 1.3, len(ANGLES))[:, None, None]
    found, contrast = estimate.axis_angle(beads(30.0) * gain + 5 * gain**2)
    assert abs(found - 30) <= 2 and contrast < 0.15


def test_noise_has_no_axis():
    noise = np.random.default_rng(1).normal(size=(9, 64, 64))
    assert "not visible" in estimate.axis_line(estimate.axis_angle(noise), 96)
    assert "too few" in estimate.axis_line(None, 12)


def test_an_alignment_says_where_the_axis_is_taken_to_be():
    shifts = np.stack([np.linspace(-6, 6, 11), np.zeros(11)], axis=1)
    own = Alignment(ANGLES, shifts, np.full(11, 30.0), np.ones(11))
    raw = beads(30.0, shifts)
    assert abs(estimate.axis_angle(raw, own)[0]) <= 2
    assert doubt(raw, own) == []


def test_shifts_of_neighbours_are_measured():
    rng = np.random.default_rng(2)
    scene = rng.normal(size=(96, 96))
    moves = [(0, 0), (5, -3), (5, 6)]  # x, y
    stack = np.stack([np.roll(scene, (dy, dx), (0, 1)) for dx, dy in moves])
    np.testing.assert_allclose(
        estimate.neighbour_shifts(stack), [(5, -3), (0, 9)], atol=0.5
    )
    assert "9.0 at most" in estimate.shift_line(estimate.neighbour_shifts(stack))
    unlike = estimate.neighbour_shifts(rng.normal(size=(4, 96, 96)))
    assert "not visible" in estimate.shift_line(unlike)
    assert estimate.shift_line(np.zeros((0, 2))) == "one tilt"


def test_the_wedge_is_drawn():
    assert estimate.wedge(-90, 90) == "[" + "#" * 18 + "]"
    assert estimate.wedge(-5, 5) == "[........##........]"


def test_a_doubt_is_said_only_where_it_is_clear():
    assert doubt(beads(0.0)) == []
    (line,) = doubt(beads(84.0))
    assert "84 degrees from where it is taken to be" in line
    noise = np.random.default_rng(3).normal(size=(9, 64, 64))
    assert doubt(noise) == [] == doubt(beads(84.0)[:3])
