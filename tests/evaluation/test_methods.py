"""Methods of a plan: what they call, and what their rows say of themselves."""

import dataclasses
import pathlib

import numpy as np
import pytest

from temdiff_jax.errors import InputError
from temdiff_jax.evaluation import methods
from temdiff_jax.evaluation.plan import Run
from temdiff_jax.inverse.tikhonov import settings_for
from temdiff_jax.priors import load_prior
from temdiff_jax.reconstruction.methods import table
from temdiff_jax.reconstruction.settings import Settings

SHAPE = (8, 9, 12)  # z, y, x
ANGLES = np.array([-5.0, 0.0, 5.0])


def settings_of(run, priors=None):
    return methods.make_method(run, 3, priors or {}).settings


@dataclasses.dataclass
class Fake:
    mean: np.ndarray
    std: np.ndarray
    samples: np.ndarray


@pytest.fixture
def asked(monkeypatch):
    """What `reconstruct` was asked, call by call."""
    calls = []

    def reconstruct(tilts, angles, **options):
        calls.append(options)
        return Fake(np.zeros(SHAPE), np.full(SHAPE, 0.5), np.ones((3, *SHAPE)))

    monkeypatch.setattr(methods, "reconstruct", reconstruct)
    default = load_prior("default")
    monkeypatch.setattr(
        methods, "load_prior", lambda path: dataclasses.replace(default, sha256=path)
    )
    return calls


def test_rows_of_a_sampler_hold_every_number_that_it_depends_on():
    found = settings_of(Run(name="a", method="posterior", samples=2, steps=4))
    defaults = Settings()
    assert (found["samples"], found["steps"], found["seed"]) == (2, 4, 3)
    for name in ("solver", "cg_iters", "eta", "prior_precision", "outside"):
        assert found[name] == getattr(defaults, name)
    other = Run(name="a", method="posterior", settings={"eta": 0.5})
    assert settings_of(other)["eta"] == 0.5


def test_rows_of_the_one_call_estimate_do_not_depend_on_the_sampler():
    before = settings_of(Run(name="mean"))
    assert settings_of(Run(name="mean", samples=2, steps=99)) == before
    assert not before["mirrors"] and not {"steps", "samples", "eta"} & set(before)
    plain = Run(name="a", method="mean", settings={"mirrors": True})
    assert settings_of(plain)["mirrors"]


def test_rows_of_another_prior_or_weighting_are_of_another_method():
    here, there = (
        settings_of(Run(name="mean", settings={"weighting": form}))
        for form in ("off", "robust")
    )
    assert here["weighting"] == "off" and there["weighting"] == "robust"
    assert here["prior"] == there["prior"] and len(here["prior"]) == 16


def test_posterior_passes_its_options_on_and_names_its_rows(asked):
    run = Run(name="posterior", samples=3, steps=7)
    method = methods.make_method(run, 5, {"default": "other"})
    rows = method(None, ANGLES, 8)
    assert list(rows) == ["mean of 3", "one sample"]
    mean_of_3 = rows["mean of 3"]
    assert not mean_of_3.volume.any() and rows["one sample"].all()
    assert np.all(mean_of_3.std == 0.5) and mean_of_3.samples == 3
    (call,) = asked
    assert (call["settings"].num_samples, call["settings"].num_steps) == (3, 7)
    assert call["key"] == 5 and call["prior"].sha256 == "other"
    assert call["thickness"] == 8 and call["weighting"] == "off"


def test_the_regression_control_takes_a_weighting_with_its_own_weights(asked):
    """Beside ours with the same weighting, only the network differs."""
    weights = {"weighting": "robust"}
    run = Run(name="control", method="regression", settings=weights)
    with pytest.raises(InputError, match="expected a prior for 'regression'"):
        methods.make_method(run, 0, {})
    priors = {"regression": str(pathlib.Path(__file__))}
    method = methods.make_method(run, 0, priors)
    assert method(np.zeros((3, 4, 4)), ANGLES, 8).shape == SHAPE
    assert asked[0]["prior"].sha256 == priors["regression"]
    assert asked[0]["method"].name == "regression"
    assert asked[0]["weighting"] == "robust"
    ours = Run(name="ours", method="mean", settings=weights)
    assert method.calls == methods.make_method(ours, 0, {}).calls


def test_weights_reach_the_methods_that_they_are_named_for(asked):
    names = ["dolce", "dolce_fast", "diffusion_mbir", "dds_3d", "dds"]
    priors = {"dolce": "a", "diffusion_mbir": "b"}
    made = [methods.make_method(Run(name=n, steps=7), 5, priors) for n in names]
    for method in made:
        assert method(None, ANGLES, 8).shape == SHAPE
    weights = [call["prior"].sha256 for call in asked]
    assert weights == ["a", "a", "b", "b", "default"]
    # The number of steps is that of "posterior"; published samplers have their own.
    steps = [call["settings"].num_steps for call in asked]
    assert steps == [40, 20, 2000, 50, 50]
    assert [method.calls for method in made] == [320, 80, 4000, 50, 50]


@pytest.mark.parametrize("name", ["regression", "dolce", "diffusion_mbir_fast"])
def test_a_method_without_its_weights_is_refused_in_one_line(name):
    message = f"expected a prior for '{name}', got none.*=FILE"
    with pytest.raises(InputError, match=message) as caught:
        methods.make_method(Run(name=name), 0, {})
    assert "\n" not in str(caught.value)


def test_rows_of_a_published_sampler_hold_its_numbers(tmp_path):
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(np.arange(4, dtype=np.float32).tobytes())
    run = Run(name="diffusion_mbir_fast", weights="diffusion_mbir")
    found = settings_of(run, {"diffusion_mbir": str(weights)})
    assert (found["coupling"], found["num_iters"], found["steps"]) == (0.006, 3, 100)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (Run(name="magic"), "method: expected one of default, .*'magic'"),
        (Run(name="mean", settings={"width": 3}), r"got \['width'\] for mean"),
        (Run(name="fbp", settings={"eta": 0.5}), "for a method among .* for fbp"),
        (Run(name="dps", settings={"eta": 0.5}), "for a method among .* for dps"),
    ],
)
def test_unknown_methods_and_settings_are_refused(run, message):
    with pytest.raises(InputError, match=message):
        methods.make_method(run, 0, {})


def test_costs_follow_the_settings():
    before = settings_for(ANGLES).num_iters + 1

    def cost(name, **options):
        method = methods.make_method(Run(name=name, **options), 0, {})
        return method.calls, method.pairs(ANGLES)

    assert cost("posterior", samples=3, steps=7, settings={"cg_iters": 4}) == (
        21,
        before + 3 * 7 * 5,
    )
    assert cost("mean") == (1, before + 21)
    assert cost("mean", settings={"mirrors": True})[0] == 8
    assert cost("dds") == (50, before + 50 * 6)
    assert cost("dps") == (1000, None)


def test_classical_methods_cost_no_network():
    for name, row in table().items():
        if not row.needs:
            method = methods.make_method(Run(name=name), 0, {})
            assert method.calls == 0 and method.pairs(ANGLES) >= 1


def test_classical_methods_reconstruct_without_a_prior():
    tilts = np.random.default_rng(0).normal(size=(3, 9, 12)).astype(np.float32)
    volume = methods.make_method(Run(name="fbp"), 0, {})(tilts, ANGLES, 8)
    assert volume.shape == SHAPE and np.all(np.isfinite(volume))
