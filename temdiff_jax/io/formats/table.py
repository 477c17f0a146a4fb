"""The formats that are read, by the ending of a name: the one table of readers.

A new format is a module with a function ``read(path, max_input_gb) -> Image`` and a
row here.  Readers of large libraries import them when they are called.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

from temdiff_jax.io import gate
from temdiff_jax.io.formats import hdf5, microscope, mrc, npz, store_image, tiff
from temdiff_jax.io.formats.record import Image


class Format(NamedTuple):
    """A kind of file: its name, the endings it goes by, its reader."""

    name: str
    suffixes: tuple[str, ...]
    read: Callable[[pathlib.Path, float], Image]
    folder: bool = False


FORMATS = (
    Format("MRC", mrc.SUFFIXES, mrc.read_mrc),
    Format("TIFF", (".tif", ".tiff", ".btf"), tiff.read_tiff),
    Format("NumPy", (".npz", ".npy"), npz.read_npz),
    Format("HDF5 and EMD", (".emd", ".h5", ".hdf5", ".hdf"), hdf5.read_hdf5),
    Format("microscope software", microscope.SUFFIXES, microscope.read_microscope),
    Format(
        "zarr, N5",
        (".zarr", ".n5", ".precomputed"),
        store_image.read_store,
        folder=True,
    ),
)


def format_of(path: str | os.PathLike[str]) -> Format | None:
    """The format a name stands for, None for an ending that nobody knows."""
    path = pathlib.Path(path)
    suffix = path.suffix.lower()
    if mrc.is_mrc_name(path):
        return FORMATS[0]
    return next((row for row in FORMATS if suffix in row.suffixes), None)


def stem(path: str | os.PathLike[str]) -> str:
    """Name of a file without its ending and that of a compression."""
    path = pathlib.Path(path)
    if path.suffix.lower() in mrc.COMPRESSED:
        path = path.with_suffix("")
    name = path.stem
    return name.removesuffix(".ome").removesuffix(".OME") or path.name


def read_image(
    path: str | os.PathLike[str], *, max_input_gb: float = gate.DEFAULT_MAX_INPUT_GB
) -> Image:
    """Read a stack or a volume of any known format as float32 [z, y, x].

    Args:
      path: A file, or the folder of a zarr or N5 store.
      max_input_gb: Largest float32 array to build, GiB.

    Raises:
      InputError: an ending that is not known, a damaged, lying or oversized file.
    """
    path = pathlib.Path(path)
    row = format_of(path)
    if row is None:
        known = " ".join(s for f in FORMATS for s in f.suffixes)
        raise gate.bad_input(
            path,
            f"a name ending in one of {known}",
            path.suffix or "no ending",
            "export the series as MRC or TIFF",
        )
    if not row.folder:
        path, _ = gate.regular_file(path)
    with gate.reading(path, f"a readable {row.name} file"):
        return row.read(path, max_input_gb)
