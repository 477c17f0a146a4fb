"""Slabs of y on eight devices: the same numbers, and nothing sent between them.

The devices are virtual: this shows which communication the programs contain, not
what it costs.  Each test runs in a process of its own, since the number of devices is
fixed when jax starts.
"""

import pytest

pytestmark = pytest.mark.multiprocess

COMMON = '''
import re
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from temdiff_jax.inverse import cg
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.projector import *
from temdiff_jax.projector import kernels

kernels.UNROLL = 2  # compiles faster; the loops are otherwise those of the library
assert jax.device_count() == 8
mesh = jax.make_mesh((8,), ("y",), axis_types=(AxisType.Auto,))
names = "all-gather|all-reduce|collective-permute|all-to-all|reduce-scatter|"
names += "collective-broadcast|ragged-all-to-all"
call = re.compile(r"= *(.*?) (" + names + r")(?:-start)?[(]")

def collectives(compiled):
    """Name and shape of the result of every communication of a program."""
    return [(name, shape) for shape, name in call.findall(compiled.as_text())]

def place(array, spec):
    return jax.device_put(array, NamedSharding(mesh, spec))

def draw(shape, seed):
    numbers = np.random.default_rng(seed).standard_normal(shape)
    return jnp.asarray(numbers, jnp.float32)

def sharded(function, in_specs, out_specs, **kwargs):
    return jax.jit(
        jax.shard_map(
            function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, **kwargs
        )
    )

def agree(got, expected, limit=1e-6):
    error = np.max(np.abs(np.asarray(got) - np.asarray(expected)))
    assert error <= limit * np.max(np.abs(np.asarray(expected))), error
'''


SERIES = """
import dataclasses
from temdiff_jax.projector import sharding

ordered = TiltGeometry.from_degrees(
    [-58.0, -20.0, 0.0, 33.0], thickness=5, width=8, height=24, lateral_margin=1
)
rows = P(None, None, "y")
volume, tilts = draw(ordered.volume_shape, 0), draw(ordered.tilts_shape, 1)

def loss(volume, geometry):
    return 0.5 * jnp.sum(project(volume, geometry) ** 2)
"""


@pytest.mark.slow
@pytest.mark.parametrize("check", [True, False])
def test_slabs_of_y_need_no_communication(check, run_devices):
    """Whether or not the check of what varies over the mesh is on."""
    out = run_devices(
        COMMON
        + SERIES
        + f"check = {check}\n"
        + """
for geometry in (
    ordered,
    dataclasses.replace(ordered, steep=None),
    dataclasses.replace(ordered, oversample=2),
):
    for function, array in (
        (project, volume),
        (backproject, tilts),
        (normal_op, volume),
        (jax.grad(loss), volume),
    ):
        program = sharded(function, (rows, P()), rows, check_vma=check)
        compiled = program.lower(place(array, rows), place(geometry, P())).compile()
        got = compiled(place(array, rows), place(geometry, P()))
        assert got.sharding.spec == rows
        assert len(got.addressable_shards) == 8
        assert got.addressable_shards[0].data.shape[2] == 3
        agree(got, jax.jit(function)(array, geometry))
        print(collectives(compiled))
""",
        count=8,
    )
    assert out.split() == ["[]"] * 12


@pytest.mark.usefixtures("optimised")
@pytest.mark.slow
def test_derivatives_know_what_varies_over_the_mesh(run_devices):
    """With the check on, a gradient in the shared angles is summed over the slabs."""
    out = run_devices(
        COMMON
        + SERIES
        + """
def in_angles(volume, geometry):
    def of(angles):
        return loss(volume, dataclasses.replace(geometry, angles_rad=angles))
    return jax.grad(of)(geometry.angles_rad)

def along(volume, geometry):
    return jax.jvp(lambda v: project(v, geometry), (volume,), (volume,))[1]

def many(volume, geometry):
    return jax.vmap(lambda v: project(v, geometry))(jnp.stack([volume, -volume]))[0]

for function, out_spec in ((in_angles, P()), (along, rows), (many, rows)):
    program = sharded(function, (rows, P()), out_spec)
    compiled = program.lower(volume, ordered).compile()
    agree(program(volume, ordered), jax.jit(function)(volume, ordered), 2e-6)
    print([name for name, _ in collectives(compiled)])

half = (volume.astype(jnp.bfloat16), ordered)
got, expected = (f(*half) for f in (sharded(project, (rows, P()), rows), project))
np.testing.assert_array_equal(got, expected)

# Split over tilts, the adjoint of a shared volume is a sum over devices.
series = TiltGeometry(jnp.linspace(-1.0, 0.9, 16), (5, 8, 6), 7, None)
volume, tilts = draw(series.volume_shape, 5), draw(series.tilts_shape, 6)
forward = sharded(project, (P(), P("y")), P("y"))
agree(forward(volume, series), project(volume, series), 2e-6)

def misfit(volume, series, tilts):
    return jax.grad(lambda v: jnp.sum(tilts * project(v, series)))(volume)

adjoint = sharded(misfit, (P(), P("y"), P("y")), P())
agree(adjoint(volume, series, tilts), backproject(tilts, series), 2e-6)
""",
        count=8,
    )
    assert out.splitlines() == ["['all-reduce']", "[]", "[]"]


