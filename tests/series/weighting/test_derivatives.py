import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.projector import no_motion, project, project_moving, ray_lengths
from temdiff_jax.series.weighting import derivatives

images_of = jax.jit(derivatives.derivative_images)
move = jax.jit(project_moving, static_argnames="border")

MOVED = ("shift_u", "shift_v", "tilt_rad", "rotation_rad", "magnification")


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", MOVED)
def test_images_are_difference_quotients_of_the_projector(name, geometry, blobs):
    """The same operator moved by +-h, at a motion that is not zero."""
    geometry = TiltGeometry.from_degrees(
        [-12.0, 3.0, 30.0], thickness=8, width=16, height=12, dtype=jnp.float64
    )
    volume = blobs(geometry, dtype=jnp.float64)
    motion = no_motion(3, dtype=jnp.float64)._replace(
        shift_u=jnp.asarray([0.3, -0.4, 0.2]), rotation_rad=jnp.full(3, 0.01)
    )
    border = min(derivatives.BORDER, geometry.margin)
    images = images_of(volume, geometry, motion)
    assert images.shape == (3, 7, *geometry.tilts_shape[1:])

    def at(step):
        moved = motion._replace(**{name: getattr(motion, name) + step})
        return move(volume, geometry, moved, border=border)

    step = 1e-5
    expected = (at(step) - at(-step)) / (2 * step)
    index = derivatives.Spread._fields.index(name)
    scale = float(jnp.max(jnp.abs(expected)))
    np.testing.assert_allclose(images[:, index], expected, atol=2e-5 * scale)


@pytest.mark.slow
def test_gain_and_offset_images_hold_the_background(geometry, blobs):
    volume = blobs(geometry)
    background = 3.0 * ray_lengths(geometry)
    images = images_of(volume, geometry, background=background)
    np.testing.assert_allclose(
        images[:, 5], project(volume, geometry) + background, rtol=1e-5
    )
    np.testing.assert_array_equal(images[:, 6], 1.0)
    # A tilted slab without structure changes by its path alone.
    empty = jnp.zeros(geometry.volume_shape)
    images = images_of(empty, geometry, background=background)
    step = 1e-3
    longer = [
        3.0 * geometry.volume_shape[0] / jnp.cos(geometry.angles_rad + s)
        for s in (step, -step)
    ]
    expected = (longer[0] - longer[1]) / (2 * step)
    middle = images[:, 2, geometry.num_u // 2, 0]
    np.testing.assert_allclose(middle, expected, rtol=2e-3, atol=2e-2)


def test_default_spread_has_an_offset_in_units_of_the_tilts():
    tilts = 5.0 * jax.random.normal(jax.random.key(0), (3, 20, 20))
    keep = jnp.ones(tilts.shape).at[1].set(0.0)
    default = derivatives.Spread.for_tilts(tilts.at[1].set(1e4), keep)
    assert float(default.offset) == pytest.approx(0.5, rel=0.1)
    assert default._replace(offset=0.0) == derivatives.Spread()
    twice = derivatives.Spread.for_tilts(2 * tilts)
    assert float(twice.offset) == pytest.approx(1.0, rel=0.1)


def test_scaled_columns_have_the_spread():
    images = jax.random.normal(jax.random.key(0), (3, 7, 5, 4))
    spread = derivatives.Spread(shift_u=jnp.asarray([0.5, 1.0, 0.0]), offset=0.2)
    columns = derivatives.scale_images(images, spread)
    np.testing.assert_allclose(columns[:, 1], images[:, 1], rtol=1e-6)
    np.testing.assert_array_equal(columns[2, 0], 0.0)
    np.testing.assert_allclose(columns[0, 0], 0.5 * images[0, 0], rtol=1e-6)
    assert float(spread.tilt_rad) == pytest.approx(math.radians(0.1))
