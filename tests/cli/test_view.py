import ast
import shlex

import numpy as np
import pytest

from temdiff_jax.cli.main import main
from temdiff_jax.io import viewers, write


@pytest.fixture
def result(tmp_path):
    """A mean and a standard deviation with a few outliers, and their record."""
    volume = np.random.default_rng(0).uniform(2.0, 3.0, (4, 20, 30)).astype(np.float32)
    volume[0, 0, 0] = 1000.0
    for kind in ("temdiff", "std"):
        write.write_mrc(tmp_path / f"a b_{kind}.mrc", volume, 12.5)
    names = ["a b_temdiff.mrc", "a b_std.mrc"]
    write.write_json(tmp_path / "a b.temdiff.json", {"outputs": names})
    return tmp_path


@pytest.mark.parametrize("name", ["a b_temdiff.mrc", "a b.temdiff.json"])
def test_prints_lines_with_scale_contrast_and_spread(result, capsys, name):
    assert main(["view", str(result / name)]) == 0
    napari, imod = capsys.readouterr().out.splitlines()
    command, option, source = shlex.split(napari)
    assert (command, option) == ("python", "-c")
    ast.parse(source)
    assert source.count("add_image(") == 2
    assert source.count("scale=(12.5, 12.5, 12.5)") == 2
    words = shlex.split(imod)
    low, high = (float(word) for word in words[2].split(","))
    assert words[:2] == ["3dmod", "-s"]
    assert 2.0 <= low < 2.02 and 2.98 < high <= 3.0
    assert words[3:] == [str(result / "a b_temdiff.mrc"), str(result / "a b_std.mrc")]


def test_a_volume_without_spread_is_shown_alone(result, capsys):
    (result / "a b_std.mrc").unlink()
    assert main(["view", str(result / "a b_temdiff.mrc")]) == 0
    napari, imod = capsys.readouterr().out.splitlines()
    assert napari.count("add_image(") == 1 and "_std" not in imod


def test_what_cannot_be_shown_is_one_line(result, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(result))
    volume = str(result / "a b_temdiff.mrc")
    for words, said in (
        ([volume, "--viewer", "3dmod"], "expected 3dmod on the PATH"),
        ([volume, "--viewer", "paint"], "--viewer: expected one of napari, 3dmod"),
        ([str(result / "none.mrc")], "expected a volume, found none"),
        ([str(result / "none.json")], "expected the record of a run"),
    ):
        assert main(["view", *words]) == 2
        assert said in capsys.readouterr().err


def test_a_constant_volume_has_a_range():
    assert viewers.limits(np.full((2, 2, 2), 3.0)) == (3.0, 4.0)
