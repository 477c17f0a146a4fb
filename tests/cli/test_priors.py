import json
import sys
import types

import pytest

from temdiff_jax import priors
from temdiff_jax.cli.main import main
from temdiff_jax.errors import InputError

CARDS = {
    "default": {"licence": "CC0", "voxel_size_angstrom": [40, 80], "sha256": "ab" * 32},
    "large": {"licence": "CC BY 4.0", "note": "two\nlines"},
}


@pytest.fixture
def shelf(monkeypatch):
    """Two priors by name, and files of which any holds the first card."""
    seen = []

    def load_prior(name):
        seen.append(name)
        if str(name).endswith(".safetensors"):
            return types.SimpleNamespace(card=CARDS["default"])
        if name not in CARDS:
            raise InputError(
                f"prior: expected a known name, got {name!r}; see the list"
            )
        return types.SimpleNamespace(card=CARDS[name])

    module = types.ModuleType("temdiff_jax.priors.load")
    module.load_prior, module.prior_names = load_prior, lambda: tuple(CARDS)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(priors, "load", module, raising=False)
    return seen


def test_list_prints_every_card(shelf, capsys):
    assert main(["priors", "list"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "default",
        "  licence: CC0",
        "  voxel_size_angstrom: [40, 80]",
        f"  sha256: {'ab' * 32}",
        "large",
        "  licence: CC BY 4.0",
        "  note: two lines",
    ]


def test_list_as_json(shelf, capsys):
    assert main(["priors", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == CARDS


def test_verify_loads_by_name_or_file(shelf, capsys, tmp_path):
    assert main(["priors", "verify"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "default: intact"
    path = tmp_path / "own.safetensors"
    path.write_bytes(b"x")
    assert main(["priors", "verify", str(path)]) == 0
    assert shelf == ["default", path]


def test_verify_refuses_in_one_line(shelf, capsys):
    assert main(["priors", "verify", "nobody"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "temdiff: prior: expected a known name, got 'nobody'; see the list\n"
    )
