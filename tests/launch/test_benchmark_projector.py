"""The benchmark around the clock: peers as processes, what is skipped, the tables."""

import dataclasses
import json
import sys
import textwrap
import types
from pathlib import Path

import numpy as np
import pytest

from launch import benchmark_projector
from launch.benchmarking import limits as machine_limits
from launch.benchmarking import peers, timing
from launch.benchmarking import report as projector_report
from temdiff_jax.errors import InputError
from temdiff_jax.projector import kernels

# A peer that is exactly adjoint and needs numpy alone: each voxel is spread linearly
# over the two detector columns beside it.
ADAPTER = f"""
import sys
sys.path.insert(0, {str(peers.ADAPTERS)!r})
import harness
import numpy as np


class Splat:
    peer, version, method, device = "splat", "1", "two columns a voxel", "cpu"

    def __init__(self, shape, angles):
        if shape[0] == 13:
            raise ValueError("thirteen slices")
        self.shape, self.count = shape, len(angles)
        nz, _, nx = shape
        z = (np.arange(nz) - (nz - 1) / 2)[:, None]
        x = (np.arange(nx) - (nx - 1) / 2)[None, :]
        self.matrix = np.zeros((self.count, nx, nz * nx))
        for row, angle in zip(self.matrix, np.deg2rad(angles)):
            t = (x * np.cos(angle) + z * np.sin(angle)).ravel() + (nx - 1) / 2
            for column in range(nx):
                row[column] = np.maximum(0, 1 - np.abs(t - column))

    def volume_to_native(self, volume):
        return volume.transpose(0, 2, 1).reshape(-1, self.shape[1])

    def tilts_to_native(self, tilts):
        return tilts.transpose(0, 2, 1)

    def forward(self, volume):
        print("noise on standard output")
        return self.matrix @ volume

    def adjoint(self, tilts):
        return np.einsum("kun,kuy->ny", self.matrix, tilts)

    def tilts_from_native(self, tilts):
        return tilts.transpose(0, 2, 1)

    def volume_from_native(self, volume):
        nz, ny, nx = self.shape
        return volume.reshape(nz, nx, ny).transpose(0, 2, 1)


harness.main(harness.build_parser("splat"), lambda o: Splat(o.shape, o.angles))
"""


@pytest.fixture
def make_peer(tmp_path):
    """Return a function that makes a peer from the source of its adapter."""
    made = []

    def make(source=ADAPTER, name="splat"):
        path = tmp_path / f"{name}.py"
        path.write_text(textwrap.dedent(source), encoding="utf-8")
        spec = peers.Spec(name, str(path))
        made.append(peers.Peer(name, spec, Path(sys.executable)))
        return made[-1]

    yield make
    peers.stop_all(made)


def test_a_peer_answers_and_survives_an_error(make_peer, tmp_path):
    peer = make_peer()
    with pytest.raises(peers.PeerError, match="ValueError: thirteen slices"):
        peer.ask("open", 60, shape=[13, 4, 9], angles_deg=[0.0])
    shape, angles = (12, 5, 17), [-50.0, 0.0, 20.0]
    opened = peer.ask("open", 60, shape=shape, angles_deg=angles)
    assert opened["version"] == "1" and opened["forward_first_call_ms"] > 0
    samples = peer.ask("time", 60, direction="adjoint", calls=3)["samples_ms"]
    assert len(samples) == 3 and min(samples) > 0
    checks = peer.ask("check", 60)
    assert checks["adjoint_mismatch"] < 1e-6 and checks["centroid_error_px"] < 0.2
    volume = np.random.default_rng(0).random(shape, dtype=np.float32)
    np.save(tmp_path / "v.npy", volume)
    paths = {"volume": str(tmp_path / "v.npy"), "out": str(tmp_path / "t.npy")}
    peer.ask("project", 60, **paths)
    tilts = np.load(paths["out"])
    assert tilts.shape == (3, 5, 17)
    np.testing.assert_allclose(tilts[1], volume.sum(axis=0), rtol=1e-5)
    assert peer.ask("close", 60) == {}


