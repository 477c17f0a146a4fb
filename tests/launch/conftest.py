"""Programs of launch/ as modules, several in one process."""

import importlib
import types
from collections.abc import Callable

import pytest
from absl import flags


@pytest.fixture(scope="session")
def load_program() -> Callable[[str], types.ModuleType]:
    """Return a function that imports a program without its flags.

    absl keeps the flags of a process in one list, and every program has an --out.
    Flags of other programs are put aside during the import and back after it.
    """

    def load(name: str) -> types.ModuleType:
        aside = take_flags()
        try:
            return importlib.import_module(name)
        finally:
            take_flags()
            for flag_name, flag in aside.items():
                flags.FLAGS[flag_name] = flag

    return load


def take_flags() -> dict[str, flags.Flag]:
    """Remove the flags that programs have defined, and return them."""
    taken = {}
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        if module.startswith("launch."):
            taken |= {flag.name: flag for flag in defined}
    for name in taken:
        delattr(flags.FLAGS, name)
    return taken
