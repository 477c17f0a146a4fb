"""The command and ``reconstruct`` in Python have the same defaults."""

import inspect

import jax
import pytest

from temdiff_jax.cli import choices
from temdiff_jax.cli.reconstruct import reconstruct as command
from temdiff_jax.reconstruction import plan
from temdiff_jax.reconstruction import reconstruct as library
from temdiff_jax.series.preparation import SeriesOptions

# By the command's names; what a file is, or where results go, is the command's alone.
NAMES = {
    "thickness": "thickness",
    "prior": "prior",
    "method": "method",
    "rule": "rule",
    "solver": "solver",
    "schedule": "schedule",
    "samples": "num_samples",
    "steps": "num_steps",
    "seed": "key",
    "voxel_size": "voxel_size_angstrom",
    "weighting": "weighting",
    "log": "log",
    "contrast": "contrast",
}


def defaults(function):
    parameters = inspect.signature(function).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters}


def test_the_same_choice_is_made_where_nothing_is_said():
    ours, theirs = defaults(command), defaults(library)
    assert {name: ours[name] for name in NAMES} == {
        name: theirs[other] for name, other in NAMES.items()
    }
    assert SeriesOptions().log == theirs["log"]
    assert SeriesOptions().weighting == theirs["weighting"]


@pytest.mark.parametrize(("device", "samples"), [("cpu", 4), ("gpu", 16)])
def test_samples_are_decided_in_one_place(monkeypatch, tiny_prior, device, samples):
    monkeypatch.setattr(jax, "default_backend", lambda: device)
    sampling = choices.Sampling(prior=str(tiny_prior))
    said = choices.choose(sampling)
    written = plan.choose("default", tiny_prior)
    assert said.settings == written.settings
    assert (said.settings.num_samples, said.settings.num_steps) == (samples, 8)
    (line,) = choices.effort(said, sampling)
    assert line.startswith(f"{samples} samples of 8 steps (defaults")
    given = choices.Sampling(prior=str(tiny_prior), samples=3, steps=4)
    assert choices.effort(choices.choose(given), given) == ["3 samples of 4 steps"]
