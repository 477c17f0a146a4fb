"""Single-axis parallel-beam geometry: angles, volume and detector extents.

Convention (written into every output, see ``CONVENTION``): the tilt axis is +y,
z points towards the electron source, centres are ``(n - 1) / 2`` and

    x_det = x cos(theta) + z sin(theta).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.sharding import Mesh
from jax.typing import ArrayLike, DTypeLike

from temdiff_jax.errors import InputError

CONVENTION = "x=X*cos+Z*sin; order=zyx; center=(n-1)/2; axis=+Y"
MAX_TILT_DEG = 90.0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TiltGeometry:
    """Where every ray of a tilt series runs.

    Attributes:
      angles_rad: Tilt angles, ``[n_tilts]``, radians, any float dtype; may be
        traced, so that one compiled program serves every angle list of a length.
      volume_shape: Core extents ``(nz, nx, ny)`` in voxels.
      num_u: Detector columns; the detector pitch equals the voxel pitch.
      steep: Per tilt, whether ``|theta| > 45`` degrees, when known outside the
        trace; ``None`` lets the projector decide inside it (slower for a thin slab,
        since every tilt then walks the longer of its extents).
      oversample: Rays per detector pixel, spread evenly over its width; a pixel is
        their mean.  Time grows in proportion.
      motion: How the tilts lie in their images, a ``projector.Motion``; ``None`` where
        they are aligned.  ``projector.project`` heeds it.
      mesh: Devices that share volumes and tilts in slabs of y, see
        ``parallel.sampling_mesh``; ``None`` leaves layouts to the compiler.
    """

    angles_rad: jax.Array
    volume_shape: tuple[int, int, int] = dataclasses.field(metadata={"static": True})
    num_u: int = dataclasses.field(metadata={"static": True})
    steep: tuple[bool, ...] | None = dataclasses.field(
        default=None, metadata={"static": True}
    )
    oversample: int = dataclasses.field(default=1, metadata={"static": True})
    motion: Any = None
    mesh: Mesh | None = dataclasses.field(default=None, metadata={"static": True})

    @classmethod
    def from_degrees(
        cls,
        angles_deg: npt.ArrayLike,
        *,
        thickness: int,
        width: int,
        height: int,
        lateral_margin: int | str = "auto",
        oversample: int = 1,
        dtype: DTypeLike = jnp.float32,
    ) -> TiltGeometry:
        """Builds the geometry of an aligned tilt series.

        Args:
          angles_deg: ``[n_tilts]`` degrees, within [-90, 90].
          thickness: Extent along the beam at zero tilt, voxels.
          width: Detector columns (across the tilt axis), pixels.
          height: Detector rows (along the tilt axis), pixels.
          lateral_margin: Columns added on either side of the field of view,
            since a slab continues outside it; ``"auto"`` takes what the largest
            tilt sees (see ``lateral_margin_for``).
          oversample: Rays per detector pixel; see the class.
          dtype: Dtype of the angles.

        Raises:
          InputError: Angles not one-dimensional, empty, non-finite or beyond 90
            degrees; extents or rays that are no whole number of at least one; a
            margin that is no whole number of at least zero.
        """
        angles = np.atleast_1d(np.asarray(angles_deg, np.float64))
        check_angles_deg(angles)
        for name, extent in (
            ("thickness", thickness),
            ("width", width),
            ("height", height),
        ):
            if not _is_whole(extent, at_least=1):
                raise InputError(
                    f"geometry: expected {name} of at least one voxel, got "
                    f"{extent}; pass a positive whole number"
                )
        if not _is_whole(oversample, at_least=1):
            raise InputError(
                "geometry: expected oversample, the rays per detector pixel, of at "
                f"least one, got {oversample}; pass a positive whole number"
            )
        margin = _columns_outside(lateral_margin, angles, thickness, width)
        steep = tuple(bool(abs(a) > 45.0) for a in angles)
        return cls(
            jnp.asarray(np.deg2rad(angles), dtype),
            (int(thickness), int(width) + 2 * margin, int(height)),
            int(width),
            steep,
            int(oversample),
        )

    @property
    def num_tilts(self) -> int:
        """Number of tilts."""
        return self.angles_rad.shape[0]

    @property
    def margin(self) -> int:
        """Columns of the volume on either side of the detector's width."""
        return (self.volume_shape[1] - self.num_u) // 2

    @property
    def tilts_shape(self) -> tuple[int, int, int]:
        """Core extents of the tilts, ``(n_tilts, nu, ny)``."""
        return (self.num_tilts, self.num_u, self.volume_shape[2])

    def still(self) -> TiltGeometry:
        """The same rays without the motion, of aligned tilts."""
        return dataclasses.replace(self, motion=None)

    def crop(self, volume: jax.Array) -> jax.Array:
        """Cuts ``[..., z, x, y]`` to the field of view."""
        if self.margin == 0:
            return volume
        return volume[..., self.margin : self.margin + self.num_u, :]

    def pad_lateral(self, volume: jax.Array, value: ArrayLike = 0.0) -> jax.Array:
        """Widens a field-of-view volume ``[..., z, x, y]`` by the margin."""
        pad = [(0, 0)] * volume.ndim
        pad[-2] = (self.margin, self.margin)
        return jnp.pad(volume, pad, constant_values=value)


