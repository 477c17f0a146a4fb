"""`temdiff methods` and `temdiff compare`."""

import json
import types

import numpy as np
import pytest

from temdiff_jax.cli import choices
from temdiff_jax.cli.main import main
from temdiff_jax.errors import InputError
from temdiff_jax.io.formats import mrc
from temdiff_jax.reconstruction import api, methods, plan


def test_every_method_has_a_line_with_its_cost(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("temdiff_jax.cli.environment.prepare_jax", lambda: tmp_path)
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == list(methods.table())
    dps = next(line for line in lines if line.startswith("dps:"))
    assert "Chung et al., ICLR 2023" in dps and "1000 calls + 1000 back" in dps
    dolce = next(line for line in lines if line.startswith("dolce:"))
    assert "weights dolce; --set eta=1 strength=2.12 num_iters=100" in dolce
    assert main(["methods", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    fbp = next(row for row in rows if row["name"] == "fbp")
    assert (fbp["calls"], fbp["pairs"], fbp["needs"]) == (0, 1, "")
    assert "--set scale=0.05" in dps and fbp["numbers"] == {}
    assert next(row for row in rows if row["name"] == "dds")["numbers"] == {
        "eta": 0.85,
        "num_iters": 5,
    }


def test_numbers_of_a_sampler_are_read_from_the_command_line():
    given = ["scale=1e-1", "num-iters=3", "solver = cgrad"]
    read = choices.parse_numbers(given)
    assert read == {"scale": 0.1, "num_iters": 3, "solver": "cgrad"}
    assert isinstance(read["num_iters"], int)
    for text in ("scale", "=3", "scale="):
        with pytest.raises(InputError, match="--set: expected NAME=VALUE, got"):
            choices.parse_numbers([text])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--method", "dps", "--set", "scal=1"], "one of scale, got 'scal'; did you"),
        (["--method", "dps", "--set", "scale=much"], "expected scale as a finite"),
        (["--set", "scale=1"], "expected a published sampler, got default"),
    ],
)
def test_numbers_that_do_not_fit_end_the_command(
    given, message, series, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr("temdiff_jax.cli.environment.prepare_jax", lambda: tmp_path)
    command = ["reconstruct", series.stack, "--angles", series.angles, *given]
    assert main([str(word) for word in command]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and message in lines[0]


@pytest.fixture
def compared(monkeypatch, tmp_path):
    """A library that answers at once, and what it was asked."""
    asked = {}

    def compare(tilts, angles, choices, *, options, key, on_progress):
        asked.update(choices=choices, options=options, key=key)
        on_progress(1, 1, "done")
        shape = (6, *tilts.shape[1:])
        return {
            name: types.SimpleNamespace(
                mean=np.full(shape, float(number), np.float32),
                std=np.full(shape, 0.5, np.float32) if number else None,
                chi2=np.linspace(0.9, 1.1, len(tilts)),
                provenance={"seconds": 2.0, "settings": {}, "prior": None},
            )
            for number, name in enumerate(choices)
        }

    monkeypatch.setattr(api, "compare", compare)
    monkeypatch.setattr(plan, "_prior", lambda method, prior, settings: prior)
    monkeypatch.setattr("temdiff_jax.cli.environment.prepare_jax", lambda: tmp_path)
    return asked


def words(series, out, *more):
    given = ["compare", series.stack, "--angles", series.angles, "--out", out, *more]
    return [str(word) for word in given]


def test_one_page_one_table(series, compared, tmp_path, capsys):
    out = tmp_path / "r"
    more = ["--methods", "fbp,default,dps", "--steps", "5", "--samples", "2"]
    more += ["--seed", "4", "--weighting", "robust", "--volumes"]
    assert main(words(series, out, *more)) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split()[0] == "method" and len(printed[1:4]) == 3
    assert [line.split()[0] for line in printed[1:4]] == ["fbp", "default", "dps"]
    assert printed[1].split()[3] == "-"  # no spread
    names = sorted(path.name for path in out.iterdir())
    assert names == [
        "grid_compare.html",
        "grid_compare.json",
        "grid_default.mrc",
        "grid_dps.mrc",
        "grid_fbp.mrc",
    ]
    page = (out / "grid_compare.html").read_text()
    # Volumes, and standard deviations of those that have one.
    assert page.count("<img ") == page.count("data:image/png;base64,") == 2
    assert "One call of the network and one pull to the tilts" in page
    assert "--methods fbp,default,dps" in page
    rows = json.loads((out / "grid_compare.json").read_text())["methods"]
    assert [row["calls"] for row in rows] == [0, 1 + 10, 10]
    assert mrc.read_mrc(out / "grid_dps.mrc").data.max() == 2.0
    assert compared["key"] == 4 and compared["options"].weighting == "robust"
    assert compared["choices"]["dps"].settings.num_steps == 5


def test_weights_go_to_the_methods_that_need_them(series, compared, tmp_path):
    more = ["--methods", "mean,dolce,dolce-fast,diffusion-mbir", "--json"]
    more += ["--prior", "mine.safetensors", "--prior", "dolce=d.safetensors"]
    more += ["--prior", "diffusion-mbir=m.safetensors"]
    assert main(words(series, tmp_path / "r", *more)) == 0
    priors = [choice.prior for choice in compared["choices"].values()]
    assert [str(prior)[:1] for prior in priors] == ["m", "d", "d", "m"]
    assert priors[0] == "mine.safetensors" and priors[3] == "m.safetensors"


def test_numbers_go_to_the_methods_that_take_them(series, compared, tmp_path):
    more = ["--methods", "dps,dds,fbp", "--set", "dps.scale=0.5", "--set", "eta=0.25"]
    assert main(words(series, tmp_path / "r", *more)) == 0
    chosen = compared["choices"]
    assert chosen["dps"].method.numbers["scale"] == 0.5
    assert chosen["dds"].method.numbers == {"eta": 0.25, "num_iters": 5}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--set", "scale=1"], "--set: expected a number of one of fbp, sart"),
        (["--methods", "dps", "--set", "dds.eta=1"], "number of one of dps, got"),
        (["--methods", "dps", "--set", "dps.eta=1"], "expected one of scale"),
        (["--methods", "fbp,dsp"], "did you mean 'dps'"),
        (["--methods", ","], "--methods: expected names, got none"),
        (["--weighting", "some"], "--weighting: expected one of"),
        (["--range", "x"], "--range: expected"),
    ],
)
def test_bad_input_is_one_line(series, compared, tmp_path, capsys, more, message):
    assert main(words(series, tmp_path / "r", *more)) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and len(captured.err.splitlines()) == 1
    assert message in captured.err
    assert "choices" not in compared and not (tmp_path / "r").exists()


def test_inputs_are_never_overwritten(series, compared, tmp_path, capsys):
    out = tmp_path / "r"
    assert main(words(series, out)) == 0
    assert main(words(series, out)) == 2
    assert "grid_compare.html" in capsys.readouterr().err
    assert main(words(series, out, "--overwrite")) == 0
