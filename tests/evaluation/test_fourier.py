"""Wedge split, spectra and shell correlation on waves and noise of known content."""

import numpy as np
import pytest
from scipy import ndimage

from temdiff_jax import geometry, layout, projector
from temdiff_jax.evaluation import fourier, metrics

SHAPE = (32, 20, 40)


def wave(kx, ky, kz, shape=SHAPE, phase=0.4):
    """Periodic plane wave with whole numbers of periods along x, y and z."""
    nz, ny, nx = shape
    z, y, x = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    return np.cos(2 * np.pi * (kx * x / nx + ky * y / ny + kz * z / nz) + phase)


INSIDE = wave(10, 3, 0)
OUTSIDE = wave(2, 3, 9)
ANGLES = np.arange(-5.0, 6.0)


def test_error_of_a_wave_is_counted_on_its_own_side():
    truth = INSIDE + OUTSIDE + 7.0
    lost_out = fourier.wedge_split_error(INSIDE, truth, ANGLES)
    assert lost_out.e_in == pytest.approx(0.0, abs=1e-12)
    assert lost_out.e_out == pytest.approx(1.0, abs=1e-12)
    lost_in = fourier.wedge_split_error(1.5 * OUTSIDE, truth, ANGLES)
    assert lost_in.e_in == pytest.approx(1.0, abs=1e-12)
    assert lost_in.e_out == pytest.approx(0.25, abs=1e-12)


def test_error_of_a_wave_is_in_its_shell():
    truth = INSIDE + OUTSIDE
    split = fourier.wedge_split_error(OUTSIDE, truth, ANGLES)
    radius = np.hypot(10 / 40, 3 / 20)
    shell = int(np.argmin(np.abs(split.frequency - radius)))
    assert split.e_in_shells[shell] == pytest.approx(1.0)
    assert np.isfinite(split.e_in_shells).sum() == 1
    assert np.nansum(split.e_out_shells) == pytest.approx(0.0, abs=1e-12)


def test_two_regions_add_up_to_the_voxel_error():
    generator = np.random.default_rng(0)
    truth, rec = generator.normal(size=(2, *SHAPE))
    truth -= truth.mean()
    rec -= rec.mean()
    split = fourier.wedge_split_error(rec, truth, [-20.0, 0.0, 10.0, 13.0])
    inside = fourier.measured_region(SHAPE, [-20.0, 0.0, 10.0, 13.0])
    power = np.abs(np.fft.fftn(truth)) ** 2
    full = np.zeros(SHAPE, dtype=bool)
    full[:, :, : inside.shape[2]] = inside
    # The other half by conjugate symmetry, voxel k from voxel -k.
    mirror = np.roll(full[::-1, ::-1, ::-1], 1, axis=(0, 1, 2))
    full[:, :, inside.shape[2] :] = mirror[:, :, inside.shape[2] :]
    total = split.e_in * power[full].sum() + split.e_out * power[~full].sum()
    assert total == pytest.approx(((rec - truth) ** 2).sum() * truth.size, rel=1e-10)


def test_region_follows_the_sign_of_an_asymmetric_list():
    angles = np.arange(0.0, 21.0, 2.0)
    # atan2(kz, kx) = 10 degrees in cycles per voxel, sampled on this grid.
    up, down = wave(16, 0, 2), wave(16, 0, -2)
    expected = np.rad2deg(np.arctan2(2 / 32, 16 / 40))
    assert 8 < expected < 10
    split = fourier.wedge_split_error(0.0 * up, up + down, angles)
    assert split.e_in == pytest.approx(1.0)
    kept_up = fourier.wedge_split_error(up, up + down, angles)
    assert kept_up.e_in == pytest.approx(0.0, abs=1e-12)
    assert kept_up.e_out == pytest.approx(1.0)
    kept_down = fourier.wedge_split_error(up, up + down, -angles)
    assert kept_down.e_in == pytest.approx(1.0)


def test_measured_waves_are_those_that_survive_the_line_integral():
    """Independent of the region code: integrate a wave along the ray of a tilt."""
    theta = np.arctan2(3 / 32, 12 / 40)
    steps = np.linspace(-200, 200, 4001)
    x, z = -steps * np.sin(theta), steps * np.cos(theta)
    aligned = np.cos(2 * np.pi * (12 * x / 40 + 3 * z / 32)).mean()
    opposed = np.cos(2 * np.pi * (12 * x / 40 - 3 * z / 32)).mean()
    assert aligned == pytest.approx(1.0)
    assert abs(opposed) < 0.02
    region = fourier.measured_region(SHAPE, [np.rad2deg(theta)])
    assert region[3, 0, 12]
    assert not region[-3, 0, 12]


