"""Examples are pure functions of (seed, step, index)."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.errors import InputError
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.model import NUM_FEATURES
from temdiff_jax.projector import project
from temdiff_jax.series import grids, inputs
from temdiff_jax.simulator import ImagingConfig
from temdiff_jax.training import data, loop, volumes
from temdiff_jax.training.config import DataConfig, Scenario

SCENARIO = Scenario(half_range_deg=(5.0, 8.0), num_tilts=5, thickness=10, drop=0.9)
CONFIG = DataConfig(
    sources=("a.npz:volume",),
    validation=("a.npz:volume",),
    scenarios=(SCENARIO,),
    blocks_per_scenario=2,
    block_width=14,
    block_height=9,
    crop=8,
    phantom_fraction=0.0,
    imaging=ImagingConfig(exact_counts=False),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One block of smooth tissue, uint8."""
    path = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    coarse = jax.image.resize(rng.random((6, 6, 6)), (24, 20, 22), "cubic")
    np.savez(path / "a.npz", volume=np.uint8(np.clip(255 * coarse, 0, 255)))
    return path


@pytest.fixture(scope="module")
def source(folder):
    return data.BlockSource.from_files(folder, CONFIG.sources, CONFIG, seed=3)


def fake_blocks(count=3, shape=(10, 12, 9)):
    rng = np.random.default_rng(1)
    return [
        data.Block(
            rng.normal(size=shape),
            rng.normal(size=shape),
            rng.random((*shape[:2], 1)),
            rng.normal(size=4),
        )
        for _ in range(count)
    ]


def equal(first, second) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.slow
def test_block_is_a_function_of_seed_phase_and_index(source, folder):
    block = source.blocks(2, 1, SCENARIO)[0]
    assert block.truth.shape == block.estimate.shape == (10, 14, 9)
    assert block.coverage.shape == (10, 14, 1) and block.features.shape == (
        NUM_FEATURES,
    )
    assert all(np.all(np.isfinite(part)) for part in block[:4])
    again = data.BlockSource.from_files(folder, CONFIG.sources, CONFIG, seed=3)
    assert equal(block, again.blocks(2, 1, SCENARIO)[0])
    for other in (source.blocks(3, 1, SCENARIO)[0], source.blocks(2, 0, SCENARIO)[0]):
        assert not np.array_equal(block.truth, other.truth)
    reseeded = data.BlockSource(source.bank, CONFIG, seed=4)
    assert not np.array_equal(block.truth, reseeded.blocks(2, 1, SCENARIO)[0].truth)


@pytest.mark.slow
def test_phase_holds_its_blocks_in_order(source):
    blocks = source.phase(2)
    assert len(blocks) == 2
    assert equal(blocks[1], source.blocks(2, 1, SCENARIO)[0])


@pytest.mark.slow
def test_estimate_is_closer_to_the_truth_than_its_mean(source):
    for block in source.phase(2):
        error = np.mean((block.truth - block.estimate) ** 2)
        assert error < np.mean((block.truth - block.truth.mean()) ** 2)


def test_network_units_have_a_condition_of_unit_deviation(source):
    block = source.blocks(2, 0, SCENARIO)[0]
    np.testing.assert_allclose(np.std(block.estimate), 1.0, rtol=1e-3)
    assert 0 < block.coverage.min() and block.coverage.max() <= 1.0


@pytest.mark.slow
def test_simulated_block_is_a_function_of_its_arguments(source):
    shape = data.wide_shape(SCENARIO, CONFIG)
    stain = jax.random.uniform(jax.random.key(0), shape)

    def simulate(key):
        return data.simulate_block(
            key,
            stain,
            data.Conditions(jnp.float32(6.0), jnp.float32(2.0), jnp.float32(0.01)),
            scenario=SCENARIO,
            width=CONFIG.block_width,
            imaging=CONFIG.imaging,
        )[0]

    first, again = (simulate(jax.random.key(5)) for _ in range(2))
    assert equal(first, again)
    assert not np.array_equal(first.estimate, simulate(jax.random.key(6)).estimate)


