import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.projector import project
from temdiff_jax.simulator.errors import (
    ALIGNED,
    IMPERFECT,
    ErrorConfig,
    draw_errors,
    shrink,
)
from temdiff_jax.simulator.imaging import (
    DETECTORS,
    HOT_LEVEL,
    MIN_COUNTS,
    ImagingConfig,
    apply_mtf,
    gaussian_blur,
    simulate_series,
)

# One value per range, no blur, no read noise: only counting is left.
COUNTING = ImagingConfig(
    dose=(400.0, 400.0),
    resin_path=(0.7, 0.7),
    contrast=(0.2, 0.2),
    blur_px=(0.0, 0.0),
    read_noise=0.0,
)


# The stain is the same in every slice of y: its rows are independent repetitions.
ROWS = 240
GEOMETRY = TiltGeometry.from_degrees(
    [-25.0, 0.0, 40.0], thickness=6, width=16, height=ROWS, lateral_margin=4
)


@pytest.fixture(scope="module")
def stain():
    nz, nx, _ = GEOMETRY.volume_shape
    coarse = jax.random.uniform(jax.random.key(0), (3, 6, 1))
    return jnp.tile(jax.image.resize(coarse, (nz, nx, 1), "linear"), (1, 1, ROWS))


def rows(series):
    """Counts `[n_tilts, u, row]` and their expectation `[n_tilts, u]`."""
    path = np.asarray(project(series.volume, GEOMETRY), np.float64)
    counts = np.asarray(series.counts, np.float64)
    return counts, float(series.dose) * np.exp(-path[:, :, 0])


@pytest.mark.slow
def test_ideal_mode_is_the_projection(stain):
    config = dataclasses.replace(COUNTING, mode="ideal")
    series = simulate_series(jax.random.key(2), stain, GEOMETRY, config)
    expected = project(series.volume, GEOMETRY)
    np.testing.assert_allclose(series.tilts, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(series.counts, series.tilts)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["ideal", "haadf"])