def test_region_and_mask_agree_with_the_projector():
    shape = (24, 4, 48)
    angle = float(np.rad2deg(np.arctan2(2 / 24, 10 / 48)))
    region = fourier.measured_region(shape, [angle])
    settings = {"thickness": 24, "width": 48, "height": 4, "lateral_margin": 0}
    one_view = geometry.TiltGeometry.from_degrees([angle], **settings)
    power = {}
    for kz in (2, -2):
        core = layout.volume_to_core(wave(10, 0, kz, shape).astype(np.float32))
        middle = np.asarray(projector.project(core, one_view))[0, 14:34]
        power[kz] = float((middle**2).sum())
        assert region[kz, 0, 10] == (kz == 2)
    assert power[2] > 50 * power[-2]
    views = geometry.TiltGeometry.from_degrees([-10.0, 0.0, 30.0], **settings)
    seen = np.asarray(projector.seen_by_all(views))
    mask = metrics.seen_by_all_views(shape, [-10.0, 0.0, 30.0])
    np.testing.assert_array_equal(mask[:, 2], seen)


def test_fraction_of_orientations_matches_the_range():
    shape = (128, 2, 128)
    grid_x, grid_z = np.fft.rfftfreq(128)[None, :], np.fft.fftfreq(128)[:, None]
    disc = (np.hypot(grid_x, grid_z) < 0.5) & (grid_x > 0)
    for full_range, step in [(120, 3), (60, 3), (40, 2)]:
        angles = np.arange(-full_range / 2, full_range / 2 + 1, step)
        region = fourier.measured_region(shape, angles)[:, 0]
        assert region[disc].mean() == pytest.approx(full_range / 180, abs=0.04)


def test_one_rejected_tilt_is_bridged_and_a_skipped_sector_is_not():
    shape = (128, 2, 128)
    angles = np.arange(-30.0, 31.0, 2.0)
    full = fourier.measured_region(shape, angles)
    rejected = fourier.measured_region(shape, np.delete(angles, 12))
    np.testing.assert_array_equal(rejected, full)
    sector = fourier.measured_region(shape, np.delete(angles, slice(12, 19)))
    assert sector.sum() < full.sum()
    assert not sector[0, 0, 40]
    assert full[0, 0, 40]


def test_region_wraps_around_and_few_scattered_views_claim_nothing():
    all_round = fourier.measured_region((32, 2, 32), np.arange(-90.0, 90.0, 3.0))
    assert all_round.all()
    shifted = fourier.measured_region((32, 2, 32), np.arange(0.0, 180.0, 3.0))
    assert shifted.all()
    two = fourier.measured_region((64, 2, 64), [-60.0, 60.0])
    assert not two[0, 0, 20]
    assert not two[20, 0, 0]


def test_full_coverage_has_no_outside_score():
    generator = np.random.default_rng(0)
    truth, rec = generator.normal(size=(2, 16, 16, 16))
    split = fourier.wedge_split_error(rec, truth, np.arange(-90.0, 90.0, 5.0))
    assert split.measured_fraction == 1.0
    assert np.isnan(split.e_out)
    assert split.e_in == pytest.approx(2.0, rel=0.1)


def test_spectrum_ratio_shows_gain_per_side_and_blur():
    truth = np.random.default_rng(3).normal(size=SHAPE)
    ratio = fourier.spectrum_ratio(2.0 * truth + 5.0, truth, ANGLES)
    np.testing.assert_allclose(ratio.inside[1:], 4.0, rtol=1e-10)
    np.testing.assert_allclose(ratio.outside[1:], 4.0, rtol=1e-10)
    blurred = ndimage.gaussian_filter(truth, 1.0, mode="wrap")
    falling = fourier.spectrum_ratio(blurred, truth, ANGLES)
    expected = np.exp(-((2 * np.pi * falling.frequency) ** 2))
    # The first shells hold few samples, in the last two the ratio falls by half and
    # more from the inner to the outer side of the shell.
    np.testing.assert_allclose(falling.outside[2:-2], expected[2:-2], rtol=0.1)
    assert (np.diff(falling.outside[1:]) < 0).all()


