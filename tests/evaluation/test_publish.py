"""Tables of every kind from rows that were written by hand."""

import dataclasses
import json

import numpy as np
import pytest

from temdiff_jax.errors import InputError
from temdiff_jax.evaluation import plan, publish

METRICS = ("rmse", "psnr", "ssim", "ssim_xz", "e_out", "cone_ratio")
PLAN = plan.TablePlan(
    name="t",
    title="Title",
    kind="accuracy",
    volumes=tuple(
        plan.Volume(file=f"{n}.npz:v", name=n, tissue="T" if n < "c" else "U")
        for n in "abc"
    ),
    cases=("10/1", "60/3"),
    runs=(plan.Run(name="tv"), plan.Run(name="mean", against="tv")),
    regimes=(plan.PERFECT, plan.imperfect(1.0)),
)


def rows(config, gain=1.0, shift=0.0):
    found = []
    for number, volume in enumerate(config.volumes):
        for case in config.cases:
            for run in config.runs:
                value = 10.0 + number + gain * (run.name == "mean") - shift
                scores = dict.fromkeys(METRICS, value)
                found.append(
                    {
                        "protocol": "volume-v1",
                        "volume": f"{volume.name}-96",
                        "specimen": volume.name,
                        "tissue": volume.tissue,
                        "case": case,
                        "method": run.name,
                        "run": run.name,
                        "seconds": 2.0,
                        "calls": 8 if run.name == "mean" else 0,
                        "failed": None,
                        "depth_scale": 1.1,
                        "depth_shift": 0.0,
                        "device": "cpu",
                        "settings": {"method": run.name},
                        **dict.fromkeys(("raw", "matched", "gauge"), scores),
                    }
                )
    return found


def published(kind, **changes):
    config = dataclasses.replace(PLAN, kind=kind, **changes)
    here = {"perfect": rows(config), "imperfect": rows(config, shift=0.5)}
    table = publish.publish(config, here)
    json.dumps(table.content, allow_nan=False)
    assert table.markdown.startswith("# Title\n")
    for panel in table.panels:
        for line in panel.lines.values():
            assert len(line) == len(panel.places)
    return table


def test_accuracy_has_blocks_by_regime_and_tissue_and_pairs_over_all():
    table = published("accuracy", columns=("psnr", "ssim"))
    lines = table.markdown.splitlines()
    for regime in ("perfect", "imperfect"):
        for tissue in "TU":
            assert f"**PSNR, {tissue}, {regime} series**" in lines
        assert f"**mean against each, all tissues, {regime} series**" in lines
    assert "| tv | 10.50 ± 0.50 | 10.50 ± 0.50 | 0 | 2 |" in lines
    assert "| mean | 13.00 | 13.00 | 8 | 2 |" in lines  # one specimen of tissue U
    assert "| tv | +1.00 [+1.00, +1.00] p=0.25 | +1.00 [+1.00, +1.00] p=0.25 |" in lines
    # Plots of the first tissue: two regimes, two scores.
    assert len(table.panels) == 4
    assert table.panels[0].lines["mean"][0] == (11.5, pytest.approx(0.5))
    assert table.content["provenance"]["devices"] == ["cpu"]


def test_hard_has_one_block_a_case_with_all_scores():
    table = published("hard", columns=("ssim_xz", "depth_scale_error", "cone_ratio"))
    assert "**60/3, T, perfect series**" in table.markdown
    assert (
        "| method | 60/3 SSIM xz | 60/3 depth scale error | 60/3 cone ratio |"
        in table.markdown
    )
    assert "| tv | 10.500 ± 0.500 | 0.100 ± 0.000 | 10.500 ± 0.500 |" in table.markdown


def test_misalignment_has_one_column_a_shift():
    table = published("misalignment", columns=("rmse",))
    assert "| method | 0 px RMSE | 1 px RMSE |" in table.markdown
    assert "| tv | 11.0000 ± 0.5774 | 10.5000 ± 0.5774 |" in table.markdown
    assert "columns are residual shift" in table.markdown
    assert [panel.places for panel in table.panels] == [("0 px", "1 px")] * 2


def test_ablation_is_in_differences():
    table = published("ablation", columns=("psnr",))
    assert "| tv | – | 11.00 | 11.00 |" in table.markdown
    assert "| mean | – | +1.00 ± 0.00 | +1.00 ± 0.00 |" in table.markdown
    assert table.panels[0].bars and table.panels[0].places == ("mean",)


def test_cost_has_one_line_a_run_and_bars_of_each_case():
    measured = [
        {
            "method": method,
            "case": case,
            "shape": [8, 8, 8],
            "first_seconds": 3.0,
            "seconds": [1.0, 2.0],
            "calls": 0,
            "pairs": 1,
            "peak_bytes": 2**20,
            "device_peak_bytes": None,
            "device": "cpu",
        }
        for case in PLAN.cases
        for method in ("tv", "mean")
    ]
    config = dataclasses.replace(PLAN, kind="cost")
    table = publish.publish(config, {"cost": measured})
    assert table.markdown.count("| 8 x 8 x 8 | 1.5 | 3 |") == 4
    assert [panel.places for panel in table.panels] == [("tv", "mean")] * 2
    assert np.isclose(table.panels[0].lines[""][0][0], 1.5)


@pytest.mark.parametrize("kind", plan.KINDS)
def test_nothing_to_tabulate_is_said(kind):
    with pytest.raises(InputError, match="table is empty"):
        publish.publish(dataclasses.replace(PLAN, kind=kind), {"perfect": []})
