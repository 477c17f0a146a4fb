import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from temdiff_jax.errors import InputError
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.series.weighting import masks
from temdiff_jax.simulator import ImagingConfig, simulate_series

CONFIG = ImagingConfig(
    dose=(2000.0, 2000.0),
    resin_path=(0.8, 0.8),
    contrast=(0.3, 0.3),
    blur_px=(0.0, 0.0),
)
GEOMETRY = TiltGeometry.from_degrees(
    [-30.0, 0.0, 20.0], thickness=12, width=64, height=48
)


@pytest.fixture(scope="module")
def simulate():
    """Return a function ``(config, key) -> series`` of a blocky specimen."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 1, [-(-n // 3) for n in GEOMETRY.volume_shape])
    blocks = np.kron(coarse, np.ones((3, 3, 3)))
    nz, nx, ny = GEOMETRY.volume_shape
    stain = jnp.asarray(blocks[:nz, :nx, :ny], jnp.float32)
    program = jax.jit(simulate_series, static_argnums=3)
    return lambda config: program(jax.random.key(1), stain, GEOMETRY, config)


@pytest.fixture(scope="module")
def clean(simulate):
    return np.asarray(simulate(CONFIG).tilts)


def rates(found, planted):
    """Share of the planted pixels that were found, and of the others."""
    return found[planted].mean(), found[~planted].mean()


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (2, 3), (17, 24)])
def test_the_median_of_nine_is_that_of_scipy(shape):
    image = np.random.default_rng(0).integers(0, 9, shape).astype(np.float64)
    expected = ndimage.median_filter(image, 3, mode="mirror")
    if min(shape) > 1:
        np.testing.assert_array_equal(masks.median_of_nine(image), expected)
    assert masks.median_of_nine(image).shape == shape


def test_nothing_is_found_in_a_good_series(clean):
    found = masks.find_masks(clean, GEOMETRY)
    assert not found.fill.any() and not found.saturated.any()
    assert not found.outside.any()
    assert found.hot.mean() < 2e-3
    assert found.keep.mean() > 0.998 and found.keep.dtype == np.float32


@pytest.mark.slow
def test_hot_pixels_of_the_detector_are_found(simulate, clean):
    hot = dataclasses.replace(CONFIG, hot_pixels=0.01)
    tilts = np.asarray(simulate(hot).tilts)
    planted = tilts != clean
    assert 0.005 < planted.mean() < 0.02
    hits, false = rates(masks.find_masks(tilts).hot, planted)
    print(f"hot pixels found {hits:.4f}, others {false:.5f}")
    assert hits > 0.95 and false < 2e-3
    dead = clean.copy()
    dead[:, 5, 7] += 3.0
    assert masks.find_masks(dead).hot[:, 5, 7].all()


def test_fill_at_the_level_of_the_vacuum_beside_it_stays_and_other_fill_does_not():
    rng = np.random.default_rng(0)
    specimen = np.hypot(*np.mgrid[-48:48, -48:48]) < 24
    image = np.where(specimen, 200.0, 0.0) + rng.normal(size=specimen.shape)
    image[:6] = 0.0
    assert not masks.fill_mask(image).any()
    image[:6] = 30.0
    assert masks.fill_mask(image)[:6].all()
    # The mean of a specimen that goes on to the border is no vacuum.
    texture = rng.normal(size=specimen.shape)
    texture[:6] = 0.0
    assert masks.fill_mask(texture)[:6].all()


def test_texture_in_quiet_vacuum_is_not_hot_and_pixels_in_either_are():
    """Most of the tilt is vacuum, whose noise is a thirtieth of the specimen's."""
    rng = np.random.default_rng(0)
    specimen = np.hypot(*np.mgrid[-48:48, -48:48]) < 24
    image = np.where(specimen, 200.0, 0.0) + np.where(specimen, 30.0, 1.0) * rng.normal(
        size=specimen.shape
    )
    assert masks.hot_mask(image).mean() < 2e-3
    image[48, 48] += 500.0
    image[4, 4] -= 25.0
    found = masks.hot_mask(image)
    assert found[48, 48] and found[4, 4] and found.mean() < 2e-3


@pytest.mark.parametrize("value", [0.0, -1e30, 0.8])
def test_filled_borders_are_found_with_their_rim(clean, value):
    tilts = clean.copy()
    planted = np.zeros(tilts.shape, bool)
    planted[0, :5], planted[1, :, -3:], planted[2, 60:], planted[2, :, :6] = 1, 1, 1, 1
    tilts[planted] = value
    found = masks.find_masks(tilts)
    rim = np.stack([ndimage.binary_dilation(p, np.ones((3, 3))) for p in planted])
    np.testing.assert_array_equal(found.fill, rim)
    np.testing.assert_array_equal(masks.fill_mask(tilts[0], grow=0), planted[0])
    assert found.hot.mean() < 2e-3  # a huge value does not drag its neighbours along
    assert found.shares()["fill"] == pytest.approx(rim.mean())
    assert found.shares()["all"] < rim.mean() + 4e-3


