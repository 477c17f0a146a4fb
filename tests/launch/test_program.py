"""Configurations from files and from the command line; how programs refuse."""

import dataclasses

import pytest

from launch import program
from temdiff_jax.errors import InputError
from temdiff_jax.training.config import TrainConfig
from temdiff_jax.training.data import extents

CONFIG = TrainConfig()


@pytest.mark.parametrize(
    ("assignment", "read", "expected"),
    [
        ("seed=5", lambda c: c.seed, 5),
        ("name=wide", lambda c: c.name, "wide"),
        ("optim.num_steps=17", lambda c: c.optim.num_steps, 17),
        ("optim.learning_rate=1", lambda c: c.optim.learning_rate, 1.0),
        ("optim.learning_rate=2e-4", lambda c: c.optim.learning_rate, 2e-4),
        ("network.channels=[8, 16]", lambda c: c.network.channels, (8, 16)),
        ("data.sources=['a.npz:x']", lambda c: c.data.sources, ("a.npz:x",)),
        ("data.crop=(16, 32, 32)", lambda c: c.data.crop, (16, 32, 32)),
        ("data.crop=48", lambda c: c.data.crop, 48),
        ("data.imaging.mode='haadf'", lambda c: c.data.imaging.mode, "haadf"),
        ("data.imaging.mode=haadf", lambda c: c.data.imaging.mode, "haadf"),
    ],
)
def test_override_replaces_one_field(assignment, read, expected):
    changed = program.override(CONFIG, assignment)
    value = read(changed)
    assert value == expected and type(value) is type(expected)
    hash(changed)
    # The rest, and the configuration that was given, stay.
    assert read(CONFIG) != expected
    assert dataclasses.replace(changed, name="x").checkpoint_every == 200


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optim.num_stps=3", "did you mean num_steps?"),
        ("optimizer.num_steps=3", r"expected one of \[.*'optim'"),
        ("seed", "expected field=value, got 'seed'"),
        ("seed.deep=3", "a plain int"),
        ("optim.num_steps=many", "num_steps of type int like .*got 'many'"),
        ("optim.num_steps=2.5", "got 2.5"),
        ("optim=3", "optim of type OptimConfig"),
        ("data.crop=wide", "crop of type int or tuple"),
        ("network.channels=8", "channels of type tuple"),
    ],
)
def test_bad_override_is_refused(assignment, message):
    with pytest.raises(InputError, match=message) as caught:
        program.override(CONFIG, assignment)
    assert str(caught.value).startswith("--set: ") and "\n" not in str(caught.value)


def test_configuration_of_the_shipped_prior_loads():
    config = program.load_config("configs/default_prior.py")
    assert isinstance(config, TrainConfig) and config.name == "default"
    for scenario in config.data.scenarios:
        sizes = extents(config.data.crop, scenario.thickness)
        assert all(n % config.network.multiple == 0 for n in sizes)
        assert sizes[0] <= scenario.thickness


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="--config: expected a Python file"):
        program.load_config(str(tmp_path / "none.py"))


def test_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "config.txt"
    path.write_text("")
    with pytest.raises(InputError, match=r"ending in \.py"):
        program.load_config(str(path))


def test_file_without_get_config_is_refused(tmp_path):
    path = tmp_path / "config.py"
    path.write_text("X = 1\n")
    with pytest.raises(InputError, match=r"a function get_config\(\)"):
        program.load_config(str(path))


def test_overrides_apply_in_their_order():
    config = program.resolve(
        "configs/default_prior.py", ["seed=5", "optim.num_steps=17", "seed=6"]
    )
    assert (config.seed, config.optim.num_steps) == (6, 17)


def test_unusable_input_ends_the_program_with_one_line_and_code_2(capsys):
    with pytest.raises(SystemExit) as caught, program.refusals("score"):
        raise InputError("--data: expected a folder, got none; give it")
    assert caught.value.code == 2
    assert capsys.readouterr() == (
        "",
        "score: --data: expected a folder, got none; give it\n",
    )


def test_words_that_belong_to_no_flag_are_refused(capsys):
    with pytest.raises(SystemExit) as caught, program.refusals("score", ["s", "runs"]):
        raise AssertionError("the program must not begin")
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("score: expected flags only, got runs;")


def test_what_is_no_refusal_passes(capsys):
    with pytest.raises(ValueError, match="a bug"), program.refusals("score", ["score"]):
        raise ValueError("a bug")
    with program.refusals("score", ["score"]):
        pass
    assert capsys.readouterr() == ("", "")
