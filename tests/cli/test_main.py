import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from temdiff_jax.cli import environment
from temdiff_jax.cli.main import main

REPOSITORY = Path(__file__).resolve().parents[2]


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"temdiff {environment.own_version()}\n"


def test_no_command_prints_the_help(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    for command in ("reconstruct", "inspect", "evaluate", "demo", "priors"):
        assert f"\n  {command} " in out


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["reconstruct"], "Missing argument 'PATH'; see temdiff reconstruct --help"),
        (["dream"], "No such command 'dream'"),
        (["--wrong"], "No such option"),
        (["evaluate"], "VOLUME"),
        (["demo"], "--out"),
        (["reconstruct", "a.tif", "b.tif"], "give the folder that holds them; see"),
        (["priors", "steal"], "No such command 'steal'"),
    ],
)
def test_usage_errors_are_one_line(capsys, words, match):
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert captured.err.startswith("temdiff: ")
    assert match in captured.err


def test_a_file_name_cannot_speak_to_the_terminal(capsys):
    assert main(["inspect", "/nowhere/\x1b[31m\nred.mrc"]) == 2
    error = capsys.readouterr().err
    assert "\x1b" not in error
    assert len(error.splitlines()) == 1


def test_interrupt_is_one_line(capsys, monkeypatch, series):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("temdiff_jax.io.formats.read_image", stop)
    assert main(["inspect", str(series.stack)]) == 130
    assert capsys.readouterr().err == "temdiff: interrupted\n"


def test_debug_prints_the_traceback(capsys, monkeypatch, series):
    def fail(*_, **__):
        raise RuntimeError("broken inside")

    monkeypatch.setattr("temdiff_jax.io.formats.read_image", fail)
    assert main(["inspect", str(series.stack)]) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert main(["--debug", "inspect", str(series.stack)]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_help_imports_nothing_heavy_and_is_quick():
    source = (
        "import sys; from temdiff_jax.cli.main import main; code = main(['--help']); "
        "heavy = {'jax', 'flax', 'matplotlib', 'mrcfile', 'scipy'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", source],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "reconstruct" in done.stdout
    # Well below a second alone; the bound leaves room for a busy machine.
    assert time.monotonic() - start < 10.0
