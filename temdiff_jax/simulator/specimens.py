"""Phantoms of stained biological matter: tissue and vesicles.

The phantoms are described in `temdiff_jax.simulator.phantoms`.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array

from temdiff_jax.simulator import distances, shapes


def _draw_warp(draws: shapes.Draws, wavelength: Array) -> shapes.Fields:
    """Three displacements (voxels) that bend cell walls, and two unit fields.

    The displacements grow with the wavelength, so that their gradient, which thins
    or thickens membranes, stays the same.
    """
    fields = shapes.draw_fields(draws, 5, wavelength)
    amplitude = jnp.ones((5, 1), jnp.float32).at[:3].set(0.035 * wavelength)
    return fields._replace(
        cosines=amplitude * fields.cosines, sines=amplitude * fields.sines
    )


def _displaced(points: shapes.Points, shift: list[Array]) -> shapes.Points:
    """Points moved by three volumes of displacements (voxels)."""
    z, x, y = points
    moved = shapes.stored(z + shift[0], x + shift[1], y + shift[2])
    return moved[0], moved[1], moved[2]


def _pick_inside(
    draws: shapes.Draws,
    cells: distances.Cells,
    warp: shapes.Fields,
    shape: shapes.Shape,
    count: int,
) -> tuple[Array, Array, Array]:
    """Random places deep in cells: places [n, 3], depth [n], cell index [n]."""
    places = draws.places(shape, 4 * count)
    moved = places + shapes.fields_at(warp, places)[:3].T
    depth, label = distances.nearest_cell_at(cells, moved)
    luck = draws.uniform(0.0, 6.0, depth.shape)
    _, best = jax.lax.top_k(jnp.minimum(depth, 10.0) + luck, count)
    return places[best], depth[best], label[best]


def _mitochondria(
    draws: shapes.Draws,
    shape: shapes.Shape,
    cells: distances.Cells,
    warp: shapes.Fields,
    points: shapes.Points,
    membrane: tuple[Array, Array],
    count: int,
) -> tuple[Array, Array]:
    """Organelles with a double membrane and cristae: stain and soft mask [z, x, y].

    They lie along their cell's axis and keep clear of its membrane, which presses
    them into its shape.  ``membrane`` is the distance to it and the cell around,
    ``[z, x, y]``.
    """
    wall, label = membrane
    places, depth, own = _pick_inside(draws, cells, warp, shape, count)
    axes = cells.axes[own] + 0.5 * draws.directions(count)
    axes = axes / jnp.linalg.norm(axes, axis=-1, keepdims=True)
    short = jnp.minimum(draws.uniform(5.0, 13.0, (count,)), 1.3 * depth)
    half = jnp.stack(
        [short * draws.uniform(1.2, 3.0, (count,)), short, 0.8 * short], -1
    )
    places = jnp.where((short > 4.0)[:, None], places, 1e4)
    frames = shapes.frames_along(draws, axes) / half[:, :, None]
    bodies = distances.Bodies(places, frames, None)
    look = draws.uniform(0.0, 1.0, (5,))
    distance, local, index = distances.nearest_body(bodies, points)
    distance = jnp.maximum(distance, 3.2 - wall)
    home, length = distances.look_up(index, own.astype(jnp.float32), half[:, 0])
    distance = jnp.where(home == label, distance, 1e3)
    # Cristae: sheets across the long axis, curved by the other two coordinates.
    period = 5.0 + 3.0 * look[0]
    turn = local[0] * length / period + 0.8 * local[1] * (local[2] + 0.4)
    sheet = shapes.band((turn - jnp.round(turn)) * period, 0.9)
    cristae = sheet * shapes.inside(distance + 3.5)
    matrix = 0.4 + 0.3 * look[1]
    stain = matrix + (0.06 + 0.24 * look[2]) * cristae
    gap = shapes.band(distance + 2.2, 0.7)
    stain = shapes.blend(stain, 0.8 * matrix, gap * (0.3 + 0.6 * look[3]))
    rim = shapes.band(distance + 0.8, 0.8) + shapes.band(distance + 3.6, 0.7)
    stain = shapes.blend(stain, 0.65 + 0.3 * look[4], jnp.minimum(rim, 1.0))
    return stain, shapes.inside(distance)


def _vesicle_cloud(
    draws: shapes.Draws,
    shape: shapes.Shape,
    cells: distances.Cells,
    warp: shapes.Fields,
    points: shapes.Points,
    count: int,
) -> tuple[Array, Array]:
    """Clustered shells of 3-6 voxels radius: stain and soft mask [z, x, y]."""
    hubs, _, _ = _pick_inside(draws, cells, warp, shape, max(count // 8, 2))
    hub = draws.integers(0, hubs.shape[0], count)
    places = hubs[hub] + 7.0 * draws.normal_pairs((count, 3))[0]
    moved = places + shapes.fields_at(warp, places)[:3].T
    depth, _ = distances.nearest_cell_at(cells, moved)
    radii = draws.uniform(3.0, 6.0, (count,))
    radii = jnp.where(depth > radii + 1.0, radii, -1e4)
    filled = draws.uniform(-3.0, 1.0, (count,))
    look = draws.uniform(0.0, 1.0, (2,))
    distance, index = distances.nearest_sphere(places, radii, points)
    lumen = 0.08 + 0.12 * look[0]
    stain = shapes.blend(
        jnp.full_like(distance, lumen),
        0.85,
        (distances.look_up(index, filled)[0] > 0) * shapes.inside(distance + 2.4),
    )
    rim = shapes.band(distance + 0.8, 0.8)
    return shapes.blend(stain, 0.55 + 0.35 * look[1], rim), shapes.inside(distance)


def _reticulum(phi: list[Array], wall: Array, where: Array, half_width: Array) -> Array:
    """Soft mask of curved internal membranes: the level set phi[0] = 0, in voxels.

    The distance to a level set is |phi| / |grad phi| to first order; phi holds
    the field and its gradient, four volumes.
    """
    steep = jnp.sqrt(phi[1] ** 2 + phi[2] ** 2 + phi[3] ** 2 + 1e-4)
    return (
        shapes.band(phi[0] / steep, half_width)
        * shapes.inside(5.0 - wall)
        * shapes.inside(-where, 0.1)
    )


@shapes.phantom
def tissue(key: Array, shape: shapes.Shape) -> Array:
    """Stained neural tissue: processes, membranes, mitochondria, vesicles, grain.

    Cells are a warped power diagram of elongated seeds, parted by dark membranes of
    1.5-4 voxels; each has its own grey. They hold organelles with a double membrane
    and cristae, internal membranes (level sets of smooth random fields), clusters of
    vesicles and speckled cytoplasm.

    Args:
        key: typed key.
        shape: (nz, nx, ny), static.

    Returns:
        stain [z, x, y], float32 in [0, 1].
    """
    draws, grain_key = shapes.start(key)
    look = draws.uniform(0.0, 1.0, (8,))
    cells = distances.draw_cells(draws, shape, 23.0, 32)
    warp = _draw_warp(draws, 25.0 + 30.0 * look[0])
    bend = shapes.fields_on_grid(warp, shape)
    texture = shapes.with_gradient(shapes.draw_fields(draws, 2, 17.0), 0)
    fine = shapes.fields_on_grid(texture, shape)
    points = shapes.grid(shape)
    moved = _displaced(points, bend[:3])
    wall, label = distances.nearest_cell(cells, moved)

    tones = draws.uniform(0.0, 1.0, (cells.centres.shape[0],)) ** 2
    (tone,) = distances.look_up(label, 0.08 + (0.1 + 0.2 * look[1]) * tones)
    stain = tone + 0.015 * bend[3] + 0.02 * fine[1]
    count = min(max(math.prod(shape) // 40_000, 2), 12)
    er_width = 0.6 + 0.5 * look[2]
    er = _reticulum([fine[0], *fine[2:]], wall, bend[4] - 0.8, er_width)
    stain = shapes.blend(stain, 0.55 + 0.3 * look[3], (0.4 + 0.6 * look[4]) * er)
    places = (shape, cells, warp, points)
    stain = shapes.blend(stain, *_vesicle_cloud(draws, *places, 2 * count + 6))
    stain = shapes.blend(stain, *_mitochondria(draws, *places, (wall, label), count))
    # Half widths of one membrane pair, thicker and darker where bend[4] is high.
    half_width = jnp.clip(0.8 + 0.9 * look[5] + 0.2 * bend[4], 0.75, 2.0)
    dark = jnp.clip(0.6 + 0.3 * look[6] + 0.1 * bend[4], 0.4, 1.0)
    stain = shapes.blend(stain, dark, shapes.band(wall, half_width))
    noise = shapes.grain(grain_key, shape, draws.uniform(0.2, 1.0))
    return stain + (0.012 + 0.028 * look[7]) * noise


@shapes.phantom
def vesicles(key: Array, shape: shapes.Shape) -> Array:
    """Crowded membrane vesicles of 3-14 voxels radius in a fluid beside a sheet.

    Shells are dented by a smooth warp, some are filled or hold a dense core, and a
    curved sheet parts two regions of the fluid.

    Args:
        key: typed key.
        shape: (nz, nx, ny), static.

    Returns:
        stain [z, x, y], float32 in [0, 1].
    """
    draws, grain_key = shapes.start(key)
    look = draws.uniform(0.0, 1.0, (8,))
    count = min(max(math.prod(shape) // 6_000, 8), 64)
    places = draws.places(shape, count, 3.0)
    largest = min(14.0, 0.4 * min(shape))
    size = draws.uniform(0.0, 1.0, (count,)) ** 2
    radii = 3.0 + (largest - 3.0) * size
    content = draws.uniform(0.0, 1.0, (count,))
    fields = shapes.fields_on_grid(shapes.draw_fields(draws, 3, 26.0), shape)
    smooth = shapes.with_gradient(shapes.draw_fields(draws, 1, 110.0), 0)
    sheet = shapes.fields_on_grid(smooth, shape)
    points = shapes.grid(shape)
    dent = 0.5 + 1.2 * look[0]
    moved = _displaced(points, [dent * field for field in fields])
    distance, index = distances.nearest_sphere(places, radii, moved)
    radius, content = distances.look_up(index, radii, content)

    steep = jnp.sqrt(sheet[1] ** 2 + sheet[2] ** 2 + sheet[3] ** 2 + 1e-5)
    side = (sheet[0] - 0.6) / steep
    half_width = 0.75 + 0.6 * look[1]
    dark = 0.6 + 0.35 * look[2]
    stain = 0.06 + 0.22 * look[3] * shapes.inside(side) + 0.02 * fields[0]
    stain = shapes.blend(stain, dark, shapes.band(side, half_width))
    lumen = 0.05 + (0.15 + 0.4 * look[4] * (content > 0.8)) * content
    core = jnp.where(content < 0.3, 0.45 * radius, -4.0)
    core = shapes.inside(distance + radius - core) * (radius > 3.8)
    lumen = shapes.blend(lumen, 0.5 + 0.4 * look[5], core)
    stain = shapes.blend(stain, lumen, shapes.inside(distance))
    stain = shapes.blend(stain, dark, shapes.band(distance + half_width, half_width))
    noise = shapes.grain(grain_key, shape, look[6])
    return stain + (0.01 + 0.03 * look[7]) * noise
