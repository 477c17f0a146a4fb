"""mbirjax beside ours: ``ParallelBeamModel``, all voxels of the volume.

mbirjax splits CPU work over virtual devices (two by default, fewer on one core);
the adapter keeps that choice and leaves arrays on the devices between calls
(``output_sharded=True``), so no host copy is timed.  ``use_ror_mask`` is switched
off, since it would leave out the corners of every slice.  The interpolation is a
trapezoid footprint.  Placing and gathering a volume go through methods that mbirjax
keeps private, hence the exact pin in requirements.txt.

Sense of rotation: with rows i and columns j mbirjax projects on
``x = cos(a) j - sin(a) i``.  Rows are z and columns x here, so ``a = -theta`` gives
``x cos(theta) + z sin(theta)``.

    python mbirjax_peer.py --shape 128 128 128 --angles -40:40:41 --repeats 20 --json
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
from typing import Any

import harness
import numpy as np


class MbirjaxOperator:
    """mbirjax projector; native layouts are ``[z, x, y]`` and ``[n, y, u]``."""

    peer = "mbirjax"

    def __init__(self, shape: tuple[int, int, int], angles_deg: np.ndarray) -> None:
        # mbirjax sets up virtual CPU devices, so it comes before jax.
        import mbirjax  # isort: skip
        import jax

        nz, ny, nx = shape
        self._block = jax.block_until_ready
        self._model = mbirjax.ParallelBeamModel(
            (len(angles_deg), ny, nx), -np.deg2rad(angles_deg).astype(np.float32)
        )
        self._model.set_params(
            no_warning=True, recon_shape=(nz, nx, ny), use_ror_mask=False, verbose=0
        )
        self.version = importlib.metadata.version("mbirjax")
        devices = len(self._model.shard_devices)
        self.device = jax.default_backend()
        self.method = (
            f"ParallelBeamModel, {devices} devices, jax "
            f"{importlib.metadata.version('jax')}"
        )

    def volume_to_native(self, volume: np.ndarray) -> Any:
        """``[z, y, x]`` to ``[z, x, y]``, on the model's devices."""
        core = np.ascontiguousarray(volume.transpose(0, 2, 1), np.float32)
        return self._block(self._model._shard_recon(core))

    def tilts_to_native(self, tilts: np.ndarray) -> Any:
        """``[n, y, u]``, on the model's devices."""
        return self._block(self._model.prepare_sino_for_devices(tilts))

    def forward(self, volume: Any) -> Any:
        """Line integrals, left on the devices."""
        return self._block(self._model.forward_project(volume, output_sharded=True))

    def adjoint(self, tilts: Any) -> Any:
        """Back projection, left on the devices."""
        return self._block(self._model.back_project(tilts, output_sharded=True))

    def tilts_from_native(self, tilts: Any) -> np.ndarray:
        """Gathers ``[n, y, u]`` without the padding of the devices."""
        return np.asarray(self._model._gather_sinogram(tilts))

    def volume_from_native(self, volume: Any) -> np.ndarray:
        """Gathers ``[z, x, y]`` and returns ``[z, y, x]``."""
        return np.asarray(self._model._gather_recon(volume)).transpose(0, 2, 1)


def build(options: argparse.Namespace) -> MbirjaxOperator:
    """The operator of the parsed options."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    return MbirjaxOperator(tuple(options.shape), options.angles)


if __name__ == "__main__":
    harness.main(harness.build_parser(__doc__), build)
