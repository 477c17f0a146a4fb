"""Which part may import which, where outside libraries may enter, what is banned.

The rules are tables; `violations` reads one source text against them.  Imports are
read from the syntax tree, so an import inside a function or under TYPE_CHECKING counts
like any other: an arrow is an arrow.
"""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = "temdiff_jax"

# Importer <- what it may import.  A name stands for a module or a folder of the
# package; `io.write` stands for that module alone.  Reading downwards follows a volume
# from numbers to pictures; no row may name a row that leads back to it.
GROUND = "errors layout geometry parallel"
OPERATOR = f"{GROUND} projector"
ALGEBRA = f"{OPERATOR} inverse"
ALLOWED = {
    # ground: names, numbers, shapes
    "errors": "",
    "layout": "errors",
    "geometry": "errors",
    "parallel": "errors",
    # the host side, which never waits for jax
    "io": "errors",
    "report": "errors io.write",
    # the operator, and the linear problem made of it
    "projector": GROUND,
    "inverse": OPERATOR,
    # three things that know nothing of each other: what a series says of itself,
    # samplers, specimens
    "series": f"{ALGEBRA} io.tilt_series",
    "diffusion": f"{ALGEBRA} io.write",
    "simulator": OPERATOR,
    # the network: a denoiser reaches the sampler as a function, so neither of model
    # and diffusion sees the other
    "model": "errors",
    # where the parts meet
    "baselines": f"{ALGEBRA} series",
    "priors": f"{ALGEBRA} series diffusion model io",
    "trust": f"{ALGEBRA} series",
    "reconstruction": f"{ALGEBRA} series baselines diffusion model priors io report "
    "trust",
    "training": f"{ALGEBRA} series simulator diffusion model priors io",
    "evaluation": f"{ALGEBRA} simulator baselines priors reconstruction io",
}
# Nobody imports the leaves, launch/ alone excepted, which loads configs/.  The root
# of the package offers the public names, so nothing below it may import it.
LIBRARY = " ".join(ALLOWED)
ALLOWED |= {
    "__init__": LIBRARY,
    "cli": f"{LIBRARY} __init__",
    "configs": "errors model simulator training evaluation reconstruction",
    "launch": f"{LIBRARY} __init__ configs",
}

# Outside library <- the only places that may import it.
CONFINED = {
    "absl.app": ["launch"],
    "absl.flags": ["launch"],
    "flax": ["model"],
    "jinja2": ["report"],
    "matplotlib": ["report"],
    "mrcfile": ["io"],
    "PIL": ["report"],
    "orbax": ["training.checkpoint"],
    "rich": ["cli"],
    "tensorboardX": ["training.telemetry"],
    "tensorstore": ["io"],
    "tifffile": ["io"],
    "typer": ["cli"],
}
# Place <- outside libraries that must not enter, although others may use them.
REFUSED = {"io": ["jax", "jaxlib"], "report": ["jax", "jaxlib", "scipy"]}

# Reading any of these runs what the file says.
UNSAFE_MODULES = ["cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"]
UNSAFE_CALLS = ["yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"]

# The library neither reads nor sets what is global; programs do, and pass it on.
GLOBAL_STATE = ["os.environ", "os.environb", "os.getenv", "os.putenv", "os.unsetenv"]
GLOBAL_STATE += ["jax.config.update", "jax.set_mesh"]
PROGRAMS = ["cli", "launch", "third_party"]


def within(name: str, place: str) -> bool:
    """Tell whether a dotted name is the place or lies inside it."""
    return name == place or name.startswith(place + ".")


def inside_any(name: str, places: list[str]) -> bool:
    return any(within(name, place) for place in places)