def test_a_reversed_rotation_is_refused(make_peer):
    peer = make_peer(ADAPTER.replace("+ z * np.sin", "- z * np.sin"))
    peer.ask("open", 60, shape=(24, 16, 32), angles_deg=[-50.0, 20.0])
    with pytest.raises(peers.PeerError, match=r"expected a projected centre within"):
        peer.ask("check", 60)


def test_a_peer_that_hangs_is_stopped_and_one_that_dies_is_heard(make_peer):
    peer = make_peer("import time\ntime.sleep(60)", "sleeper")
    with pytest.raises(peers.PeerTimeout, match="stopped after 0 s"):
        peer.ask("open", 0.3, shape=[2, 2, 2], angles_deg=[0.0])
    dead = make_peer("raise SystemExit('no such library')", "dead")
    for _ in range(2):  # it is started again
        with pytest.raises(peers.PeerError, match="with code 1: no such library"):
            dead.ask("open", 60, shape=[2, 2, 2], angles_deg=[0.0])


def test_every_peer_of_the_table_has_adapter_and_requirements():
    for spec in peers.PEERS.values():
        assert (peers.ADAPTERS / spec.adapter).is_file()
        assert (peers.ADAPTERS / spec.environment / "requirements.txt").is_file()


def test_environment_of_a_peer_has_nothing_of_ours():
    ours = {"PYTHONPATH": "a", "VIRTUAL_ENV": "b", "HOME": "c"}
    assert peers.clean_environment(ours) == {"HOME": "c"}


@pytest.fixture
def short_loops(monkeypatch):
    """Loop bodies of one plane or tilt, which compile in a fraction of the time."""
    monkeypatch.setattr(kernels, "UNROLL", 1)


CASE = timing.Case((10, 6, 11), 3, 50.0)
EFFORT = timing.Effort(rounds=2, seconds=0.02, limit_s=20.0)


@pytest.mark.slow
def test_a_case_is_timed_checked_and_compared(make_peer, short_loops):
    suite = timing.Suite({"splat": make_peer()}, EFFORT)
    ours, theirs = suite.run(CASE)
    assert ours["projector"] == "temdiff_jax" and theirs["projector"] == "splat"
    assert list(ours["samples"]) == ["forward", "adjoint", "normal", "cg"]
    assert list(theirs["samples"]) == ["forward", "adjoint"]
    for row in (ours, theirs):
        for rounds in row["samples"].values():
            assert len(rounds) == 2 and min(len(samples) for samples in rounds) >= 1
        assert row["adjoint_mismatch"] < 1e-5
    # A hat of one column is not one of cos(theta): alike on smooth bodies only.
    assert 1e-4 < theirs["differs"] < 0.2
    assert 0 < suite.predicted_s("splat", CASE) < 1


@pytest.mark.slow
def test_what_would_take_too_long_is_not_run(make_peer, short_loops):
    suite = timing.Suite({"splat": make_peer()}, EFFORT)
    slow = {"projector": "splat", "samples": {"forward": [[4e3]], "adjoint": [[2e3]]}}
    smaller = dataclasses.replace(CASE, shape=(5, 3, 11))
    suite.learn(smaller, [slow])
    assert suite.predicted_s("splat", CASE) == pytest.approx(24.0)
    rows = suite.run(CASE)
    assert rows[1] == {"projector": "splat", "skipped": "not run: about 24 s"}
    stopped = {"projector": "splat", "skipped": "stopped", "took_more_than_s": 60.0}
    suite.learn(CASE, [stopped])
    assert suite.predicted_s("splat", CASE) == pytest.approx(60.0)


def test_a_failing_peer_leaves_a_reason(make_peer, short_loops):
    refuse = ADAPTER.replace("shape[0] == 13", "True")
    suite = timing.Suite({"splat": make_peer(refuse)}, EFFORT)
    rows = suite.run(CASE)
    assert rows[1]["skipped"] == "failed: ValueError: thirteen slices"


def test_calls_fill_the_time():
    effort = timing.Effort(rounds=2, seconds=1.0)
    assert effort.calls(0.1) == 5
    assert effort.calls(3.0) == 1
    assert effort.calls(1e-9) == timing.MAX_CALLS


