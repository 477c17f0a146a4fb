"""Volumes larger than memory behind one door: zarr, N5, precomputed, MRC, TIFF, npz.

A store is opened only after its JSON was read here: what it declares is bounded
before TensorStore sees it, and the axis order and voxel size come from its
attributes.  Whatever the store calls first, the volume is [z, y, x] in nanometres.

Sources of the layouts: OME-Zarr 0.4 and 0.5 (https://ngff.openmicroscopy.org), N5
(https://github.com/saalfeldlab/n5) with the attributes of OpenOrganelle and of the
N5 viewer, precomputed volumes (https://github.com/google/neuroglancer).
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import stat
import urllib.parse
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorstore

from temdiff_jax.io import gate
from temdiff_jax.io.formats import blosc, mrc, npz, store_metadata, tiff

REMOTE_SCHEMES = ("http", "https", "s3", "gs")

_MAX_JSON_BYTES = 2**26
_CACHE_BYTES = 2**29


@dataclasses.dataclass(frozen=True)
class Volume:
    """An open volume; nothing but its metadata is in memory unless a file was read.

    Attributes:
      path: Path or URL as given.
      dataset: Array inside it, "" for a file that holds one.
      kind: "zarr", "zarr3", "n5", "neuroglancer_precomputed", "mrc", "tiff", "npz".
      shape: Extents (z, y, x).
      voxel_size_nm: (z, y, x), nanometres; zeros where none was needed and found.
      dtype: Of the values that `read` gives, native byte order.
      notes: One line per assumption.
      array: What is sliced, axes z, y, x.
      max_input_gb: Limit of one `read`, GiB as float32.
      check: Looks at the chunks of a box before they are read, None without need.
    """

    path: str
    dataset: str
    kind: str
    shape: tuple[int, int, int]
    voxel_size_nm: tuple[float, float, float]
    dtype: np.dtype
    notes: tuple[str, ...]
    array: Any = dataclasses.field(repr=False)
    max_input_gb: float = gate.DEFAULT_MAX_INPUT_GB
    check: blosc.Check | None = dataclasses.field(default=None, repr=False)

    def read(self, slices: Sequence[slice] | None = None) -> np.ndarray:
        """A box as [z, y, x], C-contiguous, in `dtype`.

        Args:
          slices: Three slices of step 1 inside the volume; None reads all of it.

        Raises:
          InputError: a box outside the volume or too large for memory, or a chunk
            that is missing or damaged.
        """
        box = _box(slices, self.shape, self.path)
        extents = [s.stop - s.start for s in box]
        what = f"{self.path} [{', '.join(f'{s.start}:{s.stop}' for s in box)}]"
        gate.check_budget(what, extents, self.dtype.itemsize, self.max_input_gb)
        if self.check is not None:
            self.check(box)
        try:
            data = self.array[box]
            if isinstance(data, tensorstore.TensorStore):
                data = data.read(order="C").result()
        except Exception as error:
            raise gate.bad_input(
                what,
                "chunks that are there and whole",
                _short(error),
                "copy the store again, or allow missing chunks if it leaves empty "
                "ones out",
            ) from None
        native = self.dtype.newbyteorder("=")
        return np.ascontiguousarray(data, dtype=native)


def open_volume(
    path_or_url: str | os.PathLike[str],
    *,
    dataset: str | None = None,
    allow_remote: bool = False,
    voxel_size_nm: Sequence[float] | None = None,
    allow_missing_chunks: bool = False,
    need_voxel: bool = True,
    max_input_gb: float = gate.DEFAULT_MAX_INPUT_GB,
) -> Volume:
    """Open a volume without reading it (TIFF and npz are read whole).

    Args:
      path_or_url: Folder of a store, an array or a group inside one, a file of the
        MRC family, .tif, .npz or .npy, or http(s)://, s3://, gs:// of a store.
        Buckets are read anonymously, over https.
      dataset: Array or group inside the store; the key inside an npz file.  A group
        gives its finest level.
      allow_remote: Without it a URL is refused.
      voxel_size_nm: (z, y, x), replaces what the store says; needed where it says
        nothing.
      need_voxel: Refuse a volume without voxel size.
      allow_missing_chunks: Read absent chunks as the fill value instead of refusing.
      max_input_gb: Limit of one read, GiB as float32.

    Returns:
      The volume, axes z, y, x.

    Raises:
      InputError: not a store, unknown attributes, a dtype or codec that is not
        supported, extents that no volume has, no voxel size, a URL that is not
        allowed.
    """
    name = os.fspath(path_or_url)
    if isinstance(name, bytes) or "\0" in name:
        raise gate.bad_input("volume", "a path", repr(name), "check the path")
    scheme = urllib.parse.urlsplit(name).scheme if "://" in name else ""
    if not scheme and not pathlib.Path(name).is_dir():
        found = (*_open_file(name, dataset, max_input_gb), None)
    else:
        base, spec, read = _place(name, scheme, allow_remote=allow_remote)
        key = store_metadata.join(base, dataset or "", what=name)
        if not scheme:
            _check_inside(pathlib.Path(spec["path"]) / key, pathlib.Path(name))
            _check_tree(pathlib.Path(name))
        found = _open_store(name, key, spec, read, fill=allow_missing_chunks)
    array, dtype, kind, inner, voxel, notes, check = found
    if voxel_size_nm is not None:
        voxel = tuple(float(v) for v in voxel_size_nm)
    if voxel is None and need_voxel:
        raise gate.bad_input(
            name,
            "a voxel size in its attributes",
            "none",
            "give it, in nm as z, y, x (voxel_size_nm)",
        )
    if voxel is not None and not _is_size(voxel):
        raise gate.bad_input(
            f"{name}: voxel size", "three positive lengths", voxel, "correct it"
        )
    voxel = voxel or (0.0, 0.0, 0.0)
    nz, ny, nx = (int(n) for n in array.shape)
    return Volume(
        *(name, inner, kind, (nz, ny, nx), voxel, dtype, tuple(notes), array),
        max_input_gb=max_input_gb,
        check=check,
    )


def _is_size(voxel: Sequence[float]) -> bool:
    return len(voxel) == 3 and all(math.isfinite(v) and v > 0 for v in voxel)


# --- files -------------------------------------------------------------------------


def _open_file(name: str, key: str | None, max_gb: float) -> tuple:
    """Array, dtype, kind, key, voxel or None, notes."""
    suffix = pathlib.Path(name).suffix.lower()
    image: Any
    if mrc.is_mrc_name(name):
        image, kind = mrc.read_mrc(name, max_gb, memory_map=True), "mrc"
    elif suffix in (".tif", ".tiff"):
        image, kind = tiff.read_tiff(name, max_gb), "tiff"
    elif suffix == ".npz" and key:
        data = _npz_member(name, key, max_gb)
        return data, data.dtype, "npz", key, None, []
    elif suffix in (".npz", ".npy"):
        image, kind = npz.read_npz(name, max_gb), "npz"
    else:
        gate.regular_file(name)
        raise gate.bad_input(
            name,
            "a folder of zarr, N5 or precomputed, or a file .mrc .tif .npz .npy",
            f"a file ending in {suffix!r}",
            "name the folder of the store",
        )
    if key and kind != "npz":
        raise gate.bad_input(name, "no dataset inside a file", key, "leave it out")
    angstrom = image.voxel_size_angstrom
    voxel = None if angstrom is None else tuple(v / 10 for v in angstrom)
    data = image.data
    return data, data.dtype, kind, image.key, voxel, image.warnings


def _npz_member(name: str, key: str, max_gb: float) -> np.ndarray:
    """One array of an npz file in its own dtype."""
    path, _ = gate.regular_file(name)
    with gate.reading(path, f"a .npz file with an array {key!r}"):
        with zipfile.ZipFile(path) as archive:
            member = archive.getinfo(f"{key}.npy")
            room = gate.MAX_DEFLATE_RATIO * max(member.compress_size, 1)
            with archive.open(member) as stream:
                what, size = f"{path}: array {key!r}", min(member.file_size, room)
                shape, dtype = gate.npy_header(stream, size, what, max_gb)
                store_metadata.check_dtype(dtype.newbyteorder("=").name, what)
            if len(shape) != 3 or 0 in shape:
                raise gate.bad_input(what, "[z, y, x]", list(shape), "reshape it")
            with archive.open(member) as stream:
                return np.lib.format.read_array(stream, allow_pickle=False)


# --- where a store lies ------------------------------------------------------------


def _place(
    name: str, scheme: str, *, allow_remote: bool
) -> tuple[str, dict[str, str], store_metadata.Read]:
    """Key of the store below its parent, TensorStore's spec of that, a reader.

    One folder higher, because an array has its multiscale attributes in its group.
    """
    if not scheme:
        folder = pathlib.Path(name).resolve()
        parent = folder.parent
        spec = {"driver": "file", "path": f"{parent}/"}
        return folder.name, spec, lambda key: _read_local(parent, folder.name, key)
    if scheme not in REMOTE_SCHEMES:
        raise gate.bad_input(
            name, f"one of {', '.join(REMOTE_SCHEMES)}", f"{scheme}://", "download it"
        )
    if not allow_remote:
        raise gate.bad_input(
            name,
            "a local path",
            f"{scheme}://",
            "allow remote stores explicitly (allow_remote)",
        )
    parts = urllib.parse.urlsplit(name)
    host = {"s3": f"{parts.netloc}.s3.amazonaws.com", "gs": "storage.googleapis.com"}
    lead = f"/{parts.netloc}" if scheme == "gs" else ""
    base_url = f"https://{host[scheme]}" if scheme in host else f"{scheme}://"
    base_url += "" if scheme in host else parts.netloc
    above, _, last = f"{lead}{parts.path.rstrip('/')}".rpartition("/")
    # https without credentials: the drivers of the clouds would look for some.
    spec = {"driver": "http", "base_url": base_url, "path": f"{above}/"}
    try:
        store = tensorstore.KvStore.open(spec).result()
    except (ValueError, OSError, RuntimeError) as error:
        raise gate.bad_input(name, "a URL", _short(error), "check it") from None

    def read(key: str) -> bytes | None:
        try:
            result = store.read(key).result()
        except (ValueError, OSError, RuntimeError) as error:
            raise gate.bad_input(
                name, "a server that answers", _short(error), "try again later"
            ) from None
        return result.value if result.state == "value" else None

    return last, spec, read


def _read_local(parent: pathlib.Path, store: str, key: str) -> bytes | None:
    path = parent / key
    if not path.is_file():
        return None
    if key.startswith(f"{store}/"):
        _check_inside(path, parent / store)
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise gate.bad_input(path, "metadata", "more than 64 MiB", "check the file")
    return path.read_bytes()


def _check_inside(path: pathlib.Path, root: pathlib.Path) -> None:
    if not path.resolve().is_relative_to(root.resolve()):
        raise gate.bad_input(
            path, f"a folder inside {root}", "a link out of it", "copy the data"
        )


def _check_tree(root: pathlib.Path) -> None:
    """Refuse a store with links that leave it, or with what is no file at all.

    A pipe among the chunks would hang the reader, a link would show another file.
    """
    inside = root.resolve()
    folders = [inside]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    _check_inside(pathlib.Path(entry.path), inside)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(pathlib.Path(entry.path))
                elif not entry.is_file() and _exists(entry):
                    raise gate.bad_input(
                        f"{root}: {entry.name}",
                        "files and folders",
                        "a pipe, device or folder behind a link",
                        "copy the store again",
                    )


def _exists(entry: os.DirEntry) -> bool:
    try:
        return bool(stat.S_IFMT(entry.stat().st_mode))
    except OSError:
        return False


def _short(error: BaseException) -> str:
    """First sentence of TensorStore's message, without the source locations."""
    text = str(error).split(" [source locations=")[0].split(" [tensorstore_")[0]
    return f"{type(error).__name__} ({text[:300]})"


