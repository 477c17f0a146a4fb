"""The protocol as code: cases, scores of known errors, and evaluations that resume."""

import json

import numpy as np
import pytest
from scipy import ndimage

from temdiff_jax import errors
from temdiff_jax.evaluation import protocol, quantities, results

SHAPE = (16, 14, 18)


def block(seed):
    noise = np.random.default_rng(seed).normal(size=SHAPE)
    smooth = ndimage.gaussian_filter(noise, 1.2)
    return ((smooth - smooth.min()) / np.ptp(smooth)).astype(np.float32)


class Bench:
    """Volumes, a simulator and methods that count how often they are called."""

    def __init__(self):
        self.volumes = {"a": block(0), "b": block(1)}
        self.calls = []
        self.seeds = []
        self.truth = None

    def simulate(self, truth, angles_deg, seed):
        self.seeds.append(seed)
        self.truth = truth
        noise = np.random.default_rng(seed).normal(size=(len(angles_deg), *SHAPE[1:]))
        return 0.05 * noise + truth.sum(0)

    def flat(self, tilts, angles_deg, thickness):
        self.calls.append("flat")
        return np.repeat(tilts.mean(0)[None] / thickness, thickness, axis=0)

    def pair(self, tilts, angles_deg, thickness):
        self.calls.append("pair")
        mean = np.repeat(tilts.mean(0)[None] / thickness, thickness, axis=0)
        return {"mean": mean, "sample": mean + 0.1 * self.truth}

    def run(self, **options):
        methods = {"flat": self.flat, "pair": self.pair}
        cases = [protocol.Case(5, 1), protocol.Case(4, 2)]
        return protocol.evaluate(self.volumes, cases, methods, self.simulate, **options)


def test_cases_are_the_six_schemes_of_the_protocol():
    names = [case.name for case in protocol.CASES]
    assert names == ["8/2", "10/1", "20/2", "40/2", "60/3", "120/3"]
    assert [case.num_tilts for case in protocol.CASES] == [5, 11, 11, 21, 21, 41]
    np.testing.assert_array_equal(protocol.Case(5, 1).angles_deg, np.arange(-5.0, 6.0))
    for case in protocol.CASES:
        assert case.angles_deg[0] == -case.half_range_deg
        assert case.angles_deg[-1] == case.half_range_deg
        assert protocol.Case.from_name(case.name) == case
    assert protocol.Case.from_name("5/0.5") == protocol.Case(2.5, 0.5)


@pytest.mark.parametrize(("half", "step"), [(5, 3), (0, 1), (5, 0), (5, -1), (95, 5)])
def test_impossible_cases_are_refused(half, step):
    with pytest.raises(errors.InputError, match="no tilt scheme: expected .* got"):
        protocol.Case(half, step)


@pytest.mark.parametrize("name", ["10", "10/1/2", "ten/one"])
def test_unreadable_case_names_are_refused(name):
    with pytest.raises(errors.InputError, match="case name is unreadable"):
        protocol.Case.from_name(name)


def test_affine_error_vanishes_in_the_matched_variant():
    truth = block(3)
    row = protocol.score(2.0 * truth - 0.5, truth, [-5.0, 0.0, 5.0])
    assert row["raw"]["rmse"] > 0.1
    assert row["matched"]["rmse"] == pytest.approx(0.0, abs=1e-7)
    assert row["matched"]["ssim"] == pytest.approx(1.0)
    assert row["raw"]["e_in"] == pytest.approx(1.0)
    assert (row["gain"], row["offset"]) == pytest.approx((0.5, 0.25))
    assert row["raw"]["fsc_half"] == 0.5


def test_depth_error_vanishes_in_the_gauge_variant_only():
    truth = block(4)
    moved = np.roll(truth, 2, axis=0)
    row = protocol.score(moved, truth, [-5.0, 0.0, 5.0])
    assert row["depth_shift"] == pytest.approx(2.0, abs=0.2)
    assert row["gauge"]["psnr"] > row["matched"]["psnr"] + 3


def test_blur_along_the_beam_hurts_the_wedge_and_the_xz_slices():
    truth = block(5)
    blurred = ndimage.gaussian_filter(truth, (2.0, 0, 0))
    matched = protocol.score(blurred, truth, protocol.Case(5, 1).angles_deg)["matched"]
    assert matched["e_out"] > 3 * matched["e_in"]
    assert matched["ssim_xy"] > matched["ssim_xz"]
    assert matched["ssim_xy"] > matched["ssim_yz"]


