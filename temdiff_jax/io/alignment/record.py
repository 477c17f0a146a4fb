"""Where the tilts of a series lie: the package's one statement, checked.

Content at r, in voxels from the volume's centre (n - 1) / 2, appears at p, in pixels
from the image's centre (n - 1) / 2:

    p = t + m Rz(psi) ((a, 0) + [Ry(theta) Rx(chi) r] without z)

The modules beside this one convert what other programs write to it;
`projector.motion` images a volume through it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from temdiff_jax.io import gate
from temdiff_jax.io.alignment import angles as tilt_angles

_SAME_DEG = 1e-6


@dataclasses.dataclass(frozen=True)
class Alignment:
    """How the tilts of a series lie, in the convention of this package.

    Attributes:
      angles_deg: theta, [n_tilts] float64, within [-90, 90].
      shifts_px: t as (u, v), [n_tilts, 2]: added to where content appears.
      rotations_deg: psi, [n_tilts], positive turns +x towards +y.
      magnifications: m, [n_tilts], 1 is none.
      axis_offset_px: a, the tilt axis lies at column (n - 1) / 2 + a once aligned.
      x_tilt_deg: chi, right-handed about +x before the tilt.
    """

    angles_deg: np.ndarray
    shifts_px: np.ndarray
    rotations_deg: np.ndarray
    magnifications: np.ndarray
    axis_offset_px: float = 0.0
    x_tilt_deg: float = 0.0

    def __post_init__(self) -> None:
        """Refuses what is not one finite number a tilt."""
        angles = per_tilt("angles_deg", self.angles_deg, None)
        count = len(angles)
        tilt_angles.check_range(angles, "alignment")
        checked = {
            "angles_deg": angles,
            "shifts_px": per_tilt("shifts_px", self.shifts_px, count, 2),
            "rotations_deg": per_tilt("rotations_deg", self.rotations_deg, count),
            "magnifications": per_tilt("magnifications", self.magnifications, count),
            "axis_offset_px": number("axis_offset_px", self.axis_offset_px),
            "x_tilt_deg": number("x_tilt_deg", self.x_tilt_deg),
        }
        if checked["magnifications"].min() <= 0:
            bad = int(np.argmin(checked["magnifications"]))
            raise gate.bad_input(
                f"alignment: magnification of tilt {bad}",
                "a positive number",
                f"{checked['magnifications'][bad]:g}",
                "correct it; 1 is none",
            )
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def is_aligned(self) -> bool:
        """Whether nothing is left to do: no shift, turn, magnification or x-tilt."""
        fields = (self.shifts_px, self.rotations_deg, self.magnifications - 1)
        still = not any(np.any(field) for field in fields)
        return still and self.axis_offset_px == 0 and self.x_tilt_deg == 0

    def motion_fields(self) -> dict[str, Any]:
        """Arguments of ``projector.motion.motion_from_degrees``, JSON-ready."""
        return {
            "shifts_px": self.shifts_px.tolist(),
            "rotations_deg": self.rotations_deg.tolist(),
            "magnifications": self.magnifications.tolist(),
            "axis_offset_px": self.axis_offset_px,
            # Without an x-tilt the projector leaves a resampling out.
            "x_tilt_deg": self.x_tilt_deg if self.x_tilt_deg else None,
        }


def positions(alignment: Alignment, points: ArrayLike) -> np.ndarray:
    """Where points of the volume appear: the formula itself.

    Args:
      alignment: Of the series.
      points: r as (x, y, z), [k, 3] voxels from the volume's centre.

    Returns:
      p as (u, v), [n_tilts, k, 2] pixels from the centre of the images.
    """
    seen = _seen(alignment, points)
    seen[..., 0] += alignment.axis_offset_px
    return alignment.shifts_px[:, None] + in_plane(alignment, seen)


def binned(alignment: Alignment, factor: int) -> Alignment:
    """The alignment of images that `bin_stack` has made, and of a volume as coarse.

    Args:
      alignment: In pixels of the images before.
      factor: Pixels per block.
    """
    if isinstance(factor, bool) or int(factor) != factor or factor < 1:
        raise gate.bad_input("binning", "a whole number from 1", factor, "choose one")
    return dataclasses.replace(
        alignment,
        shifts_px=alignment.shifts_px / factor,
        axis_offset_px=alignment.axis_offset_px / factor,
    )


def upright(alignment: Alignment, tilts: np.ndarray) -> tuple[Alignment, np.ndarray]:
    """Turns all images by quarters, so that the tilt axis runs nearly along y.

    Pixels are only reordered.  The projector's in-plane motion reaches 45 degrees, and
    many microscopes have their axis near 90.

    Args:
      alignment: Of the series.
      tilts: [n_tilts, y, x].

    Returns:
      The alignment, with every rotation between -45 and 45 degrees, and the images.

    Raises:
      InputError: rotations on both sides of a diagonal, images of another number.
    """
    tilts = np.asarray(tilts)
    count = len(alignment.angles_deg)
    if tilts.ndim != 3 or tilts.shape[0] != count:
        raise gate.bad_input(
            "upright: tilts",
            f"[n_tilts, y, x] with {count} tilts",
            f"shape {list(tilts.shape)}",
            "pass the images of this alignment",
        )
    turns = quarters(alignment)
    if turns is None:
        raise gate.bad_input(
            "upright: rotations",
            "all within 45 degrees of one quarter",
            f"{alignment.rotations_deg.min():g} to {alignment.rotations_deg.max():g}",
            "resample the images (io.alignment.inplane.apply_inplane)",
        )
    turned = (alignment.rotations_deg - 90 * turns + 180) % 360 - 180
    u, v = alignment.shifts_px.T
    c, s = ((1, 0), (0, 1), (-1, 0), (0, -1))[turns % 4]
    shifts = np.stack([c * u + s * v, c * v - s * u], axis=-1)
    moved = dataclasses.replace(alignment, shifts_px=shifts, rotations_deg=turned)
    images = np.ascontiguousarray(np.rot90(tilts, turns, axes=(1, 2)))
    return moved, images


def quarters(alignment: Alignment) -> int | None:
    """Quarter turns nearest to all rotations; None where they lie about a diagonal."""
    # The mean direction, as an angle of a vector: 179 and -179 degrees are close.
    cos, sin = cos_sin(alignment.rotations_deg)
    turns = int(np.rint(np.rad2deg(np.arctan2(sin.mean(), cos.mean())) / 90))
    rest = (alignment.rotations_deg - 90 * turns + 180) % 360 - 180
    return None if np.abs(rest).max() > 45 else turns


def taken(alignment: Alignment, rows: ArrayLike) -> Alignment:
    """The alignment of some tilts, in the order of `rows`."""
    at = np.asarray(rows, np.int64)
    return dataclasses.replace(
        alignment,
        angles_deg=alignment.angles_deg[at],
        shifts_px=alignment.shifts_px[at],
        rotations_deg=alignment.rotations_deg[at],
        magnifications=alignment.magnifications[at],
    )


def recentred(
    alignment: Alignment, image_gap: ArrayLike, volume_gap: ArrayLike
) -> Alignment:
    """The alignment with p moved by `image_gap` and r replaced by r + `volume_gap`."""
    seen = _seen(alignment, np.asarray(volume_gap)[None])
    moved = alignment.shifts_px + np.asarray(image_gap)
    moved = moved + in_plane(alignment, seen)[:, 0]
    return dataclasses.replace(alignment, shifts_px=moved)


def folded(alignment: Alignment) -> Alignment:
    """The alignment whose shifts hold the offset of the axis."""
    offset = in_plane(alignment, np.array([alignment.axis_offset_px, 0.0]))
    shifts = alignment.shifts_px + offset
    return dataclasses.replace(alignment, shifts_px=shifts, axis_offset_px=0.0)


def _seen(alignment: Alignment, points: ArrayLike) -> np.ndarray:
    """[Ry(theta) Rx(chi) r] without z: [n_tilts, k, 2] of points (x, y, z)."""
    x, y, z = np.moveaxis(np.asarray(points, np.float64), -1, 0)
    cos, sin = cos_sin(alignment.angles_deg[:, None])
    c, s = cos_sin(alignment.x_tilt_deg)
    u = x * cos + (y * s + z * c) * sin
    return np.stack([u, np.broadcast_to(y * c - z * s, u.shape)], axis=-1)


def in_plane(alignment: Alignment, vectors: np.ndarray) -> np.ndarray:
    """m Rz(psi) q of q as (u, v), [2] or [n_tilts, k, 2]."""
    extra = (1,) * (vectors.ndim - 2)
    cos, sin = cos_sin(alignment.rotations_deg.reshape(-1, *extra))
    m = alignment.magnifications.reshape(-1, *extra)
    u, v = vectors[..., 0], vectors[..., 1]
    return np.stack([m * (cos * u - sin * v), m * (sin * u + cos * v)], axis=-1)


def cos_sin(degrees: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine of degrees."""
    return np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))


