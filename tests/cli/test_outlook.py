"""What a run needs is said with --dry-run and refused where it is not there."""

import collections
import json
import shutil

import pytest

from temdiff_jax.cli.main import main
from temdiff_jax.io import gate


def run(series, out, *options):
    words = ["reconstruct", series.stack, "--angles", series.angles, "--out", out]
    return main([str(word) for word in (*words, *options)])


def test_dry_run_says_what_is_needed_and_does_nothing(
    series, library, tmp_path, capsys
):
    out = tmp_path / "r"
    assert run(series, out, "--dry-run", "--thickness", "6") == 0
    said = capsys.readouterr().out
    for word in ("memory ", "time ", "disk ", "windows ", "calls ", "stage "):
        assert word in said
    assert library.calls == [] and not out.exists()
    assert run(series, out, "--dry-run", "--json") == 0
    found = json.loads(capsys.readouterr().out)["forecast"]
    assert found["memory_bytes"] > gate.resident_bytes() / 2
    assert found["network_calls"] > 0 and found["seconds"] > 0


def test_too_little_memory_is_refused_before_the_work(
    series, library, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(gate, "free_memory_bytes", lambda: 2**20 * 300)
    assert run(series, tmp_path / "r") == 2
    captured = capsys.readouterr()
    assert captured.out == "" and len(captured.err.splitlines()) == 1
    assert "memory: expected" in captured.err and "0.29 GiB free" in captured.err
    assert library.calls == []
    assert run(series, tmp_path / "r", "--dry-run") == 0
    assert "would be refused" in capsys.readouterr().out


def test_too_little_disk_is_refused_before_the_work(
    series, library, tmp_path, capsys, monkeypatch
):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100, 90, 10))
    assert run(series, tmp_path / "r") == 2
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 1 and "--out: expected" in captured.err
    assert library.calls == []


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError("cannot allocate 9 GiB"), "memory: expected enough"),
        (RuntimeError("RESOURCE_EXHAUSTED: out of memory"), "memory: expected enough"),
        (OSError(28, "No space left on device"), "disk: expected room"),
    ],
)
def test_what_runs_out_later_is_bad_input_as_well(
    series, library, tmp_path, capsys, error, said
):
    library.error = error
    assert run(series, tmp_path / "r") == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_deep_slab_must_be_asked_for(series, library, tmp_path, capsys):
    assert run(series, tmp_path / "r", "--thickness", "80") == 2
    assert "or pass --deep" in capsys.readouterr().err
    assert run(series, tmp_path / "r", "--thickness", "80", "--deep") == 0
