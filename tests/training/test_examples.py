"""Random access gives what the training loop sees."""

import concurrent.futures
import hashlib
import os
import time
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
from absl import flags
from scipy import ndimage

from temdiff_jax.errors import InputError
from temdiff_jax.simulator import ImagingConfig
from temdiff_jax.simulator.stain import make_bank
from temdiff_jax.training import data
from temdiff_jax.training.config import DataConfig, Scenario
from temdiff_jax.training.examples import Examples

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
    rng = np.random.default_rng(0)
    grey = ndimage.gaussian_filter(rng.normal(size=(20, 22, 24)), 2.0, mode="wrap")
    volume = np.clip(128 + 30 * grey / grey.std(), 0, 255).astype(np.uint8)
    return data.BlockSource(make_bank([volume]), CONFIG, seed=3)


@pytest.fixture
def examples(block_source):
    return Examples(block_source, batch=BATCH, num_steps=5)


def digest(example):
    held = (a.tobytes() for a in example if a is not None)
    return hashlib.sha256(b"".join(held)).hexdigest()


@pytest.mark.slow
def test_examples_are_the_batches_of_the_training_loop(examples, block_source):
    assert len(examples) == 20
    for step in (0, 3):
        first = step // CONFIG.steps_per_phase
        kept = range(first, first + CONFIG.phases_kept)
        blocks = [b for phase in kept for b in block_source.phase(phase)]
        batch = data.cut_batch(blocks, seed=3, step=step, batch=BATCH, crop=8)
        for row in range(BATCH):
            example = examples[step * BATCH + row]
            assert example.truth.shape == example.coverage.shape == (8, 8, 8)
            assert example.regression is None and batch.regression is None
            for got, column in zip(example[:4], batch[:4], strict=True):
                np.testing.assert_array_equal(got, column[row])


@pytest.mark.slow
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
    assert sorted(examples._phases) == [1, 2, 3]


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


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_dead_grain_worker_is_an_error_within_ten_seconds(examples, tmp_path):
    grain = pytest.importorskip("grain")
    # Workers inherit flags, which only a program of absl's parses.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    parent, received = os.getpid(), tmp_path / "received"

    def dies(index, example):
        if os.getpid() != parent and index == 5:
            # What waits to be sent dies too: the first example must have arrived.
            while not received.exists():
                time.sleep(0.01)
            os._exit(1)
        return example

    dataset = grain.MapDataset.source(examples).map_with_index(dies)
    options = grain.MultiprocessingOptions(num_workers=1, per_worker_buffer_size=1)
    loader = iter(dataset.to_iter_dataset().mp_prefetch(options))
    # The worker has started, and simulated the phase of the next ones too.
    # It has the loops of users, which round apart from those of the tests.
    for got, here in zip(next(loader), examples[0], strict=True):
        np.testing.assert_allclose(got, here, rtol=1e-4, atol=1e-4)
    received.touch()
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="terminated unexpectedly"):
        for _ in loader:
            pass
    assert time.monotonic() - began < 10