def test_fsc_of_identical_volumes_is_one_and_of_noise_is_zero():
    first, second = np.random.default_rng(4).normal(size=(2, 48, 48, 48))
    same = fourier.fourier_shell_correlation(first, -3.0 + 2.0 * first)
    np.testing.assert_allclose(same.fsc, 1.0, atol=1e-10)
    assert fourier.crossing(same) == 0.5
    opposite = fourier.fourier_shell_correlation(first, -first)
    np.testing.assert_allclose(opposite.fsc, -1.0, atol=1e-10)
    unrelated = fourier.fourier_shell_correlation(first, second)
    # A shell of radius 10 samples holds about 1200 pairs or more.
    assert np.abs(unrelated.fsc[10:]).max() < 0.12
    assert abs(unrelated.fsc[10:].mean()) < 0.03
    assert fourier.crossing(unrelated) < 0.1


def test_fsc_of_known_noise_crosses_where_it_must():
    generator = np.random.default_rng(6)
    truth, noise = generator.normal(size=(2, 48, 48, 48))
    # FSC = 1 / sqrt(1 + (P_noise / P_truth)) falls to 0.5 where that ratio is 3.
    low = ndimage.gaussian_filter(truth, 1.0, mode="wrap")
    amplitude = np.sqrt(3 * np.exp(-((2 * np.pi * 0.2) ** 2)))
    curve = fourier.fourier_shell_correlation(low + amplitude * noise, low)
    assert fourier.crossing(curve) == pytest.approx(0.2, abs=0.02)


def test_fsc_on_a_region_sees_that_region_only():
    generator = np.random.default_rng(8)
    truth, other = generator.normal(size=(2, *SHAPE))
    inside = fourier.measured_region(SHAPE, np.arange(-40.0, 41.0, 2.0))
    mixed = np.fft.rfftn(truth) * inside + np.fft.rfftn(other) * ~inside
    rec = np.fft.irfftn(mixed, SHAPE, axes=(0, 1, 2))
    on = fourier.fourier_shell_correlation(rec, truth, region=inside)
    off = fourier.fourier_shell_correlation(rec, truth, region=~inside)
    assert on.fsc[4:].min() > 0.99
    assert np.abs(off.fsc[6:]).max() < 0.25


def test_soft_mask_is_smooth_zero_outside_and_one_deep_inside():
    mask = np.zeros((24, 24, 24), dtype=bool)
    mask[:, 2:22, 2:22] = True
    weight = fourier.soft_mask(mask, width=4.0)
    assert weight[~mask].max() == 0.0
    assert weight[mask].min() > 0.0
    assert weight[12, 12, 12] == 1.0
    assert np.abs(np.diff(weight, axis=1)).max() < 0.35


def test_taper_keeps_an_edge_from_leaking_into_the_wedge():
    """A ramp along x has content on the kx axis only, were it not for its borders."""
    z, _, x = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    truth = wave(9, 0, 0) + wave(1, 0, 10)
    mask = np.abs(x - 19.5 + 0.5 * (z - 15.5)) < 11
    rec = truth + 0.3 * wave(9, 0, 0)
    hard = fourier.wedge_split_error(rec, truth, ANGLES, weight=mask.astype(float))
    soft = fourier.wedge_split_error(rec, truth, ANGLES, weight=fourier.soft_mask(mask))
    assert soft.e_in == pytest.approx(0.09, rel=0.2)
    assert soft.e_out < hard.e_out


@pytest.mark.parametrize("angles", [[], [[0.0, 1.0]], [0.0, np.nan]])
def test_unusable_angles_are_refused(angles):
    with pytest.raises(ValueError, match="angle list is unusable: expected .* got"):
        fourier.measured_region(SHAPE, angles)


@pytest.mark.parametrize("shape", [(64, 48), (24, 32, 28)])
def test_white_noise_has_a_flat_spectrum_of_one(shape):
    noise = np.random.default_rng(0).normal(3.0, 5.0, size=shape)
    frequency, power = fourier.power_spectrum(noise)
    assert frequency[-1] == 0.5 and len(power) == min(shape) // 2
    assert power[4:].mean() == pytest.approx(1.0, abs=0.05)


def test_a_wave_has_its_power_in_its_shell():
    columns = np.arange(96)
    image = np.tile(np.cos(2 * np.pi * 0.25 * columns), (96, 1))
    frequency, power = fourier.power_spectrum(image)
    assert frequency[np.argmax(power)] == pytest.approx(0.25, abs=0.011)
    assert power[np.abs(frequency - 0.25) > 0.05].max() < 1e-3 * power.max()


def test_spectrum_of_a_constant_is_refused():
    with pytest.raises(ValueError, match="expected finite values that vary"):
        fourier.power_spectrum(np.ones((8, 8)))
