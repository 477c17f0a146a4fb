"""Training through kills, signals, bad batches, full disks and dead loaders.

The loop is the real one; its blocks come from a generator instead of the simulator,
which `test_loop.py` and `test_data.py` cover.
"""

import errno
import hashlib
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from launch import processes
from launch import train as program
from temdiff_jax.errors import InputError
from temdiff_jax.io import write
from temdiff_jax.model import NUM_FEATURES, NetworkConfig
from temdiff_jax.training import checkpoint, loop, meter, optimiser, signals, step
from temdiff_jax.training.checkpoint import Checkpoints
from temdiff_jax.training.config import DataConfig, OptimConfig, Scenario, TrainConfig
from temdiff_jax.training.data import Block

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = TrainConfig(
    name="faults",
    network=NetworkConfig(channels=(8,), blocks=(1,), groups=4),
    data=DataConfig(
        scenarios=(Scenario(half_range_deg=(5.0, 8.0), num_tilts=5, thickness=6),),
        steps_per_phase=2,
        phases_kept=2,
        crop=4,
    ),
    optim=OptimConfig(
        optimiser="adam", learning_rate=1e-2, warmup_steps=2, num_steps=6, batch=2
    ),
    checkpoint_every=2,
    validate_every=100,
)


class Source:
    """Blocks of a phase, a pure function of its number."""

    def phase(self, number: int) -> list[Block]:
        rng = np.random.default_rng(number)
        return [self._block(rng) for _ in range(3)]

    def _block(self, rng: np.random.Generator) -> Block:
        estimate = np.float32(rng.normal(size=(6, 5, 7)))
        truth = 1.5 * estimate
        coverage = np.ones((6, 5, 1), np.float32)
        return Block(truth, estimate, coverage, np.zeros(NUM_FEATURES, np.float32))