def test_volume_is_the_stain_at_the_asked_contrast(stain, mode):
    config = dataclasses.replace(COUNTING, mode=mode)
    series = simulate_series(jax.random.key(3), stain, GEOMETRY, config)
    factor = 0.2 / np.std(np.sum(stain, axis=0))
    np.testing.assert_allclose(series.volume, factor * stain, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_bright_field_volume_adds_resin_to_the_asked_mean_path(stain):
    series = simulate_series(jax.random.key(4), stain, GEOMETRY, COUNTING)
    path = np.sum(series.volume, axis=0)
    assert np.std(path) == pytest.approx(0.2, rel=1e-3)
    assert np.mean(path) >= 0.7 - 1e-4
    assert np.min(series.volume) >= 0


@pytest.mark.parametrize("exact", [pytest.param(True, marks=pytest.mark.slow), False])
def test_mean_counts_are_dose_times_transmission(stain, exact):
    config = dataclasses.replace(COUNTING, exact_counts=exact)
    series = simulate_series(jax.random.key(1), stain, GEOMETRY, config)
    counts, expected = rows(series)
    # Tilt by tilt, within 3 standard errors.
    error = np.sqrt(expected.sum(axis=1) / ROWS) / 16
    deviation = counts.mean(axis=(1, 2)) - expected.mean(axis=1)
    np.testing.assert_array_less(np.abs(deviation), 3 * error)
    # Pixel by pixel the deviations are standard normal.
    score = (counts.mean(axis=2) - expected) / np.sqrt(expected / ROWS)
    assert np.std(score) == pytest.approx(1.0, abs=0.25)
    assert np.max(np.abs(score)) < 4
    assert np.mean(counts.var(axis=2) / expected) == pytest.approx(1.0, abs=0.06)


def test_exact_counts_are_whole_numbers(stain):
    series = simulate_series(jax.random.key(5), stain, GEOMETRY, COUNTING)
    np.testing.assert_array_equal(series.counts, np.rint(series.counts))


@pytest.mark.parametrize("dose", [200.0, 3200.0])
def test_variance_of_the_logarithm_is_one_over_the_counts(stain, dose):
    config = dataclasses.replace(COUNTING, dose=(dose, dose))
    series = simulate_series(jax.random.key(16), stain, GEOMETRY, config)
    _, expected = rows(series)
    variance = np.asarray(series.tilts, np.float64).var(axis=2)
    # The next term of the expansion is 1.5 / N.
    assert np.mean(variance * expected) == pytest.approx(
        1 + 1.5 / np.mean(expected), abs=0.06
    )


def test_tilts_are_the_path_up_to_noise(stain):
    config = dataclasses.replace(COUNTING, dose=(1e6, 1e6))
    series = simulate_series(jax.random.key(6), stain, GEOMETRY, config)
    path = project(series.volume, GEOMETRY)
    np.testing.assert_allclose(series.tilts, path, atol=0.015)
    assert float(series.dose) == pytest.approx(1e6, rel=1e-5)


def test_haadf_tilts_are_proportional_to_the_path(stain):
    config = dataclasses.replace(COUNTING, mode="haadf", dose=(1e6, 1e6))
    series = simulate_series(jax.random.key(7), stain, GEOMETRY, config)
    path = np.asarray(project(series.volume, GEOMETRY))
    assert np.max(np.abs(series.tilts - path)) < 6 * np.sqrt(np.max(path) / 1e6)


def test_read_noise_adds_its_variance(stain):
    config = dataclasses.replace(COUNTING, read_noise=15.0)
    series = simulate_series(jax.random.key(17), stain, GEOMETRY, config)
    counts, expected = rows(series)
    excess = np.mean(counts.var(axis=2) - expected)
    assert excess == pytest.approx(225.0, rel=0.1)


def test_a_stopped_beam_gives_finite_tilts(stain):
    config = dataclasses.replace(COUNTING, resin_path=(40.0, 40.0), read_noise=2.0)
    series = simulate_series(jax.random.key(8), stain, GEOMETRY, config)
    assert np.all(np.isfinite(series.tilts))
    assert np.max(series.tilts) == pytest.approx(np.log(400 / MIN_COUNTS), rel=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("mode", ["bright_field", "ideal"])
def test_aligned_equals_a_configuration_whose_errors_are_negligible(stain, mode):
    config = dataclasses.replace(COUNTING, mode=mode, exact_counts=False)
    negligible = dataclasses.replace(config, errors=ErrorConfig(ramp=1e-12))
    assert config.errors == ALIGNED != negligible.errors
    key = jax.random.key(9)
    aligned = simulate_series(key, stain, GEOMETRY, config)
    warped = simulate_series(key, stain, GEOMETRY, negligible)
    np.testing.assert_allclose(warped.tilts, aligned.tilts, atol=2e-4)
    np.testing.assert_array_equal(warped.volume, aligned.volume)


@pytest.mark.slow
def test_tilt_errors_move_the_true_angles_only(stain):
    config = dataclasses.replace(
        COUNTING, mode="ideal", errors=ErrorConfig(tilt_deg=3.0)
    )
    series = simulate_series(jax.random.key(10), stain, GEOMETRY, config)
    true = dataclasses.replace(
        GEOMETRY, angles_rad=GEOMETRY.angles_rad + series.errors.tilt_rad, steep=None
    )
    expected = project(series.volume, true)
    np.testing.assert_allclose(series.tilts, expected, atol=2e-4)
    nominal = project(series.volume, GEOMETRY)
    assert np.max(np.abs(nominal - expected)) > 0.01


@pytest.mark.slow
def test_gain_and_ramp_scale_the_counts(stain):
    config = dataclasses.replace(
        COUNTING, dose=(1e6, 1e6), errors=ErrorConfig(gain=0.1, ramp=0.2)
    )
    series = simulate_series(jax.random.key(11), stain, GEOMETRY, config)
    transmission = np.exp(-np.asarray(project(series.volume, GEOMETRY)))
    level = np.asarray(series.counts) / (1e6 * transmission)
    gain, ramp = np.asarray(series.errors.gain), np.asarray(series.errors.ramp)
    np.testing.assert_allclose(level.mean(axis=(1, 2)), gain, rtol=2e-3)
    # Edge to edge, the beam changes by the drawn fraction.
    along_u = level.mean(axis=2)
    rise = (along_u[:, -1] - along_u[:, 0]) / gain
    np.testing.assert_allclose(rise, ramp[:, 0], atol=5e-3)
    along_v = level.mean(axis=1)
    np.testing.assert_allclose(
        (along_v[:, -1] - along_v[:, 0]) / gain, ramp[:, 1], atol=5e-3
    )


@pytest.mark.parametrize("mode", ["bright_field", "haadf"])
def test_offset_is_added_to_every_pixel_of_its_tilt(stain, mode):
    config = dataclasses.replace(
        COUNTING, mode=mode, dose=(1e6, 1e6), errors=ErrorConfig(offset=0.05)
    )
    series = simulate_series(jax.random.key(11), stain, GEOMETRY, config)
    path = np.asarray(project(series.volume, GEOMETRY))
    signal = np.exp(-path) if mode == "bright_field" else path
    added = np.asarray(series.counts) / 1e6 - signal
    offset = np.asarray(series.errors.offset)
    assert np.ptp(offset) > 0.02
    # A black level below the signal cuts it at zero.
    lit = signal + offset[:, None, None] > 0.01
    wanted = np.broadcast_to(offset[:, None, None], added.shape)
    np.testing.assert_allclose(added[lit], wanted[lit], atol=0.01)
    for index in range(len(offset)):
        mean = added[index][lit[index]].mean()
        np.testing.assert_allclose(mean, offset[index], atol=1e-3)


def test_an_offset_changes_no_other_draw():
    gain = ErrorConfig(gain=0.1, shift_px=1.0, z_shrink=0.2)
    both = dataclasses.replace(gain, offset=0.05)
    drawn, with_offset = (
        draw_errors(jax.random.key(4), GEOMETRY.angles_rad, errors)
        for errors in (gain, both)
    )
    assert np.any(with_offset.offset) and not np.any(drawn.offset)
    for a, b in zip(drawn, with_offset._replace(offset=drawn.offset)):
        np.testing.assert_array_equal(a, b)


def test_dose_is_drawn_log_uniformly_inside_its_range(stain):
    config = dataclasses.replace(COUNTING, mode="ideal", dose=(100.0, 10000.0))
    dose = np.array(
        [
            float(simulate_series(jax.random.key(seed), stain, GEOMETRY, config).dose)
            for seed in range(24)
        ]
    )
    assert dose.min() >= 100 * (1 - 1e-5) and dose.max() <= 10000 * (1 + 1e-5)
    # A uniform draw would leave the lower half of the decades to one in eleven.
    assert 6 <= np.sum(dose < 1000) <= 18


@pytest.mark.parametrize("mode", ["bright_field", "haadf", "ideal"])
def test_a_key_decides_the_series(stain, mode):
    config = ImagingConfig(mode=mode, errors=IMPERFECT, exact_counts=False)
    first, again, other = (
        simulate_series(jax.random.key(seed), stain, GEOMETRY, config)
        for seed in (12, 12, 13)
    )
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again)):
        np.testing.assert_array_equal(a, b)
    assert np.max(np.abs(first.tilts - other.tilts)) > 1e-3
    assert first.tilts.shape == GEOMETRY.tilts_shape
    assert first.volume.shape == GEOMETRY.volume_shape
    assert first.tilts.dtype == jnp.float32


