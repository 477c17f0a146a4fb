"""Blocks from volumes, planted defects, and examples for a loader."""

import concurrent.futures
import hashlib
import os
import time
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
from scipy import ndimage

from temdiff_jax.simulator import ImagingConfig
from temdiff_jax.simulator.stain import make_bank
from temdiff_jax.training import data, sources
from temdiff_jax.training.config import DataConfig, Scenario
from temdiff_jax.training.examples import Examples
from temdiff_jax.types import InputError

CUBE = (8.0, 8.0, 8.0)


def tissue(shape=(40, 48, 56), seed=0, noise=0.3):
    """Smooth random grey levels with noise, uint8."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), 2.0, mode="wrap")
    grey = smooth / smooth.std() + noise * rng.normal(size=shape)
    return np.clip(128 + 30 * grey, 0, 255).astype(np.uint8)


def defects(volume, voxel=CUBE, step=7):
    slabs = (volume[i : i + step] for i in range(0, len(volume), step))
    return sources.find_defects(sources.profile_slices(slabs, len(volume)), voxel)


def kinds(found):
    return {(b.number, b.kind) for b in found.bad}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("noise", [0.0, 0.3, 0.8])
def test_a_clean_volume_raises_no_alarm(seed, noise):
    volume = tissue(seed=seed, noise=noise)
    for clean in (volume, volume.astype(np.float32) - 500.0, volume[:, :24, :20]):
        assert defects(clean) == sources.Defects((), ())


def test_missing_slices_are_found():
    volume = tissue().astype(np.float32)
    volume[0] = 0
    volume[9] = 255
    volume[17:20] = np.nan
    volume[30, :, :30] = 0  # half of it
    expected = {(i, "missing") for i in (0, 9, 17, 18, 19, 30)}
    found = defects(volume)
    assert kinds(found) == expected and found.jumps == ()
    assert found.bad[0].value == 0.0


def test_most_slices_may_be_missing():
    volume = tissue()
    volume[12:] = 0
    assert kinds(defects(volume)) == {(i, "missing") for i in range(12, 40)}


def test_saturated_slices_are_found():
    volume = tissue()
    volume[11] = np.clip(volume[11].astype(int) + 90, 0, 255)
    volume[25] = np.clip(volume[25].astype(int) - 80, 0, 255)
    found = defects(volume)
    assert kinds(found) == {(11, "saturated"), (25, "saturated")}
    assert all(bad.value > 0.05 for bad in found.bad)


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("shift", [3, -6])
def test_a_displaced_slice_is_found(noise, shift):
    volume = tissue(noise=noise)
    volume[15] = np.roll(volume[15], shift, axis=1)
    volume[28] = np.roll(volume[28], shift, axis=0)
    found = defects(volume)
    assert kinds(found) == {(15, "jittered"), (28, "jittered")} and found.jumps == ()


def test_a_jump_splits_and_loses_nothing():
    volume = tissue()
    volume[22:] = np.roll(volume[22:], 5, axis=2)
    found = defects(volume)
    assert found.bad == () and found.jumps == (22,)
    assert sources.clean_slabs(40, found, 4) == [(0, 22), (22, 40)]


def test_lost_sections_are_a_jump():
    volume = np.delete(tissue((60, 48, 56), noise=0.1), range(22, 42), axis=0)
    found = defects(volume)
    assert found.bad == () and found.jumps == (22,)


def test_a_stack_shifted_throughout_is_doubted():
    volume = tissue(noise=0.1)
    rng = np.random.default_rng(1)
    shaken = np.stack([np.roll(s, rng.integers(-3, 4, 2), (0, 1)) for s in volume])
    found = defects(shaken)
    assert len(found.warnings) == 1 and "shifted from section to" in found.warnings[0]
    # Of thick sections nothing else is to be expected.
    assert defects(volume[::3], (24.0, 8.0, 8.0)).warnings == ()


def test_profile_does_not_depend_on_the_slabs():
    volume = tissue()
    one, other = (
        sources.profile_slices([volume[a:b] for a, b in zip(cuts, cuts[1:])], 40)
        for cuts in ([0, 40], [0, 1, 2, 19, 40])
    )
    for first, second in zip(one, other, strict=True):
        np.testing.assert_array_equal(first, second)
    pair = [volume[3].astype(float).ravel(), volume[4].astype(float).ravel()]
    np.testing.assert_allclose(one.near[3], np.corrcoef(pair)[0, 1], atol=1e-5)
    far = [volume[3].astype(float).ravel(), volume[5].astype(float).ravel()]
    np.testing.assert_allclose(one.far[3], np.corrcoef(far)[0, 1], atol=1e-5)


def test_slabs_lie_between_defects():
    bad = (sources.BadSlice(0, "missing", 0.0), sources.BadSlice(10, "jittered", 0.2))
    found = sources.Defects(bad, (15, 30))
    assert sources.clean_slabs(40, found, 1) == [(1, 10), (11, 15), (15, 30), (30, 40)]
    assert sources.clean_slabs(40, found, 9) == [(1, 10), (15, 30), (30, 40)]


def test_grey_levels_become_stain():
    values = np.arange(1001, dtype=np.int16).reshape(1, 7, 143) - 300
    limits = sources.grey_limits(values)
    assert limits == (-295.0, 695.0)
    dark = sources.to_uint8(values, limits, stain_is_dark=True)
    assert dark.dtype == np.uint8 and dark.min() == 0 and dark.max() == 255
    expected = np.clip((values + 295) / 990 * 255, 0, 255)
    assert np.abs(dark - expected).max() <= 0.5
    bright = sources.to_uint8(values, limits, stain_is_dark=False)
    np.testing.assert_array_equal(bright, 255 - dark)
    with pytest.raises(InputError, match="expected contrast, got 3 at both"):
        sources.grey_limits(np.full(9, 3))


def membranes(seed=0):
    """Thin sheets between cells: dark where a smooth random field is near zero."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=(40, 40, 40)), 4.0, mode="wrap")
    sheets = np.exp(-((field / field.std() / 0.25) ** 2))
    return 200 - 120 * sheets + 10 * rng.normal(size=field.shape)