def cheap_state(key, network, config) -> step.TrainState:
    """A fresh state without the compilation of its random draws."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.1 * rng.normal(size=leaf.shape), leaf.dtype),
        jax.eval_shape(network.init, jax.random.key(0)),
    )
    opt_state = optimiser.make_optimiser(config).init(params)
    average = jax.tree.map(jnp.copy, params)
    return step.TrainState(jnp.int32(0), params, average, opt_state)


def generate_blocks(patch: pytest.MonkeyPatch) -> None:
    generated = types.SimpleNamespace(from_files=lambda *_: Source())
    patch.setattr(loop, "BlockSource", generated)
    patch.setattr(loop, "init_state", cheap_state)
    # Validation would compile a second program.
    patch.setattr(loop, "validation_batches", lambda *_: [])
    patch.setattr(loop, "_validate", lambda *_: "validation")


@pytest.fixture(autouse=True)
def generated_blocks(monkeypatch):
    generate_blocks(monkeypatch)


def run(workdir, config=CONFIG, **options) -> tuple[step.TrainState, list[str]]:
    lines: list[str] = []
    state = loop.train(
        config, data_dir="", workdir=str(workdir), log=lines.append, **options
    )
    return state, lines


def digest(tree) -> str:
    leaves = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]
    return hashlib.sha256(b"".join(leaves)).hexdigest()


def stored(workdir) -> list[int]:
    with Checkpoints(Path(workdir) / "checkpoints") as checkpoints:
        return checkpoints.steps()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        generate_blocks(patch)
        return run(tmp_path_factory.mktemp("whole"))


# Signals


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signal_saves_the_step_under_way_and_the_run_goes_on_later(
    uninterrupted, tmp_path, number
):
    asked = []

    with signals.SignalWatch() as watch:

        def scheduler(done: int) -> str | None:
            asked.append(done)
            if done == 3:
                os.kill(os.getpid(), number)
            return watch(done)

        state, lines = run(tmp_path, should_stop=scheduler)
    assert int(state.step) == 3 and asked == [1, 2, 3]
    assert lines[-1] == f"{number.name} at step 3: saved"
    assert "validation" not in lines  # nobody waits for it
    assert watch.reason == number.name
    assert stored(tmp_path) == [2, 3]
    resumed, lines = run(tmp_path)
    assert lines[0] == "resuming from step 3"
    assert digest(resumed) == digest(uninterrupted[0])


def test_handlers_that_were_there_come_back():
    before = [signal.getsignal(number) for number in signals.SIGNALS]
    with signals.SignalWatch() as watch:
        assert watch(1) is None
    with signals.PreemptionWatch() as watch:
        # Without a distributed runtime there is no notice, and no crash either.
        assert watch(1) is None
    assert [signal.getsignal(number) for number in signals.SIGNALS] == before


def test_agreed_step_is_the_one_to_stop_at(monkeypatch):
    answers = iter([False, True])
    utils = signals.multihost_utils
    monkeypatch.setattr(
        utils, "reached_preemption_sync_point", lambda step: next(answers)
    )
    watch = signals.PreemptionWatch()
    assert [watch(1), watch(2)] == [None, "preemption notice"]

    def switched_off(step):
        raise RuntimeError("no preemption sync manager")

    monkeypatch.setattr(utils, "reached_preemption_sync_point", switched_off)
    assert signals.PreemptionWatch()(1) is None


def test_several_processes_leave_sigterm_to_the_runtime():
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(1))
    try:
        with signals.PreemptionWatch():
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0)  # the handler runs between two instructions
            assert received == [1]
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
def test_time_that_is_up_saves_and_validates(tmp_path):
    state, lines = run(tmp_path, max_minutes=0.0)
    assert int(state.step) == 1 and stored(tmp_path) == [1]
    assert lines[-2:] == ["validation", "time is up at step 1: saved"]


# Bad batches


def spoil(monkeypatch, spoiled: set[int]) -> None:
    whole = loop._batch

    def batch(config, blocks_of, number):
        cut = whole(config, blocks_of, number)
        if number in spoiled:
            cut.truth[1, 2, 2, 2] = np.nan
        return cut

    monkeypatch.setattr(loop, "_batch", batch)


@pytest.mark.slow
@pytest.mark.parametrize("bad", [0, 1, 4], ids=["first", "warm-up", "steady"])
def test_one_bad_batch_costs_one_step(monkeypatch, tmp_path, bad):
    spoil(monkeypatch, {bad})
    accepted = []
    note = loop._Journal.note

    def watch(self, number, metrics, voxels):
        accepted.append(bool(metrics.accepted))
        note(self, number, metrics, voxels)

    monkeypatch.setattr(loop._Journal, "note", watch)
    state, lines = run(tmp_path)
    assert accepted == [number != bad for number in range(6)]
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state))
    said = [line for line in lines if "rejected" in line]
    assert said == [
        f"step {bad + 1} rejected: loss nan gradient nan, drawn from seed 0 and "
        f"step {bad}"
    ]


@pytest.mark.slow
def test_too_many_bad_batches_end_the_run_on_the_last_good_step(monkeypatch, tmp_path):
    monkeypatch.setattr(loop, "MAX_BAD_STEPS", 1)
    spoil(monkeypatch, {3, 4, 5})
    lines = []
    with pytest.raises(loop.Diverged, match="2 non-finite batches in a row at step 4"):
        loop.train(CONFIG, data_dir="", workdir=str(tmp_path), log=lines.append)
    # The metrics so far are said before the end.
    assert lines[-1].startswith("step 5 loss") and "rejected 2" in lines[-1]
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest() == 4
        state = checkpoints.restore(4, jax.eval_shape(lambda: fresh()))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state))


def fresh() -> step.TrainState:
    return cheap_state(None, loop.make_network(CONFIG.network), CONFIG.optim)


# Disks and loaders


def test_full_disk_ends_the_run_before_the_next_save(monkeypatch, tmp_path):
    create = write.write_text
    written = []

    def fill_up(path, *args, **options):
        written.append(path)
        if len(written) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        create(path, *args, **options)

    monkeypatch.setattr(write, "write_text", fill_up)
    poll = Checkpoints.poll

    def patient(self):
        # A step takes longer than a save; here it is the other way round.
        if self._pending is not None:
            self._pending[1].exception()
        poll(self)

    monkeypatch.setattr(Checkpoints, "poll", patient)
    asked = []
    with pytest.raises(checkpoint.SaveError) as caught:
        run(tmp_path, should_stop=asked.append)
    # The save of step 4 fails while step 5 runs: step 6 never comes.
    assert asked == [1, 2, 3, 4]
    assert "checkpoint 4: " in str(caught.value) and "\n" not in str(caught.value)
    monkeypatch.undo()
    assert stored(tmp_path) == [2]


def test_dead_loader_ends_the_run_and_keeps_its_checkpoints(monkeypatch, tmp_path):
    died = []

    class Dying(Source):
        def phase(self, number):
            if number == 3:
                died.append(time.monotonic())
                raise OSError(errno.EIO, "the disk of the sources is gone")
            return super().phase(number)

    dying = types.SimpleNamespace(from_files=lambda *_: Dying())
    monkeypatch.setattr(loop, "BlockSource", dying)
    with pytest.raises(OSError, match="the sources is gone"):
        run(tmp_path)
    # Phase 3 was looked at ahead of time, and its end is heard at the next step.
    assert time.monotonic() - died[0] < 10
    assert stored(tmp_path)[0] == 2


def test_examples_depend_on_the_step_alone():
    def hashes(first: int) -> list[str]:
        blocks_of = loop.Phases(Source(), CONFIG.data.phases_kept)
        found = [digest(loop._batch(CONFIG, blocks_of, n)) for n in range(first, 6)]
        blocks_of.close()
        return found

    whole = hashes(0)
    assert len(set(whole)) == 6
    # A run that starts late, even in the middle of a phase, sees what this one saw.
    assert hashes(3) == whole[3:] and hashes(4) == whole[4:]


@pytest.mark.slow
def test_periodic_line_tells_speed_and_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(loop, "LOG_EVERY", 3)
    _, lines = run(tmp_path)
    said = [line for line in lines if line.startswith("step ")]
    assert [line.split()[1] for line in said] == ["3", "6"]
    for line in said:
        words = line.split()
        assert float(words[words.index("voxels/s") + 1]) > 0
        assert float(words[words.index("rss") + 1]) > 0.05


def test_memory_of_an_accelerator_is_told(monkeypatch):
    stats = {"peak_bytes_in_use": 12.5e9, "bytes_limit": 80e9}
    device = types.SimpleNamespace(memory_stats=lambda: stats)
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert meter.memory().endswith("device 12.50 GB of 80.00")


# Kills

KILLED = """
    import sys
    import jax
    import jax.numpy as jnp
    from temdiff_jax.training.checkpoint import Checkpoints
    from temdiff_jax.training.step import TrainState

    folder, last = sys.argv[1], int(sys.argv[2])

    @jax.jit
    def advance(state):
        move = lambda a: 0.9 * a + jnp.sin(a + state.step)
        return TrainState(state.step + 1, *jax.tree.map(move, tuple(state[1:])))

    ramp = jnp.linspace(-1.0, 1.0, 500_000)
    state = TrainState(jnp.int32(0), {"a": ramp}, {"a": 2 * ramp}, (3 * ramp,))
    with Checkpoints(folder, log=lambda line: None) as checkpoints:
        step = checkpoints.latest() or 0
        if step:
            state = checkpoints.restore(step, state)
        print("from", step, flush=True)
        for step in range(step, last):
            state = advance(state)
            checkpoints.poll()
            checkpoints.save(step + 1, state, {})
            print("saving", step + 1, flush=True)
    print("sum", float(sum(jnp.sum(leaf) for leaf in jax.tree.leaves(state))))
