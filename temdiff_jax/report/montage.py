"""One picture of a whole series: every tilt small, what is masked in red."""

from __future__ import annotations

import pathlib

import numpy as np
from PIL import Image, ImageDraw

from temdiff_jax.io import write

MOST_TILTS = 60
_EDGE = 160
_GAP = 4
_MASK_COLOUR = (220, 30, 30)


def write_montage(
    path: str | pathlib.Path,
    tilts: np.ndarray,
    angles_deg: np.ndarray,
    masked: np.ndarray | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Write a PNG of the tilts in order of angle, grey between percentiles.

    Args:
      path: Target name.
      tilts: [n_tilts, y, x]; row 0 is the bottom of each picture.
      angles_deg: [n_tilts], written under each.
      masked: [n_tilts, y, x] bool, drawn in red.
      overwrite: Replace an existing file.

    Raises:
      InputError: as `write.check_output`.
    """
    count = len(tilts)
    chosen = np.unique(np.linspace(0, count - 1, min(count, MOST_TILTS)).round())
    low, high = np.percentile(tilts[:, ::4, ::4], [1, 99])
    height, width = tilts.shape[1:]
    step = max(1, -(-max(height, width) // _EDGE))
    tile_y, tile_x = height // step, width // step
    columns = int(np.ceil(np.sqrt(len(chosen) * tile_y / tile_x))) or 1
    rows = -(-len(chosen) // columns)
    label = 14
    page = Image.new(
        "RGB", (columns * (tile_x + _GAP), rows * (tile_y + label + _GAP)), "white"
    )
    pen = ImageDraw.Draw(page)
    for place, number in enumerate(chosen.astype(int)):
        hidden = None if masked is None else masked[number]
        tile = _tile(tilts[number], hidden, step, (low, high))
        left = (place % columns) * (tile_x + _GAP)
        top = (place // columns) * (tile_y + label + _GAP)
        page.paste(Image.fromarray(tile), (left, top))
        pen.text((left, top + tile_y), f"{angles_deg[number]:g}", fill="black")
    with write.atomic_path(path, overwrite=overwrite) as temporary:
        page.save(temporary, format="PNG")


def _tile(
    image: np.ndarray,
    masked: np.ndarray | None,
    step: int,
    limits: tuple[float, float],
) -> np.ndarray:
    """Blocks of one tilt as RGB bytes, top row first."""
    rows, columns = image.shape[0] // step, image.shape[1] // step
    blocks = image[: rows * step, : columns * step]
    blocks = blocks.reshape(rows, step, columns, step)
    low, high = limits
    grey = (blocks.mean(axis=(1, 3)) - low) / max(high - low, 1e-30)
    tile = np.repeat(np.clip(255 * grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    if masked is not None:
        hidden = masked[: rows * step, : columns * step]
        hit = hidden.reshape(rows, step, columns, step).any(axis=(1, 3))
        tile[hit] = _MASK_COLOUR
    return np.ascontiguousarray(tile[::-1])
