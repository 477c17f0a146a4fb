"""From detector intensities to line integrals in which dense matter is bright."""

import numpy as np
import pytest
from scipy import stats

from temdiff_jax.errors import InputError
from temdiff_jax.series import intensity

ANGLES = np.linspace(-50.0, 50.0, 11)


@pytest.mark.parametrize("count", [2, 5, 40])
def test_line_by_medians_and_ranks_are_those_of_scipy(count):
    rng = np.random.default_rng(count)
    x = np.round(rng.normal(size=count), 1)  # some of them equal
    y = -2.0 * x + rng.standard_t(2, count)
    fit = stats.theilslopes(y, x)
    expected = (fit.slope, fit.intercept)
    np.testing.assert_allclose(intensity.median_line(x, y), expected, rtol=1e-12)
    np.testing.assert_array_equal(intensity._ranks(x), stats.rankdata(x))


@pytest.fixture
def integrals():
    """Line integrals [n_tilts, y, x] of a slab with a few dense grains."""
    rng = np.random.default_rng(0)
    path = 1 / np.cos(np.deg2rad(ANGLES))[:, None, None]
    grains = (rng.random((11, 12, 14)) > 0.95) * 1.5
    return (path * (0.8 + 0.05 * rng.normal(size=(11, 12, 14))) + grains).astype(
        np.float32
    )


def prepare(tilts, log="off", contrast="bright", angles=ANGLES):
    return intensity.to_dense_bright(tilts, angles, log=log, contrast=contrast)


def test_line_integrals_of_bright_matter_pass_unchanged(integrals):
    out, record = prepare(integrals)
    np.testing.assert_array_equal(out, integrals)
    assert out.dtype == np.float32
    assert record["sign"] == 1.0 and record["log"] == "off"
    assert record["log_reference"] is None


def test_dark_matter_is_negated_and_the_record_says_so(integrals):
    out, record = prepare(integrals, contrast="dark")
    np.testing.assert_array_equal(out, -integrals)
    assert record["sign"] == -1.0
    assert (record["dense_is"], record["dense_chosen_by"]) == ("dark", "caller")


@pytest.mark.parametrize(("sign", "sense"), [(1, "bright"), (-1, "dark")])
def test_automatic_contrast_follows_the_tail_of_the_grains(integrals, sign, sense):
    out, record = prepare(sign * integrals, contrast="auto")
    np.testing.assert_array_equal(out, integrals)
    assert (record["dense_is"], record["dense_chosen_by"]) == (sense, "data")


@pytest.mark.parametrize(("sign", "sense"), [(1, "bright"), (-1, "dark")])
def test_automatic_contrast_of_a_slab_follows_the_path(sign, sense):
    """Holes in dense matter: the tail of the grey values says the opposite."""
    rng = np.random.default_rng(0)
    path = 1 / np.cos(np.deg2rad(ANGLES))[:, None, None]
    tilts = sign * (3 * path - (rng.random((11, 12, 14)) > 0.95))
    assert np.sign(intensity.skewness(tilts)) == -sign
    assert prepare(tilts, contrast="auto")[1]["dense_is"] == sense
    narrow = np.linspace(-2, 2, 11)
    assert intensity.of_slab(tilts, narrow) == intensity.of_slab(balls(), ANGLES) == 0


@pytest.mark.parametrize("counts", [1.0, 4000.0])
def test_logarithm_returns_the_line_integrals_up_to_one_constant(integrals, counts):
    out, record = prepare(counts * np.exp(-integrals), log="on", contrast="auto")
    difference = out - integrals
    np.testing.assert_allclose(difference, difference[0, 0, 0], atol=1e-4)
    np.testing.assert_allclose(
        difference[0, 0, 0], np.log(record["log_reference"] / counts), atol=1e-4
    )
    assert record["log"] == "on" and record["dense_is"] == "bright"


def test_stopped_beam_stays_finite(integrals):
    tilts = np.exp(-integrals)
    tilts[3, 2, 1] = 0.0
    tilts[4, 2, 1] = -0.5
    out, _ = prepare(tilts, log="on")
    assert np.all(np.isfinite(out))
    assert out[3, 2, 1] == out[4, 2, 1] == out.max()


def test_automatic_logarithm_tells_intensities_from_line_integrals(integrals):
    assert prepare(np.exp(-integrals), log="auto")[1]["log"] == "on"
    _, record = prepare(integrals, log="auto")
    assert (record["log"], record["log_chosen_by"]) == ("off", "data")