"""


def interrupted(folder: Path, last: int, kill_at: int | None, delay: float):
    """Runs `KILLED`; kills it `delay` seconds into the save of step `kill_at`."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(folder), str(last)],
        cwd=REPOSITORY,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    said = []
    with process:
        for line in process.stdout:
            said.append(line.split())
            if line == f"saving {kill_at}\n":
                time.sleep(delay)
                process.kill()
        errors = process.stderr.read()
    assert process.returncode == (0 if kill_at is None else -signal.SIGKILL), errors
    return said


def kill_and_resume(folder: Path, kills: list[int], delays: list[float]) -> None:
    last, done = kills[-1] + 2, 0
    for kill_at, delay in zip(kills, delays, strict=True):
        said = interrupted(folder, last, kill_at, delay)
        assert said[0][0] == "from" and int(said[0][1]) >= done
        # A save waits for the one before it, so at most one step is lost.
        done = kill_at - 1
    said = interrupted(folder, last, None, 0.0)
    assert int(said[0][1]) >= done
    whole = interrupted(folder.with_name("whole"), last, None, 0.0)
    assert said[-1][0] == "sum" and said[-1] == whole[-1]


@pytest.mark.slow
@pytest.mark.multiprocess
def test_killed_trainer_resumes_from_a_readable_step(tmp_path):
    kill_and_resume(tmp_path / "killed", [2, 4], [0.0, 0.01])


