"""In-plane motion of tilt images: one cubic resampling and its exact adjoint.

A moved pixel ``p`` shows what an unmoved tilt has at ``q = M p + b`` (``Affine``).
The map is walked in two passes, first along u and then along v; each is a 1-D
resampling of every line at ``q = (1 + slope) p + skew * line + offset``:

    forward   out[p] = sum_k hat(q(p) - k) in[k]        4 taps around q(p)
    adjoint   out[k] = sum_p hat(q(p) - k) in[p]        6 taps around q^-1(k)

Both are gathers with the same weights: the pair is an exact transpose, and no
program of a value or a gradient holds a scatter.  ``hat`` is the cubic that takes
its slopes by central differences.  It is smooth once, unlike the linear hat, whose
derivative in a shift jumps at zero motion, where alignment starts.  Outside the image
the edge value continues; its share of the adjoint is one sum over each line.

Sources: two passes, Catmull and Smith, SIGGRAPH (1980) 279; cubic, Keys, IEEE
Trans. Acoust. Speech Signal Process. 29 (1981) 1153, a = -1/2.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

# Lines that the adjoint reads: enough while the map shrinks lengths by no more
# than SUPPORT / ADJOINT_TAPS = 2/3, that is magnification <= 1.5 cos(rotation).
SUPPORT = 4
ADJOINT_TAPS = 6
MAX_ORDER = 2


class Affine(NamedTuple):
    """Where the pixels of moved tilts come from, each field ``[n_tilts]``.

        q_u = uu p_u + uv p_v + u,    q_v = vu p_u + vv p_v + v

    in pixels from the centre ``(n - 1) / 2`` of the moved and unmoved images.
    """

    uu: jax.Array
    uv: jax.Array
    vu: jax.Array
    vv: jax.Array
    u: jax.Array
    v: jax.Array


def source_map(
    shift_u: jax.Array,
    shift_v: jax.Array,
    rotation_rad: jax.Array,
    magnification: jax.Array,
) -> Affine:
    """The map behind a motion ``p = m R(psi) q + t`` of the content of each tilt.

    Content is magnified about the centre, turned from +u towards +v for a positive
    rotation and then moved by ``+shift``.

    Args:
      shift_u, shift_v: t, ``[n_tilts]`` pixels.
      rotation_rad: psi, ``[n_tilts]`` radians.
      magnification: m, ``[n_tilts]``, 1 is none.  Intensities are kept.
    """
    cos = jnp.cos(rotation_rad) / magnification
    sin = jnp.sin(rotation_rad) / magnification
    return Affine(
        uu=cos,
        uv=sin,
        vu=-sin,
        vv=cos,
        u=-(cos * shift_u + sin * shift_v),
        v=-(cos * shift_v - sin * shift_u),
    )


def warp(tilts: jax.Array, source: Affine, *, num_u: int | None = None) -> jax.Array:
    """Moves every tilt as its map says: ``out(p) = in(M p + b)``.

    Differentiable in the image and, up to second order, in the map; both in
    forward and reverse mode.  Under ``vmap`` batches fold into the tilts.

    Args:
      tilts: ``[n_tilts, u, y]``, float.
      source: Maps, ``[n_tilts]`` each.  Beyond a magnification of 1.5 cos(rotation),
        that is turns of 48 degrees, the adjoint (not the value) is NaN.
      num_u: Columns of the result; the input may be wider by an even number, so
        that content from outside the detector can move in.

    Returns:
      Moved tilts ``[n_tilts, num_u, y]``, dtype of the tilts.

    Raises:
      ValueError: Tilts that are not ``[n_tilts, u, y]``, maps of another number
        of tilts, an odd difference of columns.

    Adjoint: ``warp_adjoint``, exact.
    """
    num_u = tilts.shape[1] if num_u is None else num_u
    along_u, along_v = _passes(tilts, source, num_u)
    moved = resample_lines(tilts, along_u, axis=1, length=num_u)
    return resample_lines(moved, along_v, axis=2, length=tilts.shape[2])


def warp_adjoint(
    tilts: jax.Array, source: Affine, *, num_u: int | None = None
) -> jax.Array:
    """The exact adjoint of ``warp``.

    Args:
      tilts: Moved tilts, ``[n_tilts, u, y]``, float.
      source: As for ``warp``.
      num_u: Columns of the unmoved tilts, the input of ``warp``.

    Returns:
      ``[n_tilts, num_u, y]``, dtype of the tilts.

    Raises:
      ValueError: As for ``warp``.
    """
    num_u = tilts.shape[1] if num_u is None else num_u
    along_u, along_v = _passes(tilts, source, num_u)
    still = spread_lines(tilts, along_v, axis=2, length=tilts.shape[2])
    return spread_lines(still, along_u, axis=1, length=num_u)


def covered(source: Affine, num_u: int, num_y: int) -> jax.Array:
    """Which moved pixels show the image itself, not its continued edge.

    Args:
      source: Maps, ``[n_tilts]`` each.
      num_u: Columns of the image.
      num_y: Rows of the image.

    Returns:
      ``[n_tilts, u, y]``, bool.
    """
    u, v = (_centred(n, 1 + i, source.u.dtype) for i, n in enumerate((num_u, num_y)))
    uu, uv, vu, vv, u0, v0 = (field[:, None, None] for field in source)
    # A rounding error must not hide the outermost pixels of an unmoved image.
    slack = 1e-3
    inside_u = jnp.abs(uu * u + uv * v + u0) <= (num_u - 1) / 2 + slack
    inside_v = jnp.abs(vu * u + vv * v + v0) <= (num_y - 1) / 2 + slack
    return inside_u & inside_v


def _passes(tilts, source, num_u):
    """Coefficients ``[n_tilts, 3]`` of the pass along u and of that along v."""
    if tilts.ndim != 3 or tilts.shape[0] != source.u.shape[0]:
        raise ValueError(
            "warp: expected tilts [n_tilts, u, y] with one map per tilt, got tilts "
            f"{list(tilts.shape)} and {source.u.shape[0]} maps; pass the motion of "
            "this series"
        )
    if (tilts.shape[1] - num_u) % 2:
        raise ValueError(
            "warp: expected moved and unmoved tilts to share their centre, got "
            f"{tilts.shape[1]} and {num_u} columns; widen both sides alike"
        )
    # Along u, lines are known by their unmoved row q_v: p_v = (q_v - vu p_u - v) / vv.
    ratio = source.uv / source.vv
    along_u = (source.uu - ratio * source.vu - 1, ratio, source.u - ratio * source.v)
    along_v = (source.vv - 1, source.vu, source.v)
    return jnp.stack(along_u, axis=1), jnp.stack(along_v, axis=1)


def resample_lines(
    data: jax.Array, coefficients: jax.Array, *, axis: int, length: int
) -> jax.Array:
    """Reads every line along ``axis`` of ``[n, a, b]`` at new places.

    Args:
      data: ``[n, a, b]``, float.
      coefficients: ``[n, 3]``: slope, skew, offset of the displacement
        ``slope * p + skew * line + offset``, in pixels from the centres.
      axis: 1 or 2, the axis that is resampled; the other one counts lines.
      length: Extent of the result along ``axis``; its parity is the input's.

    Returns:
      ``[n, length, b]`` or ``[n, a, length]``, dtype of the data.

    Adjoint: ``spread_lines``, exact.
    """
    return _resample_p.bind(data, coefficients, axis=axis, length=length, order=0)


def spread_lines(
    data: jax.Array, coefficients: jax.Array, *, axis: int, length: int
) -> jax.Array:
    """The exact adjoint of ``resample_lines``; ``length`` is that one's input."""
    return _spread_p.bind(data, coefficients, axis=axis, length=length, order=0)