def test_automatic_logarithm_needs_range_and_positive_values(integrals):
    narrow = np.linspace(-5, 5, 11)
    dark = np.exp(-integrals)
    assert prepare(dark, log="auto", angles=narrow)[1]["log"] == "off"
    dark[:, :2, 0] = 0.0  # more than a few dead pixels: no counts
    assert prepare(dark, log="auto")[1]["log"] == "off"
    one = dark[1:2]
    assert not intensity.looks_like_bright_field(one, np.array([0.0]))


def test_a_dead_pixel_and_a_dark_view_change_no_decision(integrals):
    integrals = np.repeat(np.repeat(integrals, 3, axis=1), 3, axis=2)
    counts = 4000 * np.exp(-integrals)
    clean = prepare(counts, log="auto", contrast="auto")[1]
    counts[:, 5, 7] = 0.0
    dead = prepare(counts, log="auto", contrast="auto")[1]
    assert clean["log"] == dead["log"] == "on"
    assert dead["dense_is"] == clean["dense_is"] == "bright"
    assert dead["log_reference"] == pytest.approx(clean["log_reference"], rel=1e-3)
    counts[-1] /= 50.0  # a nearly dark view at high tilt
    dark = prepare(counts, log="auto", contrast="auto")[1]
    assert dark["log"] == "on"
    assert dark["log_reference"] == pytest.approx(clean["log_reference"], rel=0.25)


def balls():
    """Tilts [11, 40, 48] of balls in vacuum, and noise."""
    y, x = np.indices((40, 48)) - np.array([19.5, 23.5])[:, None, None]
    tilts = np.zeros((11, 40, 48))
    for bx, by, bz in [(-9, -8, 4), (7, 9, -5), (2, -3, 6), (-4, 6, -2)]:
        for image, angle in zip(tilts, np.deg2rad(ANGLES), strict=True):
            u = bx * np.cos(angle) + bz * np.sin(angle)
            image += 5 * np.exp(-((x - u) ** 2 + (y - by) ** 2) / 9)
    noise = 0.05 * np.random.default_rng(0).normal(size=tilts.shape)
    return (tilts + noise).astype(np.float32)


@pytest.mark.parametrize("sense", [1, -1])
@pytest.mark.parametrize("constant", [3.0, 30.0, -10.0])
def test_a_constant_under_all_tilts_is_taken_off(constant, sense):
    out, record = prepare(sense * balls() + np.float32(constant), contrast="auto")
    assert record["constant"] == pytest.approx(constant, abs=0.1)
    np.testing.assert_allclose(out, balls(), atol=0.1)
    assert any("a constant of" in line for line in intensity.said(record))


def test_no_constant_is_found_where_there_is_none(integrals):
    assert prepare(balls())[1]["constant"] == 0.0
    assert prepare(integrals)[1]["constant"] == 0.0
    assert prepare(integrals + np.float32(2.0))[1]["constant"] == pytest.approx(2, 0.2)
    narrow = np.linspace(-5, 5, 11)  # nothing tells a constant from a slab
    assert prepare(balls() + 3, angles=narrow)[1]["constant"] == 0.0
    assert len(intensity.said(prepare(balls())[1])) == 1


def test_skewness_is_that_of_the_definition_and_zero_without_contrast():
    values = np.array([0.0, 0.0, 0.0, 4.0]).reshape(1, 2, 2)
    centred = values - 1.0
    expected = np.mean(centred**3) / np.mean(centred**2) ** 1.5
    np.testing.assert_allclose(intensity.skewness(values), expected)
    assert intensity.skewness(np.ones((2, 3, 3))) == 0.0


@pytest.mark.parametrize(
    ("options", "named"),
    [({"log": "maybe"}, "log"), ({"contrast": "loud"}, "contrast")],
)
def test_unknown_choice_is_refused_with_the_known_ones(integrals, options, named):
    with pytest.raises(InputError, match=rf"^{named}: expected one of \['auto'"):
        prepare(integrals, **options)


def test_logarithm_of_what_is_not_positive_is_refused(integrals):
    with pytest.raises(InputError, match="positive intensities.*log='off'"):
        prepare(-integrals, log="on")


def test_incident_intensity_of_a_slab_is_found_although_no_pixel_shows_it():
    angles = np.linspace(-60, 60, 25)
    path = 1 / np.cos(np.deg2rad(angles))
    grain = 0.05 * np.random.default_rng(0).normal(size=(25, 8, 8))
    tilts = 88.0 * np.exp(-0.8 * path[:, None, None] + grain)
    level, source = intensity.incident_intensity(tilts, angles)
    assert source == "fit of a slab"
    assert level == pytest.approx(88.0, rel=0.03)
    assert tilts.max() < 60
    few = intensity.incident_intensity(tilts[11:14], angles[11:14])
    assert few[1] == "brightest pixels"
