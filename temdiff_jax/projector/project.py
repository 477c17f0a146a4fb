"""``project`` and ``backproject`` as a pair that knows its own derivatives.

Both are JAX primitives, so that autodiff uses the pair itself instead of deriving
a scatter: the tangent of a projection is a projection, its cotangent a
back-projection, and the derivative with respect to a tilt angle is the same loop
with differentiated weights.  Batches (``vmap``) are folded into y, since all
slices share one geometry.  Inside ``jax.shard_map`` the result varies along every
mesh axis along which the data or the angles do.

Of a geometry with a mesh every device handles its own rows of y, and its own volumes of
a batch: their program sends nothing, whatever the layout of what surrounds it.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import PartitionSpec as P

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.parallel import row_spec
from temdiff_jax.projector import dense, kernels


def project(volume: jax.Array, geometry: TiltGeometry) -> jax.Array:
    """Integrates a volume along the beam for every tilt.

    p[k, u, y] = sum_zx max(0, 1 - |u - x cos - z sin| / m) / m * V[z, x, y],
    m = max(|cos|, |sin|): two-tap interpolation, one plane at a time.  With
    ``geometry.oversample`` rays per pixel, p is the mean over
    u + (j + 1/2) / oversample - 1/2, j = 0, 1, ...

    Args:
      volume: Intensities, core layout ``[z, x, y]``, any float dtype, summed in
        float32 at least; extents ``geometry.volume_shape`` (y may differ: slices
        are independent).
      geometry: Angles, extents, detector columns and rays per pixel.  Angles that
        are no numbers, which only a geometry built by hand can hold, give NaN.

    Returns:
      Line integrals ``[n_tilts, u, y]``, dtype of the volume, intensity x voxel.

    Raises:
      ValueError: The volume's z, x extents are not the geometry's, it is not of a
        float dtype, or flags and angles are not of one length.

    Source: Joseph (1982), see ``taps``.  Adjoint: ``backproject``, exact.
    """
    if volume.ndim != 3 or volume.shape[:2] != geometry.volume_shape[:2]:
        raise ValueError(
            "project: expected a volume [z, x, y] with z, x = "
            f"{list(geometry.volume_shape[:2])}, got {list(volume.shape)}; build "
            "the geometry for this volume or use layout.volume_to_core"
        )
    _check_kind("project", volume, geometry)
    return _project_p.bind(
        *_varying_alike(volume, geometry.angles_rad),
        num_u=geometry.num_u,
        steep=geometry.steep,
        order=0,
        oversample=geometry.oversample,
        mesh=geometry.mesh,
    )


def backproject(tilts: jax.Array, geometry: TiltGeometry) -> jax.Array:
    """Smears tilts back along the beam: the exact adjoint of ``project``.

    Args:
      tilts: ``[n_tilts, u, y]``, any float dtype, summed in float32 at least.
      geometry: As for ``project``.

    Returns:
      Volume ``[z, x, y]``, dtype of the tilts.

    Raises:
      ValueError: Tilt or column count is not the geometry's; else as ``project``.
    """
    if tilts.ndim != 3 or tilts.shape[:2] != geometry.tilts_shape[:2]:
        raise ValueError(
            "backproject: expected tilts [n_tilts, u, y] with n_tilts, u = "
            f"{list(geometry.tilts_shape[:2])}, got {list(tilts.shape)}; build the "
            "geometry for these tilts or use layout.tilts_to_core"
        )
    _check_kind("backproject", tilts, geometry)
    return _backproject_p.bind(
        *_varying_alike(tilts, geometry.angles_rad),
        extents=geometry.volume_shape[:2],
        steep=geometry.steep,
        order=0,
        oversample=geometry.oversample,
        mesh=geometry.mesh,
    )


def _check_kind(name, data, geometry):
    if geometry.motion is not None:
        raise ValueError(
            f"{name}: expected aligned tilts, got a geometry with a motion; use "
            f"projector.{name}, or geometry.still()"
        )
    if not jnp.issubdtype(data.dtype, jnp.floating):
        raise ValueError(
            f"{name}: expected a float dtype, got {data.dtype}; convert the data "
            'first, for instance with .astype("float32")'
        )
    if geometry.steep is not None and len(geometry.steep) != geometry.num_tilts:
        raise ValueError(
            f"{name}: expected one flag in geometry.steep for each of "
            f"{geometry.num_tilts} angles, got {len(geometry.steep)}; set steep=None "
            "where angles are selected or split"
        )


def _varying_alike(*arrays):
    """Gives all arrays the type of one that may differ wherever any of them does.

    Only inside ``jax.shard_map``, where data split along y meets angles that every
    device shares.  Casts have a transpose: a shared array's gradient is summed.
    """
    varying = [jax.typeof(array).manual_axis_type.varying for array in arrays]
    every = frozenset().union(*varying)
    return [
        lax.pcast(array, tuple(sorted(every - axes)), to="varying")
        if every - axes
        else array
        for array, axes in zip(arrays, varying)
    ]


_project_p = Primitive("tilt_project")
_backproject_p = Primitive("tilt_backproject")


def _fold(data):
    """A batch ``[b, i, j, y]`` as rows ``[i, j, b y]``: slices share one geometry."""
    size, rows = data.shape[0], data.shape[3]
    return jnp.moveaxis(data, 0, 2).reshape(*data.shape[1:3], size * rows)


def _unfold(data, size):
    """Inverse of ``_fold``."""
    return jnp.moveaxis(data.reshape(*data.shape[:2], size, -1), 2, 0)


def _on_mesh(kernel):
    """A kernel of rows, run by every device on its own part of the data."""

    def whole(data, angles, *, mesh, **static):
        def part(data, angles):
            if data.ndim == 3:
                return kernel(data, angles, **static)
            return _unfold(kernel(_fold(data), angles, **static), data.shape[0])

        if mesh is None:
            return part(data, angles)
        spec = row_spec(mesh, data.shape)
        split = jax.shard_map(
            part, mesh=mesh, in_specs=(spec, P()), out_specs=spec, check_vma=False
        )
        return split(data, angles)

    return whole


def _define(primitive, implementation, contractions, static_names):
    def call(*arrays, **static):
        return primitive.bind(*arrays, **static)

    # Outside jit the rule of the platform is taken as well.
    primitive.def_impl(jax.jit(call, static_argnames=static_names))
    for rule, platform in ((implementation, None), (contractions, "tpu")):
        lowering = mlir.lower_fun(_on_mesh(rule), multiple_results=False)
        mlir.register_lowering(primitive, lowering, platform=platform)


_define(
    _project_p,
    kernels.project_kernel,
    dense.project_kernel,
    ("num_u", "steep", "order", "oversample", "mesh"),
)
_define(
    _backproject_p,
    kernels.backproject_kernel,
    dense.backproject_kernel,
    ("extents", "steep", "order", "oversample", "mesh"),
)


@_project_p.def_abstract_eval
def _project_abstract(volume, angles, *, num_u, **static):
    del static
    batch, rows = volume.shape[:-3], volume.shape[-1]
    return volume.update(shape=(*batch, angles.shape[0], num_u, rows))


@_backproject_p.def_abstract_eval
def _backproject_abstract(tilts, angles, *, extents, **static):
    del angles, static
    return tilts.update(shape=(*tilts.shape[:-3], *extents, tilts.shape[-1]))


def _check_first_order(order):
    if order:
        raise ValueError(
            "projector: second derivatives with respect to tilt angles are not "
            "defined for a piecewise linear interpolation; expected at most one "
            "differentiation in the angles; use Gauss-Newton products instead"
        )


def _project_jvp(primals, tangents, *, order, **static):
    volume, angles = primals
    d_volume, d_angles = tangents
    out = _project_p.bind(volume, angles, order=order, **static)
    parts = []
    if type(d_volume) is not ad.Zero:
        parts.append(_project_p.bind(d_volume, angles, order=order, **static))
    if type(d_angles) is not ad.Zero:
        _check_first_order(order)
        slope = _project_p.bind(volume, angles, order=1, **static)
        parts.append(slope * d_angles[:, None, None].astype(slope.dtype))
    return out, sum(parts[1:], start=parts[0])


def _backproject_jvp(primals, tangents, *, order, **static):
    tilts, angles = primals
    d_tilts, d_angles = tangents
    out = _backproject_p.bind(tilts, angles, order=order, **static)
    parts = []
    if type(d_tilts) is not ad.Zero:
        parts.append(_backproject_p.bind(d_tilts, angles, order=order, **static))
    if type(d_angles) is not ad.Zero:
        _check_first_order(order)
        scaled = tilts * d_angles[:, None, None].astype(tilts.dtype)
        parts.append(_backproject_p.bind(scaled, angles, order=1, **static))
    return out, sum(parts[1:], start=parts[0])


def _project_transpose(cotangent, volume, angles, *, num_u, **static):
    del num_u
    if type(cotangent) is ad.Zero:
        return ad.Zero(volume.aval), None
    extents = volume.aval.shape[-3:-1]
    return _backproject_p.bind(cotangent, angles, extents=extents, **static), None


def _backproject_transpose(cotangent, tilts, angles, *, extents, **static):
    del extents
    if type(cotangent) is ad.Zero:
        return ad.Zero(tilts.aval), None
    num_u = tilts.aval.shape[-2]
    return _project_p.bind(cotangent, angles, num_u=num_u, **static), None


def _batch(primitive, args, dims, **static):
    """Folds a batch into y, on a mesh on every device; angle lists are mapped."""
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
    data = jnp.moveaxis(data, data_dim, 0)
    size = data.shape[0]
    if static["mesh"] is None:
        return _unfold(primitive.bind(_fold(data), angles, **static), size), 0
    out = primitive.bind(data.reshape(-1, *data.shape[-3:]), angles, **static)
    return out.reshape(*data.shape[:-3], *out.shape[1:]), 0


ad.primitive_jvps[_project_p] = _project_jvp
ad.primitive_jvps[_backproject_p] = _backproject_jvp
ad.primitive_transposes[_project_p] = _project_transpose
ad.primitive_transposes[_backproject_p] = _backproject_transpose
batching.primitive_batchers[_project_p] = functools.partial(_batch, _project_p)
batching.primitive_batchers[_backproject_p] = functools.partial(_batch, _backproject_p)