@pytest.mark.slow
def test_a_series_with_a_regression_is_shown_on_each_of_its_grids(
    source, regression_prior
):
    """The coarse specimen is the fine one binned; the regression goes with it."""
    scenario = dataclasses.replace(
        SCENARIO, thickness=8, regressed=True, grids=(2, 1), field=(16, 12)
    )
    config = dataclasses.replace(CONFIG, scenarios=(scenario, SCENARIO))
    both = data.BlockSource(source.bank, config, 3, regression_prior)
    coarse, fine = both.blocks(0, 0, scenario)
    assert (coarse.truth.shape, fine.truth.shape) == ((4, 8, 6), (8, 16, 12))
    means = np.asarray(grids.binned(jnp.asarray(fine.truth), 2))
    slope, _ = np.polyfit(means.ravel(), coarse.truth.ravel(), 1)
    assert np.corrcoef(means.ravel(), coarse.truth.ravel())[0, 1] > 0.9999
    added = [b.regression - b.estimate for b in (coarse, fine)]
    assert min(np.std(a) for a in added) > 0.01
    means = np.asarray(grids.binned(jnp.asarray(fine.regression), 2))
    np.testing.assert_allclose(
        np.polyfit(means.ravel(), coarse.regression.ravel(), 1)[0], slope, rtol=1e-3
    )
    alone = both.blocks(0, 1, SCENARIO)
    assert len(alone) == 1
    np.testing.assert_array_equal(alone[0].regression, alone[0].estimate)


def test_wide_shape_reaches_what_the_largest_tilt_sees():
    nz, nx, ny = data.wide_shape(SCENARIO, CONFIG)
    wider = dataclasses.replace(SCENARIO, half_range_deg=(5.0, 40.0))
    assert (nz, ny) == (10, 9) and nx > 14 and (nx - 14) % 2 == 0
    assert data.wide_shape(wider, CONFIG)[1] > nx


def test_batch_is_a_function_of_seed_and_step():
    blocks = fake_blocks()
    batch = data.cut_batch(blocks, seed=1, step=7, batch=2, crop=8)
    assert batch.truth.shape == batch.coverage.shape == (2, 8, 8, 8)
    assert batch.features.shape == (2, 4)
    assert equal(batch, data.cut_batch(blocks, seed=1, step=7, batch=2, crop=8))
    for seed, step in ((1, 8), (2, 7)):
        other = data.cut_batch(blocks, seed=seed, step=step, batch=2, crop=8)
        assert not np.array_equal(batch.truth, other.truth)


def test_crops_of_all_fields_lie_at_one_place():
    blocks = [
        b._replace(
            estimate=b.truth + 1, coverage=np.mean(b.truth, axis=2, keepdims=True)
        )
        for b in fake_blocks()
    ]
    batch = data.cut_batch(blocks, seed=0, step=0, batch=3, crop=8)
    np.testing.assert_allclose(batch.estimate, batch.truth + 1)
    assert np.all(np.ptp(batch.coverage, axis=3) == 0)
    # A batch of no more than the blocks takes each of them once.
    assert len({tuple(f) for f in batch.features}) == 3
    many = data.cut_batch(blocks, seed=0, step=0, batch=7, crop=8)
    assert many.truth.shape == (7, 8, 8, 8)


def test_crops_are_mirror_images_of_parts_of_their_block():
    block = fake_blocks(1)[0]
    views = {
        flips: block.truth[tuple(slice(None, None, -1 if f else 1) for f in flips)]
        for flips in itertools.product((False, True), repeat=3)
    }
    seen = set()
    for step in range(40):
        batch = data.cut_batch([block], seed=0, step=step, batch=1, crop=(10, 12, 9))
        found = [f for f, v in views.items() if np.array_equal(v, batch.truth[0])]
        assert len(found) == 1
        cut = tuple(slice(None, None, -1 if f else 1) for f in found[0])
        coverage = np.broadcast_to(block.coverage, block.truth.shape)
        np.testing.assert_array_equal(batch.coverage[0], coverage[cut])
        seen.add(found[0])
    assert len(seen) == 8