def test_a_triangle_left_by_rotation_is_filled_and_an_inner_plateau_is_not(clean):
    image = clean[0].copy()
    u, y = np.indices(image.shape)
    corner = 2 * u + y < 30
    image[corner] = image.mean()
    image[30:40, 20:30] = 0.5
    np.testing.assert_array_equal(masks.fill_mask(image, grow=0), corner)


def test_clipping_is_found_at_either_end_and_repeated_counts_are_not(simulate):
    counts = np.round(np.asarray(simulate(CONFIG).counts))
    assert not masks.find_masks(counts).saturated.any()
    top, bottom = np.quantile(counts, [0.97, 0.02])
    clipped = np.clip(counts, bottom, top)
    found = masks.find_masks(clipped).saturated
    np.testing.assert_array_equal(found, (clipped == top) | (clipped == bottom))


def test_gold_beads_are_no_hot_pixels_and_electrons_in_one_pixel_are():
    """Beads as wide as the optics make them, dark and bright, on noise."""
    rng = np.random.default_rng(5)
    image = 100 + 4 * rng.standard_normal((96, 96))
    u, y = np.indices(image.shape)
    beads = [(11.2, 20.0), (30.5, 70.3), (55.0, 41.0), (70.7, 12.4), (84.0, 84.5)]
    for number, (at_u, at_y) in enumerate(beads):
        blob = np.exp(-((u - at_u) ** 2 + (y - at_y) ** 2) / (2 * 0.7**2))
        image += (-90 if number % 2 else 90) * blob
    hot = [(20, 50), (44, 12), (60, 80)]
    for number, at in enumerate(hot):
        image[at] += 90 if number % 2 else -90
    found = masks.hot_mask(image.astype(np.float32))
    assert {tuple(map(int, at)) for at in np.argwhere(found)} == set(hot)


def test_floor_of_the_empty_beam_is_not_saturation():
    """A needle in vacuum: counts below zero were stored as zero."""
    rng = np.random.default_rng(6)
    u, _ = np.indices((80, 64))
    needle = np.where(np.abs(u - 40) < 12, 200.0, 0.0)
    image = np.maximum(needle + 3 * rng.standard_normal(needle.shape), 0)
    image = np.round(image).astype(np.float32)
    assert not masks.saturated_mask(image).any()
    clipped = np.maximum(image, 180)  # a limit in the middle of what is there
    clipped[u % 2 == 0] += 40
    assert masks.saturated_mask(clipped).any()


def test_constant_tilt_is_masked_whole():
    tilts = np.random.default_rng(0).standard_normal((2, 20, 16))
    tilts[1] = 3.0
    found = masks.find_masks(tilts)
    assert found.keep[0].all() and not found.keep[1].any()


def test_rays_beside_the_volume_are_those_with_a_short_path():
    wide = TiltGeometry.from_degrees(
        [-50.0, 0.0, 70.0], thickness=8, width=20, height=4
    )
    bare = dataclasses.replace(wide, volume_shape=(8, 20, 4))
    nz = 8
    for geometry in (wide, bare):
        found = masks.outside_mask(geometry)[:, :, 0]
        # The path by brute force: points along each ray.
        angles = np.asarray(geometry.angles_rad, np.float64)[:, None, None]
        u = (np.arange(20) - 9.5)[None, :, None]
        z = np.linspace(-nz / 2, nz / 2, 4001)
        x = (u - z * np.sin(angles)) / np.cos(angles)
        share = np.mean(np.abs(x) <= geometry.volume_shape[1] / 2, axis=2)
        sure = np.abs(share - masks.MIN_SHARE) > 1e-3
        np.testing.assert_array_equal(found[sure], (share < masks.MIN_SHARE)[sure])
        assert not found[1].any()
    assert masks.outside_mask(bare)[2].sum() > 4
    upright = TiltGeometry.from_degrees([90.0], thickness=8, width=20, height=4)
    assert masks.outside_mask(upright).all()


def test_repair_takes_the_nearest_pixel_and_leaves_the_others(clean):
    keep = np.ones(clean.shape, np.float32)
    keep[0, 10, 10] = keep[1, :4] = 0
    keep[2] = 0
    spoilt = np.where(keep > 0, clean, 1e6)
    repaired = masks.repair(spoilt, keep)
    np.testing.assert_array_equal(repaired[keep > 0], clean[keep > 0])
    np.testing.assert_array_equal(repaired[1, :4], np.tile(clean[1, 4], (4, 1)))
    assert repaired[0, 10, 10] in clean[0, 9:12, 9:12]
    assert np.all(repaired[2] == np.median(spoilt[keep > 0]))


@pytest.mark.parametrize(
    ("tilts", "message"),
    [
        (np.zeros((3, 4)), "expected real tilts"),
        (np.full((1, 4, 4), "a"), "expected real tilts"),
        (np.full((1, 4, 4), np.nan), "expected finite tilts, got 16"),
    ],
)
def test_what_cannot_be_masked_is_refused(tilts, message):
    with pytest.raises(InputError, match=message):
        masks.find_masks(tilts)


def test_no_pixel_at_all_is_refused():
    with pytest.raises(InputError, match="all 8 masked"):
        masks.repair(np.ones((2, 2, 2)), np.zeros((2, 1, 1)))
