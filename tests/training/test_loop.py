"""Training that stops and goes on is training that never stopped."""

import dataclasses
import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from launch import export
from temdiff_jax.errors import InputError
from temdiff_jax.model import NetworkConfig, make_network
from temdiff_jax.priors import load_prior
from temdiff_jax.simulator import ImagingConfig
from temdiff_jax.training import averages, loop, optimiser, step
from temdiff_jax.training.checkpoint import Checkpoints
from temdiff_jax.training.config import DataConfig, OptimConfig, Scenario, TrainConfig

# Compiles for tens of seconds.

CONFIG = TrainConfig(
    name="tiny",
    network=NetworkConfig(channels=(8, 8), blocks=(1, 1), groups=4),
    data=DataConfig(
        sources=("a.npz:volume",),
        validation=("a.npz:volume",),
        # As in test_data.py: one compiled simulation serves both files.
        scenarios=(
            Scenario(half_range_deg=(5.0, 8.0), num_tilts=5, thickness=10, drop=0.9),
        ),
        blocks_per_scenario=3,
        steps_per_phase=2,
        phases_kept=2,
        block_width=14,
        block_height=9,
        crop=8,
        phantom_fraction=0.0,
        imaging=ImagingConfig(exact_counts=False),
    ),
    optim=OptimConfig(
        learning_rate=1e-3, warmup_steps=1, num_steps=4, decay_steps=1, batch=2
    ),
    checkpoint_every=2,
    validate_every=2,
)


METRICS = ("metric_mean", "metric_sample")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    coarse = jax.image.resize(rng.random((6, 6, 6)), (24, 20, 22), "cubic")
    np.savez(folder / "a.npz", volume=np.uint8(np.clip(255 * coarse, 0, 255)))
    return folder


def digests(state) -> dict[str, str]:
    flat, _ = jax.tree_util.tree_flatten_with_path(state)
    return {
        jax.tree_util.keystr(path): hashlib.sha256(np.asarray(leaf)).hexdigest()
        for path, leaf in flat
    }


def cheap_state(key, network, config) -> step.TrainState:
    """A fresh state without the compilation of its random draws."""
    rng = np.random.default_rng(int(jax.random.key_data(key)[1]))
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.1 * rng.normal(size=leaf.shape), leaf.dtype),
        jax.eval_shape(network.init, key),
    )
    opt_state = optimiser.make_optimiser(config).init(params)
    average = jax.tree.map(jnp.copy, params)
    further = averages.begin(params, config.average_lengths) or ()
    return step.TrainState(jnp.int32(0), params, average, opt_state, further)


@pytest.fixture(scope="module")
def begin():
    with pytest.MonkeyPatch.context() as patch:
        concrete = loop.init_state

        def init_state(key, network, config):
            # Resuming asks for shapes alone and gets those of the real one.
            make = concrete if isinstance(key, jax.core.Tracer) else cheap_state
            return make(key, network, config)

        patch.setattr(loop, "init_state", init_state)
        yield


@pytest.fixture(scope="module")
def runs(data_dir, tmp_path_factory, begin):
    """Four steps in one go, and two and two; with their logs."""
    straight, broken = (tmp_path_factory.mktemp(name) for name in ("a", "b"))
    lines: dict[str, list[str]] = {"straight": [], "first": [], "second": []}
    whole = loop.train(
        CONFIG, data_dir=data_dir, workdir=straight, log=lines["straight"].append
    )

    class Stop(Exception):
        pass

    def stop_after_two(line):
        lines["first"].append(line)
        if line.startswith("validation step 2"):
            raise Stop

    with pytest.raises(Stop):
        loop.train(CONFIG, data_dir=data_dir, workdir=broken, log=stop_after_two)
    resumed = loop.train(
        CONFIG, data_dir=data_dir, workdir=broken, log=lines["second"].append
    )
    return whole, resumed, lines, broken


@pytest.mark.slow
def test_resumed_run_ends_in_the_same_bits(runs):
    whole, resumed, lines, _ = runs
    assert int(whole.step) == int(resumed.step) == 4
    assert digests(whole) == digests(resumed)
    assert lines["second"][0] == "resuming from step 2"


@pytest.mark.slow
def test_log_says_where_it_began_and_how_it_validates(runs):
    lines = runs[2]["straight"]
    assert lines[0] == "no checkpoint: training from scratch"
    assert lines[1].startswith("residual scale:")
    validations = [line for line in lines if line.startswith("validation")]
    assert [line.partition(":")[0] for line in validations] == [
        "validation step 2",
        "validation step 4",
    ]
    # The same scale, from phase 0 or from the checkpoint, and the same validation.
    assert runs[2]["second"][1] == lines[1]
    assert runs[2]["second"][-1] == lines[-1]


@pytest.mark.slow
def test_finished_run_has_nothing_left_to_do(runs, data_dir):
    lines = []
    state = loop.train(CONFIG, data_dir=data_dir, workdir=runs[3], log=lines.append)
    assert int(state.step) == 4 and lines[0] == "resuming from step 4"
    assert len(lines) == 3


