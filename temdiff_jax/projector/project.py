"""``project`` and ``backproject`` as a pair that knows its own derivatives.

Both are JAX primitives, so that autodiff uses the pair itself instead of deriving
a scatter: the tangent of a projection is a projection, its cotangent a
back-projection, and the derivative with respect to a tilt angle is the same loop
with differentiated weights.  Batches (``vmap``) are folded into y, since all
slices share one geometry.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.projector import kernels


def project(volume: jax.Array, geometry: TiltGeometry) -> jax.Array:
    """Integrates a volume along the beam for every tilt.

    p[k, u, y] = sum_zx max(0, 1 - |u - x cos - z sin| / m) / m * V[z, x, y],
    m = max(|cos|, |sin|): two-tap interpolation, one plane at a time.

    Args:
      volume: Intensities, core layout ``[z, x, y]``, float; extents
        ``geometry.volume_shape`` (y may differ: slices are independent).
      geometry: Angles, extents and detector columns.

    Returns:
      Line integrals ``[n_tilts, u, y]``, dtype of the volume, intensity x voxel.

    Raises:
      ValueError: The volume's z, x extents are not the geometry's.

    Source: Joseph (1982), see ``taps``.  Adjoint: ``backproject``, exact.
    """
    if volume.ndim != 3 or volume.shape[:2] != geometry.volume_shape[:2]:
        raise ValueError(
            "project: expected a volume [z, x, y] with z, x = "
            f"{list(geometry.volume_shape[:2])}, got {list(volume.shape)}; build "
            "the geometry for this volume or use layout.volume_to_core"
        )
    return _project_p.bind(
        volume,
        geometry.angles_rad,
        num_u=geometry.num_u,
        steep=geometry.steep,
        order=0,
    )


def backproject(tilts: jax.Array, geometry: TiltGeometry) -> jax.Array:
    """Smears tilts back along the beam: the exact adjoint of ``project``.

    Args:
      tilts: ``[n_tilts, u, y]``, float.
      geometry: As for ``project``.

    Returns:
      Volume ``[z, x, y]``, dtype of the tilts.

    Raises:
      ValueError: Tilt or column count is not the geometry's.
    """
    if tilts.ndim != 3 or tilts.shape[:2] != geometry.tilts_shape[:2]:
        raise ValueError(
            "backproject: expected tilts [n_tilts, u, y] with n_tilts, u = "
            f"{list(geometry.tilts_shape[:2])}, got {list(tilts.shape)}; build the "
            "geometry for these tilts or use layout.tilts_to_core"
        )
    return _backproject_p.bind(
        tilts,
        geometry.angles_rad,
        extents=geometry.volume_shape[:2],
        steep=geometry.steep,
        order=0,
    )


_project_p = Primitive("tilt_project")
_backproject_p = Primitive("tilt_backproject")


def _project_impl(volume, angles, *, num_u, steep, order):
    return kernels.project_kernel(volume, angles, num_u=num_u, steep=steep, order=order)


def _backproject_impl(tilts, angles, *, extents, steep, order):
    del steep  # one formula serves both; kept for the transpose
    return kernels.backproject_kernel(tilts, angles, extents=extents, order=order)


def _define(primitive, implementation, static_names):
    jitted = jax.jit(implementation, static_argnames=static_names)
    primitive.def_impl(jitted)
    mlir.register_lowering(
        primitive, mlir.lower_fun(implementation, multiple_results=False)
    )


_define(_project_p, _project_impl, ("num_u", "steep", "order"))
_define(_backproject_p, _backproject_impl, ("extents", "steep", "order"))


@_project_p.def_abstract_eval
def _project_abstract(volume, angles, *, num_u, steep, order):
    del steep, order
    return volume.update(shape=(angles.shape[0], num_u, volume.shape[2]))


@_backproject_p.def_abstract_eval
def _backproject_abstract(tilts, angles, *, extents, steep, order):
    del angles, steep, order
    return tilts.update(shape=(*extents, tilts.shape[2]))


def _check_first_order(order):
    if order:
        raise ValueError(
            "projector: second derivatives with respect to tilt angles are not "
            "defined for a piecewise linear interpolation; expected at most one "
            "differentiation in the angles; use Gauss-Newton products instead"
        )


def _project_jvp(primals, tangents, *, num_u, steep, order):
    volume, angles = primals
    d_volume, d_angles = tangents
    static = {"num_u": num_u, "steep": steep}
    out = _project_p.bind(volume, angles, order=order, **static)
    parts = []
    if type(d_volume) is not ad.Zero:
        parts.append(_project_p.bind(d_volume, angles, order=order, **static))
    if type(d_angles) is not ad.Zero:
        _check_first_order(order)
        slope = _project_p.bind(volume, angles, order=1, **static)
        parts.append(slope * d_angles[:, None, None].astype(slope.dtype))
    return out, sum(parts[1:], start=parts[0])


def _backproject_jvp(primals, tangents, *, extents, steep, order):
    tilts, angles = primals
    d_tilts, d_angles = tangents
    static = {"extents": extents, "steep": steep}
    out = _backproject_p.bind(tilts, angles, order=order, **static)
    parts = []
    if type(d_tilts) is not ad.Zero:
        parts.append(_backproject_p.bind(d_tilts, angles, order=order, **static))
    if type(d_angles) is not ad.Zero:
        _check_first_order(order)
        scaled = tilts * d_angles[:, None, None].astype(tilts.dtype)
        parts.append(_backproject_p.bind(scaled, angles, order=1, **static))
    return out, sum(parts[1:], start=parts[0])


def _project_transpose(cotangent, volume, angles, *, num_u, steep, order):
    if type(cotangent) is ad.Zero:
        return ad.Zero(volume.aval), None
    extents = volume.aval.shape[:2]
    return (
        _backproject_p.bind(
            cotangent, angles, extents=extents, steep=steep, order=order
        ),
        None,
    )


def _backproject_transpose(cotangent, tilts, angles, *, extents, steep, order):
    if type(cotangent) is ad.Zero:
        return ad.Zero(tilts.aval), None
    num_u = tilts.aval.shape[1]
    return (
        _project_p.bind(cotangent, angles, num_u=num_u, steep=steep, order=order),
        None,
    )


def _batch(primitive, args, dims, **static):
    """Folds a batch into y; a batch of angle lists is mapped instead."""
    data, angles = args
    data_dim, angles_dim = dims
    if angles_dim is not None:
        angles = jnp.moveaxis(angles, angles_dim, 0)
        if data_dim is None:
            bind = functools.partial(primitive.bind, data, **static)
            return jax.lax.map(bind, angles), 0
        data = jnp.moveaxis(data, data_dim, 0)
        return jax.lax.map(
            lambda pair: primitive.bind(pair[0], pair[1], **static), (data, angles)
        ), 0
    data = jnp.moveaxis(data, data_dim, 2)  # [a, b, batch, y]
    size, ny = data.shape[2:]
    folded = data.reshape(*data.shape[:2], size * ny)
    out = primitive.bind(folded, angles, **static)
    return out.reshape(*out.shape[:2], size, ny), 2


ad.primitive_jvps[_project_p] = _project_jvp
ad.primitive_jvps[_backproject_p] = _backproject_jvp
ad.primitive_transposes[_project_p] = _project_transpose
ad.primitive_transposes[_backproject_p] = _backproject_transpose
batching.primitive_batchers[_project_p] = functools.partial(_batch, _project_p)
batching.primitive_batchers[_backproject_p] = functools.partial(_batch, _backproject_p)