@pytest.fixture
def given(tmp_path):
    """Flags of a run on tiny volumes without peers."""
    return types.SimpleNamespace(
        shapes=["6x5x7"],
        tilts=["3"],
        top_deg=50.0,
        rounds=1,
        seconds=0.01,
        slow_s=1.5,
        limit_s=5.0,
        output=str(tmp_path / "new" / "out.jsonl"),
        report_only=False,
        peers=[],
    )


MACHINE = machine_limits.Machine(((1.0, 100.0), (100.0, 10.0)), 50.0, 200.0)


@pytest.mark.slow
def test_a_run_goes_on_where_it_was_interrupted(given, monkeypatch, short_loops):
    record = {"machine": dataclasses.asdict(MACHINE), "cores": 2, "load": 0.1}
    record |= {"processor": "abacus", "backend": "cpu"}
    monkeypatch.setattr(benchmark_projector, "machine_record", lambda: record)
    text = projector_report.markdown(benchmark_projector.run(given))
    assert "abacus, 2 cores" in text and "| 6x5x7 | 3 |" in text
    path = Path(given.output)
    path.write_text(path.read_text() + '{"case": {"shape": [6, 5')  # cut short
    given.tilts = ["3", "4"]
    run_cases = []
    original = timing.Suite.run

    def run(self, case):
        run_cases.append(case)
        return original(self, case)

    monkeypatch.setattr(timing.Suite, "run", run)
    text = projector_report.markdown(benchmark_projector.run(given))
    assert [case.num_tilts for case in run_cases] == [4]
    assert "| 6x5x7 | 3 |" in text and "| 6x5x7 | 4 |" in text
    given.report_only = True
    assert projector_report.markdown(benchmark_projector.run(given)) == text


def test_flags_that_cannot_be_are_refused():
    parse = benchmark_projector.parse_cases
    assert parse(["4x5x6"], ["1", "2"], 40.0)[1] == timing.Case((4, 5, 6), 2, 40.0)
    for shapes, tilts, top, message in [
        (["4x5"], ["1"], 40.0, "got '4x5'"),
        (["4xax6"], ["1"], 40.0, "got '4xax6'"),
        (["4x5x6"], ["0"], 40.0, "--tilts=COUNT"),
        (["4x5x6"], ["5"], 91.0, "got 91"),
    ]:
        with pytest.raises(InputError, match=message):
            parse(shapes, tilts, top)


def record_of(extent, tilts, ours_ms, peer_ms):
    rows = [
        {
            "projector": "temdiff_jax",
            "version": "jax 1",
            "method": "ours",
            "samples": {
                way: [[ours_ms] * 3, [2 * ours_ms] * 3]
                for way in ("forward", "adjoint", "normal", "cg")
            },
            "adjoint_mismatch": 1e-8,
        },
        {
            "projector": "slow",
            "version": "2",
            "method": "theirs",
            "samples": {"forward": [[peer_ms]], "adjoint": [[peer_ms], [peer_ms]]},
            "differs": 0.02,
        },
        {"projector": "huge", "skipped": "not run: about 99 s"},
    ]
    case = {"shape": [extent] * 3, "num_tilts": tilts, "top_deg": 40.0}
    return {"case": case, "rows": rows, "load": 0.5}


def test_tables_hold_the_numbers_of_the_records():
    records = [
        {"machine": dataclasses.asdict(MACHINE), "cores": 2, "load": 0.1}
        | {"processor": "abacus", "backend": "cpu"},
        *(record_of(8, k, 0.5 * k, 6.0 * k) for k in (2, 4, 8)),
    ]
    # Through JSON, as in a file: tuples become lists.
    text = projector_report.markdown(json.loads(json.dumps(records)))
    assert "to the power of 1.000, forward (at most a factor 1.00 off" in text
    assert "| 8x8x8 | 4 | 3.00 | 24.0 (12.0x) | not run: about 99 s |" in text
    assert "| 8x8x8 | 4 | slow, 12.0x | slow, 9.00x | slow, 16.0x |" in text
    assert "| slow | 2 | - | - | 2e-02 | theirs |" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    counts = {}
    for line in lines:  # every table is a rectangle
        counts.setdefault(line.count("|"), []).append(line)
    for rule in [line for line in lines if set(line) == {"|", "-"}]:
        above = lines[lines.index(rule) - 1]
        assert above.count("|") == rule.count("|")
    brief = projector_report.markdown(records, brief=True)
    assert set(brief.split("\n\n")) < set(text.split("\n\n")) and "slow, 12.0x" in brief
    assert "24.0 (12.0x)" not in brief
    with pytest.raises(InputError, match="got 0 and 0"):
        projector_report.markdown([])


