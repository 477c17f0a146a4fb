"""Specimens are the unit: pooling blocks sharpens a mean and adds no specimen."""

import json

import numpy as np
import pytest

from temdiff_jax.errors import InputError
from temdiff_jax.evaluation import comparisons


def row(method, volume, psnr, *, specimen=None, case="10/1", run=None, failed=None):
    scores = {"psnr": psnr, "rmse": 10 ** (-psnr / 20), "membrane_width": psnr / 10}
    base = {
        "protocol": "volume-v1",
        "volume": volume,
        "case": case,
        "method": method,
        "run": run or method,
        "seconds": 1.0,
        "failed": failed,
    }
    if specimen:
        base["specimen"] = specimen
    return base if failed else base | dict.fromkeys(("raw", "matched", "gauge"), scores)


def rows_of(method, values, **options):
    return [row(method, f"v{i}", value, **options) for i, value in enumerate(values)]


def named(values):
    return {f"s{i}": float(v) for i, v in enumerate(values)}


def test_probability_of_equal_signs_is_exact():
    for n in (1, 2, 5, 6, 10):
        assert comparisons.sign_flip_p(np.ones(n)) == pytest.approx(2.0 ** (1 - n))
    # Signs of (3, 1): sums 4, 2, -2, -4; as large as 2 in size: all of them.
    assert comparisons.sign_flip_p([3.0, -1.0]) == 1.0
    assert comparisons.sign_flip_p([3.0, 1.0]) == 0.5
    assert comparisons.sign_flip_p(np.zeros(5)) == 1.0


def test_probability_of_many_numbers_is_drawn_and_close_to_the_exact():
    values = np.random.default_rng(0).normal(0.3, 1.0, 14)
    exact = comparisons.sign_flip_p(values)
    more = comparisons.sign_flip_p(np.append(values, 1e-9))
    assert more == pytest.approx(exact, abs=0.02)
    assert comparisons.sign_flip_p(np.ones(40)) == pytest.approx(1 / 20_001)


def test_probability_is_uniform_when_there_is_no_difference():
    rng = np.random.default_rng(1)
    found = [comparisons.sign_flip_p(rng.normal(size=8)) for _ in range(400)]
    for level in (0.1, 0.3, 0.5):
        share = np.mean(np.array(found) <= level)
        assert share == pytest.approx(level, abs=3 * np.sqrt(level / 400))


@pytest.mark.parametrize(("n", "decided"), [(5, False), (6, True)])
def test_few_specimens_are_never_decided(n, decided):
    found = comparisons.compare(named(np.arange(n) + 1.0), named(np.arange(n)))
    assert found.low == found.high == found.mean == 1.0
    assert (found.n, found.decided) == (n, decided)
    assert found.p == pytest.approx(2.0 ** (1 - n))


def test_difference_is_over_shared_specimens():
    ours, other = named([2.0, 4.0, 9.0]), {"s0": 1.0, "s1": 1.0, "x": 7.0}
    found = comparisons.compare(ours, other)
    assert (found.mean, found.n) == (2.0, 2)
    assert found.standard_error == pytest.approx(np.std([1, 3], ddof=1) / np.sqrt(2))
    alone = comparisons.compare({"s0": 2.0}, other)
    assert (alone.mean, alone.low, alone.p, alone.decided) == (1.0, None, 1.0, False)
    assert comparisons.compare({"y": 1.0}, other) is None


def test_blocks_of_a_specimen_count_once():
    rows = []
    gains = {"a": [1.0, 3.0], "b": [0.0, 1.0], "c": [4.0, 2.0]}
    for specimen, values in gains.items():
        for block, gain in enumerate(values):
            name = f"{specimen}{block}"
            rows.append(row("tv", name, 20.0 + block, specimen=specimen))
            rows.append(row("ours", name, 20.0 + block + gain, specimen=specimen))
    text, content = comparisons.pair_table(rows, "ours", "psnr")
    (cell,) = content["cells"]
    assert cell["n"] == 3 and cell["mean"] == pytest.approx((2 + 0.5 + 3) / 3)
    assert cell["p"] == 0.25 and not cell["decided"]
    assert "| tv | +1.83 [" in text and "p=0.25 |" in text
    json.dumps(content, allow_nan=False)


def test_pair_table_needs_its_method():
    with pytest.raises(InputError, match=r"expected one of \['tv'\], got 'ours'"):
        comparisons.pair_table(rows_of("tv", [20.0, 21.0]), "ours", "psnr")


def test_sure_difference_is_bold_in_both_tables():
    values = 20 + np.arange(6.0)
    rows = rows_of("ours", values + 1) + rows_of("tv", values)
    assert (
        "**+1.00 [+1.00, +1.00] p=0.031**"
        in comparisons.pair_table(rows, "ours", "psnr")[0]
    )
    text, _ = comparisons.ablation_table(rows, {"ours": "tv"}, ("psnr",))
    assert "| ours | – | **+1.00 ± 0.00** |" in text


def test_ablation_pairs_estimates_of_any_number_of_samples():
    rows = []
    for run, shift, count in (("posterior", 0.0, 8), ("2 samples", -1.5, 2)):
        for label, extra in ((f"mean of {count}", 0.0), ("one sample", -3.0)):
            values = 20 + np.arange(4) + shift * (label != "one sample") + extra
            rows += rows_of(f"{run}, {label}", values, run=run)
    text, content = comparisons.ablation_table(
        rows, {"2 samples": "posterior"}, ("psnr",)
    )
    lines = text.splitlines()
    assert lines[0] == "| setting | estimate | 10/1 PSNR |"
    assert lines[2] == "| posterior | mean | 21.50 |"
    assert lines[3] == "| posterior | one sample | 18.50 |"
    assert lines[4] == "| 2 samples | mean | -1.50 ± 0.00 |"
    assert lines[5] == "| 2 samples | one sample | +0.00 ± 0.00 |"
    assert content["cells"][2]["against"] == "posterior"


def test_ratios_are_compared_by_their_distance_to_one():
    wide, near = rows_of("wide", [20.0, 20.0]), rows_of("narrow", [8.0, 8.0])
    _, content = comparisons.pair_table(wide + near, "narrow", "membrane_width")
    assert content["cells"][0]["mean"] == pytest.approx(0.2 - 1.0)


def test_ablation_shows_ratios_as_they_are():
    wide, narrow = rows_of("wide", [20.0, 20.0]), rows_of("narrow", [8.0, 8.0])
    _, content = comparisons.ablation_table(
        wide + narrow, {"narrow": "wide"}, ("membrane_width",)
    )
    first, second = content["cells"]
    assert first["mean"] == pytest.approx(2.0)
    assert second["mean"] == pytest.approx(-1.2)


def test_failed_block_takes_its_specimen_out():
    rows = rows_of("tv", [20.0, 20.0, 20.0], specimen="a")
    rows += rows_of("ours", [21.0, 21.0], specimen="a")
    rows.append(row("ours", "v2", 0.0, specimen="a", failed="diverged"))
    text, content = comparisons.pair_table(rows, "ours", "psnr")
    assert content["cells"] == [] and "| tv | – |" in text
