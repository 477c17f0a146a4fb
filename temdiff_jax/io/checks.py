"""What every tilt series must satisfy before anything is computed from it."""

from __future__ import annotations

import math

import numpy as np

from temdiff_jax.io import gate

LARGEST_VALUE = 1e15
"""Sums of squares of what is larger leave the range of float32."""
_FILL_VALUE = -1e29  # AreTomo marks pixels without data with -1e30
_SAME_ANGLE_DEG = 1e-6
_LISTED = 5


def check_voxel(given: float | None) -> None:
    """Refuse a pixel pitch (Angstrom) that is not positive; None is unknown."""
    if given is not None and not (math.isfinite(given) and given > 0):
        raise gate.bad_input(
            "voxel_size_angstrom",
            "a positive length in Angstrom",
            given,
            "give the pixel size of the tilt images (--voxel-size)",
        )


def check_form(stack: np.ndarray, name: str) -> None:
    """Refuse anything but real [n_tilts, y, x]."""
    if stack.ndim != 3 or stack.size == 0:
        raise gate.bad_input(
            f"{name}: tilts",
            "[n_tilts, y, x] with no empty axis",
            f"shape {list(stack.shape)}",
            "pass a stack of images",
        )
    if stack.dtype.kind not in "biuf":
        raise gate.bad_input(
            f"{name}: tilts", "real numbers", f"dtype {stack.dtype}", "convert them"
        )


def check_counts(stack: np.ndarray, num_angles: int, what: object) -> None:
    """Refuse unequal numbers of images and angles, naming both."""
    if stack.shape[0] != num_angles:
        raise gate.bad_input(
            f"{what}: tilts and angles disagree",
            "one angle per tilt",
            f"tilts {list(stack.shape)} and {num_angles} angles",
            _axis_hint(stack.shape, num_angles),
        )


def _axis_hint(shape: tuple[int, ...], num_angles: int) -> str:
    """What to do when the angles are as many as another axis is long."""
    for axis, name in ((2, "last"), (1, "middle")):
        if len(shape) > axis and shape[axis] == num_angles:
            return f"the {name} axis has {num_angles}: move it to the front"
    return "pass the .tlt file of this series"


def order_by_angle(
    degrees: np.ndarray, angle_range: tuple[float, float] | None, name: str
) -> tuple[np.ndarray, list[str]]:
    """Indices that cut to the range and sort by angle."""
    keep = np.argsort(degrees, kind="stable")
    notes = []
    if not np.array_equal(keep, np.arange(degrees.size)):
        notes.append(f"{name}: tilts were not in order of angle; sorted")
    if angle_range is not None:
        low, high = (float(limit) for limit in angle_range)
        if not low <= high:
            raise gate.bad_input(
                "angle_range", "lowest, highest", f"{low:g}, {high:g}", "swap them"
            )
        inside = degrees[keep] >= low - _SAME_ANGLE_DEG
        inside &= degrees[keep] <= high + _SAME_ANGLE_DEG
        keep = keep[inside]
        if keep.size == 0:
            raise gate.bad_input(
                f"{name}: angle_range {low:g} to {high:g}",
                "at least one tilt inside",
                f"tilts from {degrees.min():g} to {degrees.max():g}",
                "widen the range",
            )
    ordered = degrees[keep]
    same = np.flatnonzero(np.diff(ordered) <= _SAME_ANGLE_DEG)
    if same.size:
        listed = ", ".join(f"{angle:g}" for angle in np.unique(ordered[same])[:_LISTED])
        notes.append(f"{name}: several tilts at {listed} degrees; all are used")
    return keep, notes


def check_values(
    stack: np.ndarray, degrees: np.ndarray, views: np.ndarray, name: str
) -> list[str]:
    """Refuse NaN, Inf and constant images; report fill values."""
    constant, filled = [], []
    for image, angle, view in zip(stack, degrees, views, strict=True):
        label = f"tilt {int(view)} ({angle:g} deg)"
        low, high = float(image.min()), float(image.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            bad = int(image.size - np.isfinite(image).sum())
            raise gate.bad_input(
                f"{name}: {label}",
                "finite values",
                f"NaN or Inf in {bad} of {image.size} pixels",
                "remove this tilt with its angle, or repair it",
            )
        if high > LARGEST_VALUE or (_FILL_VALUE < low < -LARGEST_VALUE):
            raise gate.bad_input(
                f"{name}: {label}",
                f"values up to {LARGEST_VALUE:g}",
                f"{high:g} to {low:g}",
                "rescale the tilts; their squares would not fit 32 bits",
            )
        if low == high:
            constant.append(label)
        elif low < _FILL_VALUE:
            filled.append(label)
    if constant:
        more = f" and {len(constant) - _LISTED} more" if len(constant) > _LISTED else ""
        raise gate.bad_input(
            name,
            "an image in every tilt",
            f"the same value in every pixel of {', '.join(constant[:_LISTED])}{more}",
            "remove these tilts with their angles",
        )
    if not filled:
        return []
    return [
        f"{name}: fill values below {_FILL_VALUE:g} in {', '.join(filled[:_LISTED])}; "
        "these pixels hold no data"
    ]