def test_cones_and_membranes_are_scored_in_every_variant():
    z, y, x = np.meshgrid(*(np.arange(n) for n in (40, 24, 24)), indexing="ij")
    noise = np.random.default_rng(0).normal(size=z.shape)
    truth = np.exp(-0.5 * ((z - 20 - 0.1 * x) / 1.5) ** 2) + 0.05 * noise
    blurred = ndimage.gaussian_filter1d(truth, 2.0, axis=0)
    noisy = 2.0 * blurred + 0.05 * np.random.default_rng(1).normal(size=z.shape) - 1.0
    row = protocol.score(noisy, truth, [-5.0, 0.0, 5.0])
    assert row["membrane"]["sites"] > 100
    assert row["membrane"]["width"] == pytest.approx(3.6, abs=0.3)
    raw, matched = row["raw"], row["matched"]
    # Sigma 2.5 instead of 1.5; the contrast falls with it and the gain restores some.
    assert matched["membrane_width"] == pytest.approx(2.5 / 1.5, rel=0.1)
    assert raw["membrane_width"] == pytest.approx(matched["membrane_width"])
    assert raw["membrane_depth"] == pytest.approx(2 * 0.6, rel=0.1)
    gain = matched["membrane_depth"] / raw["membrane_depth"]
    assert gain == pytest.approx(row["gain"])
    assert raw["cone_ratio"] == matched["cone_ratio"] < 0.8
    shells = row["shells"]
    assert len(shells["fsc_z"]) == len(shells["frequency"])
    assert np.nanmean(shells["fsc_x"][3:]) > np.nanmean(shells["fsc_z"][3:]) + 0.2
    perfect = protocol.score(truth, truth, [-5.0, 0.0, 5.0])["gauge"]
    ratios = [perfect[m] for m in ("cone_ratio", "membrane_width", "membrane_depth")]
    assert ratios == [pytest.approx(1.0)] * 3


def test_default_mask_is_what_all_views_see_and_its_share_is_reported():
    truth = block(6)
    angles = protocol.Case(60, 3).angles_deg
    row = protocol.score(truth + 0.1, truth, angles)
    assert 0.3 < row["fraction"] < 0.95
    whole = protocol.score(truth, truth, angles, mask=np.ones(SHAPE, bool))
    assert whole["fraction"] == 1.0
    corner = truth.copy()
    corner[-1, :, -1] = 9.0
    raw = protocol.score(corner, truth, angles)["raw"]
    assert raw["rmse"] == 0.0
    assert max(raw["e_in"], raw["e_out"]) < 1e-12


def test_seeds_differ_by_volume_and_case_and_nothing_else():
    seeds = {protocol.seed_for(0, v, c) for v in "abc" for c in ("10/1", "8/2")}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert protocol.seed_for(0, "a", "10/1") == protocol.seed_for(0, "a", "10/1")
    assert protocol.seed_for(0, "a", "10/1") != protocol.seed_for(1, "a", "10/1")
    # A fixed value: results files written today must stay resumable.
    assert protocol.seed_for(0, "a", "10/1") == 880678838


@pytest.mark.slow
def test_evaluate_scores_every_estimate_of_every_case():
    bench, seen = Bench(), []
    rows = bench.run(on_row=seen.append)
    assert [(r["volume"], r["case"], r["method"]) for r in rows] == [
        (volume, case, method)
        for volume in ("a", "b")
        for case in ("10/1", "8/2")
        for method in ("flat", "pair, mean", "pair, sample")
    ]
    assert seen == rows
    assert len(bench.seeds) == len(set(bench.seeds)) == 4
    for row in rows:
        assert row["protocol"] == "volume-v1"
        assert row["seconds"] > 0
        assert row["failed"] is None
        assert row["shape"] == list(SHAPE)
    # Same tilts, same arithmetic: both methods must score alike.
    assert rows[0]["raw"] == rows[1]["raw"]
    assert rows[2]["raw"] != rows[1]["raw"]


def test_spread_of_an_estimate_is_scored_in_units_of_the_truth():
    truth = block(0)
    off = np.random.default_rng(1).normal(size=SHAPE) * 0.1

    def method(tilts, angles_deg, thickness):
        # Units of their own: the match brings back a factor of 4.
        volume = 0.25 * (truth + off)
        std = np.full(SHAPE, 0.025)
        return {"mean": protocol.Estimate(volume, std, 4), "one sample": volume}

    mean, one = protocol.evaluate(
        {"a": truth},
        [protocol.Case(5, 1)],
        {"ours": method},
        lambda truth, angles_deg, seed: np.zeros((len(angles_deg), *SHAPE[1:])),
    )
    assert "tau" not in one
    assert mean["matched"] == one["matched"]
    assert mean["spread"] == pytest.approx(mean["gain"] * 0.025)
    expected = mean["matched"]["rmse"] / (mean["gain"] * 0.025 * np.sqrt(1.25))
    assert mean["tau"] == pytest.approx(expected)
    assert quantities.value(mean, "tau", "matched") == mean["tau"]
    assert quantities.value(one, "tau", "matched") is None


