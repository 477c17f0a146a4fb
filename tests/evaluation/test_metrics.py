"""Voxel-space scores against scikit-image and against closed forms."""

import numpy as np
import pytest
from scipy import ndimage
from skimage import metrics as oracle

from temdiff_jax.evaluation import metrics

SHAPE = (20, 24, 28)
SSIM_OPTIONS = {
    "gaussian_weights": True,
    "sigma": 1.5,
    "use_sample_covariance": False,
}


@pytest.fixture(params=[0, 1, 2])
def pair(request):
    generator = np.random.default_rng(request.param)
    truth = ndimage.gaussian_filter(generator.normal(size=SHAPE), request.param)
    noise = generator.normal(size=SHAPE)
    return 0.7 * truth + 0.3 * truth.std() * noise + 0.1, 5.0 * truth


def test_psnr_rmse_and_nrmse_equal_scikit_image(pair):
    rec, truth = pair
    extent = truth.max() - truth.min()
    expected = oracle.peak_signal_noise_ratio(truth, rec, data_range=extent)
    assert metrics.psnr(rec, truth) == pytest.approx(expected, abs=1e-5)
    assert metrics.nrmse(rec, truth) == pytest.approx(
        oracle.normalized_root_mse(truth, rec), abs=1e-5
    )
    mse = oracle.mean_squared_error(truth, rec)
    assert metrics.rmse(rec, truth) == pytest.approx(np.sqrt(mse), abs=1e-5)


def test_ssim_3d_equals_scikit_image(pair):
    rec, truth = pair
    expected = oracle.structural_similarity(
        truth, rec, data_range=np.ptp(truth), **SSIM_OPTIONS
    )
    assert metrics.ssim3d(rec, truth) == pytest.approx(expected, abs=1e-5)
    assert 0.0 < expected < 0.99


@pytest.mark.parametrize(("plane", "axis"), [("xy", 0), ("xz", 1), ("yz", 2)])
def test_slice_ssim_equals_scikit_image_with_the_range_of_the_volume(pair, plane, axis):
    rec, truth = pair
    expected = np.mean(
        [
            oracle.structural_similarity(
                truth.take(i, axis),
                rec.take(i, axis),
                data_range=np.ptp(truth),
                **SSIM_OPTIONS,
            )
            for i in range(SHAPE[axis])
        ]
    )
    got = metrics.ssim_slices(rec, truth, plane)
    assert got == pytest.approx(expected, abs=1e-5)


def test_range_is_that_of_the_volume_even_under_a_mask(pair):
    rec, truth = pair
    mask = np.abs(truth) < np.abs(truth).max() / 4
    error = np.sqrt(np.mean((rec[mask] - truth[mask]) ** 2))
    expected = 20 * np.log10(np.ptp(truth) / error)
    assert metrics.psnr(rec, truth, mask) == pytest.approx(expected, abs=1e-9)


def test_masked_scores_ignore_what_lies_outside(pair):
    rec, truth = pair
    mask = np.zeros(SHAPE, dtype=bool)
    mask[:, :, 12:] = True
    spoiled = rec.copy()
    # SSIM windows reach 5 voxels, so the damage stays that far from the mask.
    spoiled[:, :, :7] += 100.0
    for score in (metrics.rmse, metrics.nrmse, metrics.psnr, metrics.ssim3d):
        assert score(spoiled, truth, mask) == pytest.approx(score(rec, truth, mask))
        assert score(spoiled, truth) != pytest.approx(score(rec, truth))
    for plane in ("xy", "xz", "yz"):
        assert metrics.ssim_slices(spoiled, truth, plane, mask) == pytest.approx(
            metrics.ssim_slices(rec, truth, plane, mask)
        )


def test_slice_mean_skips_slices_without_a_voxel(pair):
    rec, truth = pair
    mask = np.zeros(SHAPE, dtype=bool)
    mask[:4] = True
    expected = np.mean(
        [
            oracle.structural_similarity(
                truth[z], rec[z], data_range=np.ptp(truth), **SSIM_OPTIONS
            )
            for z in range(4)
        ]
    )
    assert metrics.ssim_slices(rec, truth, "xy", mask) == pytest.approx(expected)


def test_perfect_reconstruction(pair):
    _, truth = pair
    assert metrics.psnr(truth, truth) == float("inf")
    assert metrics.rmse(truth, truth) == 0.0
    assert metrics.ssim3d(truth, truth) == pytest.approx(1.0)


def test_affine_match_is_exact_and_uses_the_mask_only(pair):
    _, truth = pair
    rec = (truth - 3.0) / -0.25
    mask = np.zeros(SHAPE, dtype=bool)
    mask[3:9] = True
    rec[15:] = 1e3
    match = metrics.affine_match(rec, truth, mask)
    assert match.gain == pytest.approx(-0.25, abs=1e-12)
    assert match.offset == pytest.approx(3.0, abs=1e-12)
    np.testing.assert_allclose(match.volume[:15], truth[:15], atol=1e-12)


def test_affine_match_is_the_least_squares_solution(pair):
    rec, truth = pair
    design = np.stack([rec.ravel(), np.ones(rec.size)], axis=1)
    expected = np.linalg.lstsq(design, truth.ravel())[0]
    match = metrics.affine_match(rec, truth)
    np.testing.assert_allclose([match.gain, match.offset], expected, rtol=1e-10)


