"""A training store from volumes: shards of uint8 and a manifest.

Each source is read slice by slice.  Slices that are missing, saturated or displaced
split it into slabs; a slab is brought to cubic voxels and 8 bits, heavy stain dark, and
cut into shards.  What is on the disk already, with the same recipe and sha256, is kept.
`training.volumes` reads the store; `launch/prepare_data.py` is the command.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from temdiff_jax.errors import InputError
from temdiff_jax.io import gate, tilt_series, write
from temdiff_jax.io.formats import mrc, stores
from temdiff_jax.training import cleaning
from temdiff_jax.training.volumes import MANIFEST_VERSION, SHARD_KEY

MANIFEST = "manifest.json"
PROGRESS = "progress.json"
STORE_FILES = ("zarr.json", ".zarray", ".zgroup", "info", "attributes.json")
FILE_SUFFIXES = (".tif", ".tiff", ".npz", ".npy")
# Bytes, as float32, of the slices that are in memory at a time.
SLAB_BYTES = 2**27
POLARITY_EDGE = 64


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One source as asked for.

    Attributes:
      path, dataset: Where it is, see `stores.open_volume`.
      name: Of the source, and of its shards.
      licence: Under which the volume is used.
      stain_is_dark: Whether heavy stain has low grey levels.
      weight: Share of the draws, None for its number of voxels.
      voxel_nm: (z, y, x) instead of what the store says.
      box: Part to use, three (start, stop), None for all.
    """

    path: str
    dataset: str | None = None
    name: str
    licence: str
    stain_is_dark: bool = True
    weight: float | None = None
    voxel_nm: tuple[float, ...] | None = None
    box: tuple[tuple[int, int], ...] | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What holds for all sources.

    Attributes:
      target_nm: Edge of the cubic voxels; None takes each source's longest edge.
      shard_mb: Largest shard, MiB of voxels.
      min_slices: Slabs with fewer source slices are left out.
      allow_remote, allow_missing_chunks, max_input_gb: See `stores.open_volume`.
    """

    target_nm: float | None = None
    shard_mb: float = 32.0
    min_slices: int = 32
    allow_remote: bool = False
    allow_missing_chunks: bool = False
    max_input_gb: float = gate.DEFAULT_MAX_INPUT_GB


def find_sources(given: Sequence[str]) -> list[tuple[str, str | None]]:
    """Paths and datasets of ``PATH#DATASET`` entries; a plain folder is looked into.

    Raises:
      InputError: A folder that is no store and holds none.
    """
    found: list[tuple[str, str | None]] = []
    for entry in given:
        path, _, dataset = entry.partition("#")
        folder = pathlib.Path(path)
        if "://" in path or not folder.is_dir() or _is_store(folder):
            found.append((path, dataset or None))
            continue
        inside = [str(p) for p in sorted(folder.iterdir()) if _is_source(p)]
        if not inside:
            raise InputError(
                f"{path}: expected a store or a folder of stores and .mrc, .tif, .npz "
                "files, got neither; name the store itself"
            )
        found += [(p, dataset or None) for p in inside]
    return found


def _is_store(path: pathlib.Path) -> bool:
    named = path.suffix in (".zarr", ".n5")
    return path.is_dir() and (named or any((path / f).is_file() for f in STORE_FILES))


def _is_source(path: pathlib.Path) -> bool:
    known = mrc.is_mrc_name(path) or path.suffix.lower() in FILE_SUFFIXES
    return _is_store(path) or (path.is_file() and known)


def prepare(
    requests: Sequence[Request],
    out: pathlib.Path,
    options: Options,
    log: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Writes the store, or completes it; the manifest comes last.

    Raises:
      InputError: See `stores.open_volume`; also no clean slab in a source, or names
        that are not unique.
    """
    names = [request.name for request in requests]
    if len(set(names)) != len(names):
        raise InputError(
            f"sources: expected different names, got {names}; pass --name per source"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--out: expected a folder that can be made, got {error.strerror} at "
            f"{out}; choose another"
        ) from None
    known = _known_shards(out)
    listed = [_prepare_source(r, out, options, known, log) for r in requests]
    total = sum(entry["voxels"] for entry in listed)
    for request, entry in zip(requests, listed, strict=True):
        entry["weight"] = request.weight or entry["voxels"] / total
    scale = sum(entry["weight"] for entry in listed)
    for entry in listed:
        entry["weight"] /= scale
    manifest = {
        "format": "temdiff_jax training store",
        "format_version": MANIFEST_VERSION,
        "voxels": total,
        "sources": listed,
    }
    write.write_json(out / MANIFEST, manifest, overwrite=True)
    (out / PROGRESS).unlink(missing_ok=True)
    current = {s["file"] for entry in listed for s in entry["shards"]}
    if stale := sorted(set(known) - current):
        log(f"no longer listed, may be deleted: {' '.join(stale)}")
    return manifest


