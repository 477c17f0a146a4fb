"""Methods of a plan: what their rows say about how they were made."""

import dataclasses
import pathlib

import numpy as np
import pytest

from temdiff_jax.errors import InputError
from temdiff_jax.evaluation import methods, runner
from temdiff_jax.evaluation.plan import Run
from temdiff_jax.priors import load_prior
from temdiff_jax.reconstruction import posterior, rivals


def settings_of(run, priors=None):
    return methods.make_method(run, 3, priors or {}).settings


def test_rows_of_a_sampler_hold_every_number_that_it_depends_on():
    found = settings_of(Run(name="a", method="posterior", samples=2, steps=4))
    defaults = posterior.Options()
    assert (found["samples"], found["steps"], found["seed"]) == (2, 4, 3)
    assert found["solver"] == defaults.solver
    assert found["cg_iters"] == defaults.cg_iters
    for name, value in posterior.Knobs()._asdict().items():
        assert found[name] == value
    other = Run(name="a", method="posterior", settings={"eta": 0.5})
    assert settings_of(other)["eta"] == 0.5


def test_rows_of_the_one_call_estimate_do_not_depend_on_the_sampler(monkeypatch):
    run = Run(name="mean")
    before = settings_of(run)
    monkeypatch.setattr(runner, "DEFAULT_STEPS", 99)
    assert settings_of(run) == before
    assert before["mirrors"] and not {"steps", "samples", "eta"} & set(before)
    assert not settings_of(Run(name="a", method="mean", settings={"mirrors": False}))[
        "mirrors"
    ]


def test_the_regression_control_takes_a_weighting_with_its_own_weights(monkeypatch):
    """Beside ours with the same weighting, only the network differs."""
    asked = []

    def reconstruct(tilts, angles, **options):
        asked.append(options)
        return dataclasses.make_dataclass("Fake", ["mean"])(np.zeros((8, 4, 4)))

    monkeypatch.setattr(methods, "reconstruct", reconstruct)
    default = load_prior("default")
    monkeypatch.setattr(
        methods, "load_prior", lambda path: default._replace(sha256=path)
    )
    weights = {"weighting": "robust"}
    run = Run(name="control", method="regression", settings=weights)
    with pytest.raises(InputError, match="expected a prior for 'regression'"):
        methods.make_method(run, 0, {})
    priors = {"regression": str(pathlib.Path(__file__))}
    method = methods.make_method(run, 0, priors)
    assert method(np.zeros((3, 4, 4)), np.arange(3.0), 8).shape == (8, 4, 4)
    assert asked[0]["prior"].sha256 == priors["regression"]
    assert (asked[0]["sampler"], asked[0]["weighting"]) == ("mean", "robust")
    ours = Run(name="ours", method="mean", settings=weights)
    assert method.calls == methods.make_method(ours, 0, {}).calls
    assert method.settings["weighting"] == "robust"


def test_rows_of_a_rival_hold_its_numbers(tmp_path, monkeypatch):
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(np.arange(4, dtype=np.float32).tobytes())
    run = Run(name="dolce_fast", weights="dolce")
    changed = rivals.DOLCE_FAST._replace(numbers=(("strength", 0.5),))
    monkeypatch.setitem(rivals.RIVALS, "dolce_fast", changed)
    found = settings_of(run, {"dolce": str(weights)})
    assert found["strength"] == 0.5 and found["steps"] == changed.num_steps


@pytest.mark.parametrize("name", runner.LEARNED)
def test_both_ways_to_a_learned_method_tell_the_same_choices(name):
    """A table's configuration and the names of ``temdiff evaluate``."""
    plain = runner.standard_methods([name], seed=3, num_samples=2, num_steps=4)[name]
    table = settings_of(Run(name=name, samples=2, steps=4))
    del table["method"]
    assert plain.settings == table
