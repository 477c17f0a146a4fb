"""scico beside ours: ``XRayTransform3D``, or ``XRayTransform2D`` slice by slice.

``--method 3d`` (default) is the general 3-D projector used as it stands: a Python
loop over views and slabs of ten slices.  It projects once when constructed, so the
forward first call holds no compilation; the order of its axes hardly matters.

``--method 2d`` maps the 2-D projector over y inside one jitted program
(``jax.lax.map``): much faster, but that class asks for voxels of at most sqrt(2)/2
detector pixels and is given 1, outside its stated accuracy (it warns; the error
shows as ``centroid_error_px``).  Read the 3-D line as the accurate projector, the
2-D line as what the package can reach in speed.

Sense of rotation: the 3-D projector takes projection matrices, so
``x cos(theta) + z sin(theta)`` is written down directly; voxel i has its centre at
i + 1/2.  The 2-D projector sums ``axis0 cos(a) + axis1 sin(a)``, hence axis 0 = x,
axis 1 = z and ``a = theta``.

    python scico_peer.py --shape 128 128 128 --angles -40:40:41 --repeats 20 --json
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import warnings
from typing import Any

import harness
import numpy as np


def projection_matrices(
    shape: tuple[int, int, int], angles_deg: np.ndarray
) -> np.ndarray:
    """``[n_tilts, 2, 4]``: rows (y_det, x_det), columns (z, y, x, offset)."""
    theta = np.deg2rad(angles_deg)
    matrices = np.zeros((len(theta), 2, 4))
    matrices[:, 0, 1] = 1.0
    matrices[:, 1, 0] = np.sin(theta)
    matrices[:, 1, 2] = np.cos(theta)
    centre = np.array(shape) / 2
    matrices[:, :, 3] = centre[1:] - matrices[:, :, :3] @ centre
    return matrices


class Scico3dOperator:
    """The general 3-D projector; native layouts are those of the files."""

    peer = "scico"

    def __init__(self, shape: tuple[int, int, int], angles_deg: np.ndarray) -> None:
        import jax
        from scico.linop import xray

        self._block = jax.block_until_ready
        self._put = jax.numpy.asarray
        self._transform = xray.XRayTransform3D(
            shape, projection_matrices(shape, angles_deg), shape[1:]
        )
        self.version = importlib.metadata.version("scico")
        self.device = jax.default_backend()
        self.method = f"XRayTransform3D, jax {importlib.metadata.version('jax')}"

    def volume_to_native(self, volume: np.ndarray) -> Any:
        """``[z, y, x]`` on the device."""
        return self._block(self._put(volume))

    def tilts_to_native(self, tilts: np.ndarray) -> Any:
        """``[n, y, u]`` on the device."""
        return self._block(self._put(tilts))

    def forward(self, volume: Any) -> Any:
        """Line integrals ``[n, y, u]``."""
        return self._block(self._transform.project(volume))

    def adjoint(self, tilts: Any) -> Any:
        """Back projection ``[z, y, x]``."""
        return self._block(self._transform.back_project(tilts))

    def tilts_from_native(self, tilts: Any) -> np.ndarray:
        """``[n, y, u]`` on the host."""
        return np.asarray(tilts)

    def volume_from_native(self, volume: Any) -> np.ndarray:
        """``[z, y, x]`` on the host."""
        return np.asarray(volume)


class Scico2dOperator:
    """The 2-D projector over y; native layouts ``[y, x, z]`` and ``[y, n, u]``."""

    peer = "scico-2d"

    def __init__(self, shape: tuple[int, int, int], angles_deg: np.ndarray) -> None:
        import jax
        from scico.linop import xray

        self._block = jax.block_until_ready
        self._put = jax.numpy.asarray
        with warnings.catch_warnings():
            # The accuracy warning that the module docstring passes on.
            warnings.filterwarnings("ignore", message="A projected pixel has width")
            slice_transform = xray.XRayTransform2D(
                (shape[2], shape[0]),
                np.deg2rad(angles_deg),
                dx=1.0,
                det_count=shape[2],
            )
        self._forward = jax.jit(lambda v: jax.lax.map(slice_transform.project, v))
        self._adjoint = jax.jit(lambda p: jax.lax.map(slice_transform.back_project, p))
        self.version = importlib.metadata.version("scico")
        self.device = jax.default_backend()
        self.method = (
            "XRayTransform2D mapped over y, outside its stated accuracy, jax "
            f"{importlib.metadata.version('jax')}"
        )

    def volume_to_native(self, volume: np.ndarray) -> Any:
        """``[z, y, x]`` to ``[y, x, z]``."""
        return self._block(self._put(np.ascontiguousarray(volume.transpose(1, 2, 0))))

    def tilts_to_native(self, tilts: np.ndarray) -> Any:
        """``[n, y, u]`` to ``[y, n, u]``."""
        return self._block(self._put(np.ascontiguousarray(tilts.transpose(1, 0, 2))))

    def forward(self, volume: Any) -> Any:
        """Line integrals ``[y, n, u]``."""
        return self._block(self._forward(volume))

    def adjoint(self, tilts: Any) -> Any:
        """Back projection ``[y, x, z]``."""
        return self._block(self._adjoint(tilts))

    def tilts_from_native(self, tilts: Any) -> np.ndarray:
        """``[y, n, u]`` to ``[n, y, u]``."""
        return np.asarray(tilts).transpose(1, 0, 2)

    def volume_from_native(self, volume: Any) -> np.ndarray:
        """``[y, x, z]`` to ``[z, y, x]``."""
        return np.asarray(volume).transpose(2, 0, 1)


def build(options: argparse.Namespace) -> harness.Operator:
    """The operator of the parsed options."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    operator = {"3d": Scico3dOperator, "2d": Scico2dOperator}[options.method]
    return operator(tuple(options.shape), options.angles)


if __name__ == "__main__":
    options_parser = harness.build_parser(__doc__)
    options_parser.add_argument(
        "--method", choices=("3d", "2d"), default="3d", help="which projector"
    )
    harness.main(options_parser, build)