def test_crops_need_not_be_mirrored():
    block = fake_blocks(1)[0]
    for step in range(10):
        batch = data.cut_batch(
            [block], seed=0, step=step, batch=1, crop=(10, 12, 9), mirror=False
        )
        np.testing.assert_array_equal(batch.truth[0], block.truth)


def test_crops_of_the_whole_thickness_come_from_slabs_of_one_thickness():
    blocks = fake_blocks(3) + fake_blocks(3, (16, 12, 9))
    seen = set()
    for step in range(20):
        batch = data.cut_batch(blocks, seed=0, step=step, batch=5, crop=(0, 8, 4))
        assert batch.truth.shape[0] == 5 and batch.truth.shape[2:] == (8, 4)
        seen.add(batch.truth.shape[1])
    assert seen == {10, 16}


def test_central_part_has_extents_that_the_network_takes():
    block = fake_blocks(1)[0]
    batch = data.central(block, 4)
    np.testing.assert_array_equal(batch.truth[0], block.truth[1:9, 0:12, 0:8])
    assert batch.coverage.shape == (1, 8, 12, 8) and batch.features.shape == (1, 4)


def test_a_mirrored_slab_images_as_the_mirrored_series():
    """What lets mirrored crops stand for simulations of mirrored specimens."""
    rng = np.random.default_rng(0)
    volume = jnp.asarray(rng.normal(size=(6, 12, 5)), jnp.float32)
    angles = np.array([-9.0, -2.0, 4.0, 9.0])
    make = functools.partial(
        TiltGeometry.from_degrees, thickness=6, width=8, height=5, lateral_margin=2
    )
    tilts = project(volume, make(angles))
    turned = project(volume, make(-angles))
    for axis, (other, mirror) in enumerate([(turned, None), (turned, 1), (tilts, 2)]):
        expected = other if mirror is None else jnp.flip(other, mirror)
        got = project(jnp.flip(volume, axis), make(angles))
        np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.slow
def test_fit_recovers_planted_slopes():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 4))
    slopes = np.array([0.5, -0.3, 0.2, 0.0])
    scales = np.exp(0.7 + features @ slopes)
    fit = inputs.fit_residual_scale(jnp.asarray(features), jnp.asarray(scales))
    np.testing.assert_allclose(fit.intercept, 0.7, atol=0.01)
    np.testing.assert_allclose(fit.slopes, slopes, atol=0.02)
    np.testing.assert_allclose(fit(jnp.asarray(features)), scales, rtol=0.1)


@pytest.mark.slow
def test_scale_is_measured_on_the_residual_of_the_blocks():
    blocks = [
        b._replace(estimate=np.zeros_like(b.truth), truth=2.0 * b.truth)
        for b in fake_blocks(40)
    ]
    scale = loop.measure_residual_scale(blocks)
    np.testing.assert_allclose(np.exp(scale.intercept), 2.0, rtol=0.05)
    np.testing.assert_allclose(scale.slopes, 0.0, atol=0.05)


def test_scale_may_be_one_constant_the_mean_of_all_series():
    blocks = [
        b._replace(estimate=np.zeros_like(b.truth), truth=size * b.truth)
        for size, b in zip([1.0, 4.0] * 20, fake_blocks(40), strict=True)
    ]
    scale = loop.measure_residual_scale(blocks, by_series=False)
    np.testing.assert_allclose(np.exp(scale.intercept), 2.0, rtol=0.05)
    np.testing.assert_array_equal(scale.slopes, 0.0)
    assert scale.slopes.shape == blocks[0].features.shape


def test_missing_file_and_missing_key_are_refused(folder):
    with pytest.raises(InputError, match="the file b.npz .*--data_dir"):
        volumes.load_sources(folder, ("b.npz:volume",))
    with pytest.raises(InputError, match=r"the key 'x' in a.npz, got \['volume'\]"):
        volumes.load_sources(folder, ("a.npz:x",))