def test_wrong_polarity_is_warned_about():
    for seed in range(3):
        block = membranes(seed)
        score, inverse = sources.stain_score(block), sources.stain_score(-block)
        assert score > sources.POLARITY_UNSURE
        np.testing.assert_allclose(inverse, -score, atol=1e-3)
        assert sources.polarity_warning(score, stain_is_dark=True) is None
        assert sources.polarity_warning(inverse, stain_is_dark=False) is None
        for value, dark in ((score, False), (inverse, True)):
            text = sources.polarity_warning(value, stain_is_dark=dark)
            assert text is not None and "check the declaration" in text
    assert sources.polarity_warning(0.05, stain_is_dark=False) is None


def test_resampling_keeps_a_linear_ramp_and_its_place():
    z, y, x = np.meshgrid(np.arange(10), np.arange(12), np.arange(8), indexing="ij")
    voxel = (10.0, 5.0, 4.0)
    ramp = sum(w * (i + 0.5) * v for w, i, v in zip((1, 2, 3), (z, y, x), voxel))
    for target in (5.0, 4.0, 10.0, 20.0):
        got = sources.resample(ramp, voxel, target)
        shape = [int(n * v / target + 1e-6) for n, v in zip(ramp.shape, voxel)]
        assert list(got.shape) == shape and got.dtype == np.float32
        where = [(np.arange(n) + 0.5) * target for n in shape]
        expected = sum(
            w * p for w, p in zip((1, 2, 3), np.meshgrid(*where, indexing="ij"))
        )
        inner = tuple(slice(2, n - 2) if n > 4 else slice(None) for n in shape)
        # Means over 1.25 voxels take these as steps.
        exact = all(target <= v or target % v == 0 for v in voxel)
        tolerance = {"rtol": 1e-5} if exact else {"atol": 0.3 * max(voxel)}
        np.testing.assert_allclose(got[inner], expected[inner], **tolerance)


def test_coarser_voxels_are_means():
    block = np.random.default_rng(0).normal(size=(6, 4, 8))
    got = sources.resample(block, (4, 4, 4), 8)
    expected = block.reshape(3, 2, 2, 2, 4, 2).mean((1, 3, 5))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(
        sources.resample(block, (4, 4, 4), 4), block.astype(np.float32)
    )


@pytest.mark.parametrize("limit", [1000, 137, 1])
def test_pieces_cover_a_box_once(limit):
    shape = (7, 20, 5)
    count = np.zeros(shape, int)
    for piece in sources.pieces(shape, limit):
        assert count[piece].size <= limit
        count[piece] += 1
    assert (count == 1).all()


