"""What the periodic line says besides the losses: speed and memory."""

from __future__ import annotations

import resource
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

GB = 1e9
# Edges of the matrices whose product is timed.
CPU_SIZE = 1024
ACCELERATOR_SIZE = 8192


class Usage(NamedTuple):
    """What the machine did since the last line.

    Attributes:
      voxels_per_second: Voxels of the crops trained on, everything included.
      flops_per_second: Operations counted (`flops.count`), None where nobody counts.
      peak_share: Their share of the measured peak, model FLOP utilisation; None
        without a peak.
      memory: Bytes by name, see ``memory_bytes``.
    """

    voxels_per_second: float
    flops_per_second: float | None
    peak_share: float | None
    memory: dict[str, int]

    def __str__(self) -> str:
        text = f"voxels/s {self.voxels_per_second:.3g}"
        if self.flops_per_second is not None:
            text += f" GFLOP/s {self.flops_per_second / GB:.3g}"
        if self.peak_share is not None:
            text += f" MFU {self.peak_share:.3f}"
        return f"{text} {memory()}"

    def values(self) -> dict[str, float]:
        """The numbers by name, for curves."""
        found = {"voxels_per_second": self.voxels_per_second}
        if self.flops_per_second is not None:
            found["gflop_per_second"] = self.flops_per_second / GB
        if self.peak_share is not None:
            found["mfu"] = self.peak_share
        return found | {f"{k}_gb": v / GB for k, v in self.memory.items()}


class Meter:
    """Metrics, voxels and operations since the last line.

    Args:
      peak: Operations a second that the machine can do, see ``product_peak``.

    Attributes:
      rows: One list of scalars a step, in the order of ``step.Metrics``.
    """

    def __init__(self, peak: float | None = None) -> None:
        self._peak = peak
        self.rows: list[list[float]] = []
        self._flops: float | None = None
        self._start()

    def add(self, row: list[float], voxels: int, flops: float | None = None) -> None:
        """Notes one step of ``voxels`` voxels, all crops together."""
        self.rows.append(row)
        self._voxels += voxels
        if flops is not None:
            self._flops = flops + (self._flops or 0.0)

    def usage(self) -> Usage:
        """Rates since the last call, everything included; starts anew."""
        seconds = max(time.monotonic() - self._since, 1e-9)
        rate = None if self._flops is None else self._flops / seconds
        share = rate / self._peak if rate is not None and self._peak else None
        found = Usage(self._voxels / seconds, rate, share, memory_bytes())
        self._start()
        return found

    def _start(self) -> None:
        self.rows, self._voxels, self._since = [], 0, time.monotonic()
        self._flops = None


def product_peak(
    dtype: str = "float32", *, size: int | None = None, repeats: int = 4
) -> float:
    """Operations a second of a square matrix product on the first device.

    The smallest time of several counts, since other work can only add to it.  What a
    network reaches of this is comparable between machines.

    Args:
      dtype: Of the factors.
      size: Their edge; default one that keeps the device busy for milliseconds.
      repeats: Timed products, after one that compiles.
    """
    if size is None:
        size = CPU_SIZE if jax.default_backend() == "cpu" else ACCELERATOR_SIZE
    product = jax.jit(jnp.matmul)
    key = jax.random.key(0)
    factor = jax.random.normal(key, (size, size), jnp.float32).astype(dtype)
    product(factor, factor).block_until_ready()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        product(factor, factor).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return 2.0 * size**3 / min(seconds)


def memory_bytes() -> dict[str, int]:
    """Peak memory: ``rss`` of this process, ``device`` and its ``device_limit``.

    The first device counts, and only where it keeps a record.
    """
    # Linux counts in units of 1024 bytes.
    found = {"rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    stats = jax.local_devices()[0].memory_stats() or {}
    for name, field in (
        ("device", "peak_bytes_in_use"),
        ("device_limit", "bytes_limit"),
    ):
        if stats.get(field) is not None:
            found[name] = int(stats[field])
    return found


def memory() -> str:
    """Peak memory of this process and, where it is known, of its first device."""
    found = memory_bytes()
    text = f"rss {found['rss'] / GB:.2f} GB"
    if "device" in found:
        text += f" device {found['device'] / GB:.2f} GB"
    if "device_limit" in found:
        text += f" of {found['device_limit'] / GB:.2f}"
    return text
