"""Prepares FIB-SEM volumes as a training store: shards of uint8 and a manifest.

    python -m launch.prepare_data --out=DATA/cells \\
        --source=jrc_hela-2.n5#em/fibsem-uint16 --licence="CC BY 4.0" --target_nm=8

Each source is read slice by slice.  Slices that are missing, saturated or displaced
split it into slabs; a slab is brought to cubic voxels and 8 bits, heavy stain dark, and
cut into shards.  The same command, repeated, keeps every shard whose recipe and sha256
have not changed.  docs/data.md describes the stores, the checks and the manifest.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

from absl import app, flags

from launch import program
from temdiff_jax.errors import InputError
from temdiff_jax.io import gate
from temdiff_jax.training.preparation import (
    MANIFEST,
    Options,
    Request,
    find_sources,
    prepare,
)


def define_flags() -> None:
    """Defines the flags; not on import, so that programs can be imported together."""
    flags.DEFINE_multi_string("source", None, "PATH[#DATASET], folder or URL; repeat.")
    flags.DEFINE_string("out", None, "Folder of the training store.")
    flags.DEFINE_multi_string("licence", None, "Of all sources, or one per source.")
    flags.DEFINE_multi_string("name", [], "One per source; default: from the path.")
    flags.DEFINE_multi_enum("stain", ["dark"], ["dark", "bright"], "Heavy stain.")
    flags.DEFINE_multi_float("weight", [], "Share of the draws, one per source.")
    flags.DEFINE_multi_string("voxel_nm", [], "Z,Y,X instead of the store's.")
    flags.DEFINE_multi_string("box", [], "Z0:Z1,Y0:Y1,X0:X1 in source voxels.")
    flags.DEFINE_float("target_nm", None, "Cubic voxel; default: longest edge.", 0.01)
    flags.DEFINE_float("shard_mb", 32.0, "Largest shard, MiB of voxels.", 0.001)
    flags.DEFINE_integer("min_slices", 32, "Shortest slab, source slices.", 1)
    flags.DEFINE_bool("allow_remote", False, "Read http, https, s3 and gs URLs.")
    flags.DEFINE_bool("allow_missing_chunks", False, "Absent chunks are empty ones.")
    flags.DEFINE_float("max_input_gb", gate.DEFAULT_MAX_INPUT_GB, "Of one read, GiB.")
    flags.mark_flags_as_required(["source", "out", "licence"])


def read_requests(given: Any) -> list[Request]:
    """Sources from parsed flags; a flag given once holds for every source.

    Raises:
      InputError: A flag given another number of times, or a value of another form.
    """
    found = find_sources(given.source)

    def each(flag: str, values: Sequence[Any], shared: bool = True) -> list[Any]:
        if not values or (shared and len(values) == 1):
            return [*values, None][:1] * len(found)
        if len(values) != len(found):
            raise InputError(
                f"--{flag}: expected one value per source ({len(found)}), got "
                f"{len(values)}; repeat the flag in the order of the sources"
            )
        return list(values)

    names = each("name", given.name, shared=False)
    weights = each("weight", given.weight)
    if any(w is not None and not w > 0 for w in weights):
        raise InputError(
            f"--weight: expected shares above 0, got {weights}; leave a source out "
            "instead"
        )
    columns = (names, each("licence", given.licence), each("stain", given.stain))
    texts = each("voxel_nm", given.voxel_nm), each("box", given.box)
    return [
        Request(
            path=path,
            dataset=dataset,
            name=_name(name or pathlib.PurePosixPath(path).stem),
            licence=licence,
            stain_is_dark=stain == "dark",
            weight=weight,
            voxel_nm=voxel and _numbers("voxel_nm", voxel, float),
            box=box and _box(box),
        )
        for (path, dataset), name, licence, stain, weight, voxel, box in zip(
            found, *columns, weights, *texts, strict=True
        )
    ]


def _name(text: str) -> str:
    """A name that may begin a file name."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text).strip(".") or "source"


def _numbers(flag: str, text: str, kind: Callable[[str], Any]) -> tuple[Any, ...]:
    try:
        values = tuple(kind(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != 3:
        raise InputError(
            f"--{flag}: expected three values (z, y, x) with commas, got {text!r}; "
            "correct it"
        )
    return values


def _box(text: str) -> tuple[tuple[int, int], ...]:
    def span(part: str) -> tuple[int, int]:
        start, stop = part.split(":")
        return int(start), int(stop)

    return _numbers("box", text, span)


def main(argv: Sequence[str]) -> None:
    """Parses flags and prepares the store."""
    given = flags.FLAGS
    names = [field.name for field in dataclasses.fields(Options)]
    with program.refusals("prepare_data", argv):
        options = Options(**{name: getattr(given, name) for name in names})
        manifest = prepare(read_requests(given), pathlib.Path(given.out), options)
    print(f"{given.out}/{MANIFEST}: {manifest['voxels'] / 1e6:.1f} M voxels")


if __name__ == "__main__":
    define_flags()
    app.run(main)