SCENARIO = Scenario(half_range_deg=(5.0, 8.0), num_tilts=5, thickness=10, drop=0.9)
CONFIG = DataConfig(
    scenarios=(SCENARIO,),
    blocks_per_scenario=2,
    steps_per_phase=2,
    phases_kept=2,
    block_width=14,
    block_height=9,
    crop=8,
    phantom_fraction=0.0,
    imaging=ImagingConfig(exact_counts=False),
)
BATCH = 4


@pytest.fixture(scope="module")
def block_source():
    return data.BlockSource(make_bank([tissue((20, 22, 24))]), CONFIG, seed=3)


@pytest.fixture
def examples(block_source):
    return Examples(block_source, batch=BATCH, num_steps=5)


def digest(example):
    return hashlib.sha256(b"".join(a.tobytes() for a in example)).hexdigest()


def test_examples_are_the_batches_of_the_training_loop(examples, block_source):
    assert len(examples) == 20
    for step in (0, 3):
        last = step // CONFIG.steps_per_phase
        kept = range(max(0, last - 1), last + 1)
        blocks = [b for phase in kept for b in block_source.phase(phase)]
        batch = data.cut_batch(blocks, seed=3, step=step, batch=BATCH, crop=8)
        for row in range(BATCH):
            example = examples[step * BATCH + row]
            assert example.truth.shape == example.coverage.shape == (8, 8, 8)
            for got, column in zip(example, batch, strict=True):
                np.testing.assert_array_equal(got, column[row])


def test_examples_do_not_depend_on_order_or_threads(examples, block_source):
    expected = [digest(examples[i]) for i in range(len(examples))]
    assert len(set(expected)) == len(expected)
    other = Examples(block_source, batch=BATCH, num_steps=5)
    order = np.random.default_rng(0).permutation(len(other))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: digest(other[i]), order))
    assert found == [expected[i] for i in order]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_data_shards_see_the_same_examples(examples, count):
    shards = [examples.shard(i, count) for i in range(count)]
    assert [len(s) for s in shards] == [20 // count] * count
    together = [digest(shards[i % count][i // count]) for i in range(8)]
    assert together == [digest(examples[i]) for i in range(8)]


def test_examples_travel_to_another_process(examples):
    first = digest(examples[5])
    sent = bytes(ForkingPickler.dumps(examples))
    arrived = ForkingPickler.loads(sent)
    assert len(arrived) == len(examples) and repr(arrived) == repr(examples)
    assert digest(arrived[5]) == first
    # What was simulated here stays here.
    assert len(sent) < examples.source.bank.values.size + 20000


def test_only_a_few_phases_are_kept(examples):
    for index in range(0, len(examples), BATCH):
        examples[index]
    assert sorted(examples._phases) == [0, 1, 2]


def test_indices_and_shards_are_checked(examples):
    for index in (-1, 20):
        with pytest.raises(IndexError):
            examples[index]
    with pytest.raises(IndexError):
        examples.shard(1, 2)[10]
    for index, count in ((0, 3), (2, 2), (-1, 2)):
        with pytest.raises(InputError, match="data shards: expected a batch of 4"):
            examples.shard(index, count)


def test_grain_gives_the_same_examples(examples):
    grain = pytest.importorskip("grain")
    for count in (1, 2, 4):
        parts = [
            iter(grain.MapDataset.source(examples.shard(i, count)).to_iter_dataset())
            for i in range(count)
        ]
        together = [digest(next(parts[i % count])) for i in range(8)]
        assert together == [digest(examples[i]) for i in range(8)]


@pytest.mark.multiprocess
def test_a_dead_grain_worker_is_an_error_within_ten_seconds(examples):
    grain = pytest.importorskip("grain")
    parent = os.getpid()

    def dies(index, example):
        if os.getpid() != parent and index == 5:
            os._exit(1)
        return example

    dataset = grain.MapDataset.source(examples).map_with_index(dies)
    options = grain.MultiprocessingOptions(num_workers=1, per_worker_buffer_size=1)
    loader = iter(dataset.to_iter_dataset().mp_prefetch(options))
    # The worker has started, and simulated the phase of the next ones too.
    assert digest(next(loader)) == digest(examples[0])
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="terminated unexpectedly"):
        for _ in loader:
            pass
    assert time.monotonic() - began < 10
