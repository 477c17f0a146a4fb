"""Memory of a projection, as the compiler plans it, before anything is allocated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.projector.project import backproject, project


class MemoryEstimate(NamedTuple):
    """Bytes of one compiled program on one device.

    Attributes:
      argument_bytes: What it is given.
      output_bytes: What it returns.
      temporary_bytes: What it needs beside, at most, while it runs.
    """

    argument_bytes: int
    output_bytes: int
    temporary_bytes: int

    @property
    def peak_bytes(self) -> int:
        """Arguments, results and temporaries together."""
        return self.argument_bytes + self.output_bytes + self.temporary_bytes

    @property
    def overhead(self) -> float:
        """Peak over what must be held anyway, arguments and results; 1 is ideal."""
        return self.peak_bytes / (self.argument_bytes + self.output_bytes)


def program_memory(function: Callable[..., Any], *arguments: Any) -> MemoryEstimate:
    """Compiles a function and asks for the memory of its program.

    Args:
      function: What ``jax.jit`` accepts.
      *arguments: Arrays or ``jax.ShapeDtypeStruct`` in any pytree; with shapes
        alone nothing of their size is allocated.

    Raises:
      RuntimeError: The backend does not report the memory of its programs.
    """
    plan = jax.jit(function).lower(*arguments).compile().memory_analysis()
    if plan is None:
        raise RuntimeError(
            "memory: expected the compiler to report the memory of a program, got "
            f"nothing from backend {jax.default_backend()!r}; estimate on another one"
        )
    return MemoryEstimate(
        int(plan.argument_size_in_bytes),
        int(plan.output_size_in_bytes - plan.alias_size_in_bytes),
        int(plan.temp_size_in_bytes),
    )


def estimate_memory(
    volume_shape: Sequence[int],
    num_tilts: int,
    *,
    num_u: int | None = None,
    max_tilt_deg: float = 60.0,
    dtype: DTypeLike = jnp.float32,
) -> tuple[MemoryEstimate, MemoryEstimate]:
    """Memory of ``project`` and of ``backproject`` on the default device.

    Both programs are compiled, not run: a volume larger than the machine may be
    asked about.

    Args:
      volume_shape: Core extents ``(nz, nx, ny)`` in voxels.
      num_tilts: Number of tilts, spread evenly over the range.
      num_u: Detector columns; ``None`` is nx.
      max_tilt_deg: Largest tilt angle, degrees; beyond 45 the program has two
        parts, one for either kind of plane.
      dtype: Dtype of volume, tilts and angles.

    Returns:
      The estimates of the forward and of the adjoint direction.
    """
    nz, nx, ny = (int(n) for n in volume_shape)
    num_u = nx if num_u is None else num_u
    top = abs(float(max_tilt_deg))
    degrees = [
        top * (2 * k / (num_tilts - 1) - 1) if num_tilts > 1 else top
        for k in range(num_tilts)
    ]
    steep = tuple(abs(degree) > 45.0 for degree in degrees)
    geometry = jax.eval_shape(
        lambda: TiltGeometry(jnp.zeros(num_tilts, dtype), (nz, nx, ny), num_u, steep)
    )
    volume = jax.ShapeDtypeStruct((nz, nx, ny), dtype)
    tilts = jax.ShapeDtypeStruct((num_tilts, num_u, ny), dtype)
    return (
        program_memory(project, volume, geometry),
        program_memory(backproject, tilts, geometry),
    )