@pytest.mark.slow
def test_exported_prior_holds_the_averaged_weights(runs, tmp_path):
    state, _, _, workdir = runs
    out = tmp_path / "tiny.safetensors"
    metrics = {use: {"smoothness": 2.0, "ridge": 0.1} for use in METRICS}
    card = export.export(str(workdir), None, out, "tiny-v1", metrics)
    assert card["steps"] == 4 and card["half_range_deg"] == [5.0, 8.0]
    prior = load_prior(out)
    assert prior.card["name"] == "tiny-v1" and prior.sha256 == card["sha256"]
    pairs = zip(jax.tree.leaves(prior.params), jax.tree.leaves(state.ema_params))
    for got, expected in pairs:
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-6)
    written = json.loads(out.with_suffix(".json").read_text())
    assert written["data"]["sources"] == ["a.npz:volume"]
    earlier = export.export(str(workdir), 2, tmp_path / "b.safetensors", "b", metrics)
    assert earlier["steps"] == 2


@pytest.mark.slow
def test_new_run_starts_from_the_weights_of_a_prior(runs, tmp_path):
    out = tmp_path / "tiny.safetensors"
    metrics = {use: {"smoothness": 2.0, "ridge": 0.1} for use in METRICS}
    export.export(str(runs[3]), None, out, "tiny-v1", metrics)
    prior = load_prior(out)
    checkpoints, lines = Checkpoints(tmp_path / "new"), []
    place = loop._place(CONFIG)
    state, scale = loop._begin(CONFIG, place, None, checkpoints, lines.append, prior)
    assert lines[0] == "no checkpoint: starting from the prior tiny-v1"
    assert int(state.step) == 0 and scale is prior.residual_scale
    for start in (state.params, state.ema_params):
        pairs = zip(jax.tree.leaves(start), jax.tree.leaves(prior.params))
        assert all(np.array_equal(got, expected) for got, expected in pairs)
    # A step gives its input away: the prior and the two trees share no buffer.
    buffers = [
        leaf.unsafe_buffer_pointer()
        for leaf in jax.tree.leaves((state.params, state.ema_params, prior.params))
    ]
    assert len(set(buffers)) == len(buffers)
    wider = NetworkConfig(channels=(8, 16), blocks=(1, 1), groups=4)
    other = dataclasses.replace(CONFIG, network=wider)
    with pytest.raises(InputError, match="initial weights: expected the network"):
        loop._begin(other, place, None, checkpoints, lines.append, prior)
    checkpoints.close()


@pytest.mark.slow
def test_export_without_a_checkpoint_is_refused_and_leaves_no_folder(runs, tmp_path):
    missing = tmp_path / "nowhere"
    with pytest.raises(InputError, match="--workdir"):
        export.export(str(missing), None, tmp_path / "a.safetensors", "a", {})
    assert not missing.exists()
    with pytest.raises(InputError, match=r"a checkpoint among \[2, 4\] .* got 3"):
        export.export(str(runs[3]), 3, tmp_path / "a.safetensors", "a", {})


def test_unreadable_card_is_refused(tmp_path):
    with pytest.raises(InputError, match="--card: expected a JSON file"):
        export.read_card(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InputError, match="--card: expected a JSON file"):
        export.read_card(tmp_path / "bad.json")


def test_summary_leaves_rejected_steps_out_of_the_means():
    rows = [[1.0, 2.0, 3.0, 4.0, 1.0], [np.nan, np.nan, np.nan, np.nan, 0.0]]
    line = loop._summary(48, rows, 1.25)
    assert "loss 1.0000 mean 2.0000 noisy 3.0000 grad 4.000 rejected 1" in line


WATCHED = dataclasses.replace(
    CONFIG,
    optim=dataclasses.replace(
        CONFIG.optim, num_steps=2, average_lengths=(0.05, 0.1), average_every=1
    ),
)


@pytest.fixture(scope="module")
def watched(data_dir, tmp_path_factory, begin):
    """Two steps with everything that can be seen of them."""
    workdir = tmp_path_factory.mktemp("watched")
    lines, points, shown = [], {}, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "LOG_EVERY", 2)
        state = loop.train(
            WATCHED,
            data_dir=data_dir,
            workdir=workdir,
            log=lines.append,
            watch=loop.Watch(
                record=lambda step, values: points.setdefault(step, {}).update(values),
                show=lambda step, previews: shown.append((step, previews)),
                peak_flops=1e12,
            ),
        )
    return state, lines, points, shown, workdir


