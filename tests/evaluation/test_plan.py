"""Plans: what they refuse, where their cubes lie, which rows are theirs."""

import dataclasses

import numpy as np
import pytest

from temdiff_jax.errors import InputError
from temdiff_jax.evaluation import plan
from temdiff_jax.simulator import ALIGNED, IMPERFECT

PLAN = plan.TablePlan(
    name="t",
    title="T",
    kind="accuracy",
    volumes=tuple(
        plan.Volume(file=f"{n}.npz:volume", name=n, tissue=n.upper()) for n in "ab"
    ),
    cases=("10/1", "8/2"),
    runs=(plan.Run(name="tv"), plan.Run(name="ours", against="tv")),
)


def test_errors_grow_in_proportion():
    assert plan.imperfect(0.0) is plan.PERFECT and plan.PERFECT.errors == ALIGNED
    assert plan.imperfect(1.0).errors == IMPERFECT
    half = plan.imperfect(0.5)
    assert half.errors.shift_px == 0.5 and half.level == 0.5
    assert half.errors.gain == pytest.approx(0.5 * IMPERFECT.gain)
    names = [plan.imperfect(s).name for s in (0.0, 0.5, 1.0, 2.0)]
    assert names == ["perfect", "imperfect_0.5px", "imperfect", "imperfect_2px"]


def test_one_cube_is_the_centre_and_thin_axes_are_taken_whole():
    (cube,) = plan.cut((128, 130, 50), 96, 1)
    assert cube == (slice(16, 112), slice(17, 113), slice(0, 50))


def test_blocks_may_be_low_along_the_tilt_axis():
    (block,) = plan.cut((128, 128, 128), 96, 1, 48)
    assert block == (slice(16, 112), slice(40, 88), slice(16, 112))
    blocks = plan.cut((64, 128, 64), 64, 2, 48)
    assert [b[1] for b in blocks] == [slice(16, 64), slice(64, 112)]
    low = dataclasses.replace(PLAN, height=48)
    assert plan.volume_names(low, low.volumes[0]) == [("a-96h48", 0)]


@pytest.mark.parametrize("count", [2, 4, 8])
def test_several_cubes_share_no_voxel_and_lie_far_apart(count):
    shape = (129, 128, 140)
    cubes = plan.cut(shape, 64, count)
    taken = np.zeros(shape, int)
    for cube in cubes:
        taken[cube] += 1
        assert taken[cube].shape == (64, 64, 64)
    assert taken.max() == 1 and taken.sum() == count * 64**3
    first, second = (np.array([s.start for s in cube]) for cube in cubes[:2])
    np.testing.assert_array_equal(np.abs(first - second), 64)


def test_more_cubes_than_fit_are_refused():
    message = r"at most 8 of \[64, 64, 64\] voxels.* got 9; take fewer"
    with pytest.raises(InputError, match=message):
        plan.cut((128, 128, 128), 64, 9)


def test_names_tell_edge_block_and_noise():
    changed = dataclasses.replace(PLAN, crop=64, blocks=2, replicates=2)
    names = plan.volume_names(changed, changed.volumes[0])
    assert names == [
        ("a-64-1of2", 0),
        ("a-64-1of2-noise1", 0),
        ("a-64-2of2", 1),
        ("a-64-2of2-noise1", 1),
    ]
    assert plan.about(PLAN) == {
        "a-96": {"specimen": "a", "tissue": "A"},
        "b-96": {"specimen": "b", "tissue": "B"},
    }


def test_rows_of_other_tables_are_left_out_and_the_order_is_the_plans():
    def row(volume, case, run):
        return {"volume": volume, "case": case, "run": run}

    mine = [
        row(v, c, r)
        for v in ("a-96", "b-96")
        for c in ("10/1", "8/2")
        for r in ("tv", "ours")
    ]
    others = [
        row("a-64", "10/1", "tv"),
        row("a-96", "40/2", "tv"),
        row("a-96", "10/1", "fbp"),
    ]
    assert plan.select([*others, *mine[::-1]], PLAN) == mine
    assert plan.select(mine, PLAN, ["ours"]) == mine[1::2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "plot"}, "expected a kind among .* got 'plot'"),
        ({"columns": ("mse",)}, r"columns among .* got .*\['mse'\]"),
        ({"variant": "best"}, "got .*'best'"),
        ({"volumes": PLAN.volumes * 2}, "expected volumes with different names"),
        ({"runs": ()}, "expected runs with different names, got"),
        ({"cases": ("10/1", "10/1")}, "expected cases with different names"),
        ({"cases": ("ten",)}, "case name is unreadable"),
        ({"replicates": 0}, "crop, blocks, replicates and repeats of at least 1"),
        (
            {"runs": (plan.Run(name="x", against="y"),)},
            r"expected `against` to name a run.* \['x'\]",
        ),
    ],
)
def test_plans_that_cannot_become_a_table_are_refused(changes, message):
    plan.check(PLAN)
    with pytest.raises(InputError, match=message):
        plan.check(dataclasses.replace(PLAN, **changes))
