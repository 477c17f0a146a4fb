"""Tables: arithmetic, the rule on bold values, failures, and rendering."""

import json

import numpy as np
import pytest

from temdiff_jax import errors
from temdiff_jax.evaluation import metrics, tables


def row(method, volume, psnr, *, case="10/1", failed=None, seconds=1.0, run=None):
    base = {
        "protocol": "volume-v1",
        "volume": volume,
        "case": case,
        "method": method,
        "run": run or method,
        "seconds": seconds,
        "failed": failed,
    }
    if failed is None:
        scores = {"psnr": psnr, "rmse": 10 ** (-psnr / 20), "ssim": psnr / 50}
        base |= {"raw": scores, "matched": scores, "gauge": scores}
    return base


def rows_of(method, values, **options):
    return [row(method, f"v{i}", value, **options) for i, value in enumerate(values)]


def cell(rows, method, metric="psnr", case="10/1"):
    return tables.t1(rows).cells[method, case, metric]


BASE = 20.0 + np.arange(8) * 0.7


def test_mean_and_standard_error():
    values = [20.0, 21.0, 24.0]
    got = cell(rows_of("sirt", values), "sirt")
    assert got.mean == pytest.approx(np.mean(values))
    expected = np.sqrt(np.sum((np.array(values) - np.mean(values)) ** 2) / 2 / 3)
    assert got.standard_error == pytest.approx(expected)
    assert (got.n, got.failed) == (3, 0)
    single = cell(rows_of("sirt", [20.0]), "sirt")
    assert single.standard_error is None


def test_bold_when_the_paired_difference_is_sure_though_the_spreads_overlap():
    sure = 0.1 + 0.02 * np.cos(np.arange(8))
    rows = rows_of("sirt", BASE) + rows_of("ours", BASE + sure)
    best, other = cell(rows, "ours"), cell(rows, "sirt")
    assert best.mean - other.mean < best.standard_error
    assert best.bold
    assert not other.bold
    assert best.against == "sirt"
    assert best.difference == pytest.approx(metrics.paired_bootstrap(sure, 0))
    # Lower is better for RMSE, so the same method wins there too.
    assert cell(rows, "ours", "rmse").bold
    assert cell(rows, "ours", "rmse").difference.high < 0


def test_no_bold_when_the_interval_holds_zero():
    unsure = np.array([0.5, -0.4, 0.3, -0.3, 0.6, -0.5, 0.2, 0.1])
    rows = rows_of("sirt", BASE) + rows_of("ours", BASE + unsure)
    best = cell(rows, "ours")
    assert best.mean > cell(rows, "sirt").mean
    assert not best.bold
    assert best.difference.low < 0 < best.difference.high


def test_bold_compares_with_the_next_not_with_the_worst():
    rows = (
        rows_of("mean value", BASE - 5)
        + rows_of("ours", BASE + 0.01 * np.array([1, -1, 1, -1, 1, -1, 1, 1]))
        + rows_of("tikhonov", BASE)
    )
    best = cell(rows, "ours")
    assert best.against == "tikhonov"
    assert not best.bold


def test_baseline_that_wins_is_bold_like_any_other():
    rows = rows_of("ours", BASE) + rows_of("tikhonov", BASE + 1)
    assert cell(rows, "tikhonov").bold
    assert not cell(rows, "ours").bold


@pytest.mark.parametrize(("n", "bold"), [(5, False), (6, True)])
def test_too_few_volumes_are_never_bold(n, bold):
    rows = rows_of("sirt", BASE[:n]) + rows_of("ours", BASE[:n] + 1)
    assert cell(rows, "ours").bold is bold


def test_single_method_and_exact_tie_are_not_bold():
    assert not cell(rows_of("sirt", BASE), "sirt").bold
    tie = rows_of("sirt", BASE) + rows_of("ours", BASE)
    assert not any(c.bold for c in tables.t1(tie).cells.values())


def test_failures_are_counted_shown_and_bar_from_bold():
    rows = rows_of("sirt", BASE) + rows_of("ours", BASE[:7] + 1)
    rows.append(row("ours", "v7", 0.0, failed="3 of 9 voxels are not finite"))
    table = tables.t1(rows)
    got = table.cells["ours", "10/1", "psnr"]
    assert (got.n, got.failed, got.bold) == (7, 1, False)
    assert "(1 failed)" in table.markdown()


def test_incomplete_method_shows_its_n_and_is_not_ranked():
    rows = rows_of("sirt", BASE) + rows_of("ours", BASE[:7] + 1)
    table = tables.t1(rows)
    assert not table.cells["ours", "10/1", "psnr"].bold
    assert table.markdown().count("(n=7)") == 3


def test_markdown_is_a_table_of_method_by_case_and_metric():
    rows = rows_of("a|b", BASE) + rows_of("ours", BASE + 1)
    rows += rows_of("ours", BASE + 2, case="8/2")
    text = tables.t1(rows).markdown(title="T1, perfect regime")
    lines = text.splitlines()
    assert lines[0] == "**T1, perfect regime**"
    assert lines[2] == (
        "| method | 10/1 RMSE | 10/1 PSNR | 10/1 SSIM "
        "| 8/2 RMSE | 8/2 PSNR | 8/2 SSIM |"
    )
    assert lines[3] == "|" + "---|" * 7
    assert lines[4].startswith("| a\\|b | 0.0")
    assert lines[4].endswith("| – | – | – |")
    error = np.std(BASE, ddof=1) / np.sqrt(8)
    assert f"**{BASE.mean() + 1:.2f} ± {error:.2f}**" in lines[5]
    caption = lines[-1]
    assert "volume-v1" in caption
    assert "over 8 volumes" in caption
    assert "PSNR higher" in caption
    assert "RMSE lower" in caption


