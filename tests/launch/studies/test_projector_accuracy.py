"""What the accuracy program reads and the orders that it finds."""

import types

import numpy as np
import pytest

from launch.studies import projector_accuracy as accuracy
from temdiff_jax.errors import InputError
from temdiff_jax.simulator import analytic

TABLE = """\
# a comment : with colons
Model : 03;
Components : 02;
TimeSteps : 1;
Object : ellipsoid 1.0 0.1 0.2 -0.3 0.4 0.5 0.6 30.0;
Object : cuboid -.5 0.0 -0.1 0.3 0.2 0.4 0.6 00 00 00 ;
Model : 101;
TimeSteps : 10;
Object : cone 1.00 0.0 0.0 -0.6 0.2 0.2 0.2 0.0 0.0 0.0
Endvar : 1.00 0.0 0.0 0.6 0.2 0.2 0.2 0.0;
"""


def write(tmp_path, text):
    path = tmp_path / "table.dat"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_table_becomes_bodies_about_our_axis(tmp_path):
    models = accuracy.read_library(write(tmp_path, TABLE))
    assert {key: len(bodies) for key, bodies in models.items()} == {3: 2, 101: 1}
    ellipsoid, cuboid = models[3]
    assert ellipsoid.centre == (0.1, -0.3, 0.2)  # their y is our z, their z our y
    assert cuboid.amplitude == -0.5 and cuboid.semi_axes == (0.1, 0.2, 0.3)
    # Half its third axis along y, and the first one turned by 30 degrees in (x, z).
    places = [(0.1, -0.3 + 0.59, 0.2), (0.1, -0.3 + 0.61, 0.2)]
    along = 0.39 * np.array([np.cos(np.pi / 6), np.sin(np.pi / 6)])
    places += [(0.1 + along[0], -0.3, 0.2 + along[1])]
    places += [(0.1 + 1.05 * along[0], -0.3, 0.2 + 1.05 * along[1])]
    found = [float(ellipsoid.density(*place)) for place in places]
    assert found == [1.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Object : cone 1.0 0.0;", "line 2: expected kind, intensity"),
        ("Object : cone 1 0 0 0 1 1 1 0 5 0;", "second and third angle, got"),
        ("Object : egg 1 0 0 0 1 1 1 0 0 0;", "expected a kind among"),
    ],
)
def test_objects_that_cannot_be_read_are_refused(line, message, tmp_path):
    with pytest.raises(InputError, match=message):
        accuracy.read_library(write(tmp_path, f"Model : 1;\n{line}\n"))


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(InputError, match="expected a readable table"):
        accuracy.read_library(tmp_path / "none.dat")


def cells_of(row):
    return [float(cell) for cell in row[2:]]


@pytest.mark.slow
def test_smooth_bodies_gain_two_orders_and_sharp_ones_one():
    bodies = accuracy.own_bodies()
    gaussian = cells_of(accuracy.order_row("g", [bodies["gaussian"]], [24, 48]))
    ball = cells_of(accuracy.order_row("b", [bodies["ball"]], [24, 48]))
    # L2 at both resolutions, its order, the largest error at both, its order.
    assert 1.7 < gaussian[2] < 2.2 and gaussian[1] < 0.03
    assert 0.8 < ball[2] < 1.8 and ball[1] < 0.06
    assert gaussian[5] > ball[5]


@pytest.mark.slow
def test_errors_of_groups_add_up_in_squares():
    bodies = accuracy.own_bodies()["cone"]
    apart = np.array([accuracy.errors_at([body], 24) for body in bodies])
    row = cells_of(accuracy.order_row("c", [[body] for body in bodies], [24, 24 * 2]))
    expected = np.sqrt(apart[:, 0].sum() / apart[:, 1].sum())
    assert row[0] == pytest.approx(expected, rel=0.06)  # two digits in the cell


def test_weights_of_a_voxel_are_one_untilted_and_ripple_at_45_degrees():
    flat = [float(cell) for cell in accuracy.angle_row(0.0)]
    assert flat[1:4] == [1.0, 1.0, 0.0] and flat[4] == pytest.approx(0, abs=1e-3)
    steep = [float(cell) for cell in accuracy.angle_row(45.0)]
    # max(0, 1 - |u - t| / m) / m with m = 0.7071, summed over u: t = 0 and t = 1/2.
    assert steep[1] == pytest.approx(2 * (1 - 0.5 * 2**0.5) * 2**0.5, abs=0.01)
    assert steep[2] == pytest.approx(2**0.5, abs=0.01)
    # Linear interpolation at a random place blurs by 1/6, seen at 45 degrees by half.
    assert steep[4] == pytest.approx(1 / 12, abs=0.02)


def test_volumes_for_peers_have_odd_extents_and_known_tilts():
    volumes = accuracy.peer_volumes()
    assert set(volumes) == {"Gaussians", "balls", "noise"}
    for name, (volume, exact) in volumes.items():
        assert volume.shape == accuracy.PEER_EXTENTS
        assert all(extent % 2 for extent in volume.shape)
        if name == "Gaussians":
            ours = accuracy.project_volume(volume, accuracy.PEER_ANGLES)
            assert np.linalg.norm(ours - exact) < 0.01 * np.linalg.norm(exact)


@pytest.mark.slow
def test_tables_without_peers(tmp_path):
    given = types.SimpleNamespace(
        parts=["orders", "peers"],
        resolutions=["16", "8"],
        library=str(write(tmp_path, TABLE)),
        peers=[],
    )
    text = accuracy.run(given)
    assert "| body | number | L2, 8 | L2, 16 | order |" in text
    assert "| ellipsoid, TomoPhantom | 1 |" in text and "| temdiff_jax |" in text
    assert text.count("| gaussian") == 1
    for parts, resolutions in [(["order"], ["8", "16"]), (["orders"], ["9"])]:
        given.parts, given.resolutions = parts, resolutions
        with pytest.raises(InputError, match="expected --parts among"):
            accuracy.run(given)


def test_kinds_of_the_program_are_those_of_the_library():
    assert set(accuracy.own_bodies()) == {"ball", *analytic.KINDS}
