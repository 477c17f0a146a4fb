"""`reconstruct` end to end with a tiny prior of random weights.

Random weights make no good volume; what is checked here holds for any weights.
"""

import dataclasses
import inspect
import logging

import jax
import numpy as np
import pytest

from temdiff_jax import baselines, layout
from temdiff_jax.diffusion import algebra, chunked, methods
from temdiff_jax.errors import InputError
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.priors import Prior, load_prior
from temdiff_jax.projector import project
from temdiff_jax.reconstruction import api, plan, reconstruct, sample
from temdiff_jax.reconstruction.settings import Settings
from temdiff_jax.series import weighting
from temdiff_jax.series.preparation import SeriesOptions

ANGLES = np.array([-12.0, -5.0, 0.0, 6.0, 13.0])
NUM, HEIGHT, WIDTH, THICKNESS = 5, 8, 12, 8
SAMPLES, STEPS, GROUP = 4, 4, 2
SETTINGS = Settings(window=32, cg_iters=3, mean_cg_iters=4)


def make_tilts() -> np.ndarray:
    """Noisy tilts [n_tilts, y, x] of a slab with two dense grains."""
    rng = np.random.default_rng(0)
    volume = 1.0 + 0.1 * rng.normal(size=(THICKNESS, HEIGHT, WIDTH))
    volume[2:4, 2:5, 3:5] += 2.0
    volume[5:7, 4:6, 8:10] += 3.0
    geometry = TiltGeometry.from_degrees(
        ANGLES, thickness=THICKNESS, width=WIDTH, height=HEIGHT, lateral_margin=0
    )
    tilts = layout.tilts_from_core(
        project(layout.volume_to_core(np.float32(volume)), geometry)
    )
    return np.asarray(tilts + 0.1 * rng.normal(size=tilts.shape), np.float32)


TILTS = make_tilts()


@pytest.fixture(scope="module", autouse=True)
def two_at_a_time():
    """Samples come in groups, as they do for volumes of a usual size."""
    with pytest.MonkeyPatch.context() as patch:
        voxels = GROUP * THICKNESS * HEIGHT * WIDTH
        patch.setattr(sample, "BATCH_VOXELS", voxels + 1)
        yield


@pytest.fixture
def run(prior):
    def call(tilts=TILTS, angles=ANGLES, **options):
        settings = {
            "thickness": THICKNESS,
            "prior": prior,
            "num_samples": SAMPLES,
            "num_steps": STEPS,
            "contrast": "bright",
            "weighting": "robust",  # compiles sooner than the default
            "settings": SETTINGS,
        }
        return reconstruct(tilts, angles, **settings | options)

    return call


@pytest.fixture(scope="module")
def result(prior):
    return reconstruct(
        TILTS,
        ANGLES,
        thickness=THICKNESS,
        prior=prior,
        num_samples=SAMPLES,
        num_steps=STEPS,
        contrast="bright",
        weighting="robust",
        settings=SETTINGS,
        keep_samples=True,
        voxel_size_angstrom=20.0,
    )


def volumes(result) -> dict[str, np.ndarray]:
    return {"mean": result.mean, "std": result.std, "tikhonov": result.tikhonov}


def test_shapes_dtypes_and_finite_values(result):
    shape = (THICKNESS, HEIGHT, WIDTH)
    for name, volume in volumes(result).items():
        assert volume.shape == shape and volume.dtype == np.float32, name
        assert np.all(np.isfinite(volume)), name
    assert result.samples.shape == (SAMPLES, *shape)
    assert result.reprojection.shape == result.residual.shape == TILTS.shape
    assert result.chi2.shape == result.weights.shape == (NUM,)
    assert np.all(result.chi2 > 0) and np.all(result.weights > 0)


def test_spread_is_that_of_the_samples(result):
    spread = result.samples.std(axis=0, ddof=1)
    np.testing.assert_allclose(result.std, spread, rtol=1e-4, atol=1e-6)


