"""Distances to cells, convex bodies and spheres, for the phantoms.

Loops over bodies are unrolled on purpose: the bodies are few, and XLA then evaluates
all of them in one fused pass over the voxels, several times faster than a loop over
full volumes.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from temdiff_jax.simulator import shapes

_AXES = (0, 1, 2)


class Cells(NamedTuple):
    """Seeds of a space filling by cells.

    A place belongs to the seed of the least `(p - c)^T A (p - c) - weight`, a power
    diagram with one metric per seed: `A = I - elongation u u^T` stretches a cell
    along u, so that it becomes a process (neurite) rather than a foam bubble.

    Attributes:
        centres: [n, (z, x, y)] in voxels.
        axes: [n, (z, x, y)] unit vectors u.
        elongations: [n], 0 for round and towards 1 for tubular cells.
        weights: [n] in voxels squared.
    """

    centres: Array
    axes: Array
    elongations: Array
    weights: Array


def draw_cells(
    draws: shapes.Draws, shape: shapes.Shape, spacing: float, most: int
) -> Cells:
    """Seeds for a volume: as many as `spacing` (voxels) asks for, at most `most`.

    A third of them is drawn together into bundles of thin cells, and a random part
    of the others is dropped, so that the sizes of cells differ by several times.
    """
    margin = 0.4 * spacing
    filled = math.prod(n + 2 * margin for n in shape)
    count = min(max(round(filled / spacing**3), 8), most)
    spacing = (filled / count) ** (1 / 3)
    places = draws.places(shape, count, margin)
    bundled = count // 3
    hub = draws.integers(bundled, bundled + max(count // 12, 1), bundled)
    near = 0.4 * spacing * draws.normal_pairs((bundled, 3))[0]
    places = places.at[:bundled].set(places[hub] + near)
    kept, luck = draws.uniform(0.0, 1.0, (2, count))
    dropped = (kept > 0.4 + luck[0]) & (jnp.arange(count) >= count // 2)
    return Cells(
        jnp.where(dropped[:, None], 1e4, places),
        draws.directions(count),
        1.0 - (1.0 - draws.uniform(0.0, 0.75, (count,))) ** 2,
        draws.uniform(0.0, 0.35 * spacing**2, (count,)),
    )


def _metrics(cells: Cells) -> Array:
    """The matrices A of the cells, [n, 3, 3]."""
    stretch = cells.elongations[:, None, None]
    outer = cells.axes[:, :, None] * cells.axes[:, None, :]
    return jnp.eye(3, dtype=jnp.float32) - stretch * outer


def look_up(index: Array, *tables: Array) -> tuple[Array, ...]:
    """Entries of tables [n] at an index volume (int32), one volume per table."""
    return shapes.stored(*(table[index] for table in tables))


def _nearest(measure: Callable[[int], Array], count: int) -> Array:
    """Index (int32) of the body of the least measure.

    Measures do without roots and divisions of volumes: XLA would store each of them,
    one volume per body, instead of fusing the pass into one loop.
    """
    least, index = jnp.float32(shapes.FAR), jnp.float32(0.0)
    for i in range(count):
        value = measure(i)
        index = jnp.where(value < least, float(i), index)
        least = jnp.minimum(value, least)
    return shapes.stored(index)[0].astype(jnp.int32)


def _second(measure: Callable[[int], Array], count: int, index: Array) -> Array:
    """The least measure among the bodies other than `index`."""
    second = jnp.float32(shapes.FAR)
    for i in range(count):
        value = jnp.where(index == i, shapes.FAR, measure(i))
        second = jnp.minimum(second, value)
    return second


def nearest_cell(cells: Cells, points: shapes.Points) -> tuple[Array, Array]:
    """Distance to the wall of the cell (voxels) and the index of the cell (int32).

    The distance is to first order, difference over gradient of the difference, and
    so exact on the wall, where the thickness of a membrane is decided.
    """
    # The power as p (A p - 2 A c) + const: one multiplication less per coefficient.
    metric, count = _metrics(cells), cells.centres.shape[0]
    high = jax.lax.Precision.HIGHEST
    shift = jnp.einsum("nrs,ns->nr", metric, cells.centres, precision=high)
    const = jnp.sum(shift * cells.centres, axis=-1) - cells.weights

    def power(i: int) -> tuple[Array, list[Array]]:
        rows = [shapes.dot(metric[i, r], points) for r in _AXES]
        ramp = [rows[r] - 2.0 * shift[i, r] for r in _AXES]
        slope = [rows[r] - shift[i, r] for r in _AXES]
        return shapes.dot(points, ramp) + const[i], slope

    label = _nearest(lambda i: power(i)[0], count)
    least, second = jnp.float32(shapes.FAR), jnp.float32(shapes.FAR)
    slope1 = slope2 = [jnp.float32(0.0)] * 3
    for i in range(count):
        value, slope = power(i)
        first, next_ = value < least, value < second
        slope2 = [
            jnp.where(first, slope1[r], jnp.where(next_, slope[r], slope2[r]))
            for r in _AXES
        ]
        slope1 = [jnp.where(first, slope[r], slope1[r]) for r in _AXES]
        second = jnp.minimum(second, jnp.maximum(least, value))
        least = jnp.minimum(least, value)
    steep = sum((one - two) ** 2 for one, two in zip(slope1, slope2, strict=True))
    wall = (second - least) * jax.lax.rsqrt(4.0 * steep + 1e-2)
    return shapes.stored(wall)[0], label


def nearest_cell_at(cells: Cells, places: Array) -> tuple[Array, Array]:
    """`nearest_cell` for a short list of places [m, (z, x, y)].

    Works on the [m, n] table of all pairs, which compiles faster than the unrolled
    loop and is only affordable for few places.
    """
    offset = places[:, None, :] - cells.centres
    high = jax.lax.Precision.HIGHEST
    slope = jnp.einsum("nrs,mns->mnr", _metrics(cells), offset, precision=high)
    power = jnp.sum(offset * slope, axis=-1) - cells.weights
    least, order = jax.lax.top_k(-power, 2)
    pair = jnp.take_along_axis(slope, order[:, :, None], axis=1)
    steep = jnp.sum((pair[:, 0] - pair[:, 1]) ** 2, axis=-1)
    wall = (least[:, 0] - least[:, 1]) / jnp.sqrt(4.0 * steep + 1e-2)
    return wall, order[:, 0]


class Bodies(NamedTuple):
    """Convex bodies between ellipsoids and faceted grains.

    Attributes:
        centres: [n, (z, x, y)] in voxels.
        frames: [n, 3, (z, x, y)], unit rows divided by the half axes.
        facets: [n] in [0, 1], 0 an ellipsoid and 1 a truncated octahedron, or None
            where all are ellipsoids.
    """

    centres: Array
    frames: Array
    facets: Array | None


def nearest_body(
    bodies: Bodies, points: shapes.Points
) -> tuple[Array, list[Array], Array]:
    """Distance to the nearest body, coordinates in its frame, and its index.

    The nearest is the one of the least `(gauge^2 - 1) / 2` times its mean half axis,
    about the distance near the surface; the distance itself is taken along the ray
    from the body's centre. Bodies that overlap share a wall half way instead of
    melting into one.

    Returns:
        distance: signed, voxels, negative inside.
        local: three coordinates in half axes of that body.
        index: int32.
    """
    half = 0.5 / jnp.mean(jnp.linalg.norm(bodies.frames, axis=-1), axis=-1)

    def measure(i: int) -> Array:
        offset = shapes.minus(points, bodies.centres[i])
        own = [shapes.dot(row, offset) for row in bodies.frames[i]]
        facet = None if bodies.facets is None else bodies.facets[i]
        return (_gauge_squared(own, facet) - 1.0) * half[i]

    count = bodies.centres.shape[0]
    index = _nearest(measure, count)
    second = _second(measure, count, index)
    frames = bodies.frames.reshape(count, 9).T
    mine = look_up(index, *bodies.centres.T, *frames)
    offset = shapes.minus(points, mine[:3])
    own = [shapes.dot(mine[3 + 3 * r : 6 + 3 * r], offset) for r in _AXES]
    facet = None if bodies.facets is None else look_up(index, bodies.facets)[0]
    square = _gauge_squared(own, facet)
    least = (square - 1.0) * look_up(index, half)[0]
    gauge = jnp.sqrt(square + 1e-5)
    reach = jnp.sqrt(shapes.dot(offset, offset) + 1e-3)
    distance = reach - reach / gauge
    distance = jnp.maximum(distance, 0.5 * (least - second))
    distance, *own = shapes.stored(distance, *own)
    return distance, own, index


def _gauge_squared(own: list[Array], facet: Array | None) -> Array:
    """Square of a body's gauge: 1 on its surface, 0 at its centre."""
    ellipsoid = shapes.dot(own, own)
    if facet is None:
        return ellipsoid
    size = [jnp.abs(o) for o in own]
    octahedron = (size[0] + size[1] + size[2]) * (1.0 / 1.45)
    cube = jnp.maximum(jnp.maximum(size[0], size[1]), size[2]) * (1.0 / 0.9)
    faceted = jnp.maximum(octahedron, cube)
    return shapes.blend(ellipsoid, faceted * faceted, facet)