def test_affine_match_of_a_constant_is_the_mean_of_the_truth(pair):
    _, truth = pair
    match = metrics.affine_match(np.full(SHAPE, 0.1), truth)
    assert match.gain == 0.0
    np.testing.assert_allclose(match.volume, truth.mean(), atol=1e-12)


def test_float32_input_is_summed_in_float64():
    truth = np.zeros((128, 64, 64), dtype=np.float32)
    truth[0, 0, 0] = 1.0
    rec = truth + np.float32(1e-4)
    assert metrics.rmse(rec, truth) == pytest.approx(1e-4, rel=1e-5)


def test_mask_of_one_view_keeps_everything_and_depends_on_the_sign():
    assert metrics.seen_by_all_views((8, 5, 16), [0.0]).all()
    plus = metrics.seen_by_all_views((9, 5, 16), [20.0])
    minus = metrics.seen_by_all_views((9, 5, 16), [-20.0])
    np.testing.assert_array_equal(plus, minus[::-1])
    # x cos + z sin: at large z the right edge leaves the detector first.
    assert not plus[-1, 0, -1]
    assert plus[-1, 0, 0]


def test_mask_equals_the_definition_voxel_by_voxel():
    shape, angles = (7, 2, 12), [-30.0, 0.0, 45.0]
    mask = metrics.seen_by_all_views(shape, angles, detector_width=10, margin=0.5)
    for z in range(7):
        for x in range(12):
            positions = [
                (x - 5.5) * np.cos(np.deg2rad(a)) + (z - 3.0) * np.sin(np.deg2rad(a))
                for a in angles
            ]
            expected = all(abs(p) <= 4.0 for p in positions)
            assert mask[z, 0, x] == mask[z, 1, x] == expected
    assert 0.0 < mask.mean() < 1.0


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_tau_is_one_for_draws_of_the_right_distribution(factor):
    """Truth and samples of one Gaussian; a spread times a factor gives 1 / factor."""
    rng, samples = np.random.default_rng(3), 4
    truth = rng.normal(size=(24, 24, 24))
    drawn = rng.normal(size=(samples, *truth.shape))
    error = metrics.rmse(drawn.mean(axis=0), truth)
    spread = metrics.mean_spread(factor * drawn.std(axis=0, ddof=1), 1.0)
    # 13824 voxels: the ratio scatters by 0.7 %.
    found = metrics.tau(error, spread, samples)
    assert found == pytest.approx(1 / factor, rel=0.03)


def test_spread_is_taken_over_the_mask_in_units_of_the_truth():
    std = np.zeros((2, 2, 2))
    std[0] = 3.0
    mask = np.zeros(std.shape, bool)
    mask[0] = True
    assert metrics.mean_spread(std, -2.0, mask) == 6.0
    assert metrics.mean_spread(std, 2.0) == pytest.approx(6.0 / np.sqrt(2))
    assert metrics.tau(1.0, 0.0, 8) == np.inf


def test_bootstrap_interval_covers_the_mean():
    generator = np.random.default_rng(5)
    hits = 0
    for trial in range(300):
        sample = generator.normal(0.3, 1.0, size=20)
        interval = metrics.paired_bootstrap(sample, trial, num_resamples=500)
        hits += interval.low <= 0.3 <= interval.high
    # The percentile interval of 20 normal pairs covers about 93 %.
    assert 0.89 <= hits / 300 <= 0.97


def test_bootstrap_is_deterministic_and_nested():
    sample = np.random.default_rng(1).normal(1.0, 1.0, size=12)
    narrow = metrics.paired_bootstrap(sample, 7, level=0.5)
    wide = metrics.paired_bootstrap(sample, 7, level=0.99)
    assert metrics.paired_bootstrap(sample, 7, level=0.5) == narrow
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high
    assert narrow.n == 12
    assert metrics.paired_bootstrap([2.0, 2.1, 1.9], 0).excludes_zero
    assert not metrics.paired_bootstrap([2.0, -2.1, 0.2], 0).excludes_zero


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda v: metrics.rmse(v[0], v), "is not a volume"),
        (lambda v: metrics.rmse(v[1:], v), "disagree"),
        (lambda v: metrics.rmse(np.where(v > 1, np.nan, v), v), "non-finite"),
        (lambda v: metrics.rmse(v, v, np.ones(SHAPE)), "mask does not fit"),
        (lambda v: metrics.rmse(v, v, np.zeros(SHAPE, bool)), "mask is empty"),
        (lambda v: metrics.psnr(v, np.ones(SHAPE)), "truth is constant"),
        (lambda v: metrics.nrmse(v, np.zeros(SHAPE)), "truth vanishes"),
        (lambda v: metrics.ssim3d(v[:10], v[:10]), "no voxel to average"),
        (lambda v: metrics.ssim_slices(v, v, "zx"), "unknown plane"),
        (lambda v: metrics.paired_bootstrap([1.0], 0), "cannot be resampled"),
        (lambda v: metrics.paired_bootstrap([1.0, np.nan], 0), "cannot be resampled"),
        (lambda v: metrics.paired_bootstrap([1.0, 2.0], 0, level=95), "no coverage"),
    ],
)
def test_errors_say_what_was_expected_and_what_to_do(call, message):
    volume = np.random.default_rng(0).normal(size=SHAPE)
    with pytest.raises(ValueError, match=message) as caught:
        call(volume)
    assert "expected" in str(caught.value)
    assert "got" in str(caught.value)
    assert ";" in str(caught.value)