def test_samples_differ_within_a_group_and_between_groups(result):
    first, second, third, _ = result.samples
    assert np.max(np.abs(first - second)) > 1e-4
    assert np.max(np.abs(first - third)) > 1e-4


def test_residual_is_projected_minus_measured(result):
    np.testing.assert_allclose(
        result.reprojection - result.residual, TILTS, rtol=1e-5, atol=1e-5
    )


def test_chi2_is_of_the_pixels_that_count_and_before_the_factors(run):
    tilts = TILTS.copy()
    tilts[2, 3, 6] += 30.0  # a hot pixel
    result = run(tilts)
    geometry = TiltGeometry.from_degrees(
        ANGLES, thickness=THICKNESS, width=WIDTH, height=HEIGHT
    )
    masks = weighting.find_masks(layout.tilts_to_core(tilts), geometry)
    keep = np.asarray(layout.tilts_from_core(masks.keep))
    share = keep.mean(axis=(1, 2))
    assert keep[2, 3, 6] == 0 and np.sum(keep == 0) == 1
    factors = np.asarray(result.provenance["weighting"]["factors"])
    inverse_variance = result.weights / (factors * share)
    chi2 = inverse_variance * np.mean(keep * result.residual**2, axis=(1, 2)) / share
    np.testing.assert_allclose(result.chi2, chi2, rtol=1e-3)


def test_provenance_is_plain_and_complete(result):
    record = result.provenance
    assert record["angles_deg"] == ANGLES.tolist()
    assert record["voxel_size_angstrom"] == 20.0
    assert record["prior"]["name"] == "tiny" and len(record["prior"]["sha256"]) == 64
    assert record["range_seen_in_training"] == "inside"
    assert (record["num_samples"], record["num_steps"]) == (SAMPLES, STEPS)
    assert record["settings"]["window"] == 32 and record["settings"]["eta"] == 0.85
    assert record["key"] == [0, 0] and record["thickness"] == THICKNESS


def test_result_is_a_function_of_the_key(result, run):
    same = run(key=jax.random.key(0))
    np.testing.assert_array_equal(same.mean, result.mean)
    assert same.samples is None
    other = run(key=1)
    assert np.max(np.abs(other.std - result.std)) > 1e-4
    np.testing.assert_array_equal(other.mean, result.mean)  # draws nothing
    np.testing.assert_array_equal(other.tikhonov, result.tikhonov)


def test_negated_tilts_with_dark_contrast_give_the_negated_volume(result, run):
    dark = run(-TILTS, contrast="dark")
    np.testing.assert_array_equal(dark.mean, -result.mean)
    np.testing.assert_array_equal(dark.std, result.std)
    np.testing.assert_array_equal(dark.residual, -result.residual)
    np.testing.assert_array_equal(dark.chi2, result.chi2)


def test_units_of_the_tilts_are_units_of_the_volume(result, run):
    scaled = run(10 * TILTS)
    scale = np.abs(result.mean).max()
    for name, volume in volumes(scaled).items():
        expected = volumes(result)[name]
        np.testing.assert_allclose(
            volume / 10, expected, atol=2e-3 * scale, err_msg=name
        )
    np.testing.assert_allclose(scaled.weights * 100, result.weights, rtol=1e-3)


def test_order_of_the_tilts_does_not_matter(result, run):
    order = np.array([3, 0, 4, 2, 1])
    trust = np.array([1.0, 1.0, 1.0, 0.5, 1.0], np.float32)
    sorted_run = run(tilt_weights=trust)
    mixed = run(TILTS[order], ANGLES[order], tilt_weights=trust[order])
    np.testing.assert_array_equal(mixed.mean, sorted_run.mean)
    for name in ("residual", "reprojection", "chi2", "weights"):
        np.testing.assert_array_equal(
            getattr(mixed, name), getattr(sorted_run, name)[order], err_msg=name
        )
    assert mixed.provenance["angles_deg"] == ANGLES[order].tolist()
    assert mixed.provenance["tilt_weights"] == trust[order].tolist()