def _is_whole(number: object, *, at_least: int) -> bool:
    """Whether a size is a whole number: truncating one would move the centres."""
    if not isinstance(number, int | float | np.integer | np.floating):
        return False
    # Also false for NaN, which equals nothing.
    return bool(np.isfinite(number) and number == int(number) and number >= at_least)


def check_angles_deg(angles: np.ndarray) -> None:
    """Refuses an angle list that no tilt stage could have produced."""
    if angles.ndim != 1 or angles.size == 0:
        raise InputError(
            "angles: expected a list of one angle per tilt, got an array of shape "
            f"{list(angles.shape)}; pass degrees as a flat list"
        )
    if not np.all(np.isfinite(angles)):
        bad = int(np.flatnonzero(~np.isfinite(angles))[0])
        raise InputError(
            f"angles: expected finite degrees, got {angles[bad]} for tilt {bad}; "
            "correct the angle file"
        )
    if np.max(np.abs(angles)) > MAX_TILT_DEG:
        bad = int(np.argmax(np.abs(angles)))
        raise InputError(
            f"angles: expected degrees within [-90, 90], got {angles[bad]:g} for "
            f"tilt {bad}; correct the angle file"
        )


def lateral_margin_for(angles_deg: npt.ArrayLike, thickness: int, width: int) -> int:
    """Columns outside the field of view that the largest tilt still sees.

    A ray at the detector's edge, u = width / 2, leaves a slab of the given
    thickness at ``x = (u + (thickness / 2) sin) / cos``.  The margin is bounded by
    the thickness: beyond 45 degrees the true reach diverges, and what lies there
    is seen by a few steep rays only.
    """
    top = float(np.deg2rad(min(np.max(np.abs(angles_deg)), 89.0)))
    reach = (0.5 * width + 0.5 * thickness * math.sin(top)) / math.cos(top)
    return int(min(math.ceil(reach - 0.5 * width) + 1, thickness))


def _columns_outside(
    lateral_margin: int | str, angles: np.ndarray, thickness: int, width: int
) -> int:
    """The margin that was asked for, in columns."""
    if lateral_margin == "auto":
        return lateral_margin_for(angles, thickness, width)
    if not _is_whole(lateral_margin, at_least=0):
        raise InputError(
            'geometry: expected a lateral margin of "auto" or zero columns and more, '
            f"got {lateral_margin!r}; pass a whole number of columns"
        )
    return int(lateral_margin)
