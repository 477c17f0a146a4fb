"""Lines that open a volume in napari or 3dmod, with the right axes and grey values."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

# Shares of the grey values that are shown black and white.
_BLACK, _WHITE = 0.005, 0.995

Volume = tuple[str | os.PathLike[str], np.ndarray]
"""Name of a file, and its values [z, y, x]."""


def limits(volume: np.ndarray) -> tuple[float, float]:
    """Grey values shown black and white."""
    step = max(volume.size // 1_000_000, 1)
    low, high = np.quantile(volume.ravel()[::step], (_BLACK, _WHITE))
    return float(low), float(high) if high > low else float(low) + 1.0


def napari(
    mean: Volume, std: Volume | None, voxel_zyx: Sequence[float] | None
) -> list[str]:
    """Words of a Python line: napari's own command knows neither scale nor contrast.

    Args:
      mean: The volume.
      std: Its standard deviation, laid over it.
      voxel_zyx: Angstrom; None where unknown.
    """
    lines = [
        "import napari",
        "from temdiff_jax.io.formats import read_image as r",
        "v = napari.Viewer()",
        _layer(mean, voxel_zyx, "mean", "gray"),
    ]
    if std is not None:
        lines.append(_layer(std, voxel_zyx, "std", "magma"))
    return ["python", "-c", "; ".join([*lines, "napari.run()"])]


def imod(mean: Volume, std: Volume | None) -> list[str]:
    """Words for 3dmod, which scales a file from its extremes to 0-255.

    Its -s is in grey values of the file.
    """
    low, high = limits(mean[1])
    words = ["3dmod", "-s", f"{low:.6g},{high:.6g}", os.fspath(mean[0])]
    return words if std is None else [*words, os.fspath(std[0])]


def _layer(
    volume: Volume, voxel_zyx: Sequence[float] | None, name: str, colours: str
) -> str:
    path, values = volume
    scale = tuple(round(float(s), 4) for s in voxel_zyx or (1.0, 1.0, 1.0))
    low, high = limits(values)
    more = ", blending='additive', visible=False" if name == "std" else ""
    return (
        f"v.add_image(r({os.fspath(path)!r}).data, name={name!r}, scale={scale}, "
        f"colormap={colours!r}, contrast_limits=({low:.6g}, {high:.6g}){more})"
    )
