import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax import geometry as geometry_lib
from temdiff_jax.errors import InputError
from temdiff_jax.geometry import TiltGeometry

EXTENTS = {"thickness": 6, "width": 9, "height": 4}


def test_from_degrees_sets_extents_angles_and_steepness():
    geometry = TiltGeometry.from_degrees([-60, 0, 45, 46], **EXTENTS, lateral_margin=2)
    assert geometry.volume_shape == (6, 13, 4)
    assert geometry.num_u == 9
    assert geometry.num_tilts == 4
    assert geometry.margin == 2
    assert geometry.tilts_shape == (4, 9, 4)
    assert geometry.steep == (True, False, False, True)
    assert geometry.angles_rad.dtype == jnp.float32
    np.testing.assert_allclose(
        geometry.angles_rad, np.pi / 180 * np.array([-60, 0, 45, 46]), rtol=1e-6
    )


def test_a_single_angle_may_be_a_scalar():
    assert TiltGeometry.from_degrees(3.0, **EXTENTS).num_tilts == 1


def test_float64_angles_keep_their_digits(x64):
    geometry = TiltGeometry.from_degrees([10.0], **EXTENTS, dtype=jnp.float64)
    assert float(geometry.angles_rad[0]) == np.deg2rad(10.0)


def test_crop_undoes_pad_lateral_and_touches_x_only():
    geometry = TiltGeometry.from_degrees([0], **EXTENTS, lateral_margin=3)
    field = jnp.arange(2 * 6 * 9 * 4.0).reshape(2, 6, 9, 4)
    wide = geometry.pad_lateral(field, 7.0)
    assert wide.shape == (2, 6, 15, 4)
    np.testing.assert_array_equal(wide[..., :3, :], 7.0)
    np.testing.assert_array_equal(wide[..., -3:, :], 7.0)
    np.testing.assert_array_equal(geometry.crop(wide), field)


def test_crop_without_margin_is_the_volume():
    geometry = TiltGeometry.from_degrees([0], **EXTENTS, lateral_margin=0)
    volume = jnp.ones(geometry.volume_shape)
    assert geometry.crop(volume) is volume


@pytest.mark.parametrize("top", [5.0, 20.0, 40.0])
def test_auto_margin_holds_every_ray_inside_the_slab(top):
    geometry = TiltGeometry.from_degrees([-top, top], **EXTENTS)
    theta = np.deg2rad(top)
    # The ray u = 4 (last column) at the upper and lower faces of the slab.
    reach = max(abs((4 + s * 3 * np.sin(theta)) / np.cos(theta)) for s in (-1, 1))
    assert (geometry.volume_shape[1] - 1) / 2 >= reach


def test_auto_margin_grows_with_the_angle_and_stops_at_the_thickness():
    margins = [
        geometry_lib.lateral_margin_for([a], thickness=40, width=64)
        for a in (0, 10, 30, 60, 90)
    ]
    assert margins == sorted(margins)
    assert margins[0] == 1
    assert margins[-1] == 40


def test_auto_margin_looks_at_the_larger_side_of_an_asymmetric_range():
    assert geometry_lib.lateral_margin_for([-50, 10], 30, 64) == (
        geometry_lib.lateral_margin_for([50], 30, 64)
    )


def test_geometry_is_a_tree_with_the_angles_as_its_only_leaf():
    geometry = TiltGeometry.from_degrees([-5, 5], **EXTENTS)
    leaves, structure = jax.tree.flatten(geometry)
    assert len(leaves) == 1
    again = jax.tree.unflatten(structure, [2 * leaves[0]])
    assert again.volume_shape == geometry.volume_shape
    np.testing.assert_array_equal(again.angles_rad, 2 * geometry.angles_rad)


@pytest.mark.parametrize(
    ("angles", "what"),
    [
        ([], "one angle per tilt"),
        ([[1.0, 2.0]], "one angle per tilt"),
        ([0.0, np.nan], "tilt 1"),
        ([0.0, np.inf], "finite"),
        ([0.0, 12.0, -90.5], "-90.5 for tilt 2"),
    ],
)
def test_impossible_angles_are_refused(angles, what):
    with pytest.raises(InputError, match=what):
        TiltGeometry.from_degrees(angles, **EXTENTS)


@pytest.mark.parametrize("name", ["thickness", "width", "height"])
def test_empty_extents_are_refused(name):
    with pytest.raises(InputError, match=f"{name} of at least one voxel, got 0"):
        TiltGeometry.from_degrees([0.0], **(EXTENTS | {name: 0}))


@pytest.mark.parametrize("margin", [-1, "automatic"])
def test_an_impossible_margin_is_refused(margin):
    with pytest.raises(InputError, match="lateral margin"):
        TiltGeometry.from_degrees([0.0], **EXTENTS, lateral_margin=margin)
