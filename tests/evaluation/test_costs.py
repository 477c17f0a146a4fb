"""What methods cost: counted by arithmetic, tabulated from measured runs."""

import json

from temdiff_jax.evaluation import costs


def test_table_shows_the_median_of_later_runs_and_gaps():
    row = {
        "method": "mean",
        "case": "10/1",
        "shape": [128, 96, 64],
        "first_seconds": 61.0,
        "seconds": [5.0, 4.0, 9.0],
        "calls": 8,
        "pairs": 62,
        "peak_bytes": 3 * 2**30,
        "device_peak_bytes": None,
        "device": "cpu",
    }
    text, content = costs.cost_table([row])
    assert (
        "| mean | 10/1 | 128 x 96 x 64 | 5 | 61 | 8 | 62 | 3072 | – | cpu |"
        in text.splitlines()
    )
    assert content["cells"][0]["median_seconds"] == 5.0
    json.dumps(content, allow_nan=False)
    no_later, _ = costs.cost_table([row | {"seconds": [], "calls": None}])
    assert "| 128 x 96 x 64 | – | 61 | – | 62 |" in no_later


def test_small_numbers_keep_three_digits():
    assert costs._number(0.12345) == "0.123"
    assert costs._number(2.0) == "2"
    assert costs._number(123.4) == "123"
    assert costs._number(None) == "–"