def _hat(t: jax.Array, order: int) -> jax.Array:
    """The cubic kernel at ``t`` or a derivative of it."""
    s = jnp.abs(t)
    if order == 0:
        near = (1.5 * s - 2.5) * s * s + 1
        far = ((2.5 - 0.5 * s) * s - 4) * s + 2
    elif order == 1:
        near = jnp.sign(t) * (4.5 * s - 5) * s
        far = jnp.sign(t) * ((5 - 1.5 * s) * s - 4)
    else:
        near = 9 * s - 5
        far = 5 - 3 * s
    return jnp.where(s < 1, near, jnp.where(s < 2, far, 0))


def _indices(size: int, axis: int) -> jax.Array:
    """``0 .. size - 1``, shaped to broadcast along ``axis`` of ``[n, a, b]``."""
    return jnp.expand_dims(jnp.arange(size, dtype=jnp.int32), (0, 3 - axis))


def _centred(size: int, axis: int, dtype) -> jax.Array:
    return _indices(size, axis).astype(dtype) - (size - 1) / 2


def _displacement(coefficients, place, line):
    """``q - p`` at centred places and lines; small, so float32 keeps it sharp."""
    slope, skew, offset = (coefficients[:, i, None, None] for i in range(3))
    return slope * place + skew * line + offset


