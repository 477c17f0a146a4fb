import json
import sys
import types

import numpy as np
import pytest

from temdiff_jax import evaluation
from temdiff_jax.cli import environment
from temdiff_jax.cli.main import main
from temdiff_jax.evaluation import methods
from temdiff_jax.io import write
from temdiff_jax.io.formats import mrc
from temdiff_jax.simulator import IMPERFECT

EDGE = 18


@pytest.fixture
def volume(tmp_path):
    truth = np.random.default_rng(1).uniform(size=(20, EDGE, EDGE + 4))
    path = tmp_path / "truth.mrc"
    write.write_mrc(path, truth.astype(np.float32), 40.0)
    return path


@pytest.fixture
def runner(monkeypatch, tmp_path):
    """Methods that know the truth up to a known blur, and a record of the calls."""
    calls = {"truths": [], "angles": [], "methods": []}

    def make_method(run, seed, priors):
        calls["options"] = {"run": run, "seed": seed, "priors": priors}

        def method(tilts, angles_deg, thickness):
            calls["methods"].append(run.name)
            truth = calls["truths"][-1]
            smooth = 0.5 * (truth + np.roll(truth, 1, axis=0))
            return truth + (0.05 if run.name == "tikhonov" else 0.5) * smooth**2

        return method

    def simulate_case(truth, angles_deg, seed):
        calls["truths"].append(truth)
        calls["angles"].append(np.asarray(angles_deg))
        return np.zeros((len(angles_deg), *truth.shape[1:]), np.float32)

    module = types.ModuleType("temdiff_jax.evaluation.runner")

    def make_simulate(errors):
        calls["errors"] = errors
        return simulate_case

    module.simulate_case = simulate_case
    monkeypatch.setattr(methods, "make_method", make_method)
    module.make_simulate = make_simulate
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(evaluation, "runner", module, raising=False)
    monkeypatch.setattr(environment, "prepare_jax", lambda: tmp_path)
    return calls


def test_prints_the_table_of_cases_and_methods(volume, runner, capsys):
    words = ["--cases", "10/5,20/10", "--methods", "fbp,tikhonov", "--seed", "3"]
    assert main(["evaluate", str(volume), *words, "--samples", "2"]) == 0
    captured = capsys.readouterr()
    head, _, fbp, tikhonov = captured.out.splitlines()[2:6]
    assert "10/5 PSNR" in head and "20/10 PSNR" in head
    column = head.split("|").index(" 10/5 PSNR ")
    psnr = [float(line.split("|")[column]) for line in (fbp, tikhonov)]
    assert psnr[0] < psnr[1]
    assert "Protocol volume-v1" in captured.out
    assert "truth.mrc 10/5 fbp: PSNR" in captured.err
    run = runner["options"]["run"]
    assert (run.name, run.samples, run.steps) == ("tikhonov", 2, 8)
    assert runner["options"]["seed"] == 3
    assert runner["options"]["priors"] == {"default": "default"}
    np.testing.assert_array_equal(runner["angles"][0], [-5.0, 0.0, 5.0])


def test_prior_and_weighting_reach_the_methods(volume, runner):
    words = ["--methods", "dps", "--prior", "mine.safetensors", "--weighting", "robust"]
    assert main(["evaluate", str(volume), *words]) == 0
    assert runner["options"]["priors"] == {"default": "mine.safetensors"}
    assert runner["options"]["run"].settings == {"weighting": "robust"}
    assert main(["evaluate", str(volume), *words[:-1], "some"]) == 2


@pytest.mark.parametrize("stain", ["dark", "bright"])
def test_crop_takes_the_central_cube_as_stain_density(volume, runner, stain):
    words = ["--cases", "10/5", "--methods", "fbp", "--crop", "16", "--stain", stain]
    assert main(["evaluate", str(volume), *words]) == 0
    (truth,) = runner["truths"]
    assert truth.shape == (16, 16, 16)
    assert truth.min() >= 0 and truth.max() <= 1
    grey = mrc.read_mrc(volume).data[2:18, 1:17, 3:19]
    sense = -1 if stain == "dark" else 1
    assert sense * np.corrcoef(truth.ravel(), grey.ravel())[0, 1] > 0.95


def test_a_second_run_with_the_same_folder_continues(volume, runner, tmp_path, capsys):
    words = ["evaluate", str(volume), "--cases", "10/5", "--out", str(tmp_path / "e")]
    assert main([*words, "--methods", "fbp"]) == 0
    assert main([*words, "--methods", "fbp,tikhonov"]) == 0
    assert runner["methods"] == ["fbp", "tikhonov"]
    rows = (tmp_path / "e" / "evaluation.jsonl").read_text().splitlines()
    assert [json.loads(row)["method"] for row in rows] == ["fbp", "tikhonov"]
    table = (tmp_path / "e" / "evaluation.md").read_text()
    assert capsys.readouterr().out.endswith(table)


def test_regimes_keep_their_rows_apart(volume, runner, tmp_path, capsys):
    words = ["evaluate", str(volume), "--cases", "10/5", "--methods", "fbp"]
    words += ["--out", str(tmp_path)]
    assert main(words) == 0
    assert "errors" not in runner and "aligned series" in capsys.readouterr().out
    assert main([*words, "--regime", "imperfect"]) == 0
    assert runner["errors"] == IMPERFECT
    assert "imperfect series" in capsys.readouterr().out
    names = {path.name for path in tmp_path.glob("evaluation*")}
    assert names == {
        f"evaluation{regime}.{ending}"
        for regime in ("", "_imperfect")
        for ending in ("jsonl", "md")
    }


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--regime", "perfect"], "--regime"),
        (["--methods", "fpb"], "did you mean 'fbp'"),
        (["--cases", "10-1"], "case name is unreadable"),
        (["--cases", "10/3"], "case is no tilt scheme"),
        (["--out", "{volume}"], "--out"),
        (["{volume}"], "truth.mrc twice"),
        (["--crop", "8"], "--crop"),
        (["--stain", "grey"], "--stain"),
        (["missing.mrc"], "missing.mrc"),
        (["notes.txt"], "got .txt"),
    ],
)
def test_bad_input_is_one_line(volume, runner, capsys, words, match):
    words = [word.format(volume=volume) for word in words]
    assert main(["evaluate", str(volume), *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert match in captured.err
    assert runner["methods"] == []
