"""The tuned options are those of the published search, and the search runs."""

import importlib
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from temdiff_jax.baselines import shared

REPOSITORY = Path(__file__).resolve().parents[2]
PUBLISHED = REPOSITORY / "configs" / "baselines.json"
TUNED_METHODS = ["sart", "sirt", "tv"]

sart, sirt = (
    importlib.import_module(f"temdiff_jax.baselines.{name}")
    for name in ("sart", "sirt")
)


@pytest.fixture(scope="module")
def published() -> dict:
    return json.loads(PUBLISHED.read_text(encoding="utf-8"))


@pytest.mark.parametrize("method", TUNED_METHODS)
def test_tables_are_the_published_ones(method, published):
    module = importlib.import_module(f"temdiff_jax.baselines.{method}")
    assert [list(row) for row in module.TUNED] == published["tuned"][method]


def test_every_published_best_is_the_highest_score(published):
    for case in published["cases"].values():
        for record in case.values():
            best = max(float(np.mean(row["psnr_db"])) for row in record["scores"])
            assert record["psnr_db"] == pytest.approx(best, abs=2e-3)
            assert record["points_scored"] == len(record["scores"])
    assert all(
        "launch.studies.tune_baselines" in c for c in published["header"]["commands"]
    )


@pytest.mark.parametrize(
    ("angles", "expected"),
    [
        ([0.0], "a"),
        (np.linspace(-5, 5, 11), "a"),
        (np.linspace(-13, 13, 5), "a"),
        (np.linspace(-16, 16, 5), "b"),
        ([20.0, 80.0], "b"),
        (np.linspace(-90, 90, 9), "c"),
    ],
)
def test_the_row_of_the_nearest_half_range(angles, expected):
    # 5 and 40 meet at their geometric mean, 14.1 degrees.
    table = ((5.0, "a"), (40.0, "b"), (80.0, "c"))
    assert math.sqrt(5 * 40) == pytest.approx(14.14, abs=0.01)
    assert shared.tuned_row(table, angles) == (expected,)


@pytest.mark.slow
def test_none_takes_the_tuned_options(noisy):
    series = (noisy.tilts, noisy.angles)
    assert shared.half_range_deg(noisy.angles) == 20.0
    iterations = next(row[1] for row in sirt.TUNED if row[0] == 20.0)
    default = sirt.sirt(*series, lateral_margin=0)
    given = sirt.sirt(*series, lateral_margin=0, iterations=iterations)
    np.testing.assert_array_equal(default, given)
    lam, sweeps = next(row[1:] for row in sart.TUNED if row[0] == 20.0)
    default = sart.sart(*series, lateral_margin=0)
    given = sart.sart(*series, lateral_margin=0, lam=lam, sweeps=sweeps)
    np.testing.assert_array_equal(default, given)


@pytest.mark.slow
@pytest.mark.multiprocess
def test_the_search_runs_and_goes_on(tmp_path):
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 255, (5, 3, 5)).astype(np.uint8)
    volume = np.kron(blocks, np.ones((4, 4, 4), np.uint8))
    np.savez(tmp_path / "block.npz", volume=volume)

    def search(*words):
        command = ["--volumes=*.npz", "--crop=16", "--height=8", "--cases=40/10"]
        done = subprocess.run(
            [sys.executable, "-m", "launch.studies.tune_baselines", *command, *words],
            cwd=tmp_path,
            env={"PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, done.stderr
        return json.loads((tmp_path / "configs" / "baselines.json").read_text())

    first = search("--methods=sirt,fbp")
    record = first["cases"]["40/10"]["sirt"]
    assert 2 < record["points_scored"] <= record["points_in_grid"]
    assert first["tuned"]["sirt"] == [[20.0, record["best"]["iterations"]]]
    second = search("--methods=sirt", "--resume", "--exhaustive")
    again = second["cases"]["40/10"]["sirt"]
    assert again["points_scored"] == again["points_in_grid"]
    assert again["psnr_db"] >= record["psnr_db"]
    assert second["cases"]["40/10"]["fbp"] == first["cases"]["40/10"]["fbp"]
    assert len(second["header"]["commands"]) == 2