def imported_names(tree: ast.AST) -> Iterator[tuple[int, str, str, str]]:
    """Yield (line, module, attribute or "", local name) of every import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                # `import a.b` binds a, `import a.b as c` binds a.b.
                local = alias.asname or alias.name.partition(".")[0]
                yield node.lineno, alias.name, "", local
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            for alias in node.names:
                yield node.lineno, module, alias.name, alias.asname or alias.name
        elif isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func)
            first = node.args[0]
            if called in {"importlib.import_module", "import_module", "__import__"}:
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    yield node.lineno, first.value, "", ""


def own_name(module: str) -> str | None:
    """Name of a module of this repository as the table has it, None for others."""
    if module == PACKAGE:
        return "__init__"
    if module.startswith(PACKAGE + "."):
        return module.removeprefix(PACKAGE + ".")
    return module if inside_any(module, ["configs", "launch"]) else None


def arrow_violation(importer: str, module: str, attribute: str) -> str | None:
    """Say what is wrong with an import from this repository, None if nothing is."""
    target = own_name(module)
    if target is None:
        return None
    if target == "__init__" and attribute in ALLOWED:
        target, attribute = attribute, ""  # from temdiff_jax import layout
    layer, other = importer.partition(".")[0], target.partition(".")[0]
    if layer == other:
        return None
    allowed = ALLOWED[layer].split()
    spellings = [target, f"{target}.{attribute}"]
    if any(inside_any(spelling, allowed) for spelling in spellings):
        return None
    return f"{layer} may not import {target}; it may import: {' '.join(allowed) or '-'}"


def library_violations(importer: str, module: str, attribute: str) -> Iterator[str]:
    """Yield what is wrong with an import of an outside library."""
    spellings = [module, f"{module}.{attribute}"]
    for library, places in CONFINED.items():
        found = any(within(spelling, library) for spelling in spellings)
        if found and not inside_any(importer, [*places, "third_party"]):
            yield f"{library} belongs to {' '.join(places)}, not to {importer}"
    for place, libraries in REFUSED.items():
        if within(importer, place) and inside_any(module, libraries):
            yield f"{module} must not enter {place}"
    if inside_any(module, UNSAFE_MODULES):
        yield f"{module} is banned: reading such a file can run what it says"


def use_violations(importer: str, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, message) for banned calls and for global state."""
    bound = {
        local: f"{module}.{attribute}" if attribute else module
        for _, module, attribute, local in imported_names(tree)
        # `import a.b` binds a, whose own name is a.
        if attribute or local != module.partition(".")[0]
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                safe = isinstance(keyword.value, ast.Constant) and not (
                    keyword.value.value
                )
                if keyword.arg == "allow_pickle" and not safe:
                    yield node.lineno, "allow_pickle must stay False"
        if not isinstance(node, ast.Attribute | ast.Name):
            continue
        head, dot, rest = ast.unparse(node).partition(".")
        full = bound.get(head, head) + dot + rest
        if full in UNSAFE_CALLS:
            yield node.lineno, f"{full} is banned: it builds any object; use safe_load"
        if full in GLOBAL_STATE and not inside_any(importer, PROGRAMS):
            yield node.lineno, f"{full} belongs to cli and launch, not to {importer}"


def violations(importer: str, source: str) -> list[str]:
    """Read one source text against the tables.

    `importer` is the name of the module as the tables have it: "io.mrc",
    "launch.train", "__init__".
    """
    tree = ast.parse(source)
    layer = importer.partition(".")[0]
    if layer not in ALLOWED and layer != "third_party":
        return [f"{importer}: no row in the table; say there what {layer} may import"]
    found = set(use_violations(importer, tree))
    for line, module, attribute, _ in imported_names(tree):
        if module.startswith("."):
            found.add((line, f"relative import {module}: write the whole name"))
            continue
        wrong = None
        if layer != "third_party":
            wrong = arrow_violation(importer, module, attribute)
        messages = [*library_violations(importer, module, attribute), wrong]
        found |= {(line, message) for message in messages if message}
    return [f"{importer}, line {line}: {message}" for line, message in sorted(found)]


def modules() -> dict[str, Path]:
    """Name -> file of every module that the tables speak of."""
    found = {}
    for folder in [PACKAGE, "configs", "launch", "third_party"]:
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            parts = list(path.relative_to(REPOSITORY).with_suffix("").parts)
            if parts[0] == PACKAGE:
                parts = parts[1:]
            if parts[-1] == "__init__" and len(parts) > 1:
                parts = parts[:-1]
            found[".".join(parts)] = path
    return found


@pytest.mark.parametrize(("name", "path"), modules().items(), ids=list(modules()))
def test_module_obeys_the_tables(name, path):
    assert violations(name, path.read_text(encoding="utf-8")) == []


def test_the_package_was_found():
    assert {"__init__", "geometry", "projector"} <= set(modules())


def test_no_row_leads_back_to_itself():
    graph = {
        row: {name.partition(".")[0] for name in allowed.split()}
        for row, allowed in ALLOWED.items()
    }
    assert set().union(*graph.values()) <= set(graph)
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert order.index("errors") == 0


PLANTED = [
    ("errors", "import temdiff_jax.geometry", "errors may not import geometry"),
    ("geometry", "from temdiff_jax.projector import project", "may not import proj"),
    ("projector.taps", "from temdiff_jax import simulator", "may not import simulator"),
    ("model.unet", "from temdiff_jax.diffusion import sampler", "model may not"),
    ("diffusion.sampler", "from temdiff_jax import model", "diffusion may not"),
    ("baselines.tikhonov", "import temdiff_jax.diffusion.algebra", "baselines may not"),
    ("reconstruction", "from temdiff_jax.cli import main", "may not import cli"),
    (
        "training.loop",
        "from temdiff_jax import reconstruction as r",
        "training may not",
    ),
    ("report.page", "from temdiff_jax.io import mrc", "may not import io"),
    ("cli.main", "from launch import train", "may not import launch"),
    ("cli.main", "import configs.small", "may not import configs"),
    ("configs.small", "from temdiff_jax import report", "configs may not"),
    ("series", "import temdiff_jax", "series may not import __init__"),
    ("series", "from temdiff_jax import reconstruction", "may not import recon"),
    ("series", "from . import geometry", "relative import"),
    ("io.mrc", "def f():\n    import temdiff_jax.layout", "line 2: io may not"),
    ("io.mrc", "import importlib\nimportlib.import_module('jax')", "must not enter"),
    ("io.mrc", "from jax import numpy as jnp", "jax must not enter io"),
    ("report.page", "import jax.numpy as jnp", "must not enter report"),
    ("diffusion.sampler", "from flax import linen as nn", "flax belongs to model"),
    ("training.loop", "import orbax.checkpoint as ocp", "training.checkpoint, not"),
    ("reconstruction", "from rich.progress import Progress", "rich belongs to cli"),
    ("launch.train", "import typer", "typer belongs to cli"),
    (
        "training.loop",
        "import tensorboardX",
        "belongs to training.telemetry",
    ),
    ("cli.main", "from absl import flags", "absl.flags belongs to launch"),
    ("training.telemetry", "from absl import app", "absl.app belongs to launch"),
    ("evaluation.tables", "import matplotlib.pyplot as plt", "belongs to report"),
    ("cli.convert", "import mrcfile", "mrcfile belongs to io"),
    ("priors.load", "import tifffile", "tifffile belongs to io"),
    ("third_party.astra.run", "import pickle", "pickle is banned"),
    ("launch.train", "from joblib import load", "joblib is banned"),
    ("io.mrc", "import numpy\nnumpy.load('a', allow_pickle=True)", "allow_pickle"),
    ("io.mrc", "import numpy\nnumpy.load('a', allow_pickle=flag)", "allow_pickle"),
    ("cli.main", "import yaml\nyaml.load('a')", "yaml.load is banned"),
    ("cli.main", "from yaml import load as read\nread('a')", "yaml.load is banned"),
    ("priors.load", "import os\nos.environ['A']", "os.environ belongs to cli"),
    ("priors.load", "import os as o\no.environ.get('A')", "os.environ belongs"),
    ("priors.load", "import os.path\nos.getenv('A')", "os.getenv belongs"),
    ("priors.load", "from os import environ\nenviron['A']", "os.environ belongs"),
    (
        "inverse.cg",
        "import jax\njax.config.update('a', 1)",
        "config.update belongs",
    ),
    ("plotting", "import numpy", "no row in the table"),
]


@pytest.mark.parametrize(("importer", "source", "message"), PLANTED)
def test_a_planted_violation_is_caught(importer, source, message):
    found = violations(importer, source)
    assert len(found) == 1
    assert message in found[0]


INNOCENT = [
    ("geometry", "import jax\nfrom temdiff_jax.errors import InputError"),
    ("projector.project", "from temdiff_jax.projector import taps"),
    ("baselines.tikhonov", "from temdiff_jax import inverse, layout, projector"),
    ("model.unet", "from flax import linen as nn"),
    ("training.checkpoint", "import orbax.checkpoint as ocp"),
    ("training.telemetry", "from absl import logging"),
    ("report.page", "from temdiff_jax.io import write\nimport matplotlib.style"),
    ("report.page", "from temdiff_jax.io.write import replace_file"),
    ("report.page", "import io\nimport numpy as np"),
    ("cli.main", "import os\nimport typer\nfrom temdiff_jax import __version__"),
    ("launch.train", "import os\nimport configs.small\nos.environ['A'] = '1'"),
    ("io.mrc", "import numpy as np\nnp.load('a', allow_pickle=False)"),
    ("io.mrc", "import os\nos.replace('a', 'b')\nenviron = {}\nenviron['a'] = 1"),
    ("__init__", "from temdiff_jax.reconstruction import reconstruct"),
    ("third_party.astra.run", "import matplotlib.pyplot as plt"),
]


@pytest.mark.parametrize(("importer", "source"), INNOCENT)
def test_what_is_allowed_passes(importer, source):
    assert violations(importer, source) == []
