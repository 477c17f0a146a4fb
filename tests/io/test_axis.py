"""A tilt axis along x: the turn keeps the hand, and has an exact inverse."""

import numpy as np
import pytest

from temdiff_jax.errors import InputError
from temdiff_jax.io import axis


def test_turn_and_back():
    data = np.random.default_rng(0).normal(size=(3, 5, 7)).astype(np.float32)
    turned = axis.tilts_from_file(data, "x")
    assert turned.shape == (3, 7, 5) and turned.flags.c_contiguous
    np.testing.assert_array_equal(axis.volume_to_file(turned, "x"), data)
    assert axis.tilts_from_file(data, "y") is data
    assert axis.volume_to_file(data, "y") is data


def test_turn_is_a_rotation_and_not_a_mirror():
    # Corners 1 2 3 4 in the order of a right-handed turn stay in that order.
    image = np.array([[[1, 2], [4, 3]]])
    turned = axis.tilts_from_file(image, "x")[0]

    def cycle(corners):
        ring = [corners[0, 0], corners[0, 1], corners[1, 1], corners[1, 0]]
        start = ring.index(1)
        return ring[start:] + ring[:start]

    assert cycle(turned) == cycle(image[0]) == [1, 2, 3, 4]
    assert cycle(np.swapaxes(image, 1, 2)[0]) == [1, 4, 3, 2]  # a bare swap mirrors


@pytest.mark.parametrize("theta_deg", [-70, -20, 0, 35, 60])
def test_off_centre_bead_obeys_the_package_convention(theta_deg):
    extent = 41
    centre = (extent - 1) / 2
    x, y, z = 6.0, -9.0, 12.0  # bead, from the centre, in the axes of the file
    cos, sin = np.cos(np.radians(theta_deg)), np.sin(np.radians(theta_deg))
    # Right-handed rotation about the file's +x: x stays, y and z turn.
    image = np.zeros((1, extent, extent))
    row = round(centre + y * cos - z * sin)
    image[0, row, round(centre + x)] = 1
    turned = axis.tilts_from_file(image, "x")[0]
    y_new, x_new = np.argwhere(turned)[0] - centre

    # The same bead in the package's axes, found through the volume's inverse turn.
    volume = np.zeros((extent, extent, extent))
    volume[int(centre + z), int(centre + y), int(centre + x)] = 1
    package = np.ascontiguousarray(np.swapaxes(volume, 1, 2)[:, :, ::-1])
    np.testing.assert_array_equal(axis.volume_to_file(package, "x"), volume)
    pz, py, px = np.argwhere(package)[0] - centre
    assert y_new == py
    assert x_new == pytest.approx(px * cos + pz * sin, abs=0.51)


def test_other_axes_are_refused():
    with pytest.raises(InputError, match="'y' or 'x'"):
        axis.tilts_from_file(np.zeros((1, 2, 3)), "z")
