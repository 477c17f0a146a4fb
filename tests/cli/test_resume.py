"""`--resume` at the command: what is there before a run decides what it does."""

import json

import pytest

from temdiff_jax.cli import outputs
from temdiff_jax.cli.main import main
from temdiff_jax.reconstruction import api, watch
from temdiff_jax.reconstruction.save import sha256

NAMES = [
    "grid.temdiff.json",
    "grid_report.html",
    "grid_report.png",
    "grid_std.mrc",
    "grid_temdiff.mrc",
]


def run(series, out, *options):
    words = ["reconstruct", series.stack, "--angles", series.angles, "--out", out]
    return main([str(word) for word in (*words, *options)])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def begun(series, library, tmp_path, monkeypatch):
    """The folder of a run that was stopped after its volumes were written."""
    real = api.run

    def run_and_keep(planned, *, state, on_progress):
        watch.open_folder(state, planned.identity())
        return real(planned, state=state, on_progress=on_progress)

    monkeypatch.setattr(api, "run", run_and_keep)
    out = tmp_path / "r"
    with monkeypatch.context() as patch:
        patch.setattr(outputs, "volume_digests", lambda files: 1 / 0)
        assert run(series, out) == 1
    assert names(out) == ["grid_std.mrc", "grid_temdiff.mrc", "grid_unfinished"]
    return out


def test_an_unfinished_run_is_neither_overwritten_nor_forgotten(begun, series, capsys):
    capsys.readouterr()
    assert run(series, begun) == 2
    assert "pass --resume to go on with it, or --overwrite" in capsys.readouterr().err
    assert "grid_unfinished" in names(begun)


@pytest.mark.parametrize("option", ["--resume", "--overwrite"])
def test_it_goes_on_or_starts_anew_as_asked(begun, series, option):
    assert run(series, begun, option) == 0
    assert names(begun) == NAMES
    record = json.loads((begun / NAMES[0]).read_text())
    for name, digest in record["sha256"].items():
        assert sha256(begun / name) == digest


def test_other_settings_are_refused_in_one_line(begun, series, capsys):
    capsys.readouterr()
    assert run(series, begun, "--resume", "--seed", "9") == 2
    lines = capsys.readouterr().err.splitlines()
    assert "got key [0, 9] instead of [0, 0]" in lines[-1]
    assert "grid_unfinished" in names(begun)


def test_a_complete_run_is_not_repeated(series, library, tmp_path, capsys):
    """So a job that is started again may always say --resume."""
    out = tmp_path / "r"
    assert run(series, out, "--resume") == 0
    assert names(out) == NAMES
    assert len(library.calls) == 1
    assert run(series, out, "--resume") == 0
    assert "complete already" in capsys.readouterr().err
    assert len(library.calls) == 1
    mean = out / "grid_temdiff.mrc"
    mean.write_bytes(mean.read_bytes()[:-4] + b"\1\2\3\4")
    assert run(series, out, "--resume") == 2  # a mixed set is no complete one
    assert "expected a new file" in capsys.readouterr().err


def test_record_and_volumes_name_one_run(series, library, tmp_path):
    from temdiff_jax.io.formats import mrc

    out = tmp_path / "r"
    assert run(series, out) == 0
    record = json.loads((out / NAMES[0]).read_text())
    for name in ("grid_temdiff.mrc", "grid_std.mrc"):
        labels = mrc.read_mrc(out / name).labels
        assert any(f"run {record['run']}" in label for label in labels)


def test_a_failing_page_leaves_the_record(series, library, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("no font")

    monkeypatch.setattr("temdiff_jax.report.write_page", broken)
    out = tmp_path / "r"
    assert run(series, out) == 1
    assert "grid.temdiff.json" in names(out) and "grid_report.png" not in names(out)
