"""How a tilt changes with everything that may be wrong about it.

Seven images per tilt, in this order: shift along u and v, tilt angle, in-plane
rotation, magnification, gain, offset.  Signs are those of ``projector.Motion``; gain
multiplies the line integrals, the offset is added to them.  An unknown dose is an
*offset* of a bright-field series, ``-ln(g N) = -ln N - ln g``, and a gain of a series
that is linear in the specimen, as HAADF.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.projector import Motion, linearize_motion, no_motion

# Columns beside the detector that a derivative image reads, where the volume has them.
BORDER = 2
# Of the standard deviation of the tilts, in the spread that is assumed untold.
OFFSET_SHARE = 0.1


class Spread(NamedTuple):
    """Standard deviation of each parameter of a tilt, scalars or ``[n_tilts]``.

    The defaults are those of a series aligned by hand, without an error of the dose:
    ``for_tilts`` has one.

    Attributes:
      shift_u, shift_v: Pixels.
      tilt_rad, rotation_rad: Radians.
      magnification: Relative.
      gain: Relative.
      offset: Units of the tilts.
    """

    shift_u: jax.Array | float = 1.0
    shift_v: jax.Array | float = 1.0
    tilt_rad: jax.Array | float = math.radians(0.1)
    rotation_rad: jax.Array | float = math.radians(0.1)
    magnification: jax.Array | float = 1e-3
    gain: jax.Array | float = 0.0
    offset: jax.Array | float = 0.0

    @property
    def shift_px(self) -> jax.Array:
        """Root mean square of both shifts over the tilts, pixels."""
        squares = jnp.asarray(self.shift_u) ** 2, jnp.asarray(self.shift_v) ** 2
        return jnp.sqrt(0.5 * (jnp.mean(squares[0]) + jnp.mean(squares[1])))

    @classmethod
    def for_tilts(cls, tilts: jax.Array, keep: jax.Array | float = 1.0) -> Spread:
        """The defaults, and an offset of a tenth of what the tilts vary by.

        A dose that is wrong by 3 % does this to a bright-field series of which -ln T
        varies by 0.3; of a series that is linear in the specimen a wrong gain mostly
        moves the mean of a tilt as well.

        Args:
          tilts: ``[n_tilts, u, y]``, mean removed.
          keep: 0 where masked, broadcastable to the tilts.
        """
        seen = jnp.broadcast_to(jnp.asarray(keep, tilts.dtype) > 0, tilts.shape)
        total = jnp.sum(jnp.where(seen, tilts**2, 0.0))
        varies_by = jnp.sqrt(total / jnp.maximum(jnp.sum(seen), 1))
        return cls(offset=OFFSET_SHARE * varies_by)


def derivative_images(
    volume: jax.Array,
    geometry: TiltGeometry,
    motion: Motion | None = None,
    *,
    background: jax.Array | float = 0.0,
) -> jax.Array:
    """Derivative images of the projections of an estimate, through the projector.

    Costs two projections and a dozen passes over the tilts.

    Args:
      volume: Wide volume ``[z, x, y]``, units of the tilts per voxel; mean removed.
      geometry: Rays.
      motion: Where the stage is assumed to be; ``None`` is where the geometry says, its
        motion included.
      background: Line integrals of the mean that was removed, broadcastable to the
        tilts: ``mean * ray_lengths``.  They do not move with the specimen, since the
        slab continues, but lengthen with the tilt and share its gain.

    Returns:
      J, ``[n_tilts, 7, u, y]``, fields of ``Spread`` in their order.
    """
    if motion is None:
        motion = geometry.motion
    if motion is None:
        motion = no_motion(geometry.num_tilts, dtype=geometry.angles_rad.dtype)
    geometry = geometry.still()
    border = min(BORDER, geometry.margin)
    jacobian = linearize_motion(volume, geometry, motion, border=border)
    still = jax.tree.map(jnp.zeros_like, motion)
    moved = ("shift_u", "shift_v", "tilt_rad", "rotation_rad", "magnification")
    images = {
        name: jacobian.product(
            still._replace(**{name: jnp.ones_like(getattr(still, name))})
        )
        for name in moved
    }
    angles = (geometry.angles_rad + motion.tilt_rad)[:, None, None]
    images["tilt_rad"] += (background * jnp.tan(angles)).astype(volume.dtype)
    return _stack(images, jacobian.tilts + background)


def scale_images(images: jax.Array, spread: Spread) -> jax.Array:
    """Columns ``J S^(1/2)`` for independent parameters, ``[n_tilts, 7, u, y]``."""
    count = images.shape[0]
    each = [jnp.broadcast_to(jnp.asarray(s, images.dtype), (count,)) for s in spread]
    return images * jnp.stack(each, axis=1)[:, :, None, None]


def _stack(images: dict[str, jax.Array], integrals: jax.Array) -> jax.Array:
    images = {**images, "gain": integrals, "offset": jnp.ones_like(integrals)}
    return jnp.stack([images[name] for name in Spread._fields], axis=1)