def _field(coefficients, shape, axis):
    """``_displacement`` of every element of an array ``[n, a, b]``."""
    dtype = coefficients.dtype
    place = _centred(shape[axis], axis, dtype)
    line = _centred(shape[3 - axis], 3 - axis, dtype)
    return _displacement(coefficients, place, line)


def _read(data, index, axis):
    """Elements ``index`` of the lines along ``axis``, edges continued."""
    index = jnp.clip(index, 0, data.shape[axis] - 1)
    return jnp.take_along_axis(data, index, axis, mode="promise_in_bounds")


def _forward_taps(coefficients, shape, *, axis, size, order):
    """Unclipped indices into lines of ``size`` and weights, for a moved ``shape``."""
    moved = _field(coefficients, shape, axis)
    whole = jnp.floor(moved)
    fraction = moved - whole
    bound = size + shape[axis]  # beyond, only edges are read; int32 must not overflow
    whole = jnp.clip(whole, -bound, bound).astype(jnp.int32)
    base = _indices(shape[axis], axis) + whole + (size - shape[axis]) // 2
    return [(base + t, _hat(fraction - t, order)) for t in (-1, 0, 1, 2)]


def _resample(data, coefficients, *, axis, length, order):
    shape = list(data.shape)
    shape[axis] = length
    dtype = jnp.promote_types(data.dtype, jnp.float32)
    size = data.shape[axis]
    total = jnp.zeros(shape, dtype)
    for index, weight in _forward_taps(
        coefficients, shape, axis=axis, size=size, order=order
    ):
        total = total + weight.astype(dtype) * _read(data, index, axis).astype(dtype)
    return total.astype(data.dtype)


def _spread(data, coefficients, *, axis, length, order):
    dtype = jnp.promote_types(data.dtype, jnp.float32)
    target = _indices(length, axis)
    inner = _spread_inner(data, coefficients, axis=axis, length=length, order=order)
    # The continued edges: what the forward taps read outside falls on the last pixel.
    below = above = jnp.zeros((), dtype)
    for index, weight in _forward_taps(
        coefficients, data.shape, axis=axis, size=length, order=order
    ):
        weighted = weight.astype(dtype) * data.astype(dtype)
        below = below + jnp.where(index <= 0, weighted, 0)
        above = above + jnp.where(index >= max(length - 1, 1), weighted, 0)
    first = jnp.sum(below, axis=axis, keepdims=True)
    last = jnp.sum(above, axis=axis, keepdims=True)
    out = jnp.where((target > 0) & (target < length - 1), inner, 0)
    out = out + jnp.where(target == 0, first, 0)
    out = out + jnp.where(target == length - 1, last, 0)
    return out.astype(data.dtype)


