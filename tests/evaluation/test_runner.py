"""Simulated series of known volumes, and the methods by name."""

import dataclasses

import numpy as np
import pytest

from temdiff_jax import layout
from temdiff_jax.errors import InputError
from temdiff_jax.evaluation import runner
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.projector import project
from temdiff_jax.simulator import ImagingConfig

ANGLES = np.array([-20.0, -7.0, 0.0, 10.0, 20.0])
SHAPE = (8, 9, 12)  # z, y, x


@pytest.fixture(scope="module")
def truth():
    rng = np.random.default_rng(0)
    return np.uint8(40 + 150 * rng.random(SHAPE))


@pytest.fixture(scope="module")
def ideal():
    """Noise-free line integrals of a stain of fixed contrast."""
    return runner.make_simulate(
        ImagingConfig(mode="ideal", contrast=(0.3, 0.3), blur_px=(0.0, 0.0))
    )


@pytest.mark.slow
def test_tilts_have_the_shape_of_the_field_of_view(truth):
    tilts = runner.simulate_case(truth, ANGLES, 0)
    assert tilts.shape == (5, 9, 12) and tilts.dtype == np.float32
    assert np.all(np.isfinite(tilts))


@pytest.mark.slow
def test_noise_is_a_function_of_the_seed(truth):
    first = runner.simulate_case(truth, ANGLES, 3)
    np.testing.assert_array_equal(first, runner.simulate_case(truth, ANGLES, 3))
    assert not np.array_equal(first, runner.simulate_case(truth, ANGLES, 4))


@pytest.mark.slow
def test_grey_levels_are_scaled_before_imaging(truth, ideal):
    scaled = 0.5 * truth.astype(np.float32) - 7.0
    np.testing.assert_allclose(
        ideal(scaled, ANGLES, 0), ideal(truth, ANGLES, 0), rtol=1e-4
    )


@pytest.mark.slow
def test_slab_goes_on_outside_the_field_of_view_by_mirroring(truth, ideal):
    tilts = ideal(truth, ANGLES, 0)
    geometry = TiltGeometry.from_degrees(ANGLES, thickness=8, width=12, height=9)
    margin = geometry.margin
    assert margin > 0
    stain = (truth - np.float32(truth.min())) / np.ptp(truth)
    left, right = stain[..., :margin][..., ::-1], stain[..., -margin:][..., ::-1]
    wide = np.concatenate([left, stain, right], axis=-1)
    plain = layout.tilts_from_core(project(layout.volume_to_core(wide), geometry))
    # The simulator adds a gain only: the contrast that it draws.
    gain = np.sum(tilts * plain) / np.sum(plain * plain)
    np.testing.assert_allclose(tilts, gain * np.asarray(plain), rtol=1e-4, atol=1e-5)


def test_protocol_draws_nothing_but_noise():
    ranges = dataclasses.asdict(runner.PROTOCOL_IMAGING)
    for name in ("dose", "resin_path", "contrast", "blur_px"):
        low, high = ranges[name]
        assert low == high, name


def test_methods_come_under_their_names_in_the_order_asked():
    names = ("tikhonov", "posterior", "fbp", "mean", "sirt", "sart", "tv")
    methods = runner.standard_methods(names)
    assert tuple(methods) == names
    assert all(callable(method) for method in methods.values())


@pytest.mark.slow
def test_baselines_reconstruct_without_a_prior(truth):
    tilts = runner.simulate_case(truth, ANGLES, 0)
    for name, method in runner.standard_methods(["fbp"]).items():
        volume = method(tilts, ANGLES, SHAPE[0])
        assert volume.shape == SHAPE and np.all(np.isfinite(volume)), name


def test_unknown_method_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="'fbp'.*'posterior'.*got 'magic'"):
        runner.standard_methods(["fbp", "magic"])


def test_posterior_passes_its_options_on_and_names_its_rows(monkeypatch):
    asked = []

    @dataclasses.dataclass
    class Fake:
        mean: np.ndarray
        std: np.ndarray
        samples: np.ndarray

    def reconstruct(tilts, angles, **options):
        asked.append(options)
        return Fake(np.zeros(SHAPE), np.full(SHAPE, 0.5), np.ones((3, *SHAPE)))

    monkeypatch.setattr(runner, "reconstruct", reconstruct)
    methods = runner.standard_methods(
        ["posterior", "mean"], num_samples=3, num_steps=7, seed=5, prior="other"
    )
    rows = methods["posterior"](None, ANGLES, 8)
    assert list(rows) == ["mean of 3", "one sample"]
    mean_of_3 = rows["mean of 3"]
    assert not mean_of_3.volume.any() and rows["one sample"].all()
    assert np.all(mean_of_3.std == 0.5) and mean_of_3.samples == 3
    assert methods["mean"](None, ANGLES, 8).shape == SHAPE
    posterior, mean = asked
    assert (posterior["num_samples"], posterior["num_steps"]) == (3, 7)
    assert posterior["key"] == 5 and posterior["prior"] == mean["prior"] == "other"
    assert mean["sampler"] == "mean" and posterior["thickness"] == 8


@pytest.mark.parametrize("name", ["regression", "dolce", "diffusion_mbir_fast"])
def test_a_method_without_its_weights_is_refused_in_one_line(name):
    message = f"expected a prior for '{name}', got none.*{name}=FILE"
    with pytest.raises(InputError, match=message) as caught:
        runner.standard_methods(["fbp", name])
    assert "\n" not in str(caught.value)


def test_weights_reach_the_methods_that_they_are_named_for(monkeypatch):
    asked = []

    def reconstruct(tilts, angles, **options):
        asked.append(options)
        return np.zeros(SHAPE, np.float32)

    monkeypatch.setattr(runner.rivals, "reconstruct", reconstruct)
    names = ["dolce", "dolce_fast", "diffusion_mbir", "dds_3d", "dds"]
    methods = runner.standard_methods(
        names, num_steps=7, seed=5, priors={"dolce": "a", "diffusion_mbir": "b"}
    )
    for method in methods.values():
        assert method(None, ANGLES, 8).shape == SHAPE
    assert [options["prior"] for options in asked] == ["a", "a", "b", "b", "default"]
    assert all(options["seed"] == 5 for options in asked)
    # The number of steps is that of "posterior"; rivals have their own.
    assert [options["settings"].num_steps for options in asked] == [
        40,
        20,
        2000,
        50,
        50,
    ]
    assert [methods[n].calls for n in names] == [320, 80, 4000, 50, 50]


def test_regression_is_the_one_call_estimate_of_its_own_weights(monkeypatch):
    asked = []

    def reconstruct(tilts, angles, **options):
        asked.append(options)
        return dataclasses.make_dataclass("Fake", ["mean"])(np.zeros(SHAPE))

    monkeypatch.setattr(runner, "reconstruct", reconstruct)
    methods = runner.standard_methods(["regression"], priors={"regression": "own"})
    assert methods["regression"](None, ANGLES, 8).shape == SHAPE
    assert asked[0]["sampler"] == "mean" and asked[0]["prior"] == "own"


@pytest.mark.slow
def test_rows_of_another_prior_or_weighting_are_of_another_method():
    here, there = (
        runner.standard_methods(["mean"], weighting=form)["mean"].settings
        for form in ("off", "robust")
    )
    assert here["weighting"] == "off" and there["weighting"] == "robust"
    assert here["prior"] == there["prior"] and len(here["prior"]) == 16
