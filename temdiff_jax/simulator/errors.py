"""Everything about a tilt series that is not quite as the log file says."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy import ndimage


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ErrorConfig:
    """Spread of every geometric and intensity error; zeros switch one off.

    Ranges follow public simulators and microscope experience: shifts of 0.5-1.5
    px after alignment, slow drift, 0.1 degree of tilt and rotation error, 0.1 % of
    magnification, 3 % of dose per tilt.  ``z_shrink`` is the largest share of its
    thickness that a section loses in the beam.  ``gain`` and ``offset`` are shares of
    the dose: a factor on every pixel of a tilt, and what is added to each (stray
    electrons, a black level that moved).
    """

    shift_px: float = 0.0
    drift_px: float = 0.0
    tilt_deg: float = 0.0
    tilt_scale: float = 0.0
    rotation_deg: float = 0.0
    common_rotation_deg: float = 0.0
    magnification: float = 0.0
    gain: float = 0.0
    offset: float = 0.0
    ramp: float = 0.0
    z_shrink: float = 0.0


ALIGNED = ErrorConfig()
IMPERFECT = ErrorConfig(
    shift_px=1.0,
    tilt_deg=0.1,
    tilt_scale=0.03,
    rotation_deg=0.1,
    gain=0.03,
)


class DrawnErrors(NamedTuple):
    """The truth of every drawn error, per tilt ``[n_tilts]`` unless said.

    Attributes:
      shift_u, shift_v: Pixels, added to where content appears.
      tilt_rad: True minus nominal tilt angle.
      rotation_rad: In-plane rotation of the image.
      magnification: Factor, 1 is none.
      gain: Factor on the dose.
      offset: Added to every pixel, in units of the dose.
      ramp: Beam ramp ``[n_tilts, 2]`` along u and v, relative, edge to edge.
      thickness: Factor on the specimen's thickness, scalar, 1 is none.
    """

    shift_u: jax.Array
    shift_v: jax.Array
    tilt_rad: jax.Array
    rotation_rad: jax.Array
    magnification: jax.Array
    gain: jax.Array
    offset: jax.Array
    ramp: jax.Array
    thickness: jax.Array


# A perfect series, field by field.
NO_ERROR = (0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0)


def draw_errors(
    key: jax.Array,
    angles_rad: jax.Array,
    config: ErrorConfig,
    severity: jax.Array | float = 1.0,
) -> DrawnErrors:
    """Draws one set of errors for a tilt series; a pure function of the key.

    Args:
      key: Typed PRNG key.
      angles_rad: Nominal angles ``[n_tilts]``.
      config: Spreads.
      severity: Factor on every error, may be traced; 0 is a perfect series.
    """
    keys = jax.random.split(key, 10)
    n = angles_rad.shape[0]
    order = jnp.linspace(-0.5, 0.5, n)

    def normal(k, sigma):
        return sigma * jax.random.normal(k, (n,))

    def uniform(k, bound):
        return jax.random.uniform(k, minval=-bound, maxval=bound)

    drift = jax.random.uniform(
        keys[2], (2,), minval=-config.drift_px, maxval=config.drift_px
    )
    tilt = normal(keys[3], jnp.deg2rad(config.tilt_deg))
    tilt = tilt + angles_rad * uniform(keys[4], config.tilt_scale)
    rotation = normal(keys[5], jnp.deg2rad(config.rotation_deg))
    rotation = rotation + uniform(keys[6], jnp.deg2rad(config.common_rotation_deg))
    drawn = DrawnErrors(
        shift_u=normal(keys[0], config.shift_px) + drift[0] * order,
        shift_v=normal(keys[1], config.shift_px) + drift[1] * order,
        tilt_rad=tilt,
        rotation_rad=rotation,
        magnification=1.0 + normal(keys[7], config.magnification),
        gain=1.0 + normal(keys[8], config.gain),
        # A key of its own, so that the other draws are what they were without it.
        offset=normal(jax.random.fold_in(key, 11), config.offset),
        ramp=jax.random.uniform(
            keys[9], (n, 2), minval=-config.ramp, maxval=config.ramp
        ),
        thickness=jax.random.uniform(
            jax.random.fold_in(key, 10), minval=1.0 - config.z_shrink, maxval=1.0
        ),
    )
    if isinstance(severity, float) and severity == 1.0:
        return drawn
    return DrawnErrors(
        *(none + severity * (x - none) for none, x in zip(NO_ERROR, drawn, strict=True))
    )


def shrink(volume: jax.Array, factor: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A slab ``[z, x, y]`` pressed to ``factor`` of its thickness about its middle.

    Linear interpolation between planes; a pressed slab keeps its densities per voxel,
    as a section does that loses mass with its thickness.

    Returns:
      The slab, 0 above and below it, and the share of each plane that is inside,
      ``[z]``.
    """
    nz = volume.shape[0]
    plane = jnp.arange(nz, dtype=volume.dtype) - (nz - 1) / 2
    source = plane / factor
    inside = jnp.clip(0.5 * nz * factor + 0.5 - jnp.abs(plane), 0.0, 1.0)
    at = jnp.clip(source + (nz - 1) / 2, 0.0, nz - 1.0)
    taps = jnp.maximum(0.0, 1.0 - jnp.abs(at[:, None] - jnp.arange(nz)))
    pressed = jnp.einsum("kz,zxy->kxy", taps, volume, precision="highest")
    return pressed * inside[:, None, None], inside


def warp_tilts(tilts: jax.Array, errors: DrawnErrors) -> jax.Array:
    """Moves each tilt ``[n_tilts, u, y]`` by its shift, rotation, magnification.

    Content moves by ``+shift`` and turns from +u towards +v for a positive
    rotation, about the centre of the detector and before the shift.  Linear
    interpolation with edge values outside; used on simulated, noise-free tilts
    only (reconstruction keeps measured pixels where they are).
    """
    nu, ny = tilts.shape[1:]
    u = jnp.arange(nu, dtype=tilts.dtype)[:, None] - (nu - 1) / 2
    v = jnp.arange(ny, dtype=tilts.dtype)[None, :] - (ny - 1) / 2

    def one(image, shift_u, shift_v, rotation, magnification):
        cos, sin = jnp.cos(rotation), jnp.sin(rotation)
        du, dv = u - shift_u, v - shift_v
        source_u = (cos * du + sin * dv) / magnification + (nu - 1) / 2
        source_v = (-sin * du + cos * dv) / magnification + (ny - 1) / 2
        return ndimage.map_coordinates(
            image, [source_u, source_v], order=1, mode="nearest"
        )

    return jax.vmap(one)(
        tilts,
        errors.shift_u,
        errors.shift_v,
        errors.rotation_rad,
        errors.magnification,
    )
