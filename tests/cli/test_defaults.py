"""The command and ``reconstruct`` in Python have the same defaults."""

import inspect

from temdiff_jax.cli import options
from temdiff_jax.cli.reconstruct import reconstruct as command
from temdiff_jax.reconstruction import reconstruct as library

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
}


def defaults(function):
    parameters = inspect.signature(function).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters}


def test_the_same_choice_is_made_where_nothing_is_said():
    ours, theirs = defaults(command), defaults(library)
    assert {name: ours[name] for name in NAMES} == {
        name: theirs[other] for name, other in NAMES.items()
    }


def test_the_differences_are_known():
    """A file may hold intensities; arrays of the library are line integrals."""
    assert (defaults(command)["log"], defaults(library)["log"]) == ("auto", "off")
    assert options.effort(None, None, on_cpu=False)[:2] == (16, 8)
