"""Programs of launch/ as modules, several in one process; specimens for tables."""

import importlib
import pathlib
import types
from collections.abc import Callable

import numpy as np
import pytest
from absl import flags
from scipy import ndimage


@pytest.fixture(scope="session")
def write_specimens() -> Callable[[pathlib.Path], None]:
    """Return a function that writes s0.npz and s1.npz, 32 x 24 x 24 grey voxels."""

    def write(folder: pathlib.Path) -> None:
        for i in range(2):
            noise = np.random.default_rng(i).normal(size=(32, 24, 24))
            smooth = ndimage.gaussian_filter(noise, 1.5)
            grey = np.uint8(np.clip(128 + 40 * smooth / smooth.std(), 0, 255))
            np.savez(folder / f"s{i}.npz", volume=grey)

    return write


@pytest.fixture(scope="session")
def untilted() -> Callable[..., Callable[..., np.ndarray]]:
    """Return what stands for `runner.make_simulate`: every tilt looks along z.

    The simulator compiles for long.
    """

    def make(errors):
        def simulate(truth, angles_deg, seed):
            rng = np.random.default_rng(seed)
            shape = (len(angles_deg), *truth.shape[1:])
            scale = 0.1 * (1 + errors.shift_px)
            return np.float32(truth.sum(axis=0) + scale * rng.normal(size=shape))

        return simulate

    return make


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