def _spread_inner(data, coefficients, *, axis, length, order):
    """The adjoint away from the edges: six moved pixels around each pixel."""
    dtype = jnp.promote_types(data.dtype, jnp.float32)
    size = data.shape[axis]
    place_dtype = coefficients.dtype
    slope, skew, offset = (coefficients[:, i, None, None] for i in range(3))
    stretch = 1 + slope
    line = _centred(data.shape[3 - axis], 3 - axis, place_dtype)
    centre = (_centred(length, axis, place_dtype) - skew * line - offset) / stretch
    start = jnp.ceil(centre + (size - 1) / 2 - 0.5 * SUPPORT / stretch)
    start = jnp.clip(start, -ADJOINT_TAPS, size).astype(jnp.int32)
    target = _indices(length, axis) - (length - size) // 2
    total = jnp.zeros((), dtype)
    for tap in range(ADJOINT_TAPS):
        index = start + tap
        place = index.astype(place_dtype) - (size - 1) / 2
        moved = _displacement(coefficients, place, line)
        weight = _hat((index - target).astype(place_dtype) + moved, order)
        weight = jnp.where((index >= 0) & (index < size), weight, 0)
        total = total + weight.astype(dtype) * _read(data, index, axis).astype(dtype)
    # More than six lines would be needed: no number rather than a wrong one.
    reachable = stretch > SUPPORT / ADJOINT_TAPS - 1e-6
    return jnp.where(reachable, total, jnp.nan)


_resample_p = Primitive("tilt_resample")
_spread_p = Primitive("tilt_spread")


def _check_order(order):
    if order > MAX_ORDER:
        raise ValueError(
            "warp: the cubic interpolation has two derivatives in the motion; "
            f"expected at most {MAX_ORDER} differentiations in it, got {order}; use "
            "Gauss-Newton products instead"
        )


def _jvp(primitive, adjoint, primals, tangents, *, axis, length, order):
    """Weights move with the map: the derivative is the same loop, one order up."""
    data, coefficients = primals
    d_data, d_coefficients = tangents
    static = {"axis": axis, "length": length}
    out = primitive.bind(data, coefficients, order=order, **static)
    parts = []
    if type(d_data) is not ad.Zero:
        parts.append(primitive.bind(d_data, coefficients, order=order, **static))
    if type(d_coefficients) is not ad.Zero:
        _check_order(order + 1)
        static["order"] = order + 1
        moved_shape = data.shape if adjoint else out.shape
        speed = _field(d_coefficients, moved_shape, axis).astype(data.dtype)
        if adjoint:
            parts.append(primitive.bind(data * speed, coefficients, **static))
        else:
            parts.append(primitive.bind(data, coefficients, **static) * speed)
    return out, sum(parts[1:], start=parts[0])


def _transpose(partner, cotangent, data, coefficients, *, axis, length, order):
    del length
    if type(cotangent) is ad.Zero:
        return ad.Zero(data.aval), None
    back = data.aval.shape[axis]
    out = partner.bind(cotangent, coefficients, axis=axis, length=back, order=order)
    return out, None


def _batch(primitive, args, dims, **static):
    """Folds a batch into the tilts; each element brings its own coefficients."""
    sizes = [a.shape[d] for a, d in zip(args, dims) if d is not None]
    folded = []
    for array, dim in zip(args, dims):
        if dim is None:
            array = jnp.broadcast_to(array, (sizes[0], *array.shape))
        else:
            array = jnp.moveaxis(array, dim, 0)
        folded.append(array.reshape(-1, *array.shape[2:]))
    out = primitive.bind(*folded, **static)
    return out.reshape(sizes[0], -1, *out.shape[1:]), 0


def _one_by_one(implementation, data, coefficients, **static):
    """Loops over the tilts: indices and weights of all at once would fill memory."""

    def one(pair):
        image, numbers = pair
        return implementation(image[None], numbers[None], **static)[0]

    return lax.map(one, (data, coefficients))


def _define(primitive, lines, partner, *, adjoint):
    implementation = functools.partial(_one_by_one, lines)
    primitive.def_impl(
        jax.jit(implementation, static_argnames=("axis", "length", "order"))
    )
    mlir.register_lowering(
        primitive, mlir.lower_fun(implementation, multiple_results=False)
    )
    ad.primitive_jvps[primitive] = functools.partial(_jvp, primitive, adjoint)
    ad.primitive_transposes[primitive] = functools.partial(_transpose, partner)
    batching.primitive_batchers[primitive] = functools.partial(_batch, primitive)

    @primitive.def_abstract_eval
    def _(data, coefficients, *, axis, length, order):
        del coefficients, order
        shape = list(data.shape)
        shape[axis] = length
        return data.update(shape=tuple(shape))


_define(_resample_p, _resample, _spread_p, adjoint=False)
_define(_spread_p, _spread, _resample_p, adjoint=True)