def test_tilt_of_weight_zero_is_not_fitted(result, run):
    spoilt = TILTS.copy()
    spoilt[1] = spoilt[1, ::-1, ::-1]
    trust = np.array([1, 0, 1, 1, 1])
    without, clean = run(spoilt, tilt_weights=trust), run(tilt_weights=trust)
    assert without.weights[1] == 0 and np.all(without.weights[[0, 2, 3, 4]] > 0)
    np.testing.assert_allclose(without.mean, clean.mean, rtol=1e-4, atol=1e-4)
    assert np.max(np.abs(clean.tikhonov - result.tikhonov)) > 1e-3


def test_robust_weighting_doubts_the_tilt_that_disagrees(run):
    spoilt = TILTS.copy()
    spoilt[3] = spoilt[3, ::-1, ::-1] * 1.5
    found = run(spoilt, method="mean", weighting="robust")
    record = found.provenance["weighting"]
    assert record["form"] == "robust" and len(record["factors"]) == NUM
    assert int(np.argmax(found.chi2)) == 3 and found.chi2[3] > 2
    assert int(np.argmin(record["factors"])) == 3
    assert int(np.argmin(found.weights)) == 3
    order = np.array([3, 0, 4, 2, 1])
    mixed = run(spoilt[order], ANGLES[order], method="mean", weighting="robust")
    np.testing.assert_array_equal(mixed.mean, found.mean)
    assert int(np.argmin(mixed.provenance["weighting"]["factors"])) == 0


@pytest.mark.slow
def test_default_weighting_tells_how_far_tilts_are_off(run):
    default = inspect.signature(reconstruct).parameters["weighting"].default
    record = run(method="mean", weighting=default).provenance["weighting"]
    assert record["form"] == "adaptive" and 0 <= record["misalignment_px"] < 2
    still = weighting.Spread(*[0.0] * 7)
    found = run(method="mean", weighting=default, spread=still)
    robust = run(method="mean", weighting="robust")
    assert found.provenance["weighting"]["misalignment_px"] == 0.0
    scale = np.abs(robust.mean).max()
    np.testing.assert_allclose(found.mean, robust.mean, atol=2e-3 * scale)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["diagonal", "low-rank"])
def test_weighting_for_misalignment_reaches_mean_and_samples(run, result, form):
    still = weighting.Spread(*[0.0] * 7)
    found = run(weighting=form, keep_samples=True)
    same = run(weighting=form, spread=still)
    robust = run(weighting="robust")
    assert np.all(np.isfinite(found.mean)) and np.all(np.isfinite(found.samples))
    assert np.max(np.abs(found.mean - result.mean)) > 1e-3
    assert np.all(found.chi2 > 0) and np.all(found.weights > 0)
    # A misalignment known to be nothing leaves the masks and the factors.
    scale = np.abs(result.mean).max()
    np.testing.assert_allclose(same.mean, robust.mean, atol=2e-3 * scale)


def test_one_call_estimate_has_no_spread(run, result):
    calls = []
    once = run(method="mean", on_progress=lambda *call: calls.append(call))
    assert once.mean.shape == result.mean.shape and np.all(np.isfinite(once.mean))
    assert once.std is None
    np.testing.assert_array_equal(once.tikhonov, result.tikhonov)
    assert [call[:2] for call in calls] == [(0, 2), (1, 2), (2, 2), (2, 2)]
    assert once.provenance["num_samples"] == 1


def test_default_is_the_call_with_the_spread_of_the_samples(run, result):
    once, drawn = run(method="mean"), run(method="posterior", keep_samples=True)
    np.testing.assert_array_equal(result.mean, once.mean)
    np.testing.assert_array_equal(result.chi2, once.chi2)
    np.testing.assert_array_equal(result.std, drawn.std)
    np.testing.assert_allclose(drawn.mean, drawn.samples.mean(axis=0), rtol=1e-6)
    assert np.max(np.abs(drawn.mean - once.mean)) > 1e-3


