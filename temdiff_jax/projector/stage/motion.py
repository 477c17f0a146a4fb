"""Projection through a stage that is not aligned.

Every view of a real series is a little off.  With the convention of a stage that is
not yet aligned, content at r (from the volume's centre) appears at

    p = t + m Rz(psi) (a e_u + Ry(theta + d theta) Rx(chi) r),     z dropped,

where t, psi, m and d theta belong to a tilt, a and chi to the series.  The operator
is linear in the volume and smooth in every one of these numbers, and has two or
three steps, each with an exact adjoint and known derivatives:

1. With an x-tilt, one resampling of the volume along y,
   ``y = (y' + z sin chi) / cos chi``.  It turns ``Ry Rx`` into a single-axis tilt
   followed by a map of the image, ``u = rho u' + v tan(chi) sin(theta)``, and is no
   approximation: nothing else of the rotated volume would be seen.
2. ``project`` at ``theta' = atan2(sin(theta) / cos(chi), cos(theta))``.
3. One resampling of each tilt, which holds all that is left (``warp``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.projector.project import backproject, project
from temdiff_jax.projector.stage import warp


class Motion(NamedTuple):
    """How far every tilt is from where its geometry says; signs as in the formula.

    Attributes:
      shift_u, shift_v: t, ``[n_tilts]`` pixels, added to where content appears.
      rotation_rad: psi, ``[n_tilts]``, positive turns +u towards +v.
      magnification: m, ``[n_tilts]``, 1 is none; intensities are kept.
      tilt_rad: d theta, ``[n_tilts]``, true minus nominal tilt angle.
      axis_offset: a, scalar, pixels: the tilt axis of an otherwise aligned series
        lies at column ``(num_u - 1) / 2 + a``.
      chi_rad: Scalar, right-handed turn of the specimen about +x before it is
        tilted; ``None`` leaves the step out of the program.
    """

    shift_u: jax.Array
    shift_v: jax.Array
    rotation_rad: jax.Array
    magnification: jax.Array
    tilt_rad: jax.Array
    axis_offset: jax.Array
    chi_rad: jax.Array | None = None


def no_motion(
    num_tilts: int, *, x_tilt: bool = False, dtype: DTypeLike = jnp.float32
) -> Motion:
    """The motion of an aligned series: ``project_moving`` equals ``project``.

    Args:
      num_tilts: Number of tilts.
      x_tilt: Whether ``chi_rad`` is 0 instead of ``None``, so that one can
        differentiate with respect to it.
      dtype: Dtype of every field; that of the angles.
    """
    still, zero = jnp.zeros(num_tilts, dtype), jnp.zeros((), dtype)
    ones = jnp.ones(num_tilts, dtype)
    chi = zero if x_tilt else None
    return Motion(still, still, still, ones, still, zero, chi)


def project_moving(
    volume: jax.Array, geometry: TiltGeometry, motion: Motion, *, border: int = 0
) -> jax.Array:
    """Integrates a volume along the beam of every tilt of a moving series.

    Args:
      volume: Intensities, core layout ``[z, x, y]``, float.
      geometry: Nominal angles, extents and detector columns.
      motion: What moves; angles and motion share a dtype.
      border: Columns beyond either edge of the detector that are projected too, so
        that what a motion brings in is content.  Without it, and always along y,
        the edge value continues (``warp.covered`` tells where).

    Returns:
      Line integrals ``[n_tilts, u, y]``, dtype of the volume, intensity x voxel.

    Raises:
      ValueError: Motion of another number of tilts, a volume that is not the
        geometry's, a negative border.

    Derivatives: any order in the volume; first order in every field of the motion,
    forward and reverse, by the same loops with differentiated weights.
    Adjoint: ``backproject_moving``, exact.
    """
    tilted, source, length = split(geometry, motion, border)
    if motion.chi_rad is not None:
        rows = _rows_of_x_tilt(volume, motion.chi_rad)
        volume = warp.resample_lines(volume, rows, axis=2, length=volume.shape[2])
    tilts = project(volume, tilted)
    if length is not None:
        tilts = tilts * length[:, None, None].astype(tilts.dtype)
    return warp.warp(tilts, source, num_u=geometry.num_u)


def backproject_moving(
    tilts: jax.Array, geometry: TiltGeometry, motion: Motion, *, border: int = 0
) -> jax.Array:
    """Smears moved tilts back: the exact adjoint of ``project_moving``.

    Args:
      tilts: ``[n_tilts, u, y]``, float.
      geometry, motion, border: As for ``project_moving``.

    Returns:
      Volume ``[z, x, y]``, dtype of the tilts.

    Raises:
      ValueError: As for ``project_moving``.
    """
    tilted, source, length = split(geometry, motion, border)
    tilts = warp.warp_adjoint(tilts, source, num_u=tilted.num_u)
    if length is not None:
        tilts = tilts * length[:, None, None].astype(tilts.dtype)
    volume = backproject(tilts, tilted)
    if motion.chi_rad is not None:
        rows = _rows_of_x_tilt(volume, motion.chi_rad)
        volume = warp.spread_lines(volume, rows, axis=2, length=volume.shape[2])
    return volume


class MotionJacobian(NamedTuple):
    """The projections at one motion and their derivative there.

    Attributes:
      tilts: ``project_moving``, ``[n_tilts, u, y]``.
      product: ``d_motion -> J d``, ``[n_tilts, u, y]``.
      transpose: ``residual -> J^T r``, of the structure of the motion.
    """

    tilts: jax.Array
    product: Callable[[Motion], jax.Array]
    transpose: Callable[[jax.Array], Motion]


def linearize_motion(
    volume: jax.Array, geometry: TiltGeometry, motion: Motion, *, border: int = 0
) -> MotionJacobian:
    """Projects once and keeps what every further Gauss-Newton product needs.

    Costs the projection, one more with differentiated weights, and six passes over
    the tilts where ``project_moving`` takes two; an x-tilt adds three passes over the
    volume and one projection.  Each product then is two passes over the tilts, with
    an x-tilt also one projection.  The two functions belong to the trace that made
    them: use them in the same jitted function.

    Args:
      volume, geometry, motion, border: As for ``project_moving``.
    """
    moving = partial(project_moving, volume, geometry, border=border)
    tilts, product = jax.linearize(moving, motion)
    transposed = jax.linear_transpose(product, motion)
    return MotionJacobian(tilts, product, lambda residual: transposed(residual)[0])


def _check_motion(geometry, motion, border):
    expected = [geometry.num_tilts]
    for name in ("shift_u", "shift_v", "rotation_rad", "magnification", "tilt_rad"):
        shape = list(np.shape(getattr(motion, name)))
        if shape != expected:
            raise ValueError(
                f"motion: expected {name} with one number per tilt, {expected}, got "
                f"shape {shape}; start from no_motion({geometry.num_tilts})"
            )
    if border < 0:
        raise ValueError(
            f"motion: expected a border of zero columns or more, got {border}; pass "
            "the largest shift in pixels, rounded up"
        )


def split(
    geometry: TiltGeometry, motion: Motion, border: int
) -> tuple[TiltGeometry, warp.Affine, jax.Array | None]:
    """The motion as a single-axis geometry, a map of the tilts, and path lengths.

    Returns:
      The geometry of aligned tilts, ``2 * border`` columns wider; the map from it to
      the moved tilts (``warp``); factors ``[n_tilts]`` on the line integrals, or None.
    """
    _check_motion(geometry, motion, border)
    angles = geometry.angles_rad + motion.tilt_rad
    source = warp.source_map(
        motion.shift_u, motion.shift_v, motion.rotation_rad, motion.magnification
    )
    source = source._replace(u=source.u - motion.axis_offset)
    length = None
    if motion.chi_rad is not None:
        angles, source, length = _undo_x_tilt(angles, source, motion.chi_rad)
    tilted = dataclasses.replace(
        geometry,
        angles_rad=angles,
        num_u=geometry.num_u + 2 * border,
        motion=None,
    )
    return tilted, source, length


def _undo_x_tilt(angles, source, chi):
    """Angles, maps and path lengths that leave of Rx(chi) only a change of y.

    With y' = y cos(chi) - z sin(chi), the height after the x-tilt is
    y' tan(chi) + z / cos(chi), hence u = x cos + (z / cos(chi) + y' tan(chi)) sin.
    """
    cos, sin = jnp.cos(angles), jnp.sin(angles) / jnp.cos(chi)
    rho = jnp.sqrt(cos * cos + sin * sin)
    slant = sin * jnp.sin(chi)  # tan(chi) sin(theta)
    unslanted = warp.Affine(
        uu=(source.uu - slant * source.vu) / rho,
        uv=(source.uv - slant * source.vv) / rho,
        vu=source.vu,
        vv=source.vv,
        u=(source.u - slant * source.v) / rho,
        v=source.v,
    )
    # Mass: u is stretched by rho and y shrunk by cos(chi); the path makes up for it.
    return jnp.arctan2(sin, cos), unslanted, 1 / (rho * jnp.cos(chi))


def _rows_of_x_tilt(volume, chi):
    """``resample_lines`` coefficients ``[z, 3]`` of ``y = (y' + z sin) / cos``."""
    nz = volume.shape[0]
    z = jnp.arange(nz, dtype=chi.dtype) - (nz - 1) / 2
    slope = jnp.broadcast_to(1 / jnp.cos(chi) - 1, z.shape)
    return jnp.stack([slope, jnp.zeros_like(z), z * jnp.tan(chi)], axis=1)