@pytest.mark.slow
def test_numbers_of_the_lines_are_recorded_by_name(watched):
    _, lines, points, _, _ = watched
    assert list(points) == [2]
    found = points[2]
    assert all(isinstance(value, float) for value in found.values())
    words = next(line for line in lines if line.startswith("step 2")).split()
    for word, name in (("loss", "loss"), ("mean", "loss_mean"), ("grad", "grad_norm")):
        said = float(words[words.index(word) + 1])
        np.testing.assert_allclose(found[f"training/{name}"], said, atol=1e-3)
    assert found["training/rejected"] == 0.0
    rate = optimiser.learning_rate(WATCHED.optim)(2)
    np.testing.assert_allclose(found["training/learning_rate"], rate)
    # Crops of 8^3 ask for so much that the step cannot be free, nor at the peak.
    assert 0 < found["machine/mfu"] < 1
    assert float(words[words.index("MFU") + 1]) < 1
    np.testing.assert_allclose(
        found["machine/gflop_per_second"] / 1e3, found["machine/mfu"], rtol=1e-6
    )
    said = next(line for line in lines if line.startswith("validation step 2"))
    gain = found["validation/gain_db_mean"]
    np.testing.assert_allclose(gain, float(said.split()[-1]), atol=0.006)
    assert found["validation/gain_db_0"] == gain


@pytest.mark.slow
def test_previews_are_middle_slices_of_the_held_out_blocks(watched, data_dir):
    state, _, _, shown, workdir = watched
    ((step_shown, previews),) = shown
    assert step_shown == 2 and len(previews) == len(CONFIG.data.scenarios) == 1
    (found,) = previews
    assert found.name == "half-range 5-8 deg, 5 tilts, 10 voxels thick"
    batch = loop.validation_batches(WATCHED, data_dir)[0]
    middle = batch.truth.shape[-1] // 2
    np.testing.assert_array_equal(found.truth, batch.truth[0, :, :, middle])
    np.testing.assert_array_equal(found.condition, batch.estimate[0, :, :, middle])
    # The estimate is as close to the truth as the validation says of the block.
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        saved = checkpoints.meta(2)["residual_scale"]
    scale = loop.inputs.ResidualScale(
        jnp.float32(saved["intercept"]), jnp.asarray(saved["slopes"], jnp.float32)
    )
    network = make_network(CONFIG.network)
    guess, target, _ = step.best_guess(state.ema_params, batch, scale, network=network)
    spread = float(scale(batch.features)[0])
    expected = spread * np.asarray(guess - target)[0, :, :, middle]
    np.testing.assert_allclose(found.estimate - found.truth, expected, atol=1e-4)


@pytest.mark.slow
def test_snapshots_of_the_averages_give_a_prior_of_any_length(watched, tmp_path):
    state, _, _, _, workdir = watched
    assert averages.saved_steps(workdir / "averages") == [1, 2]
    kept = averages.reconstruct(workdir / "averages", 0.05)
    pairs = zip(jax.tree.leaves(kept), jax.tree.leaves(state.averages["0.05"]))
    for got, expected in pairs:
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3)
    metrics = {use: {"smoothness": 2.0, "ridge": 0.1} for use in METRICS}
    out = tmp_path / "a.safetensors"
    card = export.export(str(workdir), None, out, "a", metrics, 0.08)
    assert card["ema_length"] == 0.08
    other = averages.reconstruct(workdir / "averages", 0.08)
    for got, expected in zip(
        jax.tree.leaves(load_prior(out).params), jax.tree.leaves(other)
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_averages_are_part_of_the_checkpoint_and_only_then(watched, runs):
    state, workdir = watched[0], watched[4]
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        restored = checkpoints.restore(2, jax.eval_shape(lambda: state))
    assert digests(restored) == digests(state)
    # A run without averages writes what runs wrote before there were any.
    plain = json.loads((runs[3] / "checkpoints/4/state/_METADATA").read_text())
    top = {name.partition("'")[2].partition("'")[0] for name in plain["tree_metadata"]}
    assert top == {"step", "params", "ema_params", "opt_state"}
    with Checkpoints(runs[3] / "checkpoints") as checkpoints:
        like = loop._place(WATCHED).like
        with pytest.raises(InputError, match="leaf averages/0.05/"):
            checkpoints.restore(4, like)


def test_phases_keep_blocks_of_several_and_look_one_ahead():
    class Source:
        def __init__(self):
            self.asked = []

        def phase(self, number):
            self.asked.append(number)
            return [f"{number}a", f"{number}b"]

    source = Source()
    phases = loop.Phases(source, kept=2)
    assert phases(0) == ["0a", "0b", "1a", "1b"] == phases(0)
    assert phases(1) == ["1a", "1b", "2a", "2b"]
    # A run that goes on elsewhere draws from the same blocks.
    resumed = loop.Phases(Source(), kept=2)
    assert resumed(1) == phases(1)
    # Once each and in this order, the last one ahead of its time.
    phases._pending[3].result()
    assert source.asked == [0, 1, 2, 3]
    phases.close()
    resumed.close()


def test_error_of_the_simulation_reaches_the_loop():
    class Source:
        def phase(self, number):
            raise RuntimeError(f"phase {number} failed")

    phases = loop.Phases(Source(), kept=2)
    with pytest.raises(RuntimeError, match="phase 0 failed"):
        phases(0)
    phases.close()