def test_json_holds_the_same_numbers():
    rows = rows_of("sirt", BASE) + rows_of("ours", BASE + 1)
    table = tables.t1(rows, variant="raw")
    content = json.loads(tables.to_json(table))
    assert content["variant"] == "raw"
    assert content["methods"] == ["sirt", "ours"]
    (best,) = [c for c in content["cells"] if c["bold"] and c["metric"] == "psnr"]
    assert best["method"] == "ours"
    assert best["mean"] == pytest.approx(BASE.mean() + 1)
    assert best["difference"]["mean"] == pytest.approx(1.0)
    assert best["difference"]["n"] == 8


def test_values_that_do_not_exist_leave_the_mean():
    rows = rows_of("sirt", BASE)
    rows[0]["matched"] = rows[0]["matched"] | {"psnr": None}
    got = cell(rows, "sirt")
    assert got.n == 7
    assert got.mean == pytest.approx(BASE[1:].mean())


def test_seconds_take_the_median_once_per_run():
    rows = []
    for i, seconds in enumerate([9.0, 1.0, 2.0]):
        for label in ("ours, mean", "ours, sample"):
            rows.append(row(label, f"v{i}", 20.0, seconds=seconds, run="ours"))
    rows += rows_of("fbp", [20.0], case="8/2", seconds=0.125)
    text, content = tables.seconds_table(rows)
    assert "| method | 10/1 s | 8/2 s |" in text
    assert "| ours | 2 (9) | – |" in text
    assert "| fbp | – | 0.125 (0.125) |" in text
    assert content["cells"][0] == {
        "method": "ours",
        "case": "10/1",
        "median": 2.0,
        "max": 9.0,
        "n": 3,
    }


def test_volumes_of_one_specimen_are_one_number():
    rows = rows_of("sirt", [20.0, 22.0, 30.0])
    rows = [r | {"specimen": s} for r, s in zip(rows, "aab", strict=True)]
    table = tables.t1(rows)
    got = table.cells["sirt", "10/1", "psnr"]
    assert (got.n, got.mean) == (2, pytest.approx(25.5))
    assert got.standard_error == pytest.approx(4.5)
    assert "over 2 specimens (3 volumes)" in table.markdown()


def test_many_blocks_of_few_specimens_are_never_bold():
    rows = rows_of("sirt", BASE) + rows_of("ours", BASE + 1)
    few = [r | {"specimen": f"s{int(r['volume'][1:]) % 5}"} for r in rows]
    assert cell(rows, "ours").bold and not cell(few, "ours").bold
    assert cell(few, "ours").difference.n == 5


def test_calls_and_seconds_make_the_last_columns():
    rows = []
    for case, seconds in (("10/1", (1.0, 3.0, 90.0)), ("60/3", (7.0, 7.0, 8.0))):
        for i, wall in enumerate(seconds):
            rows.append(row("ours", f"v{i}", 20.0, case=case, seconds=wall))
            rows[-1]["calls"] = 64
    rows += rows_of("old", [20.0] * 3)
    table = tables.t1(rows, costs=True)
    lines = table.only("psnr").lines()
    assert lines[0].endswith("| 60/3 PSNR | network calls | seconds |")
    assert lines[2].endswith("| 64 | 3–7 |")
    assert lines[3].endswith("| – | 1 |")
    assert table.to_dict()["costs"]["ours"] == ("64", "3–7")
    assert "network calls" not in tables.t1(rows).markdown()


def test_scores_that_older_rows_lack_are_gaps():
    rows = rows_of("ours", BASE)
    table = tables.accuracy_table(rows, ("psnr", "cone_ratio"))
    assert table.cells["ours", "10/1", "cone_ratio"].mean is None
    assert table.lines()[-1].endswith("| – |")


def test_membranes_are_best_at_one_and_depth_errors_at_zero():
    rows = []
    for method, width, scale in (("wide", 1.5, 1.2), ("near", 0.9, 0.95)):
        for r in rows_of(method, BASE):
            r["matched"] = r["matched"] | {"membrane_width": width}
            rows.append(r | {"depth_scale": scale})
    table = tables.accuracy_table(rows, ("membrane_width", "depth_scale_error"))
    for metric, difference in (("membrane_width", -0.4), ("depth_scale_error", -0.15)):
        best = table.cells["near", "10/1", metric]
        assert best.bold and best.difference.mean == pytest.approx(difference)
    assert "membrane width nearer to 1" in table.caption()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tables.t1([]), "table is empty"),
        (lambda: tables.t1(rows_of("a", [1.0]) * 2), "do not form one table"),
        (lambda: tables.t1([row("a", "v", 1.0) | {"protocol": "x"}]), "got protocol x"),
        (lambda: tables.t1(rows_of("a", [1.0]), variant="best"), "undefined"),
        (lambda: tables.accuracy_table(rows_of("a", [1.0]), ["mse"]), "undefined"),
    ],
)
def test_unusable_rows_are_refused(call, message):
    with pytest.raises(errors.InputError, match=message):
        call()
