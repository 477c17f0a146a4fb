"""What is known twice about a series is compared: pixel size, angles, axis, order."""

from __future__ import annotations

import numpy as np

from temdiff_jax.io import checks, gate

SAME_VOXEL = 1e-3
_SAME_ANGLE_DEG = 0.05
_AXIS_TOLERANCE_DEG = 10.0
_UNKNOWN_PIXELS = (0.0, 1.0)  # what programs write that do not know
_LARGEST_BINNING = 64
_FEW_TILTS = 5
_SINOGRAM_RATIO = 5.0


def pixel_size(
    header: tuple[float, float, float] | None,
    side: float | None,
    given: float | None,
    name: str,
) -> tuple[float | None, list[str]]:
    """The pixel pitch of three sources: given, the image file's, a side file's.

    Args:
      header: (z, y, x) by the image file.
      side: By an .mdoc or a STAR file.
      given: By the caller, who has the last word.
      name: For messages.

    Returns:
      Angstrom or None, and a line about each contradiction.
    """
    if given is not None:
        checks.check_voxel(given)
        said = {"the file": None if header is None else header[2], "side files": side}
        notes = [
            f"{name}: voxel size {given:g} Angstrom as given; {source} says {value:g}"
            for source, value in said.items()
            if value is not None and abs(value - given) > SAME_VOXEL * given
        ]
        return float(given), notes
    own = None if header is None else header[2]
    if own is None and side is None:
        note = f"{name}: voxel size unknown; give voxel_size_angstrom (--voxel-size)"
        return None, [note]
    if own is None:
        return side, [f"{name}: voxel size {side:g} Angstrom from the .mdoc"]
    if side is None or abs(own - side) <= SAME_VOXEL * side:
        return own, []
    both = f"{name}: the header has {own:g} Angstrom a pixel, the side file {side:g}"
    tell = "give the true one with --voxel-size"
    if own in _UNKNOWN_PIXELS:
        return side, [f"{both}; took {side:g}, since programs write {own:g} for none"]
    factor = own / side
    if 1.5 < factor < _LARGEST_BINNING and abs(factor - round(factor)) < 0.02:
        return own, [
            f"{both}; took {own:g}: the stack was binned by {round(factor)} after it"
        ]
    return own, [f"{both}; took {own:g}; {tell}"]


def angles(
    header: np.ndarray | None, side: np.ndarray, name: str, *, acquisition: bool
) -> tuple[np.ndarray, list[str]]:
    """Angles of a side file, compared with those of the image file.

    The same numbers in another order mean a stack that was sorted after an .mdoc was
    written: the header, which was sorted with it, is right.
    """
    if header is None or header.shape != side.shape:
        return side, []
    if np.abs(header - side).max() <= _SAME_ANGLE_DEG:
        return side, []
    if np.abs(np.sort(header) - np.sort(side)).max() <= _SAME_ANGLE_DEG:
        if acquisition:
            return header, [
                f"{name}: the .mdoc has the angles of the header in another order "
                "(that of acquisition); took the header's, the stack was sorted"
            ]
        return side, [
            f"{name}: the header has these angles in another order; took the given ones"
        ]
    if acquisition:
        return side, [f"{name}: angles of the header and of the .mdoc differ"]
    return side, []


def axis(axis_deg: float | None, tilt_axis: str, name: str) -> list[str]:
    """A word when metadata has the tilt axis elsewhere than it is assumed."""
    if axis_deg is None:
        return []
    assumed = 0.0 if tilt_axis == "y" else -90.0
    away = (axis_deg - assumed + 90) % 180 - 90
    if abs(away) <= _AXIS_TOLERANCE_DEG:
        return []
    hint = f"pass --axis-angle {axis_deg:g} to turn them, or an --alignment"
    if tilt_axis == "y" and abs(abs(away) - 90) <= _AXIS_TOLERANCE_DEG:
        hint += ", or --tilt-axis x"
    return [
        f"{name}: the .mdoc has the tilt axis {axis_deg:g} degrees from y, the images "
        f"are taken as turned to {tilt_axis}; {hint}"
    ]


def some_tilt(degrees: np.ndarray, name: str) -> list[str]:
    """Refuses angles that are all the same; a word about very few tilts."""
    if degrees.size > 1 and np.ptp(degrees) == 0:
        raise gate.bad_input(
            f"{name}: angles",
            "tilts at different angles",
            f"all {degrees.size} at {degrees[0]:g} degrees: no tilt, no depth",
            "pass the .rawtlt or .tlt of this series (--angles)",
        )
    if degrees.size == 1:
        return [f"{name}: a single tilt holds no depth; the volume is the prior's"]
    if degrees.size < _FEW_TILTS:
        return [
            f"{name}: only {degrees.size} tilts over {np.ptp(degrees):g} degrees; most "
            "of the depth is the prior's"
        ]
    return []


def order_of_axes(stack: np.ndarray, name: str) -> list[str]:
    """A word when rows behave like tilts: a stack of sinograms [y, tilt, x].

    The sum over x of a tilt series depends on y and hardly on the angle.  Where as many
    rows as tilts hide an exchange of the two, the dependence is the other way round.
    """
    count, rows, _ = stack.shape
    if count != rows or count < _FEW_TILTS:
        return []
    sums = stack.sum(axis=2, dtype=np.float64)
    along_tilts = float(np.var(sums, axis=0).mean())
    along_rows = float(np.var(sums, axis=1).mean())
    if along_tilts <= _SINOGRAM_RATIO * along_rows:
        return []
    return [
        f"{name}: rows look like tilts and tilts like rows: a stack of sinograms "
        "[y, tilt, x]? Exchange the first two axes"
    ]
