"""Pictures of a table's volumes: the same series, settings and scores."""

import json
import types

import matplotlib.image
import pytest

from launch import evaluate, program
from launch.studies import result_gallery
from temdiff_jax.errors import InputError

CONFIG = """
from temdiff_jax.evaluation.plan import Run, TablePlan, Volume

def get_config():
    return TablePlan(
        name="tiny",
        title="Tiny table",
        kind="accuracy",
        volumes=tuple(
            Volume(file=f"s{i}.npz:volume", name=f"s{i}", tissue="noise")
            for i in range(2)
        ),
        cases=("40/20", "20/10"),
        runs=(
            Run(name="fbp"),
            Run(name="sirt"),
            Run(name="network", weights="network"),
        ),
        ours=("sirt",),
        crop=16,
    )
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_specimens):
    folder = tmp_path_factory.mktemp("data")
    write_specimens(folder)
    (folder / "tiny.py").write_text(CONFIG)
    return folder


def given(folder, out, **changes):
    values = {
        "config": str(folder / "tiny.py"),
        "data_dir": str(folder),
        "out": str(out),
        "volume": "s1",
        "cases": ["40/20"],
        "only": [],
        "slice_y": None,
        "prior": [],
        "set": [],
        "compile_cache": None,
        "overwrite": False,
    }
    return types.SimpleNamespace(**values | changes)


@pytest.fixture
def simulator(monkeypatch, untilted):
    monkeypatch.setattr(result_gallery.runner, "make_simulate", untilted)


@pytest.mark.slow
def test_pictures_are_those_of_the_rows(folder, tmp_path, simulator, capsys):
    result_gallery.run(given(folder, tmp_path))
    printed = capsys.readouterr().out
    assert "network: left out, it needs --prior=network=FILE" in printed
    config = program.load_config(str(folder / "tiny.py"))
    priors = evaluate.parse_priors([])
    runs, _ = evaluate.choose_runs(config, [], priors)
    evaluate.compute(config, str(folder), tmp_path, runs, priors)
    rows = [
        json.loads(line)
        for line in (tmp_path / "rows_perfect.jsonl").read_text().splitlines()
    ]
    found = {
        row["method"]: row["matched"]["psnr"]
        for row in rows
        if (row["volume"], row["case"]) == ("s1-16", "40/20")
    }
    assert set(found) == {"fbp", "sirt"}
    for method, psnr in found.items():
        assert f"40/20 {method}: PSNR {psnr:.2f} dB" in printed
    # Three square pictures side by side on 12 inches of 130 dots.
    assert matplotlib.image.imread(tmp_path / "result_gallery.png").shape[1] == 1560


def test_existing_picture_is_kept_unless_told(folder, tmp_path, simulator):
    path = tmp_path / "result_gallery.png"
    path.write_bytes(b"mine")
    with pytest.raises(InputError, match="exists"):
        result_gallery.run(given(folder, tmp_path, only=["fbp"]))
    assert path.read_bytes() == b"mine"
    result_gallery.run(given(folder, tmp_path, only=["fbp"], overwrite=True))
    assert path.read_bytes() != b"mine"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"volume": "s7"}, "--volume: expected one of"),
        ({"cases": ["8/2"]}, "--cases: expected some of"),
        ({"only": ["mean"]}, "--only: expected some of"),
        ({"slice_y": 16}, "--slice_y: expected a row from 0 to 15, got 16"),
    ],
)
def test_what_the_table_does_not_have_is_refused(folder, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        result_gallery.run(given(folder, tmp_path, **changes))
