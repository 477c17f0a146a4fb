"""What every reader gives: an image stack or a volume, and what its file says of it."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np

ANGSTROM_PER_UNIT = {
    **dict.fromkeys(("angstrom", "angstroms", "a", "å", "ångström"), 1.0),
    **dict.fromkeys(("nm", "n_m", "nanometer", "nanometre", "nanometers"), 10.0),
    **dict.fromkeys(("um", "u_m", "µm", "μm", "micron", "microns"), 1e4),
    **dict.fromkeys(("micrometer", "micrometre", "micrometers"), 1e4),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 1e7),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 1e8),
    **dict.fromkeys(("inch",), 2.54e8),
    **dict.fromkeys(("m", "meter", "metre"), 1e10),
    **dict.fromkeys(("pm", "picometer", "picometre"), 1e-2),
}
"""Length of a unit by its name in lower case."""


@dataclasses.dataclass(frozen=True)
class Image:
    """A volume or a tilt stack as found in a file of any format.

    Attributes:
      data: Grey values, [z, y, x] or [n_tilts, y, x], float32, C-contiguous.  Row 0 is
        the bottom of the picture, whatever the file has first.
      path: Where it came from.
      voxel_size_angstrom: (z, y, x), or None when the file does not say.
      angles_deg: Tilt angles that the file carries, [n_tilts] float64, or None.
      origin_angstrom: (z, y, x), position of the coordinate origin relative to the
        first voxel; zeros where a format has none.
      key: Name of the array inside the file, "" where it holds one.
      labels: Text labels of the file.
      header: What the file says about itself, (name, value), for a reader's eye.
      warnings: One line per assumption or repair.
    """

    data: np.ndarray
    path: pathlib.Path
    voxel_size_angstrom: tuple[float, float, float] | None = None
    angles_deg: np.ndarray | None = None
    origin_angstrom: tuple[float, float, float] = (0.0, 0.0, 0.0)
    key: str = ""
    labels: tuple[str, ...] = ()
    header: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
