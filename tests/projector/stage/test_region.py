"""A part of the slab: where it is seen, and that it is reconstructed like the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.errors import InputError
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.inverse.quadratic import Metric, proximal_update
from temdiff_jax.projector import project, project_moving
from temdiff_jax.projector.stage import region

# Each of these compiles for seconds.
pytestmark = pytest.mark.usefixtures("short_loops")

ANGLES = np.linspace(-50, 50, 17)


def slab(height=4, margin="auto"):
    return TiltGeometry.from_degrees(
        ANGLES, thickness=16, width=48, height=height, lateral_margin=margin
    )


def balls(shape, places, width):
    """Gaussian balls at indices (z, x, y)."""
    z, x, y = (np.arange(n, dtype=np.float64) for n in shape)
    total = np.zeros(shape)
    for at_z, at_x, at_y in places:
        square = (z - at_z)[:, None, None] ** 2 + (x - at_x)[:, None] ** 2
        total += np.exp(-(square + (y - at_y) ** 2) / 2 / width**2)
    return jnp.asarray(total, jnp.float32)


def middle_u(images):
    images = np.asarray(images, np.float64)
    u = np.arange(images.shape[1]) - (images.shape[1] - 1) / 2
    return (images.sum(axis=2) * u).sum(axis=1) / images.sum(axis=(1, 2))


BOX = region.Region(start=(2, 0, 45), shape=(39, 1, 38))


@pytest.fixture(scope="module")
def seen():
    """A ball inside the box, in the slab's tilts and in a volume of the box alone."""
    geometry = TiltGeometry.from_degrees(
        ANGLES[::3], thickness=42, width=100, height=2, lateral_margin=0
    )
    whole = balls(geometry.volume_shape, [(21.3, 63.4, 0.7)], 3.4)
    (z, y, x), (nz, ny, nx) = BOX
    box = whole[z : z + nz, x : x + nx, y : y + ny]
    inside = jnp.zeros_like(whole)
    inside = inside.at[z : z + nz, x : x + nx, y : y + ny].set(box)
    return geometry, jax.jit(project)(inside, geometry), box


@pytest.mark.slow
def test_the_box_is_seen_in_its_windows(seen):
    """Windows, resampled or not, show what the box's own geometry says."""
    geometry, tilts, box = seen
    place = region.locate(geometry, BOX)
    assert place.aligned.volume_shape == (39, 38, 1)
    moved = project_moving(box, place.aligned, place.motion)
    raw = region.cut(tilts, place, resample=False)
    scale = float(jnp.max(tilts))
    assert float(jnp.abs(place.motion.shift_u).max()) > 0.3
    np.testing.assert_allclose(middle_u(moved), middle_u(raw.tilts), atol=1e-3)
    assert float(jnp.abs(moved - raw.tilts).max()) < 0.01 * scale
    aligned = region.cut(tilts, place)
    still = project(box, place.aligned)
    np.testing.assert_allclose(middle_u(still), middle_u(aligned.tilts), atol=1e-3)
    assert float(jnp.abs(still - aligned.tilts).max()) < 0.01 * scale
    assert bool(jnp.all(aligned.seen)) and bool(jnp.all(raw.seen))


def test_windows_lie_where_the_formula_says():
    geometry = slab(margin=0)
    place = region.locate(geometry, region.Region((3, 0, 29), (11, 4, 14)))
    # Middle of the box, from that of the slab: z = 8 - 7.5, x = 35.5 - 23.5.
    theta = np.deg2rad(ANGLES)
    at = 12.0 * np.cos(theta) + 0.5 * np.sin(theta)
    width = place.aligned.num_u
    centre = place.columns + (width - 1) / 2 - 23.5
    np.testing.assert_allclose(centre + np.asarray(place.motion.shift_u), at, atol=1e-5)
    assert np.abs(place.motion.shift_u).max() <= 0.5 + 1e-6
    shadow = 14 * np.cos(theta) + 11 * np.abs(np.sin(theta))
    assert shadow.max() <= width < shadow.max() + 3
    narrow = region.locate(geometry, region.Region((3, 0, 29), (11, 4, 14)), width=9)
    assert narrow.aligned.num_u == 9


def test_columns_off_the_detector_have_no_weight():
    geometry = slab(margin=0)
    place = region.locate(geometry, region.Region((0, 0, 40), (16, 4, 8)))
    tilts = jnp.broadcast_to(jnp.arange(48.0)[:, None], geometry.tilts_shape)
    raw = region.cut(tilts, place, resample=False)
    index = place.columns[:, None] + np.arange(place.aligned.num_u)
    inside = (index >= 0) & (index < 48)
    assert not inside.all()
    np.testing.assert_array_equal(raw.seen[..., 0], inside)
    np.testing.assert_array_equal(raw.tilts[..., 1], np.clip(index, 0, 47))
    aligned = region.cut(tilts, place)
    shift = np.asarray(place.motion.shift_u)[:, None]
    exact = np.where(aligned.seen[..., 0], aligned.tilts[..., 1] - index - shift, 0)
    # Linear data are resampled without an error, but for taps beyond the edge.
    assert np.abs(exact[:, :-1]).max() < 0.1
    assert np.abs(exact[:, :8]).max() < 1e-4
    assert not np.any(np.asarray(aligned.seen)[..., 0] & ~inside)


