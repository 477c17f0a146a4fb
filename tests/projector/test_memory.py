"""What a projection holds beside its input and output, as compiled for this host."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.projector import (
    backproject_moving,
    kernels,
    memory,
    no_motion,
    project,
    project_moving,
)


@pytest.mark.slow
def test_bytes_are_those_of_the_arrays():
    forward, adjoint = memory.estimate_memory((8, 16, 32), 5, num_u=12)
    volume, tilts, angles = 4 * 8 * 16 * 32, 4 * 5 * 12 * 32, 4 * 5
    assert forward.argument_bytes == volume + angles
    assert forward.output_bytes == tilts
    assert adjoint.argument_bytes == tilts + angles
    assert adjoint.output_bytes == volume
    assert forward.peak_bytes == volume + tilts + angles + forward.temporary_bytes
    assert forward.overhead == forward.peak_bytes / (volume + tilts + angles)


@pytest.mark.slow
def test_overhead_is_below_a_third_up_to_45_degrees():
    forward, adjoint = memory.estimate_memory((32, 48, 64), 21, max_tilt_deg=40.0)
    print(forward.overhead, adjoint.overhead)
    assert 1 < forward.overhead < 1.05
    assert 1 < adjoint.overhead < 1.3


@pytest.mark.slow
@pytest.mark.parametrize("top", [40.0, 60.0])
@pytest.mark.parametrize("extent", [64, 128])
def test_a_series_of_41_tilts_holds_less_than_a_third_beside_its_arrays(extent, top):
    for found in memory.estimate_memory((extent,) * 3, 41, max_tilt_deg=top):
        print(extent, top, found.temporary_bytes, round(found.overhead, 3))
        assert 1 < found.overhead < 1.3


@pytest.mark.slow
def test_beyond_45_degrees_a_share_of_the_tilts_is_held_twice():
    """Shallow and steep tilts are projected apart, into one output."""
    forward, adjoint = memory.estimate_memory((32, 48, 64), 21, max_tilt_deg=60.0)
    print(forward.overhead, adjoint.overhead)
    # Also where tilts are all there is: one part in SHARES, rounded up, and tables.
    share = -(-21 // kernels.SHARES) / 21
    assert forward.temporary_bytes < 1.5 * share * forward.output_bytes
    assert adjoint.overhead < 1.3


@pytest.mark.slow
def test_half_precision_holds_its_input_twice_and_a_share_of_its_sums():
    """A host gathers no half precision, so its compiler copies what is gathered."""
    extents = (32, 48, 256)
    for top in (40.0, 60.0):
        half, single = (
            memory.estimate_memory(extents, 21, max_tilt_deg=top, dtype=dtype)
            for dtype in (jnp.bfloat16, jnp.float32)
        )
        for found, reference in zip(half, single):
            print(top, found.temporary_bytes, round(found.overhead, 3))
            shares = 2 * 1.5 / kernels.SHARES * found.output_bytes
            assert found.temporary_bytes < 1.05 * found.argument_bytes + shares
            assert found.peak_bytes < reference.peak_bytes


@pytest.mark.slow
@pytest.mark.parametrize("steep", [None, (False, True) * 10], ids=["traced", "mixed"])
def test_series_in_any_order_hold_their_tilts_once_more_at_most(steep):
    geometry = TiltGeometry(jnp.zeros(20), (32, 48, 64), 48, steep)
    volume = jax.ShapeDtypeStruct(geometry.volume_shape, jnp.float32)
    found = memory.program_memory(project, volume, geometry)
    print(found.temporary_bytes, found.overhead)
    share = 0.1 if steep is None else 1.1
    assert found.temporary_bytes < share * found.output_bytes


@pytest.mark.slow
def test_the_adjoint_holds_a_fixed_number_of_tables_per_plane():
    """Indices and weights [z, x] of the unrolled tilts: less and less, by rows."""
    few, many = (
        memory.estimate_memory((32, 32, ny), 9, max_tilt_deg=40.0)[1] for ny in (8, 128)
    )
    assert many.temporary_bytes < 1.1 * few.temporary_bytes
    assert many.overhead < few.overhead


@pytest.mark.slow
@pytest.mark.parametrize("x_tilt", [False, True])
def test_a_moving_stage_holds_a_few_tilts_and_with_an_x_tilt_a_volume(x_tilt):
    extents, count = (24, 32, 48), 9
    geometry = TiltGeometry(jnp.zeros(count), extents, extents[1], None)
    volume = jax.ShapeDtypeStruct(extents, jnp.float32)
    tilts = jax.ShapeDtypeStruct(geometry.tilts_shape, jnp.float32)
    motion = no_motion(count, x_tilt=x_tilt)
    turned = 1.1 * 4 * np.prod(extents) if x_tilt else 0
    for function, array, limit in (
        (project_moving, volume, 2.5),
        (backproject_moving, tilts, 3.5),
    ):
        found = memory.program_memory(function, array, geometry, motion)
        print(function.__name__, found.overhead)
        assert found.temporary_bytes < limit * 4 * np.prod(tilts.shape) + turned


def test_a_backend_without_figures_is_named(monkeypatch):
    class Silent:
        def memory_analysis(self):
            return None

        lower = compile = lambda self, *arguments: self

    monkeypatch.setattr(memory.jax, "jit", lambda function: Silent())
    with pytest.raises(RuntimeError, match="got nothing from backend 'cpu'"):
        memory.program_memory(functools.partial(jnp.add, 1), 2)