def test_an_unknown_mode_is_refused(stain):
    config = dataclasses.replace(COUNTING, mode="dark_field")
    with pytest.raises(ValueError, match="bright_field, haadf or ideal.*'dark_field'"):
        simulate_series(jax.random.key(14), stain, GEOMETRY, config)


@pytest.mark.parametrize("sigma", [0.0, 0.5, 1.2])
def test_blur_keeps_the_mean_and_spreads_by_sigma(sigma):
    tilts = jnp.zeros((2, 21, 25)).at[0, 10, 12].set(3.0).at[1].set(5.0)
    blurred = np.asarray(gaussian_blur(tilts, jnp.float32(sigma)), np.float64)
    assert blurred[0].sum() == pytest.approx(3.0, rel=1e-5)
    np.testing.assert_allclose(blurred[1], 5.0, rtol=1e-5)
    u = np.arange(21) - 10
    weights = np.exp(-0.5 * (u / max(sigma, 1e-3)) ** 2) * (abs(u) <= 4)
    expected = np.sum(u**2 * weights) / np.sum(weights)
    for axis in (0, 1):
        place = u if axis == 0 else np.arange(25) - 12
        profile = blurred[0].sum(axis=1 - axis)
        assert profile @ place**2 / 3 == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_blur_of_zero_changes_nothing():
    tilts = jax.random.normal(jax.random.key(15), (2, 9, 11))
    np.testing.assert_array_equal(gaussian_blur(tilts, jnp.float32(0.0)), tilts)


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_transfer_of_a_wave_is_that_of_the_table(name):
    """Waves along u and along y at 1/4, 1/2, 3/4 of Nyquist, mirror-symmetric."""
    nu, ny = 64, 48
    for value, share in zip(DETECTORS[name], (0.25, 0.5, 0.75), strict=True):
        for size, axis in ((nu, 1), (ny, 2)):
            wave = jnp.cos(np.pi * share * (jnp.arange(size) + 0.5))
            shape = [1, 1, 1]
            shape[axis] = size
            image = jnp.broadcast_to(3.0 + wave.reshape(shape), (1, nu, ny))
            expected = 3.0 + value * (image - 3.0)
            got = apply_mtf(image, DETECTORS[name])
            np.testing.assert_allclose(got, expected, atol=2e-5)


