"""What a blosc chunk says of its size, looked at before it is unpacked.

The header of a blosc buffer holds the size of what is inside as a 32-bit number at
byte 4 (https://github.com/Blosc/c-blosc, README_HEADER.rst), and its reader takes that
much memory.  A chunk of an array has a known size, so a lie is seen beforehand.
"""

from __future__ import annotations

import itertools
import math
import pathlib
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from temdiff_jax.io import gate
from temdiff_jax.io.formats import store_metadata

Check = Callable[[Sequence[slice]], None]
_HEADER = struct.Struct("<4xI8x")


def checker(
    folder: pathlib.Path, node: store_metadata.Node, declared: store_metadata.Array
) -> Check | None:
    """A function that checks the chunks of a box (z, y, x) of a local array.

    Args:
      folder: Of the array.
      node, declared: Its metadata.

    Returns:
      None where no chunk is blosc, or where chunks lie inside shards, which
      TensorStore bounds by their index.
    """
    meta = node.array or {}
    key = _key_of(node.driver, meta)
    if "blosc" not in declared.codecs or key is None:
        return None
    size = math.prod(declared.chunk) * np.dtype(declared.dtype).itemsize
    # N5 has a head of its own before the data: mode, rank and extents of the block.
    skip = 4 + 4 * len(declared.axes) if node.driver == "n5" else 0

    def check(box: Sequence[slice]) -> None:
        inside = dict(zip(store_metadata.AXES, box, strict=True))
        ranges = [
            range(cut.start // step, -(-cut.stop // step))
            for axis, step in zip(declared.axes, declared.chunk, strict=True)
            for cut in (inside.get(axis, slice(0, 1)),)
        ]
        for index in itertools.product(*ranges):
            _check_chunk(folder / key(index), skip, size)

    return check


def _key_of(driver: str, meta: dict[str, Any]) -> Callable[..., str] | None:
    """Name of a chunk's file by its index."""
    if driver == "zarr":
        dot = str(meta.get("dimension_separator") or ".")
        return lambda index: dot.join(map(str, index))
    if driver == "n5":
        return lambda index: "/".join(map(str, index))
    if driver != "zarr3" or any(
        codec.get("name") == "sharding_indexed" for codec in meta["codecs"]
    ):
        return None
    encoding = meta.get("chunk_key_encoding", {})
    default = encoding.get("name", "default") == "default"
    sign = encoding.get("configuration", {}).get("separator", "/" if default else ".")
    lead = ["c"] if default else []
    return lambda index: str(sign).join([*lead, *map(str, index)])


def _check_chunk(path: pathlib.Path, skip: int, size: int) -> None:
    if not path.is_file():
        return  # a missing chunk is TensorStore's to report
    with path.open("rb") as stream:
        stream.seek(skip)
        head = stream.read(_HEADER.size)
    found = _HEADER.unpack(head)[0] if len(head) == _HEADER.size else None
    # Blocks of N5 at the end of an axis may be smaller.
    if found is None or found > size:
        raise gate.bad_input(
            path, f"a chunk of at most {size} bytes", found, "copy the store again"
        )