def test_progress_runs_from_nothing_to_the_total(run):
    calls = []
    run(on_progress=lambda done, total, message: calls.append((done, total, message)))
    done = [call[0] for call in calls]
    assert done[0] == 0 and done == sorted(done)
    total = 2 + SAMPLES * STEPS
    assert {call[1] for call in calls} == {total}
    assert sorted(set(done)) == [0, 1, 2, 2 + GROUP * STEPS, total]
    said = [call[2] for call in calls]
    assert said[-2:] == ["sampling 4 of 4", "how far it can be relied on"]


def test_second_series_of_the_same_extents_compiles_nothing(run, result, caplog):
    del result  # the first call
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        run(
            TILTS + 1,
            ANGLES * 0.99,
            key=7,
            settings=dataclasses.replace(
                SETTINGS, eta=0.5, prior_precision=2.0, consistency_from=10.0
            ),
            tilt_weights=np.full(NUM, 0.5),
        )
    compiled = [r.message for r in caplog.records if "XLA compilation" in r.message]
    assert not compiled


@pytest.mark.parametrize(
    ("number", "most", "expected"), [(8, 3, 2), (8, 8, 8), (7, 4, 1), (6, 0, 1)]
)
def test_groups_are_of_equal_size(number, most, expected):
    assert sample.largest_divisor(number, most) == expected


def test_loaded_prior_is_taken_as_it_is(run, prior, result):
    loaded = load_prior(prior)
    assert isinstance(loaded, Prior)
    np.testing.assert_array_equal(run(prior=loaded).mean, result.mean)


NAN = TILTS.copy()
NAN[2, 1, 1] = np.nan
FLAT = TILTS.copy()
FLAT[1] = 3.0


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"angles": ANGLES[:4]}, "one angle per tilt"),
        ({"angles": np.full(NUM, np.nan)}, "angle"),
        ({"angles": ANGLES * 10}, "angle"),
        ({"tilts": NAN}, "NaN or Inf in 1 of"),
        ({"tilts": FLAT}, "the same value in every pixel"),
        ({"tilts": TILTS[0]}, "n_tilts, y, x"),
        ({"tilts": TILTS[:, :2]}, "at least 3 x 3 pixels"),
        ({"thickness": 0}, "thickness: expected a whole number"),
        ({"thickness": 2.5}, "thickness: expected a whole number"),
        ({"method": "dsp"}, r"expected one of default, mean, .*did you mean 'dps'"),
        ({"weighting": "most"}, "weighting: expected one of"),
        ({"prior": "defualt"}, "prior: expected one of .*'defualt'"),
        ({"num_samples": 0}, "num_samples"),
        ({"num_steps": 1}, "num_steps"),
        ({"key": "seven"}, "key: expected"),
        ({"key": jax.numpy.zeros(2)}, "key: expected"),
        ({"log": "maybe"}, "log: expected one of"),
        ({"contrast": "loud"}, "contrast: expected one of"),
        ({"tilt_weights": np.ones(3)}, "tilt_weights: expected 5 numbers"),
        ({"tilt_weights": -np.ones(5)}, "tilt_weights"),
        ({"tilt_weights": np.zeros(5)}, "not all zero"),
        ({"voxel_size_angstrom": -1.0}, "voxel_size_angstrom"),
        ({"settings": Settings(window=30)}, "multiple of 4 above 16"),
        ({"settings": Settings(window=16)}, "multiple of 4 above 16"),
        ({"settings": Settings(lateral=18)}, "settings.lateral: expected a"),
    ],
)
def test_bad_input_is_one_line(run, change, expected):
    with pytest.raises(InputError, match=expected) as caught:
        run(**change)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_solver_is_one_option_and_one_program(run):
    before = chunked._chunk._cache_size()
    few_noise = dataclasses.replace(SETTINGS, eta=0.1)
    first = run(method="posterior", solver="dpm++2m_sde")
    again = run(method="posterior", settings=few_noise)
    np.testing.assert_array_equal(first.mean, again.mean)  # eta is not its own
    other = run(method="posterior", solver="ddim")
    assert np.max(np.abs(first.mean - other.mean)) > 0
    less = run(method="posterior", solver="ddim", settings=few_noise)
    assert np.max(np.abs(less.mean - other.mean)) > 0
    assert chunked._chunk._cache_size() <= before + 2


