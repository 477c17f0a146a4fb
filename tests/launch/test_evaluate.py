"""The program over configurations: rows once, tables from rows, costs, refusals."""

import dataclasses
import json
import subprocess
import sys
import types
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from launch import evaluate, program
from temdiff_jax.errors import InputError
from temdiff_jax.evaluation import protocol

REPOSITORY = Path(__file__).resolve().parent.parent.parent
TABLES = sorted((REPOSITORY / "configs" / "tables").glob("t*.py"))

CONFIG = """
from temdiff_jax.evaluation.plan import PERFECT, Run, TablePlan, Volume, imperfect

def get_config():
    return TablePlan(
        name="tiny",
        title="Tiny table",
        kind="accuracy",
        volumes=tuple(
            Volume(file=f"s{i}.npz:volume", name=f"s{i}", tissue="noise")
            for i in range(2)
        ),
        cases=("40/20",),
        runs=(
            Run(name="fbp"),
            Run(name="tikhonov"),
            Run(name="network", weights="network"),
        ),
        regimes=(PERFECT, imperfect(1.0)),
        columns=("rmse", "psnr"),
        ours=("tikhonov",),
        crop=16,
        blocks=2,
    )
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_specimens):
    """Two specimens of 32 x 24 x 24 voxels and a configuration."""
    folder = tmp_path_factory.mktemp("data")
    write_specimens(folder)
    (folder / "tiny.py").write_text(CONFIG)
    return folder


def given(folder, out, **changes):
    values = {
        "config": str(folder / "tiny.py"),
        "data_dir": str(folder),
        "out": str(out),
        "only": [],
        "rebuild": False,
        "prior": [],
        "set": ["blocks=1"],
        "compile_cache": None,
        "measure": None,
    }
    return types.SimpleNamespace(**values | changes)


@pytest.fixture(scope="module", autouse=True)
def simulator(untilted):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate.runner, "make_simulate", untilted)
        yield


@pytest.fixture(scope="module")
def out(folder, tmp_path_factory, simulator):
    """The table of the configuration, once."""
    out = tmp_path_factory.mktemp("tables")
    evaluate.run(given(folder, out))
    return out


def test_table_has_its_files_and_the_rows_of_each_regime(out):
    assert sorted(path.name for path in out.iterdir()) == [
        "rows_imperfect.jsonl",
        "rows_perfect.jsonl",
        "tiny.json",
        "tiny.md",
        "tiny.png",
    ]
    rows = [
        json.loads(line)
        for line in (out / "rows_perfect.jsonl").read_text().splitlines()
    ]
    assert [(row["volume"], row["method"]) for row in rows] == [
        (f"s{i}-16", method) for i in range(2) for method in ("fbp", "tikhonov")
    ]
    for row in rows:
        assert (row["calls"], row["shape"]) == (0, [16, 16, 16])
        assert row["specimen"] == row["volume"][:2] and row["tissue"] == "noise"
        assert row["settings"] == {"method": row["method"]}
        assert row["device"] and row["version"]
    assert rows[0]["pairs"] == 1 and rows[1]["pairs"] > 10
    text = (out / "tiny.md").read_text()
    assert text.startswith("# Tiny table\n")
    assert "**PSNR, noise, imperfect series**" in text
    assert "| method | 40/20 RMSE | network calls | seconds |" in text
    assert "**tikhonov against each, all tissues, perfect series**" in text
    content = json.loads((out / "tiny.json").read_text())
    cells = content["parts"][0]["cells"]
    mean = np.mean([row["matched"]["rmse"] for row in rows if row["run"] == "fbp"])
    (cell,) = [c for c in cells if (c["method"], c["metric"]) == ("fbp", "rmse")]
    assert cell["mean"] == pytest.approx(mean) and cell["n"] == 2
    assert content["provenance"]["settings"]["fbp"] == {"method": "fbp"}
    assert matplotlib.image.imread(out / "tiny.png").ndim == 3


def test_rebuild_writes_the_same_table_and_computes_nothing(folder, out, monkeypatch):
    before = {p.name: p.read_bytes() for p in out.iterdir() if p.suffix != ".png"}
    monkeypatch.setattr(protocol, "evaluate", lambda *a, **k: pytest.fail("computed"))
    evaluate.run(given(folder, out, rebuild=True, data_dir=None))
    after = {p.name: p.read_bytes() for p in out.iterdir() if p.suffix != ".png"}
    assert after == before


def test_second_start_computes_only_what_is_missing(folder, out, monkeypatch, capsys):
    kept = (out / "rows_perfect.jsonl").read_text()
    path = out / "rows_imperfect.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    evaluate.run(given(folder, out))
    assert (out / "rows_perfect.jsonl").read_text() == kept
    again = path.read_text().splitlines(keepends=True)
    assert again[:-1] == lines[:-1]
    first, second = (json.loads(text[-1]) for text in (lines, again))
    assert first["matched"] == second["matched"]
    printed = capsys.readouterr().out
    assert printed.count("imperfect s1-16 40/20 tikhonov: RMSE") == 1
    assert "fbp: RMSE" not in printed
    assert "network: left out, it needs --prior=network=FILE" in printed


def test_blocks_share_no_voxel_and_lie_in_their_specimen(folder):
    config = program.load_config(str(folder / "tiny.py"))
    truths = evaluate.load_truths(config, str(folder))
    assert list(truths) == ["s0-16-1of2", "s0-16-2of2", "s1-16-1of2", "s1-16-2of2"]
    assert all(t.shape == (16, 16, 16) for t in truths.values())
    (whole,) = evaluate.load_truths(
        dataclasses.replace(config, volumes=config.volumes[:1], crop=32, blocks=1),
        str(folder),
    ).values()
    assert whole.shape == (32, 24, 24)
    np.testing.assert_array_equal(truths["s0-16-1of2"], whole[:16, 4:20, 4:20])
    np.testing.assert_array_equal(truths["s0-16-2of2"], whole[16:, 4:20, 4:20])


def test_cost_is_measured_once_per_method_and_tabulated(folder, tmp_path):
    changes = {"set": ['kind="cost"', "blocks=1", "repeats=2"]}
    started = []

    def in_this_process(command, check):
        assert command[:3] == [sys.executable, "-m", "launch.evaluate"]
        (measured,) = [c[10:] for c in command if c.startswith("--measure=")]
        started.append(measured)
        evaluate.run(given(folder, tmp_path, measure=measured, **changes))
        return types.SimpleNamespace(returncode=0)

    config = program.load_config(str(folder / "tiny.py"))
    config = dataclasses.replace(config, kind="cost", blocks=1, repeats=2)
    runs, left_out = evaluate.choose_runs(config, [], {})
    assert left_out == ["network: left out, it needs --prior=network=FILE"]
    command = evaluate.child_command(given(folder, tmp_path, **changes))
    for _ in range(2):
        evaluate.measure_all(config, tmp_path, runs, command, in_this_process)
    assert started == ["fbp@40/20", "tikhonov@40/20"]
    for row in evaluate.cost_rows(config, tmp_path):
        assert len(row["seconds"]) == 2 and min(row["seconds"]) > 0
        assert row["first_seconds"] > 0
    text = evaluate.write_table(config, tmp_path)
    assert "| tikhonov | 40/20 | 16 x 16 x 16 |" in text
    assert (tmp_path / "tiny.png").is_file()

    def failing(command, check):
        return types.SimpleNamespace(returncode=3)

    with pytest.raises(InputError, match="fbp at 40/20: expected a process .* got 3"):
        evaluate.measure_all(config, tmp_path / "no", runs, command, failing)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_what_was_held_beyond_what_was_held_before():
    kept = np.ones(2**24, np.uint8)
    gone = np.ones(2**27, np.uint8)
    del gone
    before = evaluate._forget_peak()
    assert evaluate._status("VmHWM") - before < 2**23
    held = np.ones(2**26, np.uint8)
    del held
    growth = evaluate._status("VmHWM") - before
    assert growth == pytest.approx(2**26, rel=0.1)
    assert kept.size == 2**24


def test_wrong_requests_are_refused(folder, tmp_path):
    for changes, message in [
        ({"only": ["magic"]}, "--only: expected some of .*'fbp'.* got .'magic'"),
        ({"data_dir": None}, "--data_dir: expected the folder"),
        ({"set": ["crop=0"]}, "crop, blocks, replicates and repeats of at least 1"),
        ({"set": ['kind="plot"']}, "expected a kind among"),
        ({"set": ["blocks=9"]}, r"blocks: expected at most 2 of \[16, 16, 16\] voxels"),
        ({"rebuild": True}, "table is empty"),
    ]:
        with pytest.raises(InputError, match=message):
            evaluate.run(given(folder, tmp_path, **changes))


def test_other_settings_under_the_same_name_are_refused(folder, out):
    config = program.load_config(str(folder / "tiny.py"))
    runs = [dataclasses.replace(config.runs[0], method="tikhonov")]
    config = dataclasses.replace(config, blocks=1)
    with pytest.raises(InputError, match="expected settings {'method': 'tikhonov'}"):
        evaluate.compute(config, str(folder), out, runs, {})


@pytest.mark.parametrize("path", TABLES, ids=[path.stem for path in TABLES])
def test_shipped_tables_are_plans_whose_methods_exist(path):
    config = program.load_config(str(path))
    evaluate.plan.check(config)
    assert config.name == path.stem
    for run in config.runs:
        if not run.weights:
            method = evaluate.methods.make_method(run, config.seed, {})
            assert method.calls is not None
    assert {"t1", "t2", "t5", "t6", "t7"} <= {p.stem for p in TABLES}


def test_tables_of_one_folder_agree_on_what_a_run_is():
    """A name with other settings would be refused by the shared rows."""
    found = {}
    for path in TABLES:
        for run in program.load_config(str(path)).runs:
            settings = dataclasses.replace(run, against="")
            assert found.setdefault(run.name, settings) == settings, run.name


def test_priors_are_read_by_name():
    assert evaluate.parse_priors(["a.safetensors", "dolce=b.safetensors"]) == {
        "default": "a.safetensors",
        "dolce": "b.safetensors",
    }


@pytest.mark.slow
def test_program_ends_with_code_2_on_bad_input(folder, tmp_path):
    command = [sys.executable, "-m", "launch.evaluate", f"--out={tmp_path}"]
    command += [f"--config={folder}/tiny.py", "--rebuild"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.strip().startswith("evaluate: table is empty")