def per_tilt(name: str, values: ArrayLike, count: int | None, *more: int) -> Any:
    """Finite float64 of shape [count, *more]; InputError with the first bad tilt."""
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise gate.bad_input(
            f"alignment: {name}", "numbers", error, "give one entry a tilt"
        ) from None
    wanted = (array.shape[0] if count is None and array.ndim else count, *more)
    if array.ndim == 0 or array.size == 0 or array.shape != wanted:
        raise gate.bad_input(
            f"alignment: {name}",
            f"shape {['n_tilts' if count is None else count, *more]}",
            f"{list(array.shape)}",
            "give one entry a tilt",
        )
    finite = np.isfinite(array).reshape(array.shape[0], -1).all(axis=1)
    if not finite.all():
        raise gate.bad_input(
            f"alignment: {name} of tilt {int(np.argmin(finite))}",
            "finite numbers",
            "NaN or Inf",
            "correct the file, or drop this tilt",
        )
    return array


def number(name: str, value: float) -> float:
    """A finite number, or an InputError that names it."""
    if not np.isfinite(value):
        raise gate.bad_input(
            f"alignment: {name}", "a finite number", value, "correct it"
        )
    return float(value)


def volume_extents(shape: Sequence[int]) -> tuple[int, ...]:
    """(z, y, x), checked."""
    return extents(shape, "volume_shape", 3)


