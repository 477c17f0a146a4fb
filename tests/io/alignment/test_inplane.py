import numpy as np
import pytest

from temdiff_jax import errors
from temdiff_jax.io.alignment import inplane

ANGLES = np.deg2rad(np.asarray([-60.0, -37.0, -11.0, 0.0, 20.0, 45.0, 60.0]))
# x, y, z from the centre, all quadrants, none on an axis.
BEADS = np.asarray([[9.0, 14.0, 6.0], [-12.0, 5.0, 10.0], [4.0, -16.0, -9.0]])
SHIFTS = np.asarray(
    [[3.2, -1.7], [-4.4, 0.6], [0.0, 0.0], [1.5, 2.5], [-0.3, -3.1], [5.0, 1.0], [2, 2]]
)
AXIS_DEG = np.asarray([6.0, 6.0, -8.0, 6.0, 11.0, 6.0, 6.0])
SHAPE = (72, 81)


def aligned_positions(bead):
    """x_det and y of a bead in every aligned view, from the centre."""
    x, y, z = bead
    return np.stack([x * np.cos(ANGLES) + z * np.sin(ANGLES), y + 0 * ANGLES], axis=1)


def raw_stack(bead, axis_deg=AXIS_DEG, shifts=SHIFTS):
    """Raw views of one bead, turned and shifted point by point, not by resampling."""
    rows, columns = np.indices(SHAPE, np.float64)
    images = []
    for (x, y), angle, (dx, dy) in zip(
        aligned_positions(bead), np.deg2rad(axis_deg), shifts
    ):
        at_x = x * np.cos(angle) - y * np.sin(angle) + dx + (SHAPE[1] - 1) / 2
        at_y = x * np.sin(angle) + y * np.cos(angle) + dy + (SHAPE[0] - 1) / 2
        square = (columns - at_x) ** 2 + (rows - at_y) ** 2
        images.append(np.exp(-square / (2 * 1.6**2)))
    return np.stack(images)


def centroids(stack):
    """Centre of mass of every image as (x, y), from the centre."""
    rows, columns = np.indices(stack.shape[1:], np.float64)
    weight = np.where(stack > 0.05, stack, 0.0)
    total = weight.sum((1, 2))
    x = (weight * columns).sum((1, 2)) / total - (stack.shape[2] - 1) / 2
    y = (weight * rows).sum((1, 2)) / total - (stack.shape[1] - 1) / 2
    return np.stack([x, y], axis=1)


@pytest.mark.parametrize("bead", BEADS)
@pytest.mark.parametrize("order", [1, 3])
def test_a_bead_follows_the_tilt_geometry(bead, order):
    aligned = inplane.apply_inplane(
        raw_stack(bead), axis_angle_deg=AXIS_DEG, shifts_px=SHIFTS, order=order
    )
    assert np.abs(centroids(aligned) - aligned_positions(bead)).max() < 0.05


@pytest.mark.parametrize(("turn", "move"), [(-1, 1), (1, -1), (-1, -1)])
def test_the_other_signs_are_wrong(turn, move):
    aligned = inplane.apply_inplane(
        raw_stack(BEADS[0]), axis_angle_deg=turn * AXIS_DEG, shifts_px=move * SHIFTS
    )
    error = np.abs(centroids(aligned) - aligned_positions(BEADS[0]))
    assert error.max() > 2.0


def test_the_axis_angle_counts_from_y_against_x():
    # A bead on the axis, far up: at +10 degrees it lies to the left in the raw view.
    bead = np.asarray([0.0, 20.0, 0.0])
    turn = np.full(len(ANGLES), 10.0)
    raw = raw_stack(bead, turn, 0 * SHIFTS)
    assert (centroids(raw)[:, 0] < -3.0).all()
    aligned = inplane.apply_inplane(raw, axis_angle_deg=10.0, shifts_px=0 * SHIFTS)
    assert np.abs(centroids(aligned) - [0.0, 20.0]).max() < 0.05


