"""Options from TOML and from records: same names, the command line wins."""

import json

import pytest

from temdiff_jax.cli.main import main

FILE = """
path = "grid.mrc"
angles = "grid.tlt"
thickness = 4
out = "results"
seed = 7
range = 4
exclude = [0]
overwrite = true
"""


@pytest.fixture
def toml(series, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(FILE)
    return file


@pytest.mark.parametrize("words", [["{}"], ["--config", "{}"], ["--config={}"]])
def test_a_file_stands_for_the_words(
    toml, library, monkeypatch, tmp_path, tmp_path_factory, words
):
    """Relative paths start from the file, wherever the command is started."""
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert main(["reconstruct", *(word.format(toml) for word in words)]) == 0
    (call,) = library.calls
    assert (call["thickness"], call["key"]) == (4, 7)
    assert call["angles"].tolist() == [-2.0, 0.0, 2.0]
    assert (tmp_path / "results" / "grid_temdiff.mrc").exists()


def test_the_command_line_wins(toml, library, tmp_path):
    out = tmp_path / "other"
    words = ["reconstruct", "--overwrite", str(toml), "--seed", "8", "--out", str(out)]
    assert main(words) == 0
    assert library.calls[0]["key"] == 8
    assert (out / "grid_temdiff.mrc").exists()


def test_written_options_and_a_record_give_the_same_run(toml, library, tmp_path):
    again = tmp_path / "deep" / "again.toml"
    again.parent.mkdir()
    assert main(["reconstruct", str(toml), "--write-config", str(again)]) == 0
    assert main(["reconstruct", str(again)]) == 0
    record = tmp_path / "results" / "grid.temdiff.json"
    assert main(["reconstruct", "--config", str(record)]) == 0
    keys = ("key", "thickness", "log", "weighting", "settings")
    first, *others = ({key: call[key] for key in keys} for call in library.calls)
    assert others == [first, first]
    assert json.loads(record.read_text())["config"]["seed"] == 7


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("thicknes = 3", "did you mean 'thickness'?"),
        ("zzz = 3", "see --help"),
        ("thickness = 3.5", "--thickness"),
        ('thickness = "many"', "--thickness"),
        ("overwrite = 1", "expected true or false for overwrite"),
        ("thickness = true", "expected text or a number for thickness"),
        ("[thickness]\na = 1", "expected text or a number for thickness"),
        ("config = 'a.toml'", "got 'config'"),
        ("thickness = ", "expected a TOML file"),
    ],
)
def test_what_is_no_option_is_one_line(series, library, tmp_path, capsys, line, said):
    file = tmp_path / "bad.toml"
    file.write_text(f'path = "grid.mrc"\n{line}\n')
    assert main(["reconstruct", str(file), "--out", str(tmp_path / "r")]) == 2
    captured = capsys.readouterr()
    assert said in captured.err and len(captured.err.splitlines()) == 1
    assert library.calls == []


def test_a_missing_file_is_one_line(library, tmp_path, capsys):
    assert main(["reconstruct", str(tmp_path / "none.toml")]) == 2
    assert "expected a TOML file" in capsys.readouterr().err
    record = tmp_path / "x.json"
    record.write_text("{}")
    assert main(["reconstruct", "--config", str(record)]) == 2
    assert "expected the record of a run" in capsys.readouterr().err