def _known_shards(out: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Records of an earlier run by file name; damaged records are worth nothing."""
    known: dict[str, dict[str, Any]] = {}
    for name in (MANIFEST, PROGRESS):
        try:
            content = json.loads((out / name).read_bytes())
            for entry in content["sources"]:
                known |= {str(s["file"]): s for s in entry["shards"]}
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return known


def _prepare_source(
    request: Request,
    out: pathlib.Path,
    options: Options,
    known: dict[str, dict[str, Any]],
    log: Callable[[str], None],
) -> dict[str, Any]:
    volume = stores.open_volume(
        request.path,
        dataset=request.dataset,
        allow_remote=options.allow_remote,
        voxel_size_nm=request.voxel_nm,
        allow_missing_chunks=options.allow_missing_chunks,
        max_input_gb=options.max_input_gb,
    )
    box = request.box or tuple((0, n) for n in volume.shape)
    if not all(0 <= a < b <= n for (a, b), n in zip(box, volume.shape, strict=True)):
        raise InputError(
            f"{request.path}: expected a box inside {list(volume.shape)}, got "
            f"{list(box)}; correct --box"
        )
    target = options.target_nm or max(volume.voxel_size_nm)
    entry, slabs, fingerprint = _analyse(volume, box, request, options)
    entry |= {"target_nm": target, "shards": []}
    for text in entry["warnings"]:
        log(f"{request.name}: {text}")
    max_voxels = int(options.shard_mb * 2**20)
    kept = 0
    for cut, shape in _plan(slabs, box, volume.voxel_size_nm, target, max_voxels):
        recipe = _recipe(fingerprint, entry, cut, shape)
        file = f"{request.name}-{len(entry['shards']):03d}-{recipe[:8]}.npz"
        record = known.get(file, {})
        if not _is_whole(out / file, record, recipe):
            data = cleaning.resample(volume.read(cut), volume.voxel_size_nm, target)
            limits = entry["statistics"]["low"], entry["statistics"]["high"]
            data = data[tuple(slice(n) for n in shape)]
            grey = cleaning.to_uint8(data, limits, stain_is_dark=request.stain_is_dark)
            record = _write_shard(out / file, grey, target, cut, recipe)
        else:
            kept += 1
        entry["shards"].append(record)
        known[file] = record
        _write_progress(out, known)
    entry["voxels"] = sum(math.prod(s["shape"]) for s in entry["shards"])
    log(
        f"{request.name}: {len(entry['shards'])} shards ({kept} kept), "
        f"{entry['voxels'] / 1e6:.1f} M voxels of {target:g} nm, "
        f"{len(entry['bad_slices'])} bad slices, {len(entry['jumps'])} jumps"
    )
    return entry


def _analyse(
    volume: stores.Volume,
    box: Sequence[tuple[int, int]],
    request: Request,
    options: Options,
) -> tuple[dict[str, Any], list[tuple[int, int]], str]:
    """Manifest entry without shards, slabs in slices of the box, fingerprint."""
    num_slices = box[0][1] - box[0][0]
    profile = cleaning.profile_slices(_slabs(volume, box), num_slices)
    defects = cleaning.find_defects(profile, volume.voxel_size_nm)
    slabs = cleaning.clean_slabs(num_slices, defects, options.min_slices)
    if not slabs:
        raise InputError(
            f"{request.path}: expected {options.min_slices} intact slices in a row, "
            f"got {len(defects.bad)} bad ones and {len(defects.jumps)} jumps among "
            f"{num_slices}; choose another box or a smaller --min_slices"
        )
    intact = np.concatenate([np.arange(*slab) for slab in slabs])
    low, high = cleaning.grey_limits(profile.sample[intact])
    first = box[0][0]
    score, doubt = _polarity(
        volume, box, max(slabs, key=lambda s: s[1] - s[0]), request
    )
    entry = {
        "name": request.name,
        "path": request.path,
        "dataset": volume.dataset,
        "kind": volume.kind,
        "licence": request.licence,
        "stain": "dark" if request.stain_is_dark else "bright",
        "shape": list(volume.shape),
        "dtype": str(volume.dtype),
        "voxel_nm": list(volume.voxel_size_nm),
        "box": [list(span) for span in box],
        "statistics": {
            "low": low,
            "high": high,
            "correlation_sections": float(np.median(profile.near[intact[:-1]])),
            "correlation_pixels": float(np.median(profile.plane[intact])),
            "stain_score": score,
        },
        "bad_slices": [
            {"index": bad.number + first, "kind": bad.kind, "value": bad.value}
            for bad in defects.bad
        ],
        "jumps": [jump + first for jump in defects.jumps],
        "slabs": [[start + first, stop + first] for start, stop in slabs],
        "warnings": [*volume.notes, *defects.warnings, *([doubt] if doubt else [])],
    }
    content = b"".join(np.ascontiguousarray(part).tobytes() for part in profile)
    return entry, slabs, hashlib.sha256(content).hexdigest()


def _slabs(
    volume: stores.Volume, box: Sequence[tuple[int, int]]
) -> Iterator[np.ndarray]:
    rows, columns = (slice(*span) for span in box[1:])
    pixels = (rows.stop - rows.start) * (columns.stop - columns.start)
    depth = max(1, SLAB_BYTES // (4 * max(pixels, 1)))
    for start in range(box[0][0], box[0][1], depth):
        stop = min(start + depth, box[0][1])
        yield volume.read((slice(start, stop), rows, columns))


def _polarity(
    volume: stores.Volume,
    box: Sequence[tuple[int, int]],
    slab: tuple[int, int],
    request: Request,
) -> tuple[float, str | None]:
    """Middle stain score of three cubes of the longest slab; a warning or None."""
    spans = [(box[0][0] + slab[0], box[0][0] + slab[1]), *box[1:]]
    scores = []
    for part in (0.0, 0.5, 1.0):
        cube = []
        for start, stop in spans:
            extent = min(stop - start, POLARITY_EDGE)
            first = start + int(part * (stop - start - extent))
            cube.append(slice(first, first + extent))
        scores.append(cleaning.stain_score(volume.read(cube)))
    score = float(np.median(scores))
    return score, cleaning.polarity_warning(score, stain_is_dark=request.stain_is_dark)


def _plan(
    slabs: Sequence[tuple[int, int]],
    box: Sequence[tuple[int, int]],
    voxel_nm: Sequence[float],
    target_nm: float,
    max_voxels: int,
) -> Iterator[tuple[tuple[slice, ...], tuple[int, ...]]]:
    """Boxes of the source and the extents that they become."""
    ratio = [target_nm / v for v in voxel_nm]
    for start, stop in slabs:
        spans = [(box[0][0] + start, box[0][0] + stop), *box[1:]]
        extents = [
            max(1, int((b - a) / r + 1e-6))
            for (a, b), r in zip(spans, ratio, strict=True)
        ]
        for piece in cleaning.pieces(extents, max_voxels):
            cut = tuple(
                slice(
                    a + math.floor(p.start * r + 1e-6),
                    min(b, a + max(math.ceil(p.stop * r - 1e-6), 1)),
                )
                for p, r, (a, b) in zip(piece, ratio, spans, strict=True)
            )
            yield cut, tuple(p.stop - p.start for p in piece)


def _recipe(
    fingerprint: str,
    entry: dict[str, Any],
    cut: Sequence[slice],
    shape: Sequence[int],
) -> str:
    """Hash of everything that decides the bytes of a shard, the content included."""
    names = ("stain", "voxel_nm", "statistics", "target_nm", "shape", "dtype")
    parts = [fingerprint, {n: entry[n] for n in names}]
    text = json.dumps([*parts, [[s.start, s.stop] for s in cut], list(shape)])
    return hashlib.sha256(text.encode()).hexdigest()


def _is_whole(path: pathlib.Path, record: dict[str, Any], recipe: str) -> bool:
    if record.get("recipe") != recipe or not path.is_file():
        return False
    return tilt_series.file_sha256(path) == record.get("sha256")


def _write_shard(
    path: pathlib.Path,
    grey: np.ndarray,
    target_nm: float,
    cut: Sequence[slice],
    recipe: str,
) -> dict[str, Any]:
    with write.atomic_path(path, overwrite=True) as temporary:
        with temporary.open("wb") as stream:
            arrays = {SHARD_KEY: grey, "pixel_nm": np.asarray(target_nm)}
            np.savez_compressed(stream, allow_pickle=False, **arrays)
        digest = tilt_series.file_sha256(temporary)
        size = temporary.stat().st_size
    return {
        "file": path.name,
        "sha256": digest,
        "bytes": size,
        "shape": list(grey.shape),
        "box": [[s.start, s.stop] for s in cut],
        "mean": float(grey.mean()),
        "deviation": float(grey.std()),
        "recipe": recipe,
    }


def _write_progress(out: pathlib.Path, known: dict[str, dict[str, Any]]) -> None:
    entry = {"sources": [{"shards": list(known.values())}]}
    write.write_json(out / PROGRESS, entry, overwrite=True)