# --- stores ------------------------------------------------------------------------


def _open_store(
    name: str, key: str, spec: dict, read: store_metadata.Read, *, fill: bool
) -> tuple:
    """Array, dtype, kind, dataset, voxel or None, notes, check or None."""
    with gate.reading(f"{name}: attributes of {key}", "zarr, N5 or precomputed JSON"):
        node, group, key, level = store_metadata.find(name, key, read)
        declared = store_metadata.declare(node, group, level)
        store_metadata.check_declared(declared, key)
    full: store_metadata.Json = {
        "driver": node.driver,
        "kvstore": {**spec, "path": f"{spec['path']}{key}/"},
        "fill_missing_data_reads": fill,
        # Slices are read in turn; a chunk holds many of them.
        "context": {"cache_pool": {"total_bytes_limit": _CACHE_BYTES}},
    }
    if node.driver == "neuroglancer_precomputed":
        full["scale_index"] = 0
    try:
        store = tensorstore.open(full, read=True).result()
    except Exception as error:
        raise gate.bad_input(
            f"{name}: {key}", f"a {node.driver} array", _short(error), "check the store"
        ) from None
    store = store[tensorstore.d[:].translate_to[0]]
    single = [i for i, a in enumerate(declared.axes) if a not in store_metadata.AXES]
    kept = [a for a in declared.axes if a in store_metadata.AXES]
    if single:
        store = store[
            tuple(0 if i in single else slice(None) for i in range(store.rank))
        ]
    array = store.transpose([kept.index(a) for a in store_metadata.AXES])
    scale = declared.scale_nm
    voxel = None if scale is None else tuple(scale[a] for a in store_metadata.AXES)
    dtype = np.dtype(declared.dtype)
    local = spec["driver"] == "file"
    folder = pathlib.Path(spec["path"]) / key if local else None
    check = None if folder is None else blosc.checker(folder, node, declared)
    found = (array, dtype, node.driver, key.partition("/")[2], voxel)
    return *found, declared.notes, check


def _box(
    slices: Sequence[slice] | None, shape: tuple[int, ...], what: str
) -> tuple[slice, ...]:
    given = [slice(None)] * 3 if slices is None else list(slices)
    box = []
    for cut, size in zip(given, shape, strict=True):
        start = 0 if cut.start is None else int(cut.start)
        stop = size if cut.stop is None else int(cut.stop)
        if not 0 <= start < stop <= size or cut.step not in (None, 1):
            raise gate.bad_input(
                f"{what}: box", f"inside {list(shape)}", given, "correct the box"
            )
        box.append(slice(start, stop))
    return tuple(box)
