"""What the periodic line says besides the losses: speed and memory."""

from __future__ import annotations

import resource
import time

import jax

GB = 1e9


class Meter:
    """Metrics and voxels since the last line.

    Attributes:
      rows: One list of scalars a step, in the order of ``step.Metrics``.
    """

    def __init__(self) -> None:
        self.rows: list[list[float]] = []
        self._voxels = 0
        self._since = time.monotonic()

    def add(self, row: list[float], voxels: int) -> None:
        """Notes one step of ``voxels`` voxels, all crops together."""
        self.rows.append(row)
        self._voxels += voxels

    def usage(self) -> str:
        """Voxels per second, everything included, and peak memory; starts anew."""
        now = time.monotonic()
        rate = self._voxels / max(now - self._since, 1e-9)
        self.rows, self._voxels, self._since = [], 0, now
        return f"voxels/s {rate:.3g} {memory()}"


def memory() -> str:
    """Peak memory of this process and, where it is known, of its first device."""
    # Linux counts in units of 1024 bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    text = f"rss {peak / GB:.2f} GB"
    stats = jax.local_devices()[0].memory_stats() or {}
    used, limit = stats.get("peak_bytes_in_use"), stats.get("bytes_limit")
    if used is not None:
        text += f" device {used / GB:.2f} GB"
    if limit is not None:
        text += f" of {limit / GB:.2f}"
    return text
