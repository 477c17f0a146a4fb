import numpy as np
import pytest

from temdiff_jax.errors import InputError

ANGLES = np.arange(-30.0, 31.0, 10.0)


@pytest.fixture(scope="module")
def real_data_figures(load_program):
    return load_program("launch.studies.real_data_figures")


def rod(half_width, half_height, shape=(40, 6, 40)):
    """Elliptic rod along y, 1 inside and 0 outside, soft by a voxel."""
    z, _, x = np.indices(shape) - (np.asarray(shape) - 1)[:, None, None, None] / 2
    radius = np.hypot(z / half_height, x / half_width)
    return np.clip((1.0 - radius) * half_width + 0.5, 0.0, 1.0).astype(np.float32)


def data_of(real_data_figures, volume):
    empty = np.zeros((len(ANGLES), *volume.shape[1:]), np.float32)
    data = real_data_figures.Data(empty, ANGLES, volume.shape[0], None)
    return data._replace(tilts=real_data_figures.predict(volume, data))


def test_ranges_are_widths_or_limits(real_data_figures):
    assert real_data_figures.parse_range("40") == (-20.0, 20.0)
    assert real_data_figures.parse_range("-20:60") == (-20.0, 60.0)
    with pytest.raises(InputError, match="write 40 or"):
        real_data_figures.parse_range("wide")


def test_the_true_volume_predicts_its_tilts_up_to_gain_and_offset(real_data_figures):
    volume = rod(8, 8)
    data = data_of(real_data_figures, volume)
    changed = data._replace(tilts=3.0 * data.tilts + 5.0)
    assert real_data_figures.held_out_score(volume, changed, "vacuum") < 1e-3
    assert real_data_figures.held_out_score(rod(8, 16), changed, "vacuum") > 0.05
    blank = np.zeros_like(volume)
    score = real_data_figures.held_out_score(blank, changed, "vacuum")
    assert score == pytest.approx(1.0)


def test_no_held_out_tilts_give_no_score(real_data_figures):
    data = data_of(real_data_figures, rod(8, 8)).take(np.zeros(len(ANGLES), bool))
    assert np.isnan(real_data_figures.held_out_score(rod(8, 8), data, "vacuum"))


def test_in_a_slab_only_rays_that_stay_inside_count(real_data_figures):
    data = data_of(real_data_figures, rod(8, 8))._replace(thickness=20)
    every = real_data_figures.scored_columns(data, "vacuum")
    assert all(keep.all() for keep in every)
    inside = real_data_figures.scored_columns(data, "slab")
    for keep, angle in zip(inside, np.deg2rad(ANGLES)):
        for u in np.flatnonzero(keep) - 19.5:
            for z in (-10.0, 10.0):
                x = (u - z * np.sin(angle)) / np.cos(angle)
                assert abs(x) <= 20.0 + 1e-9
    assert inside[3].all() and inside[0].sum() == 24


@pytest.mark.slow
def test_chi2_is_small_for_the_truth_and_large_for_another(real_data_figures):
    generator = np.random.default_rng(0)
    volume = rod(8, 8)
    data = data_of(real_data_figures, volume)
    noisy = data.tilts + generator.normal(0.0, 1.0, data.tilts.shape)
    data = data._replace(tilts=noisy.astype(np.float32))
    assert real_data_figures.chi2(volume, data, "vacuum") == pytest.approx(1.0, abs=0.3)
    assert real_data_figures.chi2(0 * volume, data, "vacuum") > 5.0


@pytest.mark.parametrize(("half_height", "expected"), [(8, 1.0), (16, 2.0)])
def test_elongation_is_height_over_width(real_data_figures, half_height, expected):
    found = real_data_figures.elongation(rod(8, half_height), rod(8, 8))
    assert found == pytest.approx(expected, abs=0.1)


def test_agreement_with_a_reference_ignores_gain_and_offset(real_data_figures):
    volume = rod(8, 8)
    mask = np.ones(volume.shape, bool)
    correlation, error = real_data_figures.against(2 * volume - 7, volume, mask)
    assert correlation == pytest.approx(1.0)
    assert error == pytest.approx(0.0, abs=1e-5)


def test_a_missing_score_is_a_dash(real_data_figures):
    row = real_data_figures.Row("fbp", ((0.5, 0.8),), float("nan"), 1.0, 2.0, 3.0)
    text = real_data_figures.table([row], ["sirt"])
    assert text.splitlines()[-1] == "| fbp | 0.500 | 0.800 | - | 1.00 | 2.00 | 3 |"
