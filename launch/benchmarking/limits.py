"""What this machine can do at most, measured by jitted loops, and what a case needs.

Three ceilings, in float32 on whatever device jax uses:

- memory: ``a += s * b``, two reads and a write, in GB/s, over arrays from one
  megabyte to far more than any cache; a case is judged by arrays of its size;
- cache: the best of these;
- arithmetic: chained fused multiply-adds on vectors in cache, or a matrix product,
  whichever is faster, in GFLOP/s.

And what a projection must do, counted from its algorithm, not measured:

- operations: two taps for each plane, ray and row of y (forward), for each tilt and
  voxel (adjoint); a tap is one multiplication and one addition;
- memory: arguments read once, results written once;
- cache: each tap reads a row, and the accumulator is read and written once for every
  ``kernels.UNROLL`` planes or tilts.  A whole row lies in no register, so this
  traffic reaches the caches however the loops are ordered.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from temdiff_jax.projector import kernels

FLOAT_BYTES = 4
# Vector work of one conjugate-gradient step beside the operator: reads and writes of
# volumes (two dot products, three updates, the ridge), and operations per voxel.
CG_VOLUME_PASSES = 12
CG_OPERATIONS = 12

DIRECTIONS = ("forward", "adjoint", "normal", "cg")


@dataclasses.dataclass(frozen=True)
class Machine:
    """Measured ceilings; MB and GB are 1e6 and 1e9 bytes, GFLOP 1e9 operations.

    Attributes:
      streams: (MB of both arrays, GB/s), sizes rising.
      loop_gflop_s: Chained multiply-adds in a jitted loop.
      product_gflop_s: Matrix product.
    """

    streams: tuple[tuple[float, float], ...]
    loop_gflop_s: float
    product_gflop_s: float

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Machine:
        """From what ``dataclasses.asdict`` gave, perhaps by way of JSON."""
        streams = tuple((size, rate) for size, rate in record["streams"])
        return cls(**{**record, "streams": streams})

    @property
    def gflop_s(self) -> float:
        """The higher of the two rates of arithmetic."""
        return max(self.loop_gflop_s, self.product_gflop_s)

    @property
    def cache_gb_s(self) -> float:
        """The highest rate at any size."""
        return max(rate for _, rate in self.streams)

    def memory_gb_s(self, num_bytes: float) -> float:
        """Rate over data of that size, between the measured ones by its logarithm."""
        sizes, rates = zip(*self.streams)
        return float(np.interp(math.log(1e-6 * num_bytes), np.log(sizes), rates))


@dataclasses.dataclass(frozen=True)
class Work:
    """What one call must do.

    Attributes:
      operations: Multiplications and additions.
      memory_bytes: Arguments read once, results written once.
      cache_bytes: Between caches and registers.
      data_bytes: Of the volume and the tilts together.
    """

    operations: float
    memory_bytes: float
    cache_bytes: float
    data_bytes: float

    def __add__(self, other: Work) -> Work:
        return Work(
            self.operations + other.operations,
            self.memory_bytes + other.memory_bytes,
            self.cache_bytes + other.cache_bytes,
            max(self.data_bytes, other.data_bytes),
        )

    def limits_ms(self, machine: Machine) -> dict[str, float]:
        """Milliseconds that each ceiling alone would allow."""
        return {
            "arithmetic": 1e-6 * self.operations / machine.gflop_s,
            "memory": 1e-6 * self.memory_bytes / machine.memory_gb_s(self.data_bytes),
            "cache": 1e-6 * self.cache_bytes / machine.cache_gb_s,
        }


def work_of(
    direction: str, shape_zyx: tuple[int, int, int], angles_deg: np.ndarray
) -> Work:
    """Counts a call on a volume ``[z, y, x]`` whose detector is its (y, x) face.

    Args:
      direction: One of ``DIRECTIONS``; ``cg`` is one step on ``A^T A + ridge``.
      shape_zyx: Extents.
      angles_deg: ``[n_tilts]``; those beyond 45 degrees walk planes of constant x.
    """
    nz, ny, nx = shape_zyx
    count, voxels, pixels = len(angles_deg), nz * ny * nx, ny * nx
    if direction == "forward":
        steep = int(np.sum(np.abs(angles_deg) > 45.0))
        groups = [(count - steep, nz), (steep, nx)]
        taps = 2 * pixels * sum(tilts * planes for tilts, planes in groups)
        sweeps = pixels * sum(
            tilts * math.ceil(planes / kernels.UNROLL) for tilts, planes in groups
        )
    elif direction == "adjoint":
        taps = 2 * voxels * count
        sweeps = voxels * math.ceil(count / kernels.UNROLL)
    else:
        both = work_of("forward", shape_zyx, angles_deg) + work_of(
            "adjoint", shape_zyx, angles_deg
        )
        if direction == "normal":
            return both
        vectors = FLOAT_BYTES * CG_VOLUME_PASSES * voxels
        return both + Work(CG_OPERATIONS * voxels, vectors, vectors, 0.0)
    data = FLOAT_BYTES * float(voxels + pixels * count)
    return Work(
        operations=2.0 * taps,
        memory_bytes=data,
        cache_bytes=FLOAT_BYTES * float(taps + 2 * sweeps),
        data_bytes=data,
    )


def seconds_of(call: Callable[[], object], repeats: int) -> float:
    """Least seconds of a blocking call after one that compiles."""
    jax.block_until_ready(call())
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


@jax.jit
def _sweep(a: jax.Array, b: jax.Array, scale: jax.Array, sweeps: jax.Array):
    return lax.fori_loop(0, sweeps, lambda _, total: total + scale * b, a)


def seconds_a_sweep(
    call: Callable[[jax.Array], object], sweeps: int, repeats: int
) -> float:
    """Seconds of one sweep of a program that makes as many as it is told.

    The difference of many sweeps and one leaves out the start of the program and the
    copy of its argument.  On a machine at work it may be anything; then the quotient
    is taken, which counts those too.
    """
    one = seconds_of(lambda: call(jnp.int32(1)), repeats)
    many = seconds_of(lambda: call(jnp.int32(1 + sweeps)), repeats)
    plain = many / (1 + sweeps)
    apart = (many - one) / sweeps
    return apart if apart > 0.3 * plain else plain


def stream_gb_s(elements: int, sweeps: int, repeats: int = 3) -> float:
    """GB/s of ``a += s * b``, two reads and a write, over arrays of that length."""
    a, b, scale = jnp.zeros(elements), jnp.ones(elements), jnp.float32(0.5)
    seconds = seconds_a_sweep(lambda n: _sweep(a, b, scale, n), sweeps, repeats)
    return 1e-9 * 3 * FLOAT_BYTES * elements / seconds


@jax.jit
def _chain(a: jax.Array, scale: jax.Array, shift: jax.Array, sweeps: jax.Array):
    def body(_, total):
        for _ in range(32):
            total = total * scale + shift
        return total

    return lax.fori_loop(0, sweeps, body, a)


def loop_gflop_s(elements: int, sweeps: int) -> float:
    """GFLOP/s of chains of 32 multiply-adds on a vector in cache."""
    a, half = jnp.ones(elements), jnp.float32(0.5)
    seconds = seconds_a_sweep(lambda n: _chain(a, half, half, n), sweeps, 5)
    return 1e-9 * 2 * 32 * elements / seconds


def product_gflop_s(extent: int = 1536) -> float:
    """GFLOP/s of a product of square matrices in full float32."""
    a = jnp.ones((extent, extent))
    product = jax.jit(lambda m: jnp.dot(m, m, precision=lax.Precision.HIGHEST))
    return 1e-9 * 2 * extent**3 / seconds_of(lambda: product(a), 5)


def measure_machine(
    sizes_mb: tuple[float, ...] = (1, 4, 16, 64, 256, 1200),
) -> Machine:
    """Measures the ceilings, some seconds.

    Args:
      sizes_mb: Both arrays of a stream together; the last is far beyond the caches.
    """
    per_mb = 10**6 // (2 * FLOAT_BYTES)
    return Machine(
        streams=tuple(
            (size, stream_gb_s(int(size * per_mb), max(6, int(400 / size))))
            for size in sizes_mb
        ),
        loop_gflop_s=max(loop_gflop_s(1 << 16, 400), loop_gflop_s(1 << 18, 100)),
        product_gflop_s=product_gflop_s(),
    )
