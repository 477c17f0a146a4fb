"""Layouts as values; that they train alike is in tests/training/test_mesh.py."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from temdiff_jax import parallel
from temdiff_jax.errors import InputError


@pytest.fixture(scope="module")
def mesh():
    return parallel.make_mesh(1, 1)


def fake_mesh(batch: int, slabs: int):
    return types.SimpleNamespace(
        shape={parallel.BATCH: batch, parallel.SLAB: slabs}, size=batch * slabs
    )


def test_mesh_has_two_named_automatic_axes(mesh):
    assert mesh.axis_names == ("batch", "slab")
    assert mesh.axis_types == (AxisType.Auto, AxisType.Auto)
    assert mesh.devices.shape == (1, 1)


@pytest.mark.parametrize("sizes", [(0, 1), (1, 0), (2, 10_000)])
def test_mesh_of_another_number_of_devices_is_refused(sizes):
    with pytest.raises(InputError, match=r"mesh: expected batch \* slabs between 1"):
        parallel.make_mesh(*sizes)


def test_mesh_that_leaves_a_process_idle_is_refused():
    devices = [types.SimpleNamespace(process_index=i // 2) for i in range(4)]
    with pytest.raises(InputError, match="2 of 4 devices, none of process 1"):
        parallel.make_mesh(2, 1, devices)


@pytest.mark.parametrize(
    ("shape", "count", "spec"),
    [
        # The largest axis that the count divides, the last of equals.
        ((3, 3, 3, 96, 128), 8, P(None, None, None, None, "batch")),
        ((3, 3, 3, 128, 128), 8, P(None, None, None, None, "batch")),
        ((192, 100), 8, P("batch", None)),
        # None divides, or the leaf is small: every device holds it whole.
        ((3, 3, 3, 30, 30), 8, P(None, None, None, None, None)),
        ((128,), 8, P(None)),
        ((), 8, P()),
        ((2048,), 8, P("batch")),
    ],
)
def test_parameters_are_cut_along_their_largest_divisible_axis(shape, count, spec):
    assert parallel.parameter_spec(shape, count) == spec
    assert len(parallel.parameter_spec(shape, count)) == len(shape)


def test_layouts_are_spelled_at_full_rank(mesh):
    assert parallel.batch_sharding(mesh, 4).spec == P("batch", None, None, "slab")
    assert parallel.batch_sharding(mesh, 2).spec == P("batch", None)
    assert parallel.repeated(mesh, 3).spec == P(None, None, None)
    assert parallel.slab_sharding(mesh, (1, 6, 7, 8), 4).spec[3] == "slab"
    assert parallel.slab_sharding(mesh, (1, 6, 7, 9), 4).spec[3] is None
    assert parallel.slab_sharding(mesh, (1, 4), 4).spec == P(None, None)


def test_state_is_repeated_or_shared_out(mesh):
    tree = {"big": jnp.zeros((64, 32)), "small": jnp.zeros(3)}
    specs = parallel.state_shardings(tree, mesh, fsdp=False)
    assert specs["big"].spec == P(None, None)
    specs = parallel.state_shardings(tree, mesh, fsdp=True)
    assert specs["big"].spec == P("batch", None) and specs["small"].spec == P(None)


def test_batches_that_cannot_be_cut_are_refused_with_a_proposal():
    parallel.check_batch(fake_mesh(4, 2), 8, 32, 16)
    with pytest.raises(InputError, match="a multiple of mesh.batch = 4, got 6; use 8"):
        parallel.check_batch(fake_mesh(4, 2), 6, 32, 16)
    with pytest.raises(InputError, match="a multiple of 64 .* got 80; use 128"):
        parallel.check_batch(fake_mesh(4, 4), 8, 80, 16)


def test_placed_arrays_keep_their_values(mesh):
    tree = {"a": np.arange(6.0).reshape(2, 3), "b": np.int32(4)}
    layouts = {"a": parallel.repeated(mesh, 2), "b": parallel.repeated(mesh, 0)}
    placed = parallel.place(tree, layouts)
    np.testing.assert_array_equal(placed["a"], tree["a"])
    assert placed["a"].sharding == layouts["a"] and int(placed["b"]) == 4


def test_one_process_agrees_with_itself():
    assert jax.process_count() == 1 and parallel.from_first_process(7) == 7