@pytest.mark.slow
def test_a_region_alone_is_as_good_as_the_whole_cut_down():
    """To 15 %, from an overview on voxels twice as wide and a guard of 4 voxels."""
    geometry = slab(height=6)
    places = np.random.default_rng(0).uniform(0, 1, (25, 3))
    truth = balls(geometry.volume_shape, places * geometry.volume_shape, 2.5)
    tilts = jax.jit(project)(truth, geometry)
    target = region.Region((4, 2, 18), (8, 2, 12))

    def solve(tilts, geometry, weight=1.0):
        start = jnp.zeros(geometry.volume_shape, tilts.dtype)
        metric, weight = Metric(0.05, 1e-3), jnp.asarray(weight, tilts.dtype)
        update = jax.jit(proximal_update, static_argnames="num_iters")
        return update(start, tilts, geometry, weight, metric, num_iters=40)[0]

    whole = region.inner(
        geometry.crop(solve(tilts, geometry)),
        region.Region((0, 0, 0), (16, 6, 48)),
        target,
    )
    coarse = region.coarse_geometry(geometry, 2)
    overview = solve(region.coarse_tilts(tilts, 2), coarse)
    grown = region.grow(target, 4, geometry)
    rest = region.around(overview, coarse, geometry, grown, 2)
    place = region.locate(geometry, grown)

    def alone(tilts):
        windows = region.cut(tilts, place)
        volume = solve(windows.tilts, place.aligned, windows.seen)
        return region.inner(volume, grown, target)

    def error(volume, reference):
        return float(jnp.linalg.norm(volume - reference) / jnp.linalg.norm(reference))

    exact = region.inner(
        geometry.crop(truth), region.Region((0, 0, 0), (16, 6, 48)), target
    )
    numbers = {
        "whole": error(whole, exact),
        "region": error(alone(tilts - rest), exact),
        "without": error(alone(tilts), exact),
        "difference": error(alone(tilts - rest), whole),
    }
    print({name: f"{value:.3f}" for name, value in numbers.items()})
    assert numbers["region"] < 1.15 * numbers["whole"] < 0.35
    assert numbers["difference"] < 0.2
    assert numbers["without"] > 10 * numbers["region"]


@pytest.mark.slow
@pytest.mark.parametrize(("factor", "limit"), [(1, 1e-5), (2, 0.2)])
def test_what_lies_around_is_what_the_box_does_not_hold(factor, limit):
    """With the true volume, binned, the rest and the box add up to the tilts."""
    geometry = slab(height=4, margin=4)
    whole = balls(geometry.volume_shape, [(5, 4, 1), (8, 30, 2), (8, 52, 1)], 3.0)
    coarse = region.coarse_geometry(geometry, factor)
    assert coarse.volume_shape == (16 // factor, 56 // factor, 4 // factor)
    shape = [n for extent in coarse.volume_shape for n in (extent, factor)]
    blocks = whole.reshape(shape).mean(axis=(1, 3, 5))
    box = region.Region((0, 0, 16), (16, 4, 20))
    rest = region.around(blocks, coarse, geometry, box, factor)
    held = jnp.zeros_like(whole)
    # The field of view begins after the margin of 4 columns.
    held = held.at[:, 20:40].set(whole[:, 20:40])
    tilts, alone = (jax.jit(project)(v, geometry) for v in (whole, held))
    worst = float(jnp.abs(tilts - alone - rest).max())
    assert worst < limit * float(rest.max())


def test_a_guard_stops_at_the_slab():
    geometry = slab(height=6)
    grown = region.grow(region.Region((2, 0, 40), (5, 6, 6)), 4, geometry)
    assert grown == region.Region((0, 0, 36), (11, 6, 12))
    volume = jnp.arange(11 * 12 * 6.0).reshape(11, 12, 6)
    part = region.inner(volume, grown, region.Region((2, 1, 40), (5, 2, 6)))
    np.testing.assert_array_equal(part, volume[2:7, 4:10, 1:3])


BAD = {
    "outside": (region.Region((0, 0, 40), (16, 4, 9)), "inside the field of view"),
    "negative": (region.Region((-1, 0, 0), (4, 4, 4)), "count voxels from 0"),
    "empty": (region.Region((0, 0, 0), (4, 0, 4)), "inside the field of view"),
    "flat": (region.Region((0, 0), (4, 4)), "inside the field of view"),
    "halves": (region.Region((0.5, 0, 0), (4, 4, 4)), "inside the field of view"),
}


@pytest.mark.parametrize("name", BAD)
def test_regions_that_are_none_are_refused(name):
    box, message = BAD[name]
    with pytest.raises(InputError, match=message) as error:
        region.locate(slab(margin=0), box)
    assert "\n" not in str(error.value)


def test_other_bad_input_is_refused():
    geometry = slab(margin=0)
    whole = region.Region((0, 0, 0), (16, 4, 48))
    with pytest.raises(InputError, match="guard of zero voxels"):
        region.grow(whole, -1, geometry)
    with pytest.raises(InputError, match="windows of at least one column"):
        region.locate(geometry, whole, width=0)
    with pytest.raises(InputError, match="divides 48 columns, got 5"):
        region.coarse_geometry(geometry, 5)
    with pytest.raises(InputError, match="whole factor from 1, got 0"):
        region.coarse_geometry(geometry, 0)
    with pytest.raises(ValueError, match="pass the tilts of the slab"):
        region.cut(jnp.zeros((17, 47, 4)), region.locate(geometry, whole))
    coarse = region.coarse_geometry(geometry, 2)
    with pytest.raises(ValueError, match="reconstruct it with coarse_geometry"):
        region.around(jnp.zeros((8, 24, 4)), coarse, geometry, whole, 2)
    with pytest.raises(ValueError, match="pass the region that was solved for"):
        region.inner(
            jnp.zeros((16, 48, 4)), whole, region.Region((0, 0, 1), (16, 4, 48))
        )