@pytest.mark.slow
@pytest.mark.multiprocess
def test_thirty_kills_at_random_moments(tmp_path):
    rng = random.Random(0)
    delays = [rng.uniform(0.0, 0.1) for _ in range(30)]
    kill_and_resume(tmp_path / "killed", list(range(2, 62, 2)), delays)


# The program


def launch_with(monkeypatch, tmp_path, behaviour) -> None:
    path = tmp_path / "config.py"
    path.write_text(
        "from temdiff_jax.training.config import TrainConfig\n"
        "def get_config():\n    return TrainConfig()\n"
    )
    given = types.SimpleNamespace(
        config=str(path),
        data_dir="",
        workdir=str(tmp_path),
        set=[],
        initial_prior=None,
        compile_cache=None,
        max_minutes=None,
        blocks=None,
        previews=False,
        tensorboard=False,
        coordinator=None,
        num_processes=None,
        process_id=None,
        local_devices=None,
        stuck_minutes=0.0,
    )
    monkeypatch.setattr(program.flags, "FLAGS", given)
    monkeypatch.setattr(program.loop, "train", behaviour)
    monkeypatch.setattr(program, "measure_peak", lambda *_: 1e9)

    def leave(code):
        raise SystemExit(code)

    monkeypatch.setattr(program.os, "_exit", leave)
    program.main(["train"])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (checkpoint.SaveError("checkpoint 4: no space"), 1),
        (loop.Diverged("21 non-finite batches"), 1),
        (InputError("training data: expected a file"), 2),
    ],
)
def test_failure_is_one_line_and_an_exit_code(
    monkeypatch, tmp_path, capsys, error, code
):
    def fail(*_, **__):
        raise error

    with pytest.raises(SystemExit) as caught:
        launch_with(monkeypatch, tmp_path, fail)
    assert caught.value.code == code
    assert capsys.readouterr().err == f"train: {error}\n"


def test_signalled_program_ends_with_code_0(monkeypatch, tmp_path):
    def stop(*_, should_stop, **__):
        os.kill(os.getpid(), signal.SIGTERM)
        assert should_stop(1) == "SIGTERM"

    with pytest.raises(SystemExit) as caught:
        launch_with(monkeypatch, tmp_path, stop)
    assert caught.value.code == 0


def test_finished_program_returns(monkeypatch, tmp_path):
    launch_with(monkeypatch, tmp_path, lambda *_, **__: None)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("host", 2, 0, None), "--coordinator: expected host:port with"),
        (("host:1", None, 0, None), "--coordinator: expected host:port with"),
        ((None, 2, 0, None), "--coordinator: expected host:port beside"),
        ((None, None, None, 99), "--local_devices: expected 99 devices"),
    ],
)
def test_flags_of_several_processes_belong_together(flags, message):
    with pytest.raises(InputError, match=message):
        processes.join(*flags)


def test_slurm_is_noticed_and_one_machine_listens_to_itself_alone(monkeypatch):
    calls = []
    monkeypatch.setattr(
        jax.distributed, "initialize", lambda *a, **k: calls.append((a, k))
    )
    processes.join(None, None, None, None)
    assert calls == []
    processes.join("127.0.0.1:7000", 2, 1, None)
    assert calls[0][0] == ("127.0.0.1:7000", 2, 1)
    assert calls[0][1]["coordinator_bind_address"] == "127.0.0.1:7000"
    processes.join("node7:7000", 2, 1, None)
    assert calls[1][1]["coordinator_bind_address"] is None
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_STEP_NODELIST", "node[1-4]")
    processes.join(None, None, None, None)
    assert calls[2] == ((), {"local_device_ids": None})
