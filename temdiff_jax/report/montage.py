"""One picture of a whole series: every tilt small, what is masked in red."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from temdiff_jax.io import write

MOST_TILTS = 60
_EDGE = 160
_GAP = 4
_MASK_COLOUR = (220, 30, 30)
# Of the drawings and the text above the tilts, pixels; characters of a line.
_PLOT = 220
_LINE = 14
_HEAD_WIDTH = 720
_CHARACTERS = 118


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What is drawn and written above the tilts.

    Attributes:
      lines: Of text.
      axis_deg: Where the tilt axis is taken to lie, from +y towards -x; green.
      axis_found_deg: Where the images have it, or None; orange.
      shifts: Of neighbouring tilts, [n_tilts - 1, 2] pixels, NaN where none is seen.
    """

    lines: Sequence[str]
    axis_deg: float
    axis_found_deg: float | None
    shifts: np.ndarray


def write_montage(
    path: str | pathlib.Path,
    tilts: np.ndarray,
    angles_deg: np.ndarray,
    masked: np.ndarray | None = None,
    facts: Facts | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Write a PNG of the tilts in order of angle, grey between percentiles.

    Args:
      path: Target name.
      tilts: [n_tilts, y, x]; row 0 is the bottom of each picture.
      angles_deg: [n_tilts], written under each.
      masked: [n_tilts, y, x] bool, drawn in red.
      facts: Text, axis, shifts and wedge above them; None draws the tilts alone.
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
    width, head = columns * (tile_x + _GAP), 0
    if facts is not None:
        width, head = max(width, _HEAD_WIDTH), _PLOT + _LINE * (len(facts.lines) + 1)
    page = Image.new("RGB", (width, head + rows * (tile_y + label + _GAP)), "white")
    pen = ImageDraw.Draw(page)
    for place, number in enumerate(chosen.astype(int)):
        hidden = None if masked is None else masked[number]
        tile = _tile(tilts[number], hidden, step, (low, high))
        left = (place % columns) * (tile_x + _GAP)
        top = head + (place // columns) * (tile_y + label + _GAP)
        page.paste(Image.fromarray(tile), (left, top))
        pen.text((left, top + tile_y), f"{angles_deg[number]:g}", fill="black")
    if facts is not None:
        _draw_facts(pen, facts, np.asarray(angles_deg))
    with write.atomic_path(path, overwrite=overwrite) as temporary:
        page.save(temporary, format="PNG")


def _draw_facts(pen: ImageDraw.ImageDraw, facts: Facts, angles_deg: np.ndarray) -> None:
    """Wedge, axis and shifts side by side, the text below them."""
    half = _PLOT // 2 - _LINE
    # Directions that are measured: one line a tilt through the centre, z up.
    x, y = _PLOT // 2, _PLOT // 2
    for angle in np.deg2rad(angles_deg):
        # The beam runs along z at zero tilt; Fourier space is measured across it.
        step = half * np.array([np.cos(angle), np.sin(angle)])
        pen.line((x - step[0], y + step[1], x + step[0], y - step[1]), fill="black")
    pen.text((4, 0), "measured directions (x, z)", fill="black")
    x += _PLOT
    pen.rectangle((x - half, y - half, x + half, y + half), outline="grey")
    drawn = [
        (facts.axis_deg, (0, 140, 0), 6),
        (facts.axis_found_deg, (240, 130, 0), 2),
    ]
    for degrees, colour, width in drawn:
        if degrees is not None:
            psi = np.deg2rad(degrees)
            step = half * np.array([-np.sin(psi), np.cos(psi)])
            ends = (x - step[0], y + step[1], x + step[0], y - step[1])
            pen.line(ends, fill=colour, width=width)
    pen.text((_PLOT + 4, 0), "axis: taken green, images orange", fill="black")
    lengths = np.hypot(*facts.shifts.T) if len(facts.shifts) else np.zeros(0)
    most = float(np.nanmax(lengths)) if np.isfinite(lengths).any() else 0.0
    left, bar = 2 * _PLOT + 16, max(2, (_PLOT - 16) // max(len(lengths), 1))
    for number, length in enumerate(lengths):
        if np.isfinite(length):
            height = 2 * half * length / max(most, 1.0)
            start = left + number * bar
            box = (start, y + half - height, start + bar - 1, y + half)
            pen.rectangle(box, fill=(70, 90, 160))
    pen.text((left, 0), f"shifts, up to {most:.1f} pixels", fill="black")
    for number, line in enumerate(facts.lines):
        plain = "".join(c if c.isascii() and c.isprintable() else "?" for c in line)
        pen.text((4, _PLOT + number * _LINE), plain[:_CHARACTERS], fill="black")


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
