"""Which voxels a ray meets, and with what weight: two taps each way.

The weight that ties voxel ``(z, x)`` to ray ``u`` of a tilt at ``theta`` is

    g = max(0, 1 - |u - t| / m) / m,   t = x cos + z sin,   m = max(|cos|, |sin|)

(Joseph's interpolation on z-planes up to 45 degrees and on x-planes beyond,
written once for both).  A ray meets every plane between two voxels, so the
forward direction needs two taps a plane; successive rays meet a plane at least
one voxel apart and the hat is two wide, so a voxel needs two rays a tilt.  Both
directions are therefore gathers of whole rows of y.

Which planes a tilt is read on may be decided by a flag ("steep") instead of its
angle: m is then |cos| or |sin| as the flag says, in both directions.  Any m up to 1
leaves two rays to a voxel, so the two stay exact transposes whatever the flag; a
wrong one costs accuracy (rays sample their planes more than sqrt(2) apart).

All functions take angles of any shape that broadcasts, and can be differentiated
with respect to them in forward mode (``floor`` has derivative zero).

Source: Joseph, IEEE Trans. Med. Imaging 1 (1982) 192, one plane at a time.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def plane_taps(
    angles: jax.Array,
    plane: jax.Array,
    *,
    extents: tuple[int, int],
    num_u: int,
    steep: jax.Array | bool,
    offset: jax.Array | float = 0.0,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Rows and weights with which every ray reads one plane.

    Args:
      angles: ``[k]`` radians.
      plane: Scalar index of the plane: z for shallow tilts, x for steep ones.
      extents: ``(nz, nx)`` voxels.
      num_u: Detector columns.
      steep: ``[k]`` or scalar, whether planes of constant x are used.
      offset: Where in its pixel the ray runs, pixels from the middle.

    Returns:
      ``row0, row1`` int32 ``[k, u]`` into the volume as ``[z * nx + x, y]`` and
      their weights ``[k, u]``; weights are zero outside the volume, and NaN for an
      angle that is no number.
    """
    nz, nx = extents
    dtype = angles.dtype
    steep = jnp.broadcast_to(jnp.asarray(steep), angles.shape)[:, None]
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    u = jnp.arange(num_u, dtype=dtype)[None, :] - (num_u - 1) / 2 + offset
    # "depth" runs over planes, "across" inside a plane.
    along = jnp.where(steep, sin, cos)
    other = jnp.where(steep, cos, sin)
    num_planes = jnp.where(steep, nx, nz)
    num_across = jnp.where(steep, nz, nx)
    depth = plane - (num_planes - 1) / 2
    across = (u - depth * other) / along + (num_across - 1) / 2
    index = jnp.floor(across)
    fraction = across - index
    # Indices far outside must not overflow int32 (steep dividing by a small cos).
    index = jnp.clip(index, -2, num_across + 1).astype(jnp.int32)
    scale = 1.0 / jnp.abs(along)
    # Zero, but NaN for an angle that is no number: a tilt must not vanish silently.
    none = 0 * scale
    inside = plane < num_planes
    weight0 = jnp.where(
        inside & (index >= 0) & (index < num_across), (1 - fraction) * scale, none
    )
    weight1 = jnp.where(
        inside & (index >= -1) & (index < num_across - 1), fraction * scale, none
    )
    safe_plane = jnp.minimum(plane, num_planes - 1)
    first = jnp.clip(index, 0, num_across - 1)
    second = jnp.clip(index + 1, 0, num_across - 1)
    row0 = jnp.where(steep, first * nx + safe_plane, safe_plane * nx + first)
    row1 = jnp.where(steep, second * nx + safe_plane, safe_plane * nx + second)
    return row0, row1, weight0, weight1


def ray_taps(
    angle: jax.Array,
    *,
    extents: tuple[int, int],
    num_u: int,
    steep: jax.Array | bool | None = None,
    offset: jax.Array | float = 0.0,
    planes: tuple[jax.Array | int, int] | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Rays and weights with which every voxel reads one tilt (the transpose).

    Args:
      angle: Scalar, radians.
      extents: ``(nz, nx)`` voxels.
      num_u: Detector columns.
      steep: Scalar, as for ``plane_taps``; ``None`` takes what the angle says.
      offset: As for ``plane_taps``.
      planes: First plane of z and number of them; ``None`` is all.

    Returns:
      ``ray0, ray1`` int32 ``[z, x]`` and their weights ``[z, x]``; weights are
      zero where the ray lies off the detector, and NaN as for ``plane_taps``.
    """
    nz, nx = extents
    dtype = angle.dtype
    first, count = (0, nz) if planes is None else planes
    z = ((first + jnp.arange(count)).astype(dtype) - (nz - 1) / 2)[:, None]
    x = (jnp.arange(nx, dtype=dtype) - (nx - 1) / 2)[None, :]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    if steep is None:
        half_width = jnp.maximum(jnp.abs(cos), jnp.abs(sin))
    else:
        half_width = jnp.where(steep, jnp.abs(sin), jnp.abs(cos))
    none = 0 * half_width
    t = x * cos + z * sin + (num_u - 1) / 2 - offset
    index = jnp.floor(t)
    fraction = t - index
    index = jnp.clip(index, -2, num_u + 1).astype(jnp.int32)
    near = jnp.maximum(0, 1 - fraction / half_width) / half_width
    far = jnp.maximum(0, 1 - (1 - fraction) / half_width) / half_width
    weight0 = jnp.where((index >= 0) & (index < num_u), near, none)
    weight1 = jnp.where((index >= -1) & (index < num_u - 1), far, none)
    ray0 = jnp.clip(index, 0, num_u - 1)
    ray1 = jnp.clip(index + 1, 0, num_u - 1)
    return ray0, ray1, weight0, weight1
