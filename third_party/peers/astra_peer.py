"""ASTRA Toolbox beside ours: 2-D CPU 'linear' projector, one y-slice at a time.

ASTRA's 3-D projectors need CUDA, so a single-axis series runs as independent 2-D
parallel-beam slices: one forward (FP) and one back projection (BP) algorithm per
slice, created once and linked to shared memory, executed by one thread per usable
core (ASTRA releases the interpreter lock inside an algorithm).  'linear' is
Joseph's interpolation, the model closest to ours; ASTRA applies the same weights
in both directions.

Sense of rotation: ASTRA reads a slice as rows from top (+y) to bottom and projects
on ``s = x cos(a) + y sin(a)``.  Rows here are z, growing downwards, so y = -z and
``a = -theta`` gives ``s = x cos(theta) + z sin(theta)``.

    python astra_peer.py --shape 128 128 128 --angles -40:40:41 --repeats 20 --json
"""

from __future__ import annotations

import argparse
import importlib.metadata
from concurrent import futures

import harness
import numpy as np


class AstraOperator:
    """Slice-wise ASTRA projector; native layouts are ``[y, z, x]``, ``[y, n, u]``."""

    peer = "astra"
    device = "cpu"

    def __init__(
        self, shape: tuple[int, int, int], angles_deg: np.ndarray, projector: str
    ) -> None:
        # The package exists in the peer's own environment only.
        import astra

        nz, ny, nx = shape
        self._run = astra.algorithm.run
        self._clear = astra.clear
        # ASTRA reads and writes these in place; inputs apart from outputs.
        self._volume = np.zeros((ny, nz, nx), np.float32)
        self._tilts = np.zeros((ny, len(angles_deg), nx), np.float32)
        self._projected = np.zeros_like(self._tilts)
        self._spread = np.zeros_like(self._volume)
        volume_geometry = astra.create_vol_geom(nz, nx)
        tilts_geometry = astra.create_proj_geom(
            "parallel", 1.0, nx, -np.deg2rad(angles_deg)
        )
        projector_id = astra.create_projector(
            projector, tilts_geometry, volume_geometry
        )
        self._forward_ids: list[int] = []
        self._adjoint_ids: list[int] = []
        for y in range(ny):
            volume_id, spread_id = (
                astra.data2d.link("-vol", volume_geometry, array[y])
                for array in (self._volume, self._spread)
            )
            tilts_id, projected_id = (
                astra.data2d.link("-sino", tilts_geometry, array[y])
                for array in (self._tilts, self._projected)
            )
            forward = astra.astra_dict("FP")
            forward["ProjectorId"] = projector_id
            forward["VolumeDataId"] = volume_id
            forward["ProjectionDataId"] = projected_id
            self._forward_ids.append(astra.algorithm.create(forward))
            adjoint = astra.astra_dict("BP")
            adjoint["ProjectorId"] = projector_id
            adjoint["ReconstructionDataId"] = spread_id
            adjoint["ProjectionDataId"] = tilts_id
            self._adjoint_ids.append(astra.algorithm.create(adjoint))
        self.version = importlib.metadata.version("astra-toolbox")
        self._threads = harness.usable_cores()
        self._pool = futures.ThreadPoolExecutor(self._threads)
        self.method = (
            f"2-D slices, CPU '{projector}', {self._threads} threads over slices"
        )

    def _run_all(self, algorithm_ids: list[int]) -> None:
        """Runs all slices, one contiguous share per thread."""

        def share(ids: list[int]) -> None:
            for algorithm_id in ids:
                self._run(algorithm_id)

        bounds = np.linspace(0, len(algorithm_ids), self._threads + 1).astype(int)
        shares = [
            algorithm_ids[begin:end]
            for begin, end in zip(bounds[:-1], bounds[1:], strict=True)
        ]
        list(self._pool.map(share, shares))

    def volume_to_native(self, volume: np.ndarray) -> np.ndarray:
        """``[z, y, x]`` into the shared input ``[y, z, x]``."""
        np.copyto(self._volume, volume.transpose(1, 0, 2))
        return self._volume

    def tilts_to_native(self, tilts: np.ndarray) -> np.ndarray:
        """``[n, y, u]`` into the shared input ``[y, n, u]``."""
        np.copyto(self._tilts, tilts.transpose(1, 0, 2))
        return self._tilts

    def forward(self, volume: np.ndarray) -> np.ndarray:
        """Projects the shared input; the next call overwrites the result."""
        assert volume is self._volume
        self._run_all(self._forward_ids)
        return self._projected

    def adjoint(self, tilts: np.ndarray) -> np.ndarray:
        """Back-projects the shared input; the next call overwrites the result."""
        assert tilts is self._tilts
        self._run_all(self._adjoint_ids)
        return self._spread

    def tilts_from_native(self, tilts: np.ndarray) -> np.ndarray:
        """``[y, n, u]`` to ``[n, y, u]``, a copy."""
        return tilts.transpose(1, 0, 2).copy()

    def volume_from_native(self, volume: np.ndarray) -> np.ndarray:
        """``[y, z, x]`` to ``[z, y, x]``, a copy."""
        return volume.transpose(1, 0, 2).copy()

    def close(self) -> None:
        """Frees what ASTRA holds by number: all objects of this process."""
        self._pool.shutdown()
        self._clear()


def build(options: argparse.Namespace) -> AstraOperator:
    """The operator of the parsed options."""
    return AstraOperator(tuple(options.shape), options.angles, options.projector)


if __name__ == "__main__":
    options_parser = harness.build_parser(__doc__)
    options_parser.add_argument(
        "--projector",
        choices=("linear", "line", "strip"),
        default="linear",
        help="ASTRA's 2-D CPU projector",
    )
    harness.main(options_parser, build)
