"""One of the processes of `test_processes.py`: projections of slabs of y.

    python slab_process.py COORDINATOR NUM_PROCESSES PROCESS_ID SECONDS

Every process draws the same arrays, runs the same programs on the devices of all and
compares the slabs of its own devices with what one device makes of the whole.  It
writes a line of JSON for each program.  When it comes no further for SECONDS it says
where and ends itself, so that none is left behind when whoever started it is gone.
"""

import faulthandler
import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from temdiff_jax import parallel
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.inverse import cg
from temdiff_jax.projector import backproject, kernels, normal_op, project

NUM_STEPS = 6
ROWS = P(None, None, "y")
NAMES = "all-gather|all-reduce|collective-permute|all-to-all|reduce-scatter|"
NAMES += "collective-broadcast|ragged-all-to-all"
CALL = re.compile(r"= *(.*?) (" + NAMES + r")(?:-start)?[(]")


def join(coordinator: str, num_processes: int, process_id: int, seconds: int) -> None:
    jax.distributed.initialize(
        coordinator,
        num_processes,
        process_id,
        cluster_detection_method="deactivate",
        coordinator_bind_address=coordinator if process_id == 0 else None,
        initialization_timeout=seconds,
        shutdown_timeout_seconds=10,
    )


def solve(rhs, geometry, normal):
    """A few steps of CG on (A^T A + 0.1) x = rhs, and their residuals."""

    def operator(x):
        return normal(x, geometry) + 0.1 * x

    x, info = cg.conjugate_gradient(
        operator, rhs, jnp.zeros_like(rhs), num_iters=NUM_STEPS
    )
    return x, info.relative_residual


def programs(mesh):
    """Name, program over the mesh, the same for one device, kind and dtype of data."""
    for name, function, kind in (
        ("project", project, "volume"),
        ("backproject", backproject, "tilts"),
        ("normal_op", normal_op, "volume"),
    ):
        split = jax.shard_map(function, mesh=mesh, in_specs=(ROWS, P()), out_specs=ROWS)
        yield name, split, function, kind, "float32"
    # Its sums over rows are of another order on several devices, which float32 shows.
    for dtype in ("float32", "float64"):
        yield (
            f"conjugate_gradient {dtype}",
            lambda rhs, geometry: solve(rhs, geometry, split),
            lambda rhs, geometry: solve(rhs, geometry, normal_op),
            "volume",
            dtype,
        )


def largest_error(found, expected) -> float:
    """Of the parts of an array that this process holds, against the whole one."""
    expected = np.asarray(expected)
    worst = max(
        float(np.max(np.abs(np.asarray(part.data) - expected[part.index])))
        for part in found.addressable_shards
    )
    return worst / float(np.max(np.abs(expected)))


def main(num_processes: int, seconds: int) -> None:
    kernels.UNROLL = 1  # compiles faster; the loops are otherwise those of the library
    mesh = jax.make_mesh((jax.device_count(),), ("y",), axis_types=(AxisType.Auto,))
    geometry = TiltGeometry.from_degrees(
        [-58.0, -20.0, 0.0, 33.0],
        thickness=5,
        width=8,
        height=3 * jax.device_count(),
        lateral_margin=1,
    )
    rng = np.random.default_rng(0)
    drawn = {
        "volume": rng.standard_normal(geometry.volume_shape),
        "tilts": rng.standard_normal(geometry.tilts_shape),
    }
    for name, split, whole, kind, dtype in programs(mesh):
        faulthandler.dump_traceback_later(seconds, exit=True)
        own = jax.tree.map(lambda angles, d=dtype: angles.astype(d), geometry)
        data = drawn[kind].astype(dtype)
        everywhere = jax.tree.map(lambda _: NamedSharding(mesh, P()), own)
        arguments = (
            parallel.place(data, NamedSharding(mesh, ROWS)),
            parallel.place(own, everywhere),
        )
        compiled = jax.jit(split).lower(*arguments).compile()
        # Compiling takes each process its own time, and collectives do not wait long.
        parallel.from_first_process(0)
        found = jax.tree.leaves(compiled(*arguments))
        expected = jax.tree.leaves(jax.jit(whole)(data, own))
        slabs = found[0].addressable_shards
        report = {
            "name": name,
            "processes": num_processes,
            "slabs": sorted(part.index[2].start for part in slabs),
            "rows": [part.data.shape[2] for part in slabs],
            "errors": [largest_error(*pair) for pair in zip(found, expected)],
            "collectives": [
                (call, shape) for shape, call in CALL.findall(compiled.as_text())
            ],
        }
        print(json.dumps(report), flush=True)
    jax.distributed.shutdown()


if __name__ == "__main__":
    address, *numbers = sys.argv[1:]
    count, own, limit = map(int, numbers)
    faulthandler.dump_traceback_later(limit, exit=True)
    jax.config.update("jax_enable_x64", True)
    join(address, count, own, limit)
    main(jax.process_count(), limit)
