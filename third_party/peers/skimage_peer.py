"""scikit-image beside ours: ``radon`` and ``iradon``, one y-slice at a time.

``radon`` turns the slice on its grid by linear interpolation and sums columns.
Its transpose is not in the package: ``iradon`` without a filter interpolates the
tilts at every pixel, which is a back-projection, not the adjoint, and is taken so
here, without its factor pi / (2 n_tilts).  ``radon`` pads slices to squares as wide
as their diagonal and ``iradon`` makes squares; that work is timed, as its users
have it.  One thread per core works on slices.

Centre: scikit-image turns about pixel n // 2.  Where n is even, that is half a
pixel from the centre of the volume, so tilts lie (1 - cos - sin) / 2 columns off,
0.7 at -60 degrees; odd extents agree.

Sense of rotation: with rows i and columns j it projects on ``j cos(a) - i sin(a)``.
Rows are z and columns x here, so ``a = -theta`` gives ``x cos(theta) + z sin(theta)``.

    python skimage_peer.py --shape 128 128 128 --angles -40:40:41 --repeats 20 --json
"""

from __future__ import annotations

import argparse
import importlib.metadata
import math
from concurrent import futures

import checks
import harness
import numpy as np


class SkimageOperator:
    """scikit-image slices; native layouts are ``[y, z, x]`` and ``[y, u, n]``."""

    peer = "skimage"
    device = "cpu"
    # Half a pixel in x and in z, beside the tolerance of the others.
    centroid_tolerance_px = checks.MAX_CENTROID_ERROR_PX + math.sqrt(0.5)

    def __init__(self, shape: tuple[int, int, int], angles_deg: np.ndarray) -> None:
        # The package exists in the peer's own environment only.
        from skimage import transform

        self._radon = transform.radon
        self._iradon = transform.iradon
        self._shape = shape
        self._theta = -np.asarray(angles_deg)
        threads = harness.usable_cores()
        self._pool = futures.ThreadPoolExecutor(threads)
        self.version = importlib.metadata.version("scikit-image")
        self.method = (
            f"radon; iradon without filter, a back-projection, not the adjoint; "
            f"{threads} threads over slices"
        )

    def volume_to_native(self, volume: np.ndarray) -> np.ndarray:
        """``[z, y, x]`` to ``[y, z, x]``."""
        return np.ascontiguousarray(volume.transpose(1, 0, 2), np.float32)

    def tilts_to_native(self, tilts: np.ndarray) -> np.ndarray:
        """``[n, y, u]`` to ``[y, u, n]``."""
        return np.ascontiguousarray(tilts.transpose(1, 2, 0), np.float32)

    def _project_slice(self, image: np.ndarray) -> np.ndarray:
        """``[z, x]`` to ``[u, n]``."""
        sinogram = self._radon(
            image, theta=self._theta, circle=False, preserve_range=True
        )
        nx = self._shape[2]
        first = len(sinogram) // 2 - nx // 2
        return sinogram[first : first + nx]

    def _spread_slice(self, sinogram: np.ndarray) -> np.ndarray:
        """``[u, n]`` to ``[z, x]``."""
        nz, _, nx = self._shape
        size = max(nz, nx)
        image = self._iradon(
            sinogram,
            theta=self._theta,
            output_size=size,
            filter_name=None,
            circle=False,
            preserve_range=True,
        )
        z, x = size // 2 - nz // 2, size // 2 - nx // 2
        return image[z : z + nz, x : x + nx]

    def forward(self, volume: np.ndarray) -> np.ndarray:
        """Line integrals ``[y, u, n]``."""
        return np.stack(list(self._pool.map(self._project_slice, volume)))

    def adjoint(self, tilts: np.ndarray) -> np.ndarray:
        """Back-projection ``[y, z, x]``, scaled as iradon does."""
        return np.stack(list(self._pool.map(self._spread_slice, tilts)))

    def tilts_from_native(self, tilts: np.ndarray) -> np.ndarray:
        """``[y, u, n]`` to ``[n, y, u]``."""
        return tilts.transpose(2, 0, 1)

    def volume_from_native(self, volume: np.ndarray) -> np.ndarray:
        """``[y, z, x]`` to ``[z, y, x]``, the factor of iradon undone."""
        factor = 2 * len(self._theta) / np.pi
        return factor * volume.transpose(1, 0, 2)

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown()


def build(options: argparse.Namespace) -> SkimageOperator:
    """The operator of the parsed options."""
    return SkimageOperator(tuple(options.shape), options.angles)


if __name__ == "__main__":
    harness.main(harness.build_parser(__doc__), build)