def test_damaged_file_is_named(tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_text('{"a": 1}\nnonsense\n{"b": 2}\n')
    with pytest.raises(InputError, match="got 'nonsense' in line 2"):
        projector_report.read_records(path)
    assert projector_report.read_records(tmp_path / "none") == []


def test_tables_go_between_the_markers_again_and_again(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(f"a\n{projector_report.BEGIN}\nold\n{projector_report.END}\nb\n")
    for text in ("new", "newer"):
        projector_report.replace_between_markers(path, text)
    begin, end = projector_report.BEGIN, projector_report.END
    assert path.read_text() == f"a\n{begin}\n\nnewer\n\n{end}\nb\n"
    path.write_text("no markers")
    with pytest.raises(InputError, match="expected the lines"):
        projector_report.replace_between_markers(path, "x")


def test_the_document_has_its_markers():
    text = (peers.ROOT / "docs/reports/benchmarks.md").read_text("utf-8")
    assert 0 < text.index(projector_report.BEGIN) < text.index(projector_report.END)


def test_work_equals_a_count_by_loops(monkeypatch):
    monkeypatch.setattr(kernels, "UNROLL", 8)
    shape, angles = (9, 4, 17), np.array([-60.0, -10.0, 0.0, 30.0, 45.0, 70.0])
    nz, ny, nx = shape
    taps, sweeps = 0, 0
    for angle in angles:
        planes = nx if abs(angle) > 45 else nz
        for plane in range(planes):
            taps += 2 * nx * ny
            sweeps += nx * ny if plane % 8 == 0 else 0
    work = machine_limits.work_of("forward", shape, angles)
    assert work.operations == 2 * taps
    assert work.cache_bytes == 4 * (taps + 2 * sweeps)
    assert work.memory_bytes == 4 * (nz * ny * nx + 6 * ny * nx)
    adjoint = machine_limits.work_of("adjoint", shape, angles)
    assert adjoint.operations == 4 * 6 * nz * ny * nx
    normal = machine_limits.work_of("normal", shape, angles)
    assert normal.operations == work.operations + adjoint.operations
    step = machine_limits.work_of("cg", shape, angles)
    assert step.memory_bytes - normal.memory_bytes == 4 * 12 * nz * ny * nx


def test_limits_follow_from_work_and_machine():
    work = machine_limits.Work(4e8, 1e7, 1e9, data_bytes=1e7)
    assert MACHINE.gflop_s == 200.0 and MACHINE.cache_gb_s == 100.0
    assert MACHINE.memory_gb_s(1e7) == pytest.approx(55.0)  # halfway in its logarithm
    limits = work.limits_ms(MACHINE)
    assert limits["arithmetic"] == pytest.approx(2.0)
    assert limits["memory"] == pytest.approx(1e7 / 55e9 * 1e3)
    assert limits["cache"] == pytest.approx(10.0)


def test_a_sweep_is_a_difference_unless_that_makes_no_sense(monkeypatch):
    times = iter([1.5, 6.5, 4.0, 4.2])
    monkeypatch.setattr(machine_limits, "seconds_of", lambda call, repeats: next(times))
    assert machine_limits.seconds_a_sweep(id, 10, 1) == pytest.approx(0.5)
    assert machine_limits.seconds_a_sweep(id, 10, 1) == pytest.approx(4.2 / 11)


def test_ceilings_are_measured():
    assert machine_limits.stream_gb_s(4096, 40, repeats=2) > 0
    assert machine_limits.loop_gflop_s(4096, 4) > 0
    assert machine_limits.product_gflop_s(64) > 0
