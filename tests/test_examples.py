"""The examples run as a reader would run them, at a tiny size."""

import runpy
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def test_new_sampler_prints_its_row(capsys):
    source = EXAMPLES / "new_sampler.py"
    names = runpy.run_path(str(source))
    row = names["main"](count=256)
    assert capsys.readouterr().out.endswith(row + "\n")
    name, calls, error, spread, unseen_error, unseen_spread = row.strip("| ").split(
        " | "
    )
    assert (name, calls) == ("mine", "50")
    assert float(error) < 0.5 and float(unseen_error) < 0.5
    for text in (spread, unseen_spread):
        low, high = map(float, text.split(" - "))
        assert 0.5 < low <= high < 1.5
    body = source.read_text(encoding="utf-8").partition("def my_sampler")[2]
    assert len(body.partition("def main")[0].splitlines()) < 40
