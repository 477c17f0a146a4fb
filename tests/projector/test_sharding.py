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
from temdiff_jax import linear
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

def sharded(function, in_specs, out_specs):
    # The loops start from zeros that vary over no axis, which the check refuses.
    return jax.jit(
        jax.shard_map(
            function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )
    )

def agree(got, expected, limit=1e-6):
    error = np.max(np.abs(np.asarray(got) - np.asarray(expected)))
    assert error <= limit * np.max(np.abs(np.asarray(expected))), error
'''


def test_slabs_of_y_need_no_communication(run_devices):
    out = run_devices(
        COMMON
        + """
geometry = TiltGeometry.from_degrees(
    [-58.0, -20.0, 0.0, 33.0], thickness=5, width=8, height=24, lateral_margin=1
)
rows = P(None, None, "y")
volume, tilts = draw(geometry.volume_shape, 0), draw(geometry.tilts_shape, 1)

def loss(volume, geometry):
    return 0.5 * jnp.sum(project(volume, geometry) ** 2)

for function, array in (
    (project, volume),
    (backproject, tilts),
    (normal_op, volume),
    (jax.grad(loss), volume),
):
    program = sharded(function, (rows, P()), rows)
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
    assert out.split() == ["[]"] * 4


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

    return linear.conjugate_gradient(operator, rhs, jnp.zeros_like(rhs), num_iters=6)

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
forward = sharded(project_moving, (P(), P("y"), each), P("y"))
adjoint = sharded(
    lambda *a: jax.lax.psum(backproject_moving(*a), "y"), (P("y"), P("y"), each), P()
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