def double_pull(data):
    """A rule of a user: twice the gradient step."""
    step = methods.RULES["gradient"](data)
    return algebra.chain(step, step)


def test_a_rule_changes_volume_and_samples(run, result):
    ours = run(rule=double_pull, keep_samples=True)
    assert np.max(np.abs(ours.mean - result.mean)) > 1e-3
    assert np.max(np.abs(ours.samples - result.samples)) > 1e-3
    assert ours.provenance["settings"]["rule"] == "double_pull"
    named = run(rule="none", method="mean")
    assert np.max(np.abs(named.mean - ours.mean)) > 1e-3


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"rule": "sirtt"}, "rule: expected one of gradient, .*did you mean 'sirt'"),
        ({"solver": "eulr"}, "solver: expected one of .*did you mean 'euler'"),
        ({"schedule": "karas"}, "schedule: expected one of .*did you mean 'karras'"),
        ({"rule": "sirt", "method": "fbp"}, "rule: expected a method that takes one"),
        ({"rule": "sirt", "method": "dds"}, "got dds, which has its own"),
        ({"solver": "heun", "method": "mean"}, "solver: expected a method that takes"),
        ({"method": "dolce", "prior": "default"}, "weights of its own for dolce"),
        ({"method": "dolce"}, "expected a conditional network of volumes for dolce"),
    ],
)
def test_unknown_or_misplaced_choices_are_one_line(run, change, expected):
    with pytest.raises(InputError, match=expected) as caught:
        run(**change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["fbp", "sirt", "sart", "tv", "tikhonov"])
def test_classical_methods_are_those_of_baselines(run, name):
    found = run(method=name, weighting="off")
    expected = getattr(baselines, name)(TILTS, ANGLES, thickness=THICKNESS)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found.mean, expected, atol=1e-4 * scale)
    assert not np.any(found.std) and found.samples is None
    assert found.provenance["method"] == name


def test_samples_of_a_problem_are_those_of_reconstruct(prior, result):
    options = SeriesOptions(THICKNESS, contrast="bright", weighting="robust")
    problem = api.make_problem(TILTS, ANGLES, options)
    loaded = load_prior(prior)
    few = dataclasses.replace(SETTINGS, num_samples=SAMPLES, num_steps=STEPS)
    sampling = sample.residual_sampling(loaded, few)
    wide = sample.sample(jax.random.key(0), loaded, problem, sampling)
    assert wide.shape == (SAMPLES, *problem.geometry.volume_shape)
    volumes = layout.volume_from_core(problem.to_input_units(wide))
    np.testing.assert_allclose(volumes, result.samples, rtol=1e-4, atol=1e-4)


def test_one_series_by_several_methods_is_checked_once(prior, result):
    calls = []
    found = api.compare(
        TILTS,
        ANGLES,
        {"a": plan.choose("mean", prior, SETTINGS), "b": plan.choose("tikhonov")},
        options=SeriesOptions(THICKNESS, contrast="bright", weighting="robust"),
        on_progress=lambda *call: calls.append(call[:2]),
    )
    np.testing.assert_array_equal(found["a"].mean, result.mean)
    np.testing.assert_array_equal(found["b"].mean, result.tikhonov)
    assert calls[0] == (0, 3) and calls[-1] == (3, 3)