def extents(shape: Sequence[int], name: str, count: int) -> tuple[int, ...]:
    """That many whole numbers of at least one, or an InputError."""
    found = tuple(int(n) for n in shape)
    if len(found) != count or min(found) < 1:
        raise gate.bad_input(
            name, f"{count} positive extents", list(found), "pass the array's shape"
        )
    return found


def pixel(value: float) -> float:
    """A positive length in Angstrom, or an InputError."""
    if not (np.isfinite(value) and value > 0):
        raise gate.bad_input(
            "pixel_size_angstrom", "a positive length", value, "pass the images' pixel"
        )
    return float(value)


def one_x_tilt(values: np.ndarray, name: str) -> float:
    """The x-tilt that all tilts share, or an InputError."""
    if np.ptp(values) > _SAME_DEG:
        raise gate.bad_input(
            name,
            "one x-tilt for the series",
            f"{values.min():g} to {values.max():g} degrees",
            "solve the alignment again with a single x-tilt",
        )
    return float(values.mean())


def refuse_magnification(alignment: Alignment, package: str) -> None:
    """Refuses magnifications for a package that has no word for them."""
    if np.abs(alignment.magnifications - 1).max() > _SAME_DEG:
        raise gate.bad_input(
            f"{package}: magnifications",
            "1 in every tilt",
            f"{alignment.magnifications.min():g} to {alignment.magnifications.max():g}",
            "rescale the images first",
        )
