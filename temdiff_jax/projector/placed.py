"""The projector of a series whose tilts lie as its geometry says.

``project`` and ``backproject`` of an aligned series are those of ``projector.project``;
where the geometry has a motion, shift, turn, magnification and x-tilt are part of the
operator, and the measured pixels stay as they were recorded.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.projector.project import backproject as backproject_aligned
from temdiff_jax.projector.project import project as project_aligned
from temdiff_jax.projector.stage import motion as moving
from temdiff_jax.projector.stage import warp

# Columns beside the detector that the cubic kernel reads, where the volume has them.
BORDER = 2
# A rounding error must not hide the outermost pixels.
_SLACK = 1e-3


def project(volume: jax.Array, geometry: TiltGeometry) -> jax.Array:
    """Line integrals ``[n_tilts, u, y]`` of a volume ``[z, x, y]``, as tilts show them.

    Args:
      volume: As for ``projector.project.project``.
      geometry: Rays, and the motion of the tilts if they have one.
    """
    if geometry.motion is None:
        return project_aligned(volume, geometry)
    return moving.project_moving(
        volume, geometry.still(), geometry.motion, border=border(geometry)
    )


def backproject(tilts: jax.Array, geometry: TiltGeometry) -> jax.Array:
    """The exact adjoint of ``project``: ``[n_tilts, u, y]`` to ``[z, x, y]``."""
    if geometry.motion is None:
        return backproject_aligned(tilts, geometry)
    return moving.backproject_moving(
        tilts, geometry.still(), geometry.motion, border=border(geometry)
    )


def border(geometry: TiltGeometry) -> int:
    """Columns beside the detector that are projected for the interpolation."""
    return min(BORDER, geometry.margin)


def binned(motion: moving.Motion | None, factor: int) -> moving.Motion | None:
    """The motion in pixels ``factor`` times as large."""
    if motion is None:
        return None
    return motion._replace(
        shift_u=motion.shift_u / factor,
        shift_v=motion.shift_v / factor,
        axis_offset=motion.axis_offset / factor,
    )


def seen_at(geometry: TiltGeometry) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each pixel of a series with a motion looks, in its aligned tilts.

    Returns:
      Columns and rows from the centre, ``[n_tilts, u, y]``, and whether the ray stays
      within the columns and rows of the field of view, ``[n_tilts, u, y]`` bool.
    """
    _, source, _ = moving.split(geometry, geometry.motion, 0)
    uu, uv, vu, vv, u0, v0 = (np.asarray(f, np.float64)[:, None, None] for f in source)
    nz, _, ny = geometry.volume_shape
    u = (np.arange(geometry.num_u) - (geometry.num_u - 1) / 2)[:, None]
    v = np.arange(ny) - (ny - 1) / 2
    columns, rows = uu * u + uv * v + u0, vu * u + vv * v + v0
    chi = geometry.motion.chi_rad
    # With an x-tilt a ray changes its row on the way through the slab.
    change = 0.0 if chi is None else 0.5 * nz * abs(float(np.tan(chi)))
    inside = np.abs(columns) <= (geometry.num_u - 1) / 2 + _SLACK
    inside &= np.abs(rows) <= max((ny - 1) / 2 - change, 0.0) + _SLACK
    return columns, rows, inside


def straightened(
    geometry: TiltGeometry,
) -> tuple[
    TiltGeometry, Callable[[jax.Array], jax.Array], Callable[[jax.Array], jax.Array]
]:
    """What brings a series with a motion to one without, for methods that need it.

    Returns:
      The geometry of the aligned tilts; a function that resamples tilts
      ``[n_tilts, u, y]`` to them, once; and one that leads a wide volume ``[z, x, y]``
      of them back to the specimen, which is no change without an x-tilt.
    """
    motion = geometry.motion
    if motion is None:
        return geometry, lambda tilts: tilts, lambda volume: volume
    still, source, length = moving.split(geometry, motion, 0)

    def turn(tilts: jax.Array) -> jax.Array:
        out = warp.warp(tilts, _inverse(source))
        return out if length is None else out / length[:, None, None].astype(out.dtype)

    def back(volume: jax.Array) -> jax.Array:
        if motion.chi_rad is None:
            return volume
        rows = _rows_back(volume, motion.chi_rad)
        return warp.resample_lines(volume, rows, axis=2, length=volume.shape[2])

    return still, turn, back


def _inverse(source: warp.Affine) -> warp.Affine:
    """The map of the other direction."""
    det = source.uu * source.vv - source.uv * source.vu
    uu, uv = source.vv / det, -source.uv / det
    vu, vv = -source.vu / det, source.uu / det
    return warp.Affine(
        uu,
        uv,
        vu,
        vv,
        -(uu * source.u + uv * source.v),
        -(vu * source.u + vv * source.v),
    )


def _rows_back(volume: jax.Array, chi: jax.Array) -> jax.Array:
    """``resample_lines`` coefficients ``[z, 3]`` of ``y' = y cos - z sin``."""
    nz = volume.shape[0]
    z = jnp.arange(nz, dtype=chi.dtype) - (nz - 1) / 2
    slope = jnp.broadcast_to(jnp.cos(chi) - 1, z.shape)
    return jnp.stack([slope, jnp.zeros_like(z), -z * jnp.sin(chi)], axis=1)