@pytest.mark.slow
def test_rows_that_do_not_divide_are_padded_on_request(run_devices):
    out = run_devices(
        COMMON
        + SERIES
        + """
program = jax.jit(sharding.over_slabs(project, mesh))
agree(program(volume, ordered), project(volume, ordered))
odd = volume[:, :, :21]
try:
    program(odd, ordered)
except ValueError as error:
    print(error)
padded = sharding.pad_rows(odd, 8)
assert padded.shape[2] == 24
got = program(padded, ordered)[:, :, :21]
agree(got, project(odd, ordered))
try:
    sharding.over_slabs(project, mesh, axis="rows")
except ValueError as error:
    print(error)
""",
        count=8,
    )
    first, second = out.splitlines()
    assert first == (
        "slabs: expected a number of rows that 8 devices share evenly, got 21; pad to "
        "24 with sharding.pad_rows(array, 8) and cut the result to [..., :21]"
    )
    assert "expected an axis of the mesh ['y'], got 'rows'" in second


@pytest.mark.slow
@pytest.mark.parametrize(
    "order", [(2, 0, 1), (0, 1, 2)], ids=["rows first", "core layout"]
)
def test_conjugate_gradients_exchange_scalars_only(order, run_devices):
    out = run_devices(
        COMMON
        + f"order = {order}\n"
        + """
geometry = TiltGeometry.from_degrees(
    [-30.0, 0.0, 40.0], thickness=4, width=8, height=16, lateral_margin=0
)
rows = P(None, None, "y")
back = tuple(np.argsort(order))
normal = sharded(normal_op, (rows, P()), rows)

def solve(rhs, geometry, normal):
    def operator(x):
        image = normal(jnp.transpose(x, back), geometry)
        return jnp.transpose(image, order) + 0.1 * x

    return cg.conjugate_gradient(operator, rhs, jnp.zeros_like(rhs), num_iters=6)

rhs = jnp.transpose(draw(geometry.volume_shape, 0), order)
spec = P(*(rows[axis] for axis in order))
program = jax.jit(lambda rhs, geometry: solve(rhs, geometry, normal))
compiled = program.lower(place(rhs, spec), place(geometry, P())).compile()
got, info = compiled(place(rhs, spec), place(geometry, P()))
expected, trace = jax.jit(lambda rhs: solve(rhs, geometry, normal_op))(rhs)
agree(got, expected, 1e-5)
agree(info.relative_residual, trace, 1e-5)
found = collectives(compiled)
print(found)
assert found
for name, shape in found:
    assert name == "all-reduce"
    assert all(part.startswith("f32[]") for part in shape.strip("()").split(", "))
""",
        count=8,
    )
    assert "all-reduce" in out


@pytest.mark.slow
def test_moving_tilts_are_split_by_tilt(run_devices):
    """A motion mixes rows, so its programs are split over tilts instead."""
    out = run_devices(
        COMMON
        + """
geometry = TiltGeometry(jnp.linspace(-1.0, 0.9, 16), (5, 8, 6), 7, None)
motion = Motion(
    *(0.3 * draw((16,), k) for k in range(2)),
    0.05 * draw((16,), 2),
    1 + 0.02 * draw((16,), 3),
    0.01 * draw((16,), 4),
    jnp.float32(0.4),
)
volume, tilts = draw(geometry.volume_shape, 5), draw(geometry.tilts_shape, 6)
each = Motion(*[P("y")] * 5, P())
forward = sharded(project_moving, (P(), P("y"), each), P("y"), check_vma=False)
adjoint = sharded(
    lambda *a: jax.lax.psum(backproject_moving(*a), "y"),
    (P("y"), P("y"), each),
    P(),
    check_vma=False,
)
for program, whole, array in (
    (forward, project_moving, volume),
    (adjoint, backproject_moving, tilts),
):
    arguments = array, geometry, motion
    print([name for name, _ in collectives(program.lower(*arguments).compile())])
    agree(program(*arguments), jax.jit(whole)(*arguments), 2e-6)
""",
        count=8,
    )
    assert out.splitlines() == ["[]", "['all-reduce']"]
