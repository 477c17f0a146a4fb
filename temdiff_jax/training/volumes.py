"""Source volumes of a run: npz files and training stores, read and verified."""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from temdiff_jax.errors import InputError
from temdiff_jax.io import gate
from temdiff_jax.simulator.stain import SourceBank, make_bank

MANIFEST_VERSION = 1
SHARD_KEY = "volume"
# Grey levels of stain 1 and 0 in every shard.
STORE_LIMITS = (0.0, 255.0)
MAX_VOXELS = 2**31 - 1


class Source(NamedTuple):
    """One loaded volume.

    Attributes:
      volume: Grey levels ``[z, y, x]``, uint8.
      mass: How often it is drawn, in voxels: their number, or a share of those of its
        training store.
      limits: Grey levels of stain 1 and 0; None takes them from its own percentiles.
    """

    volume: np.ndarray
    mass: float
    limits: tuple[float, float] | None


def load_sources(folder: str | Path, names: tuple[str, ...]) -> list[np.ndarray]:
    """Volumes of ``path:key`` npz entries and of training stores, uint8.

    A training store is ``path/manifest.json`` as `launch.prepare_data` writes it, or
    ``path/manifest.json:source`` for one of its sources.

    Raises:
      InputError: A file or key is missing, a manifest cannot be used, a shard is
        damaged, or there are more voxels than can be indexed.
    """
    return [source.volume for source in load_weighted_sources(folder, names)]


def load_weighted_sources(folder: str | Path, names: tuple[str, ...]) -> list[Source]:
    """As `load_sources`, with how often and how each volume is to be drawn."""
    sources: list[Source] = []
    for name in names:
        path, _, key = name.partition(":")
        full = Path(folder) / path
        if not full.is_file():
            raise InputError(
                f"training data: expected the file {path} below {folder}, found "
                "none; pass --data_dir with the folder that holds it"
            )
        room = MAX_VOXELS - sum(s.volume.size for s in sources)
        if full.suffix == ".json":
            sources += _load_store(full, key, room)
        else:
            sources.append(_load_npz(full, path, key, room))
    return sources


def _load_npz(full: Path, path: str, key: str, room: int) -> Source:
    with np.load(full, allow_pickle=False) as archive:
        if key not in archive:
            raise InputError(
                f"training data: expected the key {key!r} in {path}, got "
                f"{sorted(archive)}; correct the configuration"
            )
        volume = np.asarray(archive[key], np.uint8)
    _check_room(path, volume.size, room)
    return Source(volume, float(volume.size), None)


def _check_room(path: object, voxels: int, room: int) -> None:
    """Blocks lie in one buffer whose indices are int32."""
    if voxels > room:
        raise InputError(
            f"training data: expected at most {MAX_VOXELS} voxels in all, got "
            f"{voxels - room} more with {path}; name fewer sources, or prepare them "
            "with larger voxels or a smaller box"
        )


def _load_store(manifest: Path, key: str, room: int) -> list[Source]:
    """Shards of a training store, each verified before it is unpacked."""
    try:
        content = json.loads(manifest.read_bytes())
        version = content["format_version"]
        listed = {s["name"]: s for s in content["sources"]}
        chosen = [listed[key]] if key in listed else list(listed.values())
        voxels = {s["name"]: sum(_voxels(r) for r in s["shards"]) for s in chosen}
        weights = {s["name"]: float(s["weight"]) for s in chosen}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"training data: expected a manifest of launch.prepare_data in {manifest}, "
            f"got {type(error).__name__} ({error}); prepare the store again"
        ) from None
    if version != MANIFEST_VERSION or (key and key not in listed):
        raise InputError(
            f"training data: expected format_version {MANIFEST_VERSION}"
            + (f" and a source {key!r}" if key else "")
            + f" in {manifest}, got version {version} and {sorted(listed)}; correct "
            "the configuration, or prepare the store again"
        )
    total, weight = sum(voxels.values()), sum(weights.values())
    if not (total > 0 and weight > 0 and min(weights.values()) >= 0):
        raise InputError(
            f"training data: expected voxels and weights above 0 in {manifest}, got "
            f"{total} voxels and weights {weights}; prepare the store again"
        )
    _check_room(manifest, total, room)
    return [
        Source(
            read_shard(manifest.parent, record),
            total * weights[name] / weight * _voxels(record) / voxels[name],
            STORE_LIMITS,
        )
        for name in voxels
        for record in listed[name]["shards"]
    ]


def _voxels(record: dict[str, Any]) -> int:
    extents = [int(n) for n in record["shape"]]
    if len(extents) != 3 or min(extents) < 1:
        raise ValueError(f"shard of shape {extents}")
    return math.prod(extents)


def read_shard(folder: Path, record: dict[str, Any]) -> np.ndarray:
    """The volume of a shard, uint8, after its sha256 was compared.

    Args:
      folder: Of the training store.
      record: ``file``, ``sha256`` and ``shape`` as in the manifest.

    Raises:
      InputError: The file is missing, is not the one that was written, or lies
        elsewhere than in the folder.
    """
    name, expected = str(record.get("file")), str(record.get("sha256"))
    got = "no such file"
    if (path := folder / name).is_file() and Path(name).name == name:
        content = path.read_bytes()
        got = hashlib.sha256(content).hexdigest()
    if got != expected:
        raise InputError(
            f"training data: shard {name} of {folder}: expected sha256 {expected}, got "
            f"{got}; run launch.prepare_data again, it rewrites what is damaged"
        )
    try:
        return _shard_array(content, record, path)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"training data: shard {name} of {folder}: expected uint8 "
            f"{record.get('shape')} under the key {SHARD_KEY}, got "
            f"{type(error).__name__} ({error}); prepare the store again"
        ) from None


def _shard_array(content: bytes, record: dict[str, Any], path: Path) -> np.ndarray:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        member = archive.getinfo(f"{SHARD_KEY}.npy")
        with archive.open(member) as stream:
            header = gate.npy_header(
                stream, member.file_size, path, gate.DEFAULT_MAX_INPUT_GB
            )
        # Before anything of that size is unpacked.
        if header != (tuple(record["shape"]), np.dtype(np.uint8)):
            raise ValueError(f"{header[1]} {list(header[0])}")
        with archive.open(member) as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)


def shared(sources: Sequence[Source], shares: Sequence[float]) -> list[Source]:
    """The sources drawn in the given proportions.

    Raises:
      InputError: Not one positive share a source.
    """
    if len(shares) != len(sources) or min(shares) <= 0:
        raise InputError(
            f"data.source_shares: expected {len(sources)} positive numbers, one a "
            f"source, got {list(shares)}; correct the configuration"
        )
    return [s._replace(mass=float(m)) for s, m in zip(sources, shares)]


def pack(sources: Sequence[Source]) -> SourceBank:
    """The bank of loaded volumes, with the masses and limits of their stores.

    A shard has the limits of its whole volume: by its own percentiles a shard of bare
    resin would become a specimen of noise.
    """
    bank = make_bank([source.volume for source in sources])
    by_voxels = all(source.mass == source.volume.size for source in sources)
    if by_voxels and not any(source.limits for source in sources):
        return bank
    mass = np.cumsum([source.mass for source in sources])
    own = zip(np.asarray(bank.dark), np.asarray(bank.bright), strict=True)
    limits = np.array(
        [s.limits or pair for s, pair in zip(sources, own, strict=True)], np.float32
    )
    return bank._replace(
        cumulative=jnp.asarray(mass / mass[-1], jnp.float32),
        dark=jnp.asarray(limits[:, 0]),
        bright=jnp.asarray(limits[:, 1]),
    )
