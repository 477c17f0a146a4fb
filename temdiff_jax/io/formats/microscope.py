"""Files of microscope software through rosettasciio, an extra that is not installed
with this package: DigitalMicrograph, TIA, HyperSpy, Bruker, JEOL and others.

rosettasciio is under the GPL-3, which binds who distributes it together with this
package; using it beside it is everybody's right.
"""

from __future__ import annotations

import importlib
import math
import pathlib
from typing import Any

import numpy as np

from temdiff_jax.io import gate
from temdiff_jax.io.formats import apart
from temdiff_jax.io.formats.record import ANGSTROM_PER_UNIT, Image

_READERS = {
    ".dm3": "digitalmicrograph",
    ".dm4": "digitalmicrograph",
    ".ser": "tia",
    ".emi": "tia",
    ".hspy": "hspy",
    ".tvf": "tvips",
    ".tvips": "tvips",
}
SUFFIXES = tuple(_READERS)
INSTALL = 'pip install "temdiff_jax[formats]"'
_DEGREES = ("deg", "degree", "degrees", "°")


def read_microscope(path: pathlib.Path, max_input_gb: float) -> Image:
    """Read a stack [n, y, x] of a microscope's own format.

    Args:
      path: File name.
      max_input_gb: Largest float32 array to build, GiB; the file on disk is compared
        with it before it is opened.

    Raises:
      InputError: rosettasciio is not installed, a spectrum or a single image of
        another number of axes, complex or colour data.
    """
    _, size = gate.regular_file(path)
    if size > max_input_gb * gate.GIB:
        raise gate.bad_input(
            path, f"at most {max_input_gb:g} GiB", f"{size / gate.GIB:.3g}", "bin it"
        )
    name = _READERS[path.suffix.lower()]
    try:
        importlib.import_module(f"rsciio.{name}")
    except ImportError:
        raise gate.bad_input(
            f"{path} ({name} file)", "the package rosettasciio", "none", INSTALL
        ) from None
    if path.suffix.lower() == ".hspy":  # HDF5 inside
        apart.try_parse(__name__, path, max_input_gb)
    with gate.reading(path, f"a readable {name} file"):
        return parse(path, max_input_gb)


def parse(path: str | pathlib.Path, max_input_gb: float) -> Image:
    """As `read_microscope`, in this process, where a damaged file may end it."""
    path = pathlib.Path(path)
    name = _READERS[path.suffix.lower()]
    signals = importlib.import_module(f"rsciio.{name}").file_reader(str(path))
    stacks = [s for s in signals if np.ndim(s["data"]) == 3]
    if len(stacks) != 1:
        shapes = [list(np.shape(s["data"])) for s in signals[:5]]
        raise gate.bad_input(
            path, "one stack of images", f"arrays {shapes}", "export the stack"
        )
    return _image(path, stacks[0], max_input_gb, name)


def _image(
    path: pathlib.Path, signal: dict[str, Any], max_input_gb: float, name: str
) -> Image:
    data = signal["data"]
    if data.dtype.kind not in "biuf":
        raise gate.bad_input(path, "real grey values", data.dtype, "convert it first")
    gate.check_budget(path, data.shape, data.dtype.itemsize, max_input_gb)
    axes = sorted(signal["axes"], key=lambda a: a.get("index_in_array", 0))
    lengths = [
        abs(float(a.get("scale", 0) or 0))
        * ANGSTROM_PER_UNIT.get(str(a.get("units", "")).lower(), 0.0)
        for a in axes
    ]
    usable = len(lengths) == 3 and all(math.isfinite(v) for v in lengths)
    voxel = None
    if usable and lengths[1] > 0 and lengths[2] > 0:
        voxel = (lengths[0] or lengths[2], lengths[1], lengths[2])
    return Image(
        # These programs begin with the top row.
        data=np.ascontiguousarray(np.asarray(data)[:, ::-1], np.float32),
        path=path,
        voxel_size_angstrom=voxel,
        angles_deg=_angles(axes, data.shape[0]),
        header=(("reader", f"rosettasciio {name}, {data.dtype}"),),
    )


def _angles(axes: list[dict[str, Any]], count: int) -> np.ndarray | None:
    """Angles of the navigation axis, where it is one of angles."""
    first = axes[0] if axes else {}
    unit = str(first.get("units", "")).lower()
    name = str(first.get("name", "")).lower()
    if unit not in _DEGREES and not name.startswith("tilt"):
        return None
    if "axis" in first:
        values = np.asarray(first["axis"], np.float64).ravel()
        return values if values.size == count else None
    step, start = float(first.get("scale", 0)), float(first.get("offset", 0))
    return start + step * np.arange(count) if step else None
