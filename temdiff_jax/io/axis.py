"""Files whose tilt axis runs along x, turned so that it runs along y, and back.

The images are turned in the plane, not transposed. Old and new detector axes:

    new x = -(old y),   new y = old x,   z as before

This is a rotation by 90 degrees about z (old +x becomes new +y), so the hand of the
specimen stays what it was. A bare swap of x and y would be a mirror: it turns a
right-handed rotation about the axis into a left-handed one, and with the angles left
as they are the reconstruction would come out as the mirror image.

With the axis along x, a positive angle is taken as right-handed about old +x:

    y_det = y cos(theta) - z sin(theta)
    new:    x_det = x cos(theta) + z sin(theta),   the package's own statement

Whether a file follows that sign cannot be seen in its images.
"""

from __future__ import annotations

import numpy as np

from temdiff_jax.io import gate

AXES = ("y", "x")


def tilts_from_file(tilts: np.ndarray, tilt_axis: str) -> np.ndarray:
    """Turn tilt images so that the tilt axis runs along y.

    Args:
      tilts: [n_tilts, y, x] as in the file.
      tilt_axis: "y" (nothing is done) or "x".

    Returns:
      [n_tilts, y', x'] with y' = x and x' = n_y - 1 - y for "x"; C-contiguous.

    Raises:
      InputError: another axis name.
    """
    _check(tilt_axis)
    if tilt_axis == "y":
        return tilts
    return np.ascontiguousarray(np.swapaxes(tilts, 1, 2)[:, :, ::-1])


def volume_to_file(volume: np.ndarray, tilt_axis: str) -> np.ndarray:
    """Bring a volume (or tilts) back to the axes of the file: the inverse turn.

    Args:
      volume: [z, y', x'] in the package's axes.
      tilt_axis: What `tilts_from_file` was given.

    Returns:
      [z, y, x] in the file's axes; C-contiguous.

    Raises:
      InputError: another axis name.
    """
    _check(tilt_axis)
    if tilt_axis == "y":
        return volume
    return np.ascontiguousarray(np.swapaxes(volume[:, :, ::-1], 1, 2))


def _check(tilt_axis: str) -> None:
    if tilt_axis not in AXES:
        raise gate.bad_input(
            "tilt_axis",
            "'y' or 'x'",
            repr(tilt_axis),
            "rotate the stack first if its tilt axis is oblique",
        )
