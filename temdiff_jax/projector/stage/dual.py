"""Two tilt axes through a stage that is not aligned.

``project_dual`` sees the second series, which turns right-handed about +x, as a
single-axis one of the volume with x and y exchanged.  That exchange is a mirror, so
every angle changes its sign: the tilt, the in-plane rotation and the turn of the
specimen before the tilt.  Shifts, magnifications and the offset of the axis do not.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from temdiff_jax.errors import InputError
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.projector.stage.motion import (
    Motion,
    backproject_moving,
    project_moving,
)


def project_dual_moving(
    volume: jax.Array,
    geometry_y: TiltGeometry,
    geometry_x: TiltGeometry,
    motion_y: Motion,
    motion_x: Motion,
    *,
    border: int = 0,
) -> tuple[jax.Array, jax.Array]:
    """Integrates a volume along the beams of two moving series with crossed axes.

    The first one is ``project_moving``.  In the second one, content at r appears at

        p = t + m Rz(psi) (a e_y + Rx(theta + d theta) Ry(chi) r),     z dropped,

    with p = (x, y) on the detector and every turn right-handed.  Its columns count y
    and its rows x: ``shift_u`` and ``axis_offset`` are along y, ``shift_v`` along x;
    ``rotation_rad`` turns +x towards +y, and ``chi_rad`` is about +y.

    Args:
      volume: ``[z, x, y]``, float.
      geometry_y, geometry_x: As for ``project_dual``.
      motion_y, motion_x: Of either series.
      border: As for ``project_moving``, in both series.

    Returns:
      Tilts ``[n_y, u, y]`` and ``[n_x, w, x]``.

    Raises:
      InputError: The two geometries do not see one volume.
      ValueError: As ``project_moving``.

    Adjoint: ``backproject_dual_moving``, exact.
    """
    _check(geometry_y, geometry_x)
    turned, mirrored = _mirror(geometry_x, motion_x)
    first = project_moving(volume, geometry_y, motion_y, border=border)
    exchanged = jnp.swapaxes(volume, 1, 2)
    return first, project_moving(exchanged, turned, mirrored, border=border)


def backproject_dual_moving(
    tilts_y: jax.Array,
    tilts_x: jax.Array,
    geometry_y: TiltGeometry,
    geometry_x: TiltGeometry,
    motion_y: Motion,
    motion_x: Motion,
    *,
    border: int = 0,
) -> jax.Array:
    """The exact adjoint of ``project_dual_moving``: a volume ``[z, x, y]``.

    Args:
      tilts_y: ``[n_y, u, y]``.
      tilts_x: ``[n_x, w, x]``.
      geometry_y, geometry_x, motion_y, motion_x, border: As for
        ``project_dual_moving``.

    Raises:
      InputError, ValueError: As ``project_dual_moving``.
    """
    _check(geometry_y, geometry_x)
    turned, mirrored = _mirror(geometry_x, motion_x)
    first = backproject_moving(tilts_y, geometry_y, motion_y, border=border)
    second = backproject_moving(tilts_x, turned, mirrored, border=border)
    return first + jnp.swapaxes(second, 1, 2)


def _mirror(geometry: TiltGeometry, motion: Motion) -> tuple[TiltGeometry, Motion]:
    """A series about +x as one about +y of the volume with x and y exchanged."""
    chi = None if motion.chi_rad is None else -motion.chi_rad
    mirrored = motion._replace(
        rotation_rad=-motion.rotation_rad, tilt_rad=-motion.tilt_rad, chi_rad=chi
    )
    return dataclasses.replace(geometry, angles_rad=-geometry.angles_rad), mirrored


def _check(geometry_y: TiltGeometry, geometry_x: TiltGeometry) -> None:
    nz, nx, ny = geometry_y.volume_shape
    if geometry_x.volume_shape != (nz, ny, nx):
        raise InputError(
            "dual axis: expected a second geometry for the volume with x and y "
            f"exchanged, {[nz, ny, nx]}, got {list(geometry_x.volume_shape)}; give "
            "both the same thickness and the other's width, margins included"
        )