def nearest_sphere(
    centres: Array, radii: Array, points: shapes.Points
) -> tuple[Array, Array]:
    """Signed distance to the nearest of n spheres, and its index.

    The nearest is the one of the least `(|p - c|^2 - r^2) / 2r`, which is the
    distance to first order at the surface and needs no square root. Spheres that
    overlap share a wall half way. A radius of -1e4 removes a sphere.

    Args:
        centres: [n, (z, x, y)] in voxels.
        radii: [n] in voxels.
        points: where to evaluate.

    Returns:
        distance: voxels, negative inside.
        index: int32.
    """

    def square(centre: shapes.Triple) -> Array:
        offset = shapes.minus(points, centre)
        return shapes.dot(offset, offset)

    half_curvature = 0.5 / radii

    def power(square: Array, radius: Array, half_curvature: Array) -> Array:
        return square * half_curvature - 0.5 * radius

    def measure(i: int) -> Array:
        return power(square(centres[i]), radii[i], half_curvature[i])

    count = centres.shape[0]
    index = _nearest(measure, count)
    second = _second(measure, count, index)
    *centre, radius, curved = look_up(index, *centres.T, radii, half_curvature)
    own = square(centre)
    wall = 0.5 * (power(own, radius, curved) - second)
    return shapes.stored(jnp.maximum(jnp.sqrt(own) - radius, wall))[0], index
