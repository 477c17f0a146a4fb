"""A part of the slab as its own problem, with what lies around it taken off first.

A box whose middle lies at d = (dx, dy, dz) from that of the slab is seen around

    u_k = dx cos(theta_k) + dz sin(theta_k),    y = dy

so of every tilt a window of whole columns around u_k is cut; the fraction of a column
that is left, f_k within half a pixel, is the ``shift_u`` of a ``Motion``.  `cut` takes
it off by one cubic resampling, after which the windows are an ordinary aligned series
of the box, for any solver.  Rays through the box meet the rest of the slab as well.
`around` projects that rest from a coarse reconstruction of everything; subtract it
from the tilts.  A guard around the box keeps the coarse grid's blur out of it.

    region = grow(Region(start, shape), 6, geometry)       # with its guard
    rest = around(coarse_volume, coarse, geometry, region, factor)
    place = locate(geometry, region)
    windows = cut(tilts - rest, place)                     # of place.aligned
    box = inner(solve(windows.tilts, place.aligned), region, Region(start, shape))

Source of the idea: Ziegler, Nielsen and Grass, Med. Phys. 35 (2008) 1317, who subtract
the projection of the full reconstruction with the region masked out.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from temdiff_jax.errors import InputError
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.projector.project import project
from temdiff_jax.projector.stage import pixels, warp
from temdiff_jax.projector.stage.motion import Motion, no_motion


class Region(NamedTuple):
    """A box in the field of view, in the indices of a file.

    Attributes:
      start: First voxel (z, y, x) of the volume ``[z, y, x]``, without its margin.
      shape: Extents (z, y, x) in voxels.
    """

    start: tuple[int, int, int]
    shape: tuple[int, int, int]


class Place(NamedTuple):
    """Where a region is seen.

    Attributes:
      aligned: Rays of its own aligned series: the box, windows instead of detector.
      motion: What remains in windows that are cut and not resampled: ``shift_u``.
      columns: First detector column of every window, ``[n_tilts]`` int64; may lie off
        the detector.
      row: First detector row of all.
      num_u: Columns of the detector.
    """

    aligned: TiltGeometry
    motion: Motion
    columns: np.ndarray
    row: int
    num_u: int


class Windows(NamedTuple):
    """Tilts of a region.

    Attributes:
      tilts: ``[n_tilts, u, y]``; off the detector its edge continues.
      seen: ``[n_tilts, u, 1]`` bool, whether the detector reaches there: the weight.
    """

    tilts: jax.Array
    seen: jax.Array


def grow(region: Region, guard: int, geometry: TiltGeometry) -> Region:
    """The region with ``guard`` voxels more on every side, as far as the slab goes.

    Raises:
      InputError: A negative guard, a region outside the field of view.
    """
    _check(region, geometry)
    if guard < 0:
        raise InputError(
            f"region: expected a guard of zero voxels or more, got {guard}; pass the "
            "blur of the coarse reconstruction, about two of its voxels"
        )
    limits = _field(geometry)
    first = [max(s - guard, 0) for s in region.start]
    last = [
        min(s + n + guard, limit)
        for s, n, limit in zip(region.start, region.shape, limits)
    ]
    shape = [b - a for a, b in zip(first, last)]
    return Region((first[0], first[1], first[2]), (shape[0], shape[1], shape[2]))


def locate(
    geometry: TiltGeometry, region: Region, *, width: int | None = None
) -> Place:
    """Where a region is seen, exactly.

    Args:
      geometry: Of the slab; its angles must be known, not traced.
      region: Box within the field of view.
      width: Columns of the windows; ``None`` takes the widest shadow of the box.

    Raises:
      InputError: A region that is empty or not inside the field of view, a width
        below one.
    """
    _check(region, geometry)
    (nz, ny, nx), angles = region.shape, np.asarray(geometry.angles_rad, np.float64)
    cos, sin = np.cos(angles), np.sin(angles)
    if width is None:
        shadow = nx * np.abs(cos) + nz * np.abs(sin)
        width = math.ceil(float(shadow.max()) - 1e-6) + 2
    if width < 1:
        raise InputError(
            f"region: expected windows of at least one column, got {width}; leave the "
            "width out"
        )
    dz, _, dx = _offset(region, geometry)
    first = dx * cos + dz * sin + (geometry.num_u - width) / 2
    columns = np.rint(first).astype(np.int64)
    dtype = geometry.angles_rad.dtype
    motion = no_motion(len(angles), dtype=dtype)
    motion = motion._replace(shift_u=jnp.asarray(first - columns, dtype))
    aligned = dataclasses.replace(geometry, volume_shape=(nz, nx, ny), num_u=int(width))
    return Place(aligned, motion, columns, int(region.start[1]), geometry.num_u)


def cut(tilts: jax.Array, place: Place, *, resample: bool = True) -> Windows:
    """Cuts the windows of a region.

    Args:
      tilts: ``[n_tilts, u, y]`` of the slab.
      place: Of the region.
      resample: Whether the fractions of a column are taken off, so that the windows
        belong to ``place.aligned`` alone; otherwise they also need ``place.motion``.

    Raises:
      ValueError: Tilts of another number, width or fewer rows than the place has.
    """
    rows = place.aligned.volume_shape[2]
    expected = [place.aligned.num_tilts, place.num_u]
    if list(tilts.shape[:2]) != expected or tilts.shape[2] < place.row + rows:
        raise ValueError(
            f"region: expected tilts [n_tilts, u, y] of {expected} and at least "
            f"{place.row + rows} rows, got {list(tilts.shape)}; pass the tilts of the "
            "slab"
        )
    # One column more on either side than the cubic resampling reads.
    pad = 2 if resample else 0
    num_u = place.aligned.num_u
    index = place.columns[:, None] + np.arange(-pad, num_u + pad)
    inside = (index >= 0) & (index < place.num_u)
    columns = jnp.asarray(np.clip(index, 0, place.num_u - 1))
    part = tilts[:, :, place.row : place.row + rows]
    windows = jnp.take_along_axis(part, columns[:, :, None], axis=1)
    if resample:
        back = place.motion._replace(shift_u=-place.motion.shift_u)
        source = warp.source_map(
            back.shift_u, back.shift_v, back.rotation_rad, back.magnification
        )
        windows = warp.warp(windows, source, num_u=num_u)
        # A moved pixel lies between two columns, unless it has not moved.
        part = np.sign(np.asarray(place.motion.shift_u)).astype(int)[:, None]
        beside = np.where(part < 0, inside[:, 1:-3], inside[:, 3:-1])
        inside = inside[:, 2:-2] & np.where(part == 0, True, beside)
    return Windows(windows, jnp.asarray(inside[:, :, None]))


def coarse_geometry(geometry: TiltGeometry, factor: int) -> TiltGeometry:
    """Rays of the same slab on voxels ``factor`` times as wide.

    Raises:
      InputError: A factor that is no whole number or does not divide the detector.
    """
    nz, nx, ny = geometry.volume_shape
    sides = {"columns": geometry.num_u, "rows": ny}
    if isinstance(factor, bool) or int(factor) != factor or factor < 1:
        raise InputError(
            f"region: expected a whole factor from 1, got {factor}; choose another"
        )
    for name, extent in sides.items():
        if extent % factor:
            raise InputError(
                f"region: expected a factor that divides {extent} {name}, got "
                f"{factor}; choose another or cut the tilts"
            )
    margin = -(-geometry.margin // factor)
    num_u = geometry.num_u // factor
    shape = (-(-nz // factor), num_u + 2 * margin, ny // factor)
    return dataclasses.replace(geometry, volume_shape=shape, num_u=num_u)


def coarse_tilts(tilts: jax.Array, factor: int) -> jax.Array:
    """The tilts for ``coarse_geometry``: means of blocks, intensity x coarse voxel."""
    shape = (tilts.shape[1] // factor, tilts.shape[2] // factor)
    return pixels.rebin(tilts, factor, shape) / factor


def around(
    volume: jax.Array,
    coarse: TiltGeometry,
    geometry: TiltGeometry,
    region: Region,
    factor: int,
) -> jax.Array:
    """What the slab outside a region adds to the tilts, from a coarse reconstruction.

    Args:
      volume: Of the whole slab, ``[z, x, y]`` with its margin, coarse voxels.
      coarse: Its rays, from ``coarse_geometry``.
      geometry: Of the slab on fine voxels.
      region: Box whose share is left out; coarse voxels on its border count in part.
      factor: Fine voxels per coarse one.

    Returns:
      ``[n_tilts, u, y]``, intensity x fine voxel.

    Raises:
      InputError: A region outside the field of view.
      ValueError: A volume that is not that of ``coarse``.
    """
    _check(region, geometry)
    if volume.shape != coarse.volume_shape:
        raise ValueError(
            f"region: expected a coarse volume {list(coarse.volume_shape)}, got "
            f"{list(volume.shape)}; reconstruct it with coarse_geometry"
        )
    dz, dy, dx = _offset(region, geometry)
    nz, ny, nx = region.shape
    # In the order of the core, z, x, y.
    shares = [
        _share(extent, middle / factor, size / factor)
        for extent, middle, size in zip(volume.shape, (dz, dx, dy), (nz, nx, ny))
    ]
    covered = np.einsum("z,x,y->zxy", *shares)
    rest = volume * jnp.asarray(1 - covered, volume.dtype)
    tilts = project(rest, coarse) * factor
    shape = (geometry.num_u, geometry.volume_shape[2])
    return pixels.rebin(tilts, 1 / factor, shape)


def inner(volume: jax.Array, grown: Region, region: Region) -> jax.Array:
    """Cuts a region out of the volume ``[z, x, y]`` of the larger one around it."""
    z, y, x = (a - b for a, b in zip(region.start, grown.start))
    nz, ny, nx = region.shape
    sizes = (grown.shape[0], grown.shape[2], grown.shape[1])
    fits = min(z, y, x) >= 0 and all(
        a + n <= m for a, n, m in zip((z, x, y), (nz, nx, ny), sizes)
    )
    if volume.shape != sizes or not fits:
        raise ValueError(
            f"region: expected a volume [z, x, y] of {list(sizes)} around the region, "
            f"got {list(volume.shape)}; pass the region that was solved for"
        )
    return volume[z : z + nz, x : x + nx, y : y + ny]


def _share(extent: int, middle: float, size: float) -> np.ndarray:
    """Share of each voxel of an axis that lies within ``size`` around ``middle``."""
    edge = np.arange(extent) - extent / 2
    low, high = middle - size / 2, middle + size / 2
    return np.clip(np.minimum(edge + 1, high) - np.maximum(edge, low), 0, 1)


def _field(geometry: TiltGeometry) -> tuple[int, int, int]:
    """Extents (z, y, x) of the field of view."""
    nz, _, ny = geometry.volume_shape
    return nz, ny, geometry.num_u


def _offset(region: Region, geometry: TiltGeometry) -> list[float]:
    """Middle of the region from that of the field of view, (z, y, x) voxels."""
    return [
        start + (size - 1) / 2 - (extent - 1) / 2
        for start, size, extent in zip(region.start, region.shape, _field(geometry))
    ]


def _check(region: Region, geometry: TiltGeometry) -> None:
    limits = _field(geometry)
    start, shape = (tuple(int(n) for n in part) for part in region)
    whole = (start, shape) == (tuple(region.start), tuple(region.shape))
    fits = len(start) == len(shape) == 3 and whole
    if not fits or any(
        first < 0 or size < 1 or first + size > limit
        for first, size, limit in zip(start, shape, limits)
    ):
        raise InputError(
            f"region: expected a box inside the field of view {list(limits)} "
            f"(z, y, x), got start {list(region.start)} and shape "
            f"{list(region.shape)}; count voxels from 0"
        )