@pytest.mark.slow
def test_detector_transfer_dims_the_fine_detail_of_a_series(stain):
    sharp = dataclasses.replace(COUNTING, mode="haadf", dose=(1e8, 1e8))
    soft = dataclasses.replace(sharp, mtf=DETECTORS["CCD"])
    power = []
    for config in (sharp, soft):
        tilts = simulate_series(jax.random.key(6), stain, GEOMETRY, config).tilts
        power.append(float(jnp.mean(jnp.diff(tilts, axis=1) ** 2)))
    assert power[1] < 0.6 * power[0]


def test_hot_pixels_stay_where_they_are(stain):
    config = dataclasses.replace(COUNTING, hot_pixels=0.02)
    clean = simulate_series(jax.random.key(7), stain, GEOMETRY, COUNTING)
    hot = simulate_series(jax.random.key(7), stain, GEOMETRY, config)
    extra = np.asarray(hot.counts - clean.counts)
    marked = extra > 0
    assert np.array_equal(marked[0], marked[1]) and np.array_equal(marked[0], marked[2])
    share = marked[0].mean()
    assert share == pytest.approx(0.02, abs=4 * np.sqrt(0.02 / marked[0].size))
    level = extra[marked] / 400.0
    assert HOT_LEVEL[0] <= level.min() and level.max() <= HOT_LEVEL[1]


def test_a_shrunken_section_returns_its_truth(stain):
    errors = ErrorConfig(z_shrink=0.4)
    config = dataclasses.replace(COUNTING, mode="ideal", errors=errors)
    series = simulate_series(jax.random.key(8), stain, GEOMETRY, config)
    assert 0.6 <= float(series.errors.thickness) < 1.0
    np.testing.assert_allclose(
        series.tilts, project(series.volume, GEOMETRY), rtol=1e-4, atol=1e-5
    )
    pressed, _ = shrink(stain, series.errors.thickness)
    factor = 0.2 / np.std(np.sum(pressed, axis=0))
    np.testing.assert_allclose(series.volume, factor * pressed, rtol=1e-4, atol=1e-6)
