"""Phantoms of materials: particles, a needle and a lamella.

The phantoms are described in `temdiff_jax.simulator.phantoms`.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from temdiff_jax.simulator import distances, shapes


def _support(
    draws: shapes.Draws, shape: shapes.Shape
) -> Callable[[shapes.Points, Array], Array]:
    """Signed distance to an irregular carrier: a few merged balls, dented."""
    small = min(shape)
    centres = 0.45 * draws.places(shape, 4)
    radii = small * draws.uniform(0.16, 0.3, (4,))

    def distance(points: shapes.Points, dent: Array) -> Array:
        return distances.nearest_sphere(centres, radii, points)[0] + 0.03 * small * dent

    return distance


def _draw_particles(
    draws: shapes.Draws,
    shape: shapes.Shape,
    on_carrier: Array,
    carrier: Array,
    count: int,
) -> distances.Bodies:
    """Compact bodies, many of them touching; on the carrier's surface if asked.

    Args:
        draws: where random numbers come from.
        shape: extents (nz, nx, ny).
        on_carrier: whether to place them at `carrier`, bool scalar.
        carrier: places on the surface [n, (z, x, y)].
        count: number n of bodies.
    """
    largest = min(15.0, 0.25 * min(shape))
    size = draws.uniform(0.0, 1.0, (count,))
    radii = jnp.where(on_carrier, 2.0 + 3.5 * size, 2.5 + (largest - 2.5) * size**1.5)
    places = draws.places(shape, count, -0.12 * min(shape))
    # The second half of the bodies each touch one of the first half.
    half = count // 2
    host = draws.integers(0, half, count - half)
    touch = (radii[host] + radii[half:]) * draws.uniform(0.8, 1.0, (count - half,))
    partner = places[host] + touch[:, None] * draws.directions(count - half)
    places = jnp.concatenate([places[:half], partner])
    places = jnp.where(on_carrier, carrier, places)
    stretch = draws.uniform(0.75, 1.25, (count, 3))
    frames = shapes.frames_along(draws, draws.directions(count))
    frames = frames / (radii[:, None] * stretch)[:, :, None]
    facets = jnp.clip(draws.uniform(-0.5, 1.4, (count,)), 0.0, 1.0)
    return distances.Bodies(places, frames, facets)


@shapes.phantom
def particles(key: Array, shape: shapes.Shape) -> Array:
    """Compact bodies in vacuum, in a weak matrix, or on an irregular carrier.

    Balls, ellipsoids and faceted grains of different density, some hollow or of core
    and shell, many touching.

    Args:
        key: typed key.
        shape: (nz, nx, ny), static.

    Returns:
        density [z, x, y], float32 in [0, 1], 0 in vacuum.
    """
    draws, grain_key = shapes.start(key)
    look = draws.uniform(0.0, 1.0, (8,))
    in_matrix, on_carrier = look[0] > 0.65, look[0] < 0.3
    count = min(max(math.prod(shape) // 22_000, 8), 22)
    draft = shapes.draw_fields(draws, 2, 18.0 + 20.0 * look[1])
    fields = shapes.fields_on_grid(draft, shape)
    support = _support(draws, shape)
    trial = draws.places(shape, 16 * count)
    height = support(shapes.columns(trial), shapes.fields_at(draft, trial)[0])
    _, best = jax.lax.top_k(-jnp.abs(height), count)
    bodies = _draw_particles(draws, shape, on_carrier, trial[best], count)
    points = shapes.grid(shape)
    carrier = support(points, fields[0])
    distance, local, index = distances.nearest_body(bodies, points)
    values = draws.uniform(0.35, 1.0, (count,))
    (value,) = distances.look_up(index, values)

    matrix = (0.05 + 0.2 * look[2]) * (1.0 + 0.15 * fields[1])
    carrier_value = (0.15 + 0.25 * look[3]) * (1.0 + 0.08 * fields[1])
    density = jnp.where(in_matrix, matrix, 0.0)
    density = jnp.where(on_carrier, carrier_value * shapes.inside(carrier), density)
    depth = jnp.sqrt(local[0] ** 2 + local[1] ** 2 + local[2] ** 2)
    core_value = value * jnp.where(value > 0.75, 0.35 + 0.6 * look[4], 1.0)
    core = shapes.inside(depth - 0.4 - 0.3 * look[5], 0.05) * (look[6] > 0.5)
    body = shapes.blend(value, core_value, core) * (1.0 + 0.05 * fields[1])
    density = shapes.blend(density, body, shapes.inside(distance))
    noise = shapes.grain(grain_key, shape, draws.uniform(0.2, 1.0))
    return density * (1.0 + (0.02 + 0.06 * look[7]) * noise)


def _cross_section(
    draws: shapes.Draws, off_z: Array, off_x: Array, radius: Array
) -> tuple[Array, Array]:
    """Signed distance (voxels) to a needle's side and the relative radius.

    The cross-section lies between an ellipse and a rounded octagon: the p-norm of
    the projections on eight directions is the Euclidean norm for p = 2 and the
    polygon's gauge for large p.

    Args:
        draws: where random numbers come from.
        off_z, off_x: offsets from the axis, broadcasting to [z, x, y].
        radius: mean radius along the axis [1, 1, y].
    """
    turn = draws.uniform(0.0, math.pi)
    sides = 1.0 + draws.uniform(-0.12, 0.12, (8,))
    stretch = draws.uniform(0.8, 1.0)
    round_weight = draws.uniform(0.0, 1.0)
    cos, sin = jnp.cos(turn), jnp.sin(turn)
    a, b = cos * off_z + sin * off_x, (cos * off_x - sin * off_z) / stretch
    square = eighth = jnp.float32(0.0)
    for i, angle in enumerate(math.pi / 4 * i for i in range(8)):
        side = jnp.maximum(math.cos(angle) * a + math.sin(angle) * b, 0.0) / sides[i]
        square = square + side**2
        eighth = eighth + side**8
    # Sum of squared positive parts over eight even directions is twice the square.
    gauge = round_weight * jnp.sqrt(square / 2.0 + 1e-6)
    gauge = gauge + (1.0 - round_weight) * (eighth + 1e-6) ** 0.125
    relative = gauge / radius
    reach = jnp.sqrt(off_z**2 + off_x**2 + 1e-3)
    return reach - reach / (relative + 1e-4), relative


def _strata(
    draws: shapes.Draws,
    height: Array,
    low: Array | float,
    high: Array | float,
    count: int,
) -> Array:
    """Density of `count` strata with soft interfaces, from heights in voxels.

    Borders are uniform in [low, high], so that thicknesses differ widely.
    """
    borders = jnp.sort(draws.uniform(low, high, (count - 1,)))
    values = draws.uniform(0.25, 0.95, (count,))
    density = values[0]
    for border, step in zip(borders, jnp.diff(values), strict=True):
        density = density + step * shapes.inside(border - height)
    return density


@shapes.phantom
def needle(key: Array, shape: shapes.Shape) -> Array:
    """A needle specimen along y, the tilt axis, in vacuum.

    The axis is slightly bent; the section is elliptic or a rounded polygon and
    tapers, in some draws to a tip inside the volume. The inside is uniform, varying
    or stacked in strata, with pores and precipitates, under a surface coating.

    Args:
        key: typed key.
        shape: (nz, nx, ny), static.

    Returns:
        density [z, x, y], float32 in [0, 1], 0 in vacuum.
    """
    draws, grain_key = shapes.start(key)
    look = draws.uniform(0.0, 1.0, (12,))
    narrow, height = min(shape[0], shape[1]), shape[2]
    z, x, y = shapes.grid(shape)
    flip = jnp.where(look[0] > 0.5, 1.0, -1.0)
    along = flip * y / height + 0.5
    bend = (0.03 * narrow) * jnp.sin(2 * math.pi * (along * (0.4 + look[1]) + look[2]))
    lean = (look[3] - 0.5) * 0.08 * narrow * (along - 0.5)
    bend_angle = 2 * math.pi * look[4]
    off_z = z - jnp.cos(bend_angle) * bend - lean
    off_x = x - jnp.sin(bend_angle) * bend + lean
    # A tip in two draws of five, else the needle leaves the volume.
    tip = jnp.where(look[5] < 0.4, 0.7 + 0.25 * look[6], 1.6 + 2.0 * look[6])
    taper = jnp.clip(1.0 - along / tip, 1e-3, 1.0) ** 0.6
    radius = narrow * (0.25 + 0.14 * look[7]) * taper + 0.3
    distance, relative = _cross_section(draws, off_z, off_x, radius)
    distance = jnp.maximum(distance, (along - tip) * height)

    fields = shapes.fields_on_grid(shapes.draw_fields(draws, 2, 24.0), shape)
    level = flip * y + 0.25 * (look[8] - 0.5) * z + 0.1 * x + 0.4 * fields[0]
    strata = _strata(draws, level, -0.4 * height, 0.4 * height, 7)
    plain = 0.45 + 0.35 * look[6] + 0.06 * fields[0] - 0.1 * (1.0 - relative)
    density = jnp.where(look[9] < 0.5, strata, plain) + 0.015 * fields[1]
    density = _inclusions(draws, (z, x, y), shape, density, 20)
    thickness = 0.5 + 3.5 * look[10]
    skin = shapes.inside(-(distance + thickness), 0.3)
    density = shapes.blend(density, 0.12 + 0.6 * look[11], skin)
    noise = shapes.grain(grain_key, shape, draws.uniform(0.2, 1.0))
    return density * shapes.inside(distance) * (1.0 + 0.03 * noise)


def _inclusions(
    draws: shapes.Draws,
    points: shapes.Points,
    shape: shapes.Shape,
    density: Array,
    most: int,
) -> Array:
    """Sets pores (density 0) and bright precipitates into a density [z, x, y]."""
    look = draws.uniform(0.0, 1.0, (3,))
    spread = jnp.asarray([0.55, 0.55, 1.0], jnp.float32)
    count = min(max(math.prod(shape) // 20_000, 4), most)
    places = spread * draws.places(shape, count)
    largest = 1.5 + look[0] * min(4.5, 0.1 * min(shape))
    radii = draws.uniform(1.2, largest, (count,))
    kind = draws.uniform(0.0, 1.0, (count,))
    distance, index = distances.nearest_sphere(places, radii, points)
    (kind,) = distances.look_up(index, kind)
    value = jnp.where(kind < look[1], 0.04, 0.85 + 0.15 * kind)
    # A fifth of the specimens has none.
    return shapes.blend(density, value, shapes.inside(distance) * (look[2] > 0.2))


@shapes.phantom
def lamella(key: Array, shape: shapes.Shape) -> Array:
    """A thinned slab, near normal to z, of strata with interfaces and grains.

    Strata lie at any angle to the slab and are rough at their interfaces; some are
    polycrystalline, with a grey per grain and weak grain boundaries. Pores and
    precipitates are set in, a damaged skin covers both faces, vacuum is outside.

    Args:
        key: typed key.
        shape: (nz, nx, ny), static.

    Returns:
        density [z, x, y], float32 in [0, 1], 0 in vacuum.
    """
    draws, grain_key = shapes.start(key)
    look = draws.uniform(0.0, 1.0, (10,))
    z, x, y = points = shapes.grid(shape)
    rough = shapes.fields_on_grid(shapes.draw_fields(draws, 3, 22.0), shape)
    slope = draws.uniform(-0.1, 0.1, (3,))
    face = z + slope[0] * x + slope[1] * y + 0.5 * rough[0]
    # A wedge: thinner towards one side, as a milled lamella is.
    half = shape[0] * (0.2 + 0.2 * look[0]) + 0.3 * slope[2] * x
    distance = jnp.abs(face) - half

    normal = draws.directions(1)[0]
    across = jnp.asarray([0.25, 1.0, 1.0], jnp.float32) * normal
    normal = jnp.where(look[1] < 0.65, across, jnp.asarray([1.0, 0.08, 0.05]))
    normal = normal / jnp.linalg.norm(normal)
    roughness = 0.2 + 1.3 * look[2] ** 2
    height = normal[0] * z + normal[1] * x + normal[2] * y + roughness * rough[1]
    reach = 0.5 * jnp.sqrt(
        sum((n * e) ** 2 for n, e in zip(normal, shape, strict=True))
    )
    density = _strata(draws, height, -0.9 * reach, 0.9 * reach, 8)
    cells = distances.draw_cells(draws, shape, 22.0, 32)
    cells = cells._replace(elongations=0.3 * cells.elongations)
    wall, label = distances.nearest_cell(cells, points)
    tones = draws.uniform(-1.0, 1.0, (cells.centres.shape[0],))
    # Grains show in the strata of one range of density only.
    crystal = jax.nn.sigmoid(20.0 * (density - 0.3 - 0.4 * look[3]))
    (tone,) = distances.look_up(label, tones)
    grains = (0.05 + 0.12 * look[4]) * tone
    boundary = (0.2 * look[5] - 0.1) * shapes.band(wall, 0.8)
    density = density + crystal * (grains + boundary) + 0.015 * rough[2]
    density = _inclusions(draws, points, shape, density, 16)
    skin = shapes.inside(-(distance + 0.5 + 2.5 * look[6]), 0.4)
    density = shapes.blend(density, 0.15 + 0.35 * look[7], skin)
    noise = shapes.grain(grain_key, shape, look[8])
    return density * shapes.inside(distance) * (1.0 + (0.01 + 0.04 * look[9]) * noise)
