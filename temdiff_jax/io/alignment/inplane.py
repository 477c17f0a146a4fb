"""Bringing raw tilt images into the aligned frame: turn and shift in the plane.

With r the position of a voxel, the raw image of the view at theta shows it at

    p = R(psi) q + s,   q = (r_x cos(theta) + r_z sin(theta),  r_y)

    R(psi) = [[cos(psi), -sin(psi)],
              [sin(psi),  cos(psi)]]        on (x, y)

where p and q are counted from the centres (n - 1) / 2 of the raw and of the aligned
image.  So psi is the angle from +y to the tilt axis in the raw image, positive from
+x towards +y, that is (-sin(psi), cos(psi)) is the axis; and s is where the aligned
centre lies in the raw image.  The aligned image is read from the raw one there:

    aligned(q) = raw(R(psi) q + s)

Warp's axis angle and offsets (in Angstrom, from its centre n / 2) and AreTomo's ROT,
TX, TY follow this formula.  IMOD's transforms go the other way and need not be
rotations: p' = A p + d from raw to aligned, so that the aligned image is read at
A^-1 q - A^-1 d.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

from temdiff_jax.io import checks, gate

MAX_ORDER = 5


def apply_inplane(
    stack: ArrayLike,
    *,
    axis_angle_deg: ArrayLike,
    shifts_px: ArrayLike,
    shape: Sequence[int] | None = None,
    order: int = 3,
) -> np.ndarray:
    """Align raw tilt images whose axis angle and shifts are known.

    One interpolation does turn, shift and crop.

    Args:
      stack: Raw images [n_tilts, y, x], real.
      axis_angle_deg: psi in degrees, one number or one a tilt.
      shifts_px: s as (x, y) in pixels, [n_tilts, 2].
      shape: (height, width) of the aligned images around the same centre; default
        those of the raw ones.
      order: Of the spline, 0 to 5; 1 is linear, 3 keeps more of the fine detail.

    Returns:
      [n_tilts, height, width] float32, C-contiguous.  Pixels that the raw image does
      not reach take its median; `covered` tells where they are.

    Raises:
      InputError: not [n_tilts, y, x], numbers that do not fit the stack or are not
        finite, an order or a shape that cannot be.
    """
    matrices, shifts = rotations(axis_angle_deg, shifts_px, np.shape(stack)[0])
    return apply_maps(stack, matrices, shifts, shape=shape, order=order)


def apply_maps(
    stack: ArrayLike,
    matrices: np.ndarray,
    shifts_px: ArrayLike,
    *,
    shape: Sequence[int] | None = None,
    order: int = 3,
) -> np.ndarray:
    """Read aligned images from raw ones: aligned(q) = raw(M q + s).

    Args:
      stack: Raw images [n_tilts, y, x], real.
      matrices: M on (x, y), [n_tilts, 2, 2].
      shifts_px: s as (x, y), [n_tilts, 2].
      shape, order: As for `apply_inplane`, which see for what is returned and raised.
    """
    stack = np.asarray(stack)
    checks.check_form(stack, "align")
    if isinstance(order, bool) or order not in range(MAX_ORDER + 1):
        raise gate.bad_input(
            "align: order", f"a whole number from 0 to {MAX_ORDER}", order, "pass 3"
        )
    height, width = _shape(stack.shape[1:], shape)
    matrices, offsets = _to_raw(stack.shape, matrices, shifts_px, (height, width))
    aligned = np.empty((stack.shape[0], height, width), np.float32)
    for index, image in enumerate(stack):
        # float64: a spline's prefilter rings on rounding of large counts.
        image = image.astype(np.float64)
        aligned[index] = ndimage.affine_transform(
            image,
            matrices[index],
            offsets[index],
            output_shape=(height, width),
            order=order,
            mode="constant",
            cval=float(np.median(image)),
        )
    return aligned


def covered(
    raw_shape: Sequence[int],
    *,
    axis_angle_deg: ArrayLike,
    shifts_px: ArrayLike,
    shape: Sequence[int] | None = None,
) -> np.ndarray:
    """Where `apply_inplane` finds data.

    Args:
      raw_shape: (n_tilts, height, width) of the raw stack.
      axis_angle_deg, shifts_px, shape: As for `apply_inplane`.

    Returns:
      Boolean [n_tilts, height, width]: the position lies between the centres of the
      raw image's outermost pixels.

    Raises:
      InputError: as `apply_inplane`.
    """
    matrices, shifts = rotations(axis_angle_deg, shifts_px, int(raw_shape[0]))
    return covered_by_maps(raw_shape, matrices, shifts, shape=shape)


def covered_by_maps(
    raw_shape: Sequence[int],
    matrices: np.ndarray,
    shifts_px: ArrayLike,
    *,
    shape: Sequence[int] | None = None,
) -> np.ndarray:
    """Where `apply_maps` finds data, as `covered`."""
    raw_shape = tuple(int(n) for n in raw_shape)
    height, width = _shape(raw_shape[1:], shape)
    matrices, offsets = _to_raw(raw_shape, matrices, shifts_px, (height, width))
    grid = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"))
    at = np.einsum("nij,jyx->niyx", matrices, grid) + offsets[:, :, None, None]
    last = np.asarray(raw_shape[1:])[:, None, None] - 1
    # A turn by zero must not lose the outermost row to rounding.
    slack = 1e-6
    return ((at >= -slack) & (at <= last + slack)).all(axis=1)


def _shape(raw: Sequence[int], shape: Sequence[int] | None) -> tuple[int, int]:
    wanted = tuple(int(n) for n in (raw if shape is None else shape))
    if len(wanted) != 2 or min(wanted) < 1:
        raise gate.bad_input(
            "align: shape", "(height, width) in pixels", shape, "pass two numbers"
        )
    return wanted[0], wanted[1]


def rotations(
    axis_angle_deg: ArrayLike, shifts_px: ArrayLike, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """M [n_tilts, 2, 2] and s [n_tilts, 2] of known axis angles and shifts.

    Args:
      axis_angle_deg: psi in degrees, one number or one a tilt.
      shifts_px: s as (x, y) in pixels, [n_tilts, 2].
      count: Number of tilts.

    Raises:
      InputError: numbers that do not fit the count or are not finite.
    """
    angles = np.asarray(axis_angle_deg, np.float64)
    if angles.shape not in ((), (count,)) or not np.isfinite(angles).all():
        raise gate.bad_input(
            "align: axis_angle_deg",
            f"one finite angle, or {count}",
            f"shape {list(angles.shape)}",
            "pass degrees, one a tilt",
        )
    psi = np.deg2rad(np.broadcast_to(angles, count))
    cos, sin = np.cos(psi), np.sin(psi)
    matrices = np.stack([cos, -sin, sin, cos], axis=-1).reshape(count, 2, 2)
    return matrices, np.asarray(shifts_px, np.float64)


def inverted(
    matrices: np.ndarray, shifts_px: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """M and s of transforms p' = A p + d that go from raw to aligned (IMOD).

    Raises:
      InputError: a matrix that squeezes the image to a line.
    """
    with np.errstate(all="ignore"):
        determinants = np.linalg.det(matrices)
    if not np.isfinite(determinants).all() or np.abs(determinants).min() < 1e-3:
        bad = int(np.argmin(np.abs(np.nan_to_num(determinants))))
        raise gate.bad_input(
            f"align: transform {bad}",
            "a matrix that can be inverted",
            matrices[bad].tolist(),
            "check the .xf file",
        )
    back = np.linalg.inv(matrices)
    return back, -np.einsum("nij,nj->ni", back, shifts_px)


def _to_raw(
    raw_shape: Sequence[int],
    matrices: np.ndarray,
    shifts_px: ArrayLike,
    shape: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Matrices [n, 2, 2] and offsets [n, 2] from aligned (row, column) to raw."""
    count = raw_shape[0]
    shifts = np.asarray(shifts_px, np.float64)
    if shifts.shape != (count, 2) or not np.isfinite(shifts).all():
        raise gate.bad_input(
            "align: shifts_px",
            f"finite (x, y) for {count} tilts",
            f"shape {list(shifts.shape)}",
            "pass the shifts of this series in pixels",
        )
    # Rows are y and columns x: both indices of a matrix on (x, y) are exchanged.
    swapped = np.asarray(matrices, np.float64)[:, ::-1, ::-1]
    raw_centre = (np.asarray(raw_shape[1:], np.float64) - 1) / 2
    centre = (np.asarray(shape, np.float64) - 1) / 2
    return swapped, raw_centre + shifts[:, ::-1] - swapped @ centre
