"""What methods cost: counted by arithmetic, tabulated from measured runs."""

import json

from temdiff_jax.evaluation import costs, runner
from temdiff_jax.inverse.tikhonov import settings_for
from temdiff_jax.reconstruction import posterior, rivals

ANGLES = [-5.0, 0.0, 5.0]


def test_every_baseline_has_its_pairs_and_no_network():
    assert set(costs.BASELINE_PAIRS) == set(runner.BASELINES)
    for name in runner.BASELINES:
        assert costs.network_calls(name) == 0
        assert costs.projector_pairs(name)(ANGLES) >= 1


def test_counts_follow_the_settings():
    before = settings_for(ANGLES).num_iters + 1
    assert costs.network_calls("posterior", samples=3, steps=7) == 21
    pairs = costs.projector_pairs("posterior", samples=3, steps=7, cg_iters=4)
    assert pairs(ANGLES) == before + 3 * 7 * 5
    assert costs.projector_pairs("mean", mean_cg_iters=20)(ANGLES) == before + 21
    assert costs.network_calls("mean") == 8
    assert costs.network_calls("mean", mirrors=False) == 1
    assert costs.network_calls("regression") == 8
    assert costs.projector_pairs("regression")(ANGLES) == before + 21
    assert costs.network_calls("rival") is None
    assert costs.projector_pairs("rival") is None


def test_rivals_add_the_pairs_of_their_condition():
    own = runner.Rival(rivals.DDS, "default", 0)
    before = settings_for(ANGLES).num_iters + 1
    assert own.calls == 50 and own.pairs(ANGLES) == before + 50 * 6
    assert runner.Rival(rivals.DOLCE, "default", 0).pairs(ANGLES) is None


def test_defaults_are_those_of_the_sampler():
    options = posterior.Options()
    given = {"cg_iters": options.cg_iters, "mean_cg_iters": options.mean_cg_iters}
    for kind in ("mean", "posterior"):
        count = costs.projector_pairs(kind, **given)(ANGLES)
        assert costs.projector_pairs(kind)(ANGLES) == count
    assert options.mirrors


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