def test_a_crop_keeps_the_centre():
    whole = inplane.apply_inplane(
        raw_stack(BEADS[1]), axis_angle_deg=AXIS_DEG, shifts_px=SHIFTS
    )
    # 72 x 81 to 50 x 61 leaves 11 and 10 pixels on either side.
    part = inplane.apply_inplane(
        raw_stack(BEADS[1]),
        axis_angle_deg=AXIS_DEG,
        shifts_px=SHIFTS,
        shape=(50, 61),
    )
    np.testing.assert_allclose(part, whole[:, 11:-11, 10:-10], atol=1e-6)
    assert part.dtype == np.float32
    assert part.flags.c_contiguous


def test_nothing_to_do_changes_nothing():
    stack = np.random.default_rng(0).normal(size=(3, 9, 12)).astype(np.float32)
    zero = np.zeros((3, 2))
    aligned = inplane.apply_inplane(stack, axis_angle_deg=0.0, shifts_px=zero)
    np.testing.assert_allclose(aligned, stack, atol=1e-6)
    assert inplane.covered(stack.shape, axis_angle_deg=0.0, shifts_px=zero).all()


def test_whole_shifts_move_pixels_and_the_rest_is_the_median():
    stack = np.arange(2 * 5 * 7, dtype=np.int16).reshape(2, 5, 7)
    shifts = np.asarray([[2.0, 0.0], [0.0, -1.0]])
    aligned = inplane.apply_inplane(stack, axis_angle_deg=0.0, shifts_px=shifts)
    np.testing.assert_allclose(aligned[0, :, :5], stack[0, :, 2:], atol=1e-5)
    np.testing.assert_allclose(aligned[1, 1:], stack[1, :4], atol=1e-5)
    reached = inplane.covered(stack.shape, axis_angle_deg=0.0, shifts_px=shifts)
    assert reached[0, :, :5].all() and not reached[0, :, 5:].any()
    assert reached[1, 1:].all() and not reached[1, 0].any()
    np.testing.assert_allclose(aligned[~reached][:10], np.median(stack[0]))


def test_where_it_is_covered_a_ramp_is_read_at_its_place():
    options = {"axis_angle_deg": [12.0, -3.0], "shifts_px": [[4.0, 1.0], [-6.0, 3.0]]}
    ramp = np.broadcast_to(np.arange(30.0), (2, 20, 30))
    reached = inplane.covered(ramp.shape, **options)
    aligned = inplane.apply_inplane(ramp, order=1, **options)
    rows, columns = np.indices((20, 30)) - np.asarray([9.5, 14.5])[:, None, None]
    for index in range(2):
        angle = np.deg2rad(options["axis_angle_deg"][index])
        at = np.cos(angle) * columns - np.sin(angle) * rows
        at = at + options["shifts_px"][index][0] + 14.5
        np.testing.assert_allclose(
            aligned[index][reached[index]], at[reached[index]], atol=1e-4
        )
    assert 0.5 < reached.mean() < 0.95


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axis_angle_deg": [1.0, 2.0]}, "axis_angle_deg: expected one finite"),
        ({"axis_angle_deg": np.nan}, "axis_angle_deg: expected one finite"),
        ({"shifts_px": np.zeros((2, 2))}, "shifts_px: expected finite"),
        ({"shifts_px": np.full((3, 2), np.inf)}, "shifts_px: expected finite"),
        ({"order": 6}, "order: expected a whole number"),
        ({"shape": (0, 4)}, "shape: expected"),
        ({"stack": np.zeros((4, 4))}, "n_tilts, y, x"),
    ],
)
def test_bad_input_is_named(change, message):
    good = {
        "stack": np.zeros((3, 6, 6)),
        "axis_angle_deg": 0.0,
        "shifts_px": np.zeros((3, 2)),
    }
    options = good | change
    with pytest.raises(errors.InputError, match=message):
        inplane.apply_inplane(options.pop("stack"), **options)
