"""Phantoms: deterministic, in range, of the promised anatomy, compiled once."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax import errors
from temdiff_jax.simulator import distances, phantoms, shapes

nearest_sphere = jax.jit(distances.nearest_sphere)
nearest_body = jax.jit(distances.nearest_body)
nearest_cell = jax.jit(distances.nearest_cell)
nearest_cell_at = jax.jit(distances.nearest_cell_at)

# Small and with three different extents: most tests share these compiled programs.
SHAPE = (20, 36, 28)
KINDS = [name for name, _ in phantoms.PHANTOMS]
BY_NAME = dict(phantoms.PHANTOMS)


def draw(name: str, seed: int, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    return np.asarray(BY_NAME[name](jax.random.key(seed), shape))


def axis_places(shape: tuple[int, int, int]) -> list[np.ndarray]:
    return [np.asarray(p, np.float64) for p in shapes.grid(shape)]


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_volume_has_the_asked_shape_and_range(name):
    for seed in range(3):
        volume = draw(name, seed)
        assert volume.shape == SHAPE
        assert volume.dtype == np.float32
        assert np.isfinite(volume).all()
        assert volume.min() >= 0.0
        assert volume.max() <= 1.0
        assert volume.std() > 0.01, "a phantom without contrast teaches nothing"


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_the_key_alone_decides(name):
    first, again, other = draw(name, 5), draw(name, 5), draw(name, 6)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).mean() > 0.01


@pytest.mark.slow
def test_two_keys_compile_once():
    shape = (9, 13, 11)
    function = BY_NAME["needle"]
    before = function._cache_size()
    function(jax.random.key(0), shape)
    function(jax.random.key(1), shape)
    assert function._cache_size() == before + 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["needle", "vesicles"])
def test_vmap_gives_the_same_volumes(name):
    keys = jax.random.split(jax.random.key(3), 2)
    batch = jax.vmap(lambda key: BY_NAME[name](key, SHAPE))(keys)
    single = [BY_NAME[name](key, SHAPE) for key in keys]
    # Another fusion may round the edges of a body differently, nothing more.
    assert np.abs(np.asarray(batch) - np.stack(single)).max() < 5e-3


@pytest.mark.slow
def test_random_phantom_obeys_its_probabilities(monkeypatch):
    """With stand-ins that say which they are: a compile of all five takes long."""
    stand_ins = [
        (name, lambda key, shape, i=i: jnp.full(shape, float(i)))
        for i, name in enumerate(KINDS)
    ]
    monkeypatch.setattr(phantoms, "PHANTOMS", tuple(stand_ins))
    shape, weights = (8, 8, 11), (0.0, 1.0, 0.0, 3.0, 0.0)
    keys = jax.random.split(jax.random.key(11), 400)
    drawn = jax.vmap(lambda key: phantoms.random_phantom(key, shape, weights)[0, 0, 0])
    counts = np.bincount(np.asarray(drawn(keys)).astype(int), minlength=5)
    assert counts[[0, 2, 4]].sum() == 0
    assert abs(counts[3] / 400 - 0.75) < 0.08


def test_bad_requests_say_what_to_do():
    with pytest.raises(errors.InputError, match="at least 8, got"):
        phantoms.random_phantom(jax.random.key(0), (4, 32, 32))
    with pytest.raises(errors.InputError, match="expected 5 numbers"):
        phantoms.random_phantom(jax.random.key(0), SHAPE, (1.0, 1.0))
    with pytest.raises(errors.InputError, match="expected a positive sum"):
        phantoms.random_phantom(jax.random.key(0), SHAPE, (0.0,) * 5)
    with pytest.raises(errors.InputError, match="supersample >= 1"):
        phantoms.ball(SHAPE, supersample=0)


@pytest.mark.slow
def test_needle_runs_along_y_in_vacuum():
    shape = (40, 48, 36)
    z, x, _ = axis_places(shape)
    reach = np.broadcast_to(np.sqrt(z**2 + x**2), shape)
    for seed in range(6):
        volume = draw("needle", seed, shape)
        # Vacuum all around the axis, whatever the bend, the taper and the coating.
        assert volume[reach > 0.56 * shape[0]].max() < 1e-3
        # Every section below a tip holds the needle, near the axis.
        sections = volume.sum(axis=(0, 1))
        ahead = sections if sections[0] > sections[-1] else sections[::-1]
        assert (ahead[: shape[2] // 2] > 50).all()
        mass = volume.sum(axis=2)
        for place in (z[:, :, 0], x[:, :, 0]):
            assert abs((mass * place).sum() / mass.sum()) < 0.1 * shape[0]


@pytest.mark.slow
def test_lamella_is_a_slab_normal_to_z():
    for seed in range(4):
        volume = draw("lamella", seed, (40, 32, 24))
        profile = volume.mean(axis=(1, 2))
        assert profile[[0, -1]].max() < 0.02
        assert profile[18:22].min() > 0.15


@pytest.mark.slow
def test_tissue_membranes_are_thin_dark_sheets():
    """Dark voxels are a minority and most of them vanish under a 5-voxel erosion."""
    share, core = [], []
    for seed in range(4):
        dark = draw("tissue", seed, (32, 48, 40)) > 0.45
        kept = dark.copy()
        for axis in range(3):
            for step in (-2, -1, 1, 2):
                kept &= np.roll(dark, step, axis)
        share.append(dark.mean())
        core.append(kept.sum() / dark.sum())
    assert 0.05 < np.mean(share) < 0.45
    assert np.mean(core) < 0.3


@pytest.mark.slow
def test_vesicle_shells_are_hollow():
    points = shapes.grid((21, 21, 21))
    centres, radii = jnp.zeros((1, 3)), jnp.asarray([6.0])
    distance, _ = nearest_sphere(centres, radii, points)
    shell = np.asarray(shapes.band(distance + 0.8, 0.8))
    assert shell[10, 10, 10] < 1e-3
    assert shell[10, 10, 15] > 0.9
    assert shell[10, 10, 18] < 1e-3
    # The volume of the shell is that between the radii 4.4 and 6.
    expected = 4 / 3 * math.pi * (6.0**3 - 4.4**3)
    assert abs(shell.sum() / expected - 1) < 0.02


def test_nearest_sphere_is_exact_and_drops_removed_ones():
    shape = (15, 19, 17)
    points = shapes.grid(shape)
    centres = jnp.asarray([[0.0, -6.0, 0.0], [0.0, 6.0, 0.0], [0.0, 0.0, 0.0]])
    radii = jnp.asarray([3.0, 2.0, -1e4])
    distance, index = nearest_sphere(centres, radii, points)
    z, x, y = axis_places(shape)
    one = np.sqrt(z**2 + (x + 6) ** 2 + y**2) - 3
    two = np.sqrt(z**2 + (x - 6) ** 2 + y**2) - 2
    assert set(np.unique(index)) == {0, 1}
    near = np.minimum(one, two) < 1.0
    np.testing.assert_allclose(
        np.asarray(distance)[near], np.minimum(one, two)[near], atol=1e-4
    )


def test_overlapping_spheres_share_a_wall():
    centres = jnp.asarray([[0.0, -3.0, 0.0], [0.0, 3.0, 0.0]])
    distance, _ = nearest_sphere(
        centres, jnp.asarray([5.0, 5.0]), shapes.grid((15, 21, 15))
    )
    assert abs(float(distance[7, 10, 7])) < 1e-4
    # Half the difference of (d^2 - r^2) / 2r at the first centre: (-2.5 - 1.1) / 2.
    assert abs(float(distance[7, 7, 7]) + 1.8) < 1e-4


@pytest.mark.slow
def test_bodies_have_the_volume_of_their_half_axes():
    half = jnp.asarray([9.0, 6.0, 4.0])
    draws = shapes.Draws(jax.random.key(1))
    frame = shapes.frames_along(draws, draws.directions(1))
    bodies = distances.Bodies(jnp.zeros((1, 3)), frame / half[:, None], None)
    distance, local, index = nearest_body(bodies, shapes.grid((24, 24, 24)))
    volume = float(shapes.inside(distance).sum())
    assert abs(volume / (4 / 3 * math.pi * 9 * 6 * 4) - 1) < 0.02
    assert int(index.max()) == 0
    edge = np.abs(np.asarray(distance)) < 0.3
    gauge = np.sqrt(sum(np.asarray(c) ** 2 for c in local))[edge]
    assert np.abs(gauge - 1).max() < 0.1


@pytest.mark.slow
def test_cell_walls_lie_half_way_between_two_seeds():
    cells = distances.Cells(
        jnp.asarray([[0.0, -5.0, 0.0], [0.0, 5.0, 0.0]]),
        shapes.Draws(jax.random.key(0)).directions(2),
        jnp.zeros(2),
        jnp.zeros(2),
    )
    shape = (9, 21, 11)
    wall, label = nearest_cell(cells, shapes.grid(shape))
    x = np.broadcast_to(axis_places(shape)[1], shape)
    np.testing.assert_allclose(np.asarray(wall), np.abs(x), atol=1e-3)
    off = x != 0
    np.testing.assert_array_equal(np.asarray(label)[off], (x > 0)[off].astype(int))


@pytest.mark.slow
def test_nearest_cell_agrees_with_its_form_for_few_places():
    shape = (9, 12, 10)
    cells = distances.draw_cells(shapes.Draws(jax.random.key(4)), shape, 6.0, 10)
    wall, label = nearest_cell(cells, shapes.grid(shape))
    grid = np.broadcast_arrays(*(np.asarray(p) for p in shapes.grid(shape)))
    places = jnp.asarray(np.stack(grid, axis=-1).reshape(-1, 3))
    wall_at, label_at = nearest_cell_at(cells, places)
    # Rounding may swap the owners of a voxel on a wall.
    clear = np.asarray(wall).reshape(-1) > 0.05
    np.testing.assert_array_equal(
        np.asarray(label).reshape(-1)[clear], np.asarray(label_at)[clear]
    )
    difference = np.abs(np.asarray(wall).reshape(-1) - np.asarray(wall_at))[clear]
    assert np.quantile(difference, 0.99) < 0.02


@pytest.mark.slow
def test_fields_agree_on_grid_and_at_places_and_with_their_gradient():
    shape = (10, 13, 11)
    draws = shapes.Draws(jax.random.key(7))
    fields = shapes.with_gradient(shapes.draw_fields(draws, 2, 20.0), 1)
    on_grid = jax.jit(shapes.fields_on_grid, static_argnums=1)
    volumes = np.stack(on_grid(fields, shape))
    assert volumes.shape == (5, *shape)
    grid = np.broadcast_arrays(*(np.asarray(p) for p in shapes.grid(shape)))
    places = jnp.asarray(np.stack(grid, axis=-1).reshape(-1, 3))
    np.testing.assert_allclose(
        volumes.reshape(5, -1), shapes.fields_at(fields, places), atol=1e-5
    )
    for axis in range(3):
        slope = np.gradient(volumes[1], axis=axis)
        inner = tuple(slice(1, -1) for _ in range(3))
        np.testing.assert_allclose(slope[inner], volumes[2 + axis][inner], atol=0.03)


@pytest.mark.slow
def test_draws_are_spread_and_run_out_loudly():
    draws = shapes.Draws(jax.random.key(2), 9000)
    vectors = np.asarray(draws.directions(1000))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert np.abs(vectors.mean(axis=0)).max() < 0.1
    np.testing.assert_allclose((vectors**2).mean(axis=0), 1 / 3, atol=0.05)
    one, two = (np.asarray(n) for n in draws.normal_pairs((1000,)))
    assert abs(one.mean()) < 0.15 and abs(one.std() - 1) < 0.1
    assert abs((one * two).mean()) < 0.15
    whole = np.asarray(draws.integers(2, 5, 1000))
    assert set(np.unique(whole)) == {2, 3, 4}
    with pytest.raises(ValueError, match="at most 9000, got requests for 10000"):
        draws.uniform(0.0, 1.0, (5000,))


def test_grain_has_unit_variance_and_short_range():
    grain = jax.jit(shapes.grain, static_argnums=1)
    noise = np.asarray(grain(jax.random.key(9), (32, 48, 40), 0.8))
    assert abs(noise.mean()) < 0.05
    assert abs(noise.std() - 1) < 0.03
    for axis in range(3):
        assert (noise * np.roll(noise, 1, axis)).mean() > 0.3
        assert abs((noise * np.roll(noise, 4, axis)).mean()) < 0.05


def test_ball_has_the_volume_and_projection_of_a_ball():
    shape, centre, radius = (28, 34, 30), (1.3, -2.6, 0.7), 9.0
    volume = np.asarray(phantoms.ball(shape, centre, radius, 0.6, 4), np.float64)
    assert abs(volume.sum() / (0.6 * 4 / 3 * math.pi * radius**3) - 1) < 0.01
    z, x, y = axis_places(shape)
    moment = [(volume * p).sum() / volume.sum() for p in (z, x, y)]
    np.testing.assert_allclose(moment, centre, atol=0.02)
    square = (x[0] - centre[1]) ** 2 + (y[0] - centre[2]) ** 2
    chord = 2 * 0.6 * np.sqrt(np.maximum(radius**2 - square, 0))
    # The rim is left out, where a voxel's mean differs from its central line.
    flat = square < (radius - 2) ** 2
    np.testing.assert_allclose(volume.sum(axis=0)[flat], chord[flat], atol=0.1)
