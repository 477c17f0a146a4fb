"""svmbir beside ours: the stored system matrix, on threads over slices.

svmbir computes the matrix of one slice once for a list of angles, writes it to a
file and reads that file again in every call, as it does for its users; the adapter
has it computed before the clock runs, in a folder that is deleted at the end.  The
entries are the overlap of square voxels with detector columns, one byte each,
scaled by the largest entry of their voxel: errors of a few parts in a thousand are
the format's, not the geometry's.  ``roi_radius`` covers the corners, which svmbir
leaves out otherwise.

Sense of rotation: with rows i and columns j of a slice svmbir projects on
``i cos(a) - j sin(a)``.  Rows are x and columns z here, so ``a = -theta`` gives
``x cos(theta) + z sin(theta)``.

    python svmbir_peer.py --shape 128 128 128 --angles -40:40:41 --repeats 20 --json
"""

from __future__ import annotations

import argparse
import importlib.metadata
import math
import tempfile
from typing import Any

import harness
import numpy as np


class SvmbirOperator:
    """svmbir projector; native layouts are ``[y, x, z]`` and ``[n, y, u]``."""

    peer = "svmbir"
    device = "cpu"

    def __init__(self, shape: tuple[int, int, int], angles_deg: np.ndarray) -> None:
        # The package exists in the peer's own environment only.
        import svmbir

        nz, _, nx = shape
        self._project = svmbir.project
        self._backproject = svmbir.backproject
        self._folder = tempfile.TemporaryDirectory(prefix="svmbir_")
        threads = harness.usable_cores()
        self._extents = {"num_rows": nx, "num_cols": nz}
        self._common: dict[str, Any] = {
            "angles": -np.deg2rad(angles_deg),
            "roi_radius": math.hypot(nz, nx),
            "num_threads": threads,
            "svmbir_lib_path": self._folder.name,
            "verbose": 0,
        }
        self._channels = nx
        self.version = importlib.metadata.version("svmbir")
        self.method = f"stored system matrix, {threads} threads over slices"
        # Computes and stores the matrix.
        self.forward(np.zeros((1, nx, nz), np.float32))

    def volume_to_native(self, volume: np.ndarray) -> np.ndarray:
        """``[z, y, x]`` to ``[y, x, z]``."""
        return np.ascontiguousarray(volume.transpose(1, 2, 0), np.float32)

    def tilts_to_native(self, tilts: np.ndarray) -> np.ndarray:
        """``[n, y, u]`` as it is, in the memory order that svmbir works on."""
        return np.ascontiguousarray(tilts.swapaxes(0, 1), np.float32).swapaxes(0, 1)

    def forward(self, volume: np.ndarray) -> np.ndarray:
        """Line integrals ``[n, y, u]``."""
        return self._project(volume, num_channels=self._channels, **self._common)

    def adjoint(self, tilts: np.ndarray) -> np.ndarray:
        """Back projection ``[y, x, z]``."""
        return self._backproject(tilts, **self._extents, **self._common)

    def tilts_from_native(self, tilts: np.ndarray) -> np.ndarray:
        """``[n, y, u]``."""
        return tilts

    def volume_from_native(self, volume: np.ndarray) -> np.ndarray:
        """``[y, x, z]`` to ``[z, y, x]``."""
        return volume.transpose(2, 0, 1)

    def close(self) -> None:
        """Deletes the stored matrix."""
        self._folder.cleanup()


def build(options: argparse.Namespace) -> SvmbirOperator:
    """The operator of the parsed options."""
    return SvmbirOperator(tuple(options.shape), options.angles)


if __name__ == "__main__":
    harness.main(harness.build_parser(__doc__), build)
