"""The installed package: its version, its names, its declared dependencies."""

import ast
import configparser
import fnmatch
import importlib
import importlib.metadata
import re
import sys
from pathlib import Path

import pytest

import temdiff_jax

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "temdiff_jax"

# Where the name to import is not the name to install.
DISTRIBUTIONS = {"absl": "absl-py", "orbax": "orbax-checkpoint", "PIL": "pillow"}


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    assert parser.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    return parser


def requirements() -> dict[str, str]:
    """Name -> version range of every line of install_requires."""
    lines = setup_cfg()["options"]["install_requires"].split("\n")
    named = (re.match(r"([A-Za-z0-9_-]+)(.*)", line) for line in lines if line)
    return {match[1]: match[2] for match in named if match}


def third_party_imports() -> dict[str, set[str]]:
    """Top-level name -> files of the package that import it."""
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            else:
                continue
            for name in names:
                top = name.partition(".")[0]
                if top not in sys.stdlib_module_names and top != "temdiff_jax":
                    found.setdefault(top, set()).add(str(path.relative_to(REPOSITORY)))
    return found


def test_version_is_the_one_of_the_metadata():
    assert temdiff_jax.__version__ == setup_cfg()["metadata"]["version"]
    try:
        installed = importlib.metadata.version("temdiff_jax")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("temdiff_jax is imported from a checkout, not installed")
    assert installed == temdiff_jax.__version__


def test_public_names_exist_and_are_documented():
    names = temdiff_jax.__all__
    assert {"TiltGeometry", "reconstruct"} <= set(names)
    assert len(set(names)) == len(names)
    for name in names:
        value = getattr(temdiff_jax, name)
        if callable(value):
            assert value.__doc__, f"temdiff_jax.{name} has no docstring"


def test_every_import_is_a_declared_dependency():
    declared = requirements()
    undeclared = {
        name: sorted(files)
        for name, files in third_party_imports().items()
        if DISTRIBUTIONS.get(name, name) not in declared
    }
    assert not undeclared


def test_dependencies_are_open_ranges_from_the_oldest_versions_tried():
    lines = (REPOSITORY / ".ci" / "oldest.txt").read_text("utf-8").splitlines()
    oldest = dict(line.split("==") for line in lines if "==" in line)
    ranges = requirements()
    assert "jax" in ranges
    for name, bounds in ranges.items():
        assert re.fullmatch(r">=[\d.]+", bounds), (name, bounds)
        begin = bounds[2:].split(".")
        assert oldest[name].split(".")[: len(begin)] == begin, name


def test_every_folder_with_modules_is_a_package():
    """`packages = find:` passes over a folder without an __init__.py."""
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert [str(f) for f in sorted(folders) if not (f / "__init__.py").exists()] == []


def test_data_files_of_the_package_are_shipped():
    """A file that no package_data pattern names would be missing from a wheel."""
    patterns = setup_cfg()["options.package_data"]["temdiff_jax"].split()
    on_disk = [
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and path.suffix not in {".py", ".pyc"}
    ]
    forgotten = [
        name
        for name in on_disk
        # fnmatch lets * cross a slash; the pattern and the name must agree in depth.
        if not any(
            fnmatch.fnmatch(name, pattern) and name.count("/") == pattern.count("/")
            for pattern in patterns
        )
    ]
    assert not forgotten


def test_console_script_names_a_callable():
    scripts = setup_cfg()["options.entry_points"]["console_scripts"].split("\n")
    targets = dict(re.split(r"\s*=\s*", line) for line in scripts if line)
    module, _, function = targets["temdiff"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))