@pytest.mark.slow
def test_finished_file_runs_nothing_again(tmp_path):
    path = tmp_path / "deep" / "rows.jsonl"
    first = Bench().run(store=results.ResultStore(path))
    bench, seen = Bench(), []
    again = bench.run(store=results.ResultStore(path), on_row=seen.append)
    assert again == first
    assert (bench.calls, bench.seeds, seen) == ([], [], [])
    assert results.read_rows(path) == first


@pytest.mark.slow
def test_interrupted_file_continues_where_it_stopped(tmp_path):
    path = tmp_path / "rows.jsonl"
    expected = Bench().run(store=results.ResultStore(path))
    lines = path.read_text().splitlines(keepends=True)
    # Cut inside the second row of the last run, so one of its two rows is whole.
    path.write_text("".join(lines[:-1]) + lines[-1][:50])
    assert len(results.read_rows(path)) == len(lines) - 2
    bench, seen = Bench(), []
    rows = bench.run(store=results.ResultStore(path), on_row=seen.append)
    assert bench.calls == ["pair"]
    assert len(bench.seeds) == 1
    assert len(seen) == 2

    def timeless(rows):
        return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]

    assert timeless(rows) == timeless(expected)
    # The orphan of the interrupted run is still in the file and counts no more.
    assert results.read_rows(path) == rows
    assert Bench().run(store=results.ResultStore(path)) == rows


class Told:
    """A method that carries its costs and settings."""

    def __init__(self, bench, settings):
        self.function, self.settings, self.calls = bench.flat, settings, 0

    def pairs(self, angles_deg):
        return 2 * len(angles_deg)

    def __call__(self, *args):
        self.calls += 5
        return self.function(*args)


def test_costs_and_settings_of_a_method_are_in_its_rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    bench, case = Bench(), [protocol.Case(5, 1)]

    def run(settings, about=None):
        return protocol.evaluate(
            {"a": bench.volumes["a"]},
            case,
            {"told": Told(bench, settings), "flat": bench.flat},
            bench.simulate,
            store=results.ResultStore(path, about),
        )

    about = {"a": {"specimen": "s", "tissue": "t"}}
    told, flat = run({"steps": 8}, about)
    assert (told["calls"], told["pairs"], told["settings"]) == (5, 22, {"steps": 8})
    assert told["specimen"] == flat["specimen"] == "s" and flat["tissue"] == "t"
    assert not {"calls", "pairs", "settings"} & set(flat)
    assert run({"steps": 8}) == [told, flat]
    with pytest.raises(errors.InputError, match="expected settings {'steps': 9}"):
        run({"steps": 9})


def test_rows_before_a_crash_are_kept(tmp_path):
    path = tmp_path / "rows.jsonl"
    bench = Bench()
    bench.pair = lambda *args: 1 / 0
    with pytest.raises(ZeroDivisionError):
        bench.run(store=results.ResultStore(path))
    assert [row["method"] for row in results.read_rows(path)] == ["flat"]


@pytest.mark.slow
def test_file_of_another_evaluation_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    Bench().run(store=results.ResultStore(path))
    with pytest.raises(errors.InputError, match="another evaluation: expected seed"):
        Bench().run(store=results.ResultStore(path), seed=1)
    bench = Bench()
    bench.volumes["a"] = block(99)
    with pytest.raises(errors.InputError, match="truth_sha256"):
        bench.run(store=results.ResultStore(path))


def test_damaged_file_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"volume": "a"}\n{}\n')
    with pytest.raises(errors.InputError, match="damaged: expected .* line 1"):
        results.read_rows(path)


def test_diverged_result_is_a_failed_row(tmp_path):
    path = tmp_path / "rows.jsonl"
    bench = Bench()
    bench.flat = lambda tilts, angles_deg, thickness: np.full(SHAPE, np.nan)
    rows = bench.run(store=results.ResultStore(path))
    flat = [row for row in rows if row["run"] == "flat"]
    assert len(flat) == 4
    assert all("not finite" in row["failed"] for row in flat)
    assert all("raw" not in row for row in flat)


@pytest.mark.slow
def test_numbers_that_do_not_exist_are_null_in_strict_json(tmp_path):
    path = tmp_path / "rows.jsonl"
    bench = Bench()
    bench.flat = lambda tilts, angles_deg, thickness: bench.truth
    rows = bench.run(store=results.ResultStore(path))
    assert rows[0]["raw"]["psnr"] is None
    assert rows[0]["raw"]["rmse"] == 0.0

    def refuse(name):
        raise AssertionError(name)

    for line in path.read_text().splitlines():
        json.loads(line, parse_constant=refuse)


def test_wrong_shapes_are_refused():
    bench = Bench()
    bench.simulate = lambda truth, angles_deg, seed: np.zeros((3, *SHAPE[1:]))
    with pytest.raises(ValueError, match="simulated tilts do not fit"):
        bench.run()
    bench = Bench()
    bench.flat = lambda tilts, angles_deg, thickness: np.zeros((4, 4, 4))
    with pytest.raises(ValueError, match="disagree: expected equal shapes"):
        bench.run()
