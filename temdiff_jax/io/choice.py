"""Tilts that are left out by number or by angle."""

from __future__ import annotations

import re

import numpy as np

from temdiff_jax.io import gate

_VIEWS = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?")
_ANGLE = re.compile(r"([+-]?\d+(?:\.\d+)?)(?::([+-]?\d+(?:\.\d+)?))?deg")
_SAME_DEG = 0.01


def left_out(words: str, views: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Which tilts a list such as "3,7-9,-60:-55deg" leaves out.

    Args:
      words: Numbers and ranges of images, counted from 0 in the order of the file, as
        `temdiff inspect` prints them; or angles and ranges of angles, marked "deg".
      views: Number of each tilt, [n].
      degrees: Angle of each tilt, [n].

    Returns:
      [n] bool, True where a tilt is left out.

    Raises:
      InputError: another syntax, a number or an angle that no tilt has, nothing left.
    """
    out = np.zeros(len(views), bool)
    for part in words.replace(" ", "").split(","):
        if match := _VIEWS.fullmatch(part):
            first, last = int(match[1]), int(match[2] or match[1])
            hit = (views >= first) & (views <= last)
        elif match := _ANGLE.fullmatch(part):
            low, high = float(match[1]), float(match[2] or match[1])
            hit = (degrees >= low - _SAME_DEG) & (degrees <= high + _SAME_DEG)
        else:
            raise gate.bad_input(
                "--exclude",
                "tilts such as 3,7-9 or -60:-55deg",
                repr(part),
                "correct it",
            )
        if not hit.any():
            raise gate.bad_input(
                f"--exclude {part}",
                f"tilts from {int(views.min())} to {int(views.max())}, or their angles",
                "none",
                "see the numbers that temdiff inspect prints",
            )
        out |= hit
    if out.all():
        raise gate.bad_input("--exclude", "some tilts left", "none", "leave out fewer")
    return out
