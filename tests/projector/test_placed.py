"""A series that lies as its geometry says: the pair, its masks, the way to aligned."""

import dataclasses

import jax
import numpy as np
import pytest

from temdiff_jax import projector
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.projector import placed

ANGLES = np.linspace(-40, 40, 7)
RNG = np.random.default_rng(0)
SHIFTS = RNG.uniform(-3, 3, (7, 2))


def geometry(**motion):
    plain = TiltGeometry.from_degrees(ANGLES, thickness=10, width=24, height=20)
    return dataclasses.replace(plain, motion=projector.motion_from_degrees(7, **motion))


MOTIONS = [
    {},
    {"shifts_px": SHIFTS, "rotations_deg": 5.0, "magnifications": 1.03},
    {"shifts_px": SHIFTS, "rotations_deg": -3.0, "x_tilt_deg": 6.0},
]


@pytest.mark.parametrize("motion", MOTIONS)
def test_the_pair_is_adjoint(motion):
    rays = geometry(**motion)
    volume = RNG.normal(size=rays.volume_shape).astype(np.float32)
    tilts = RNG.normal(size=rays.tilts_shape).astype(np.float32)
    there = np.vdot(projector.project(volume, rays), tilts)
    back = np.vdot(volume, projector.backproject(tilts, rays))
    assert there == pytest.approx(back, rel=1e-4)


def test_without_a_motion_and_with_none_it_is_the_aligned_pair():
    rays = geometry()
    volume = RNG.normal(size=rays.volume_shape).astype(np.float32)
    np.testing.assert_allclose(
        projector.project(volume, rays),
        projector.project(volume, rays.still()),
        atol=1e-4,
    )
    from temdiff_jax.projector.project import project as aligned

    with pytest.raises(ValueError, match="geometry with a motion"):
        aligned(volume, rays)


def test_lengths_of_rays_are_those_of_the_slab():
    rays = geometry(shifts_px=SHIFTS, rotations_deg=5.0)
    lengths = np.asarray(projector.ray_lengths(rays))
    assert lengths.shape == rays.tilts_shape
    middle = lengths[:, 8:16, 6:14]
    expected = 10 / np.cos(np.deg2rad(ANGLES))
    np.testing.assert_allclose(middle.mean(axis=(1, 2)), expected, rtol=0.02)


def test_what_looks_beside_the_field_of_view_is_known():
    shifts = np.zeros((7, 2))
    shifts[2] = 4.0, -2.0  # content moves by +4 columns and -2 rows
    columns, rows, inside = placed.seen_at(geometry(shifts_px=shifts))
    assert columns[2, 0, 0] == pytest.approx(-11.5 - 4)
    assert rows[2, 0, 0] == pytest.approx(-9.5 + 2)
    assert inside[0].all()
    assert not inside[2, :4].any() and not inside[2, :, -2:].any()
    assert inside[2, 4:, :-2].all()
    tilted = placed.seen_at(geometry(x_tilt_deg=30.0))[2]
    assert not tilted[:, :, :2].any() and tilted[3, :, 4:-4].all()


@pytest.mark.parametrize("motion", MOTIONS)
def test_straightened_tilts_are_those_of_an_aligned_series(motion):
    rays = geometry(**motion)
    z, x, y = (np.arange(n) - (n - 1) / 2 for n in rays.volume_shape)
    volume = np.zeros(rays.volume_shape, np.float32)
    for at in [(2, -5, 3), (-1, 4, -4)]:
        r2 = (
            (z[:, None, None] - at[0]) ** 2
            + (x[:, None] - at[1]) ** 2
            + (y - at[2]) ** 2
        )
        volume += np.exp(-r2 / 8).astype(np.float32)
    still, turn, back = projector.straightened(rays)
    seen = turn(projector.project(volume, rays))
    if "x_tilt_deg" not in motion:
        expected = projector.project(volume, still)
        inside = (slice(None), slice(4, -4), slice(4, -4))  # edges are continued
        limit = 0.05 * float(expected.max())
        np.testing.assert_allclose(seen[inside], expected[inside], atol=limit)
        np.testing.assert_array_equal(back(volume), volume)
        return
    # Back and forth through the rows that an x-tilt changes.
    flat = jax.jit(
        lambda v: projector.backproject(turn(projector.project(v, rays)), still)
    )
    found = np.asarray(back(flat(volume)))
    right = np.asarray(
        projector.backproject(projector.project(volume, rays.still()), rays.still())
    )
    score = np.corrcoef(found.ravel(), right.ravel())[0, 1]
    assert score > 0.98, score
