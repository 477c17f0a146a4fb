"""Bodies whose line integrals are known in closed form, to measure a projector by.

A body is a density in its own frame, in which it is as round as it can be: with
``q = axes (r - centre) / semi_axes`` componentwise and ``T = |q|^2``,

    ellipsoid            amplitude where T <= 1
    cone                 amplitude (1 - sqrt(T)) where T <= 1
    paraboloid           amplitude sqrt(1 - T) where T <= 1
    gaussian             amplitude exp(-4 ln(2) T): semi_axes are widths at half height
    elliptical_cylinder  amplitude where q0^2 + q1^2 <= 1 and |q2| <= 1
    cuboid               amplitude where |q0|, |q1|, |q2| <= 1

These are the kinds of the phantom tables of TomoPhantom and mean what its volumes
show (Kazantsev et al., SoftwareX 7 (2018) 150), which for a cuboid are full
extents: its semi-axes are half the table's numbers.

Along a ray ``q = p + s v`` the first four depend on ``A s^2 + m`` alone, with
``A = |v|^2`` and ``m`` the smallest T on the ray, so that, with ``h = sqrt(1 - m)``,

    ellipsoid    2 h / sqrt(A)
    cone         (h - m asinh(h / sqrt(m))) / sqrt(A)
    paraboloid   pi (1 - m) / (2 sqrt(A))
    gaussian     sqrt(pi / (4 ln(2) A)) exp(-4 ln(2) m)

and the others are the length of one interval.  Rays and axes are those of
docs/conventions.md; lengths are in any one unit, arrays NumPy float64.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from temdiff_jax import errors

KINDS = (
    "ellipsoid",
    "cone",
    "paraboloid",
    "gaussian",
    "elliptical_cylinder",
    "cuboid",
)
_DECAY = 4.0 * math.log(2.0)
# Beyond this T a Gaussian counts as zero when it is put on a grid: 2^-16 of its top.
_GAUSSIAN_REACH = 4.0

Array = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Body:
    """One density.

    Attributes:
        kind: one of `KINDS`.
        amplitude: density at the centre.
        centre: (x, y, z) from the volume's centre.
        semi_axes: lengths along the axes of the body, in the unit of the centre.
        axes: rows are the body's axes in (x, y, z), orthonormal; `None` is no turn.

    Raises:
        InputError: an unknown kind, or a semi-axis that is not positive.
    """

    kind: str
    amplitude: float
    centre: tuple[float, float, float]
    semi_axes: tuple[float, float, float]
    axes: Array | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise errors.InputError(
                f"body: expected a kind among {', '.join(KINDS)}, got {self.kind!r}; "
                "correct its name"
            )
        if not min(self.semi_axes) > 0:
            raise errors.InputError(
                f"body: expected positive semi-axes, got {self.semi_axes}; correct "
                "the sizes"
            )

    def _frame(self) -> Array:
        """Matrix from (x, y, z) to q, so that a turn and the division are one."""
        axes = np.eye(3) if self.axes is None else self.axes
        return axes / np.asarray(self.semi_axes)[:, None]

    def density(self, x: npt.ArrayLike, y: npt.ArrayLike, z: npt.ArrayLike) -> Array:
        """Density at places whose coordinates broadcast against each other."""
        frame = self._frame()
        offsets = [np.asarray(a) - c for a, c in zip((x, y, z), self.centre)]
        q = [sum(row[i] * offsets[i] for i in range(3)) for row in frame]
        if self.kind == "cuboid":
            inside = np.maximum(np.maximum(np.abs(q[0]), np.abs(q[1])), np.abs(q[2]))
            return self.amplitude * (inside <= 1.0)
        if self.kind == "elliptical_cylinder":
            inside = np.maximum(q[0] ** 2 + q[1] ** 2, np.abs(q[2]))
            return self.amplitude * (inside <= 1.0)
        square = q[0] ** 2 + q[1] ** 2 + q[2] ** 2
        if self.kind == "gaussian":
            return self.amplitude * np.exp(-_DECAY * square)
        depth = np.maximum(1.0 - square, 0.0)
        if self.kind == "ellipsoid":
            return self.amplitude * (square <= 1.0)
        if self.kind == "paraboloid":
            return self.amplitude * np.sqrt(depth)
        return self.amplitude * np.maximum(1.0 - np.sqrt(square), 0.0)

    def line_integral(
        self, angle_rad: float, u: npt.ArrayLike, y: npt.ArrayLike
    ) -> Array:
        """Integral along the rays of one tilt.

        Args:
            angle_rad: tilt, radians.
            u: detector places across the tilt axis, from its centre.
            y: places along it; broadcasts against u.

        Returns:
            amplitude x length, float64, in the broadcast shape of u and y.
        """
        u, y = np.broadcast_arrays(np.asarray(u, float), np.asarray(y, float))
        cos, sin = math.cos(angle_rad), math.sin(angle_rad)
        frame = self._frame()
        # The point of the ray beside the axis, and the way of the beam.
        start = np.stack([u * cos, y, u * sin], axis=-1) - np.asarray(self.centre)
        p, v = start @ frame.T, frame @ np.array([-sin, 0.0, cos])
        if self.kind in ("cuboid", "elliptical_cylinder"):
            return self.amplitude * _interval(p, v, self.kind == "cuboid")
        square = float(v @ v)
        along = p @ v
        lowest = np.maximum(np.sum(p**2, axis=-1) - along**2 / square, 0.0)
        if self.kind == "gaussian":
            top = math.sqrt(math.pi / (_DECAY * square))
            return self.amplitude * top * np.exp(-_DECAY * lowest)
        half = np.sqrt(np.maximum(1.0 - lowest, 0.0))
        if self.kind == "ellipsoid":
            length = 2.0 * half
        elif self.kind == "paraboloid":
            length = 0.5 * math.pi * half**2
        else:
            # m asinh(h / sqrt(m)) tends to 0 with m; 1e-300 keeps the division finite.
            root = np.sqrt(np.maximum(lowest, 1e-300))
            length = np.where(lowest < 1, half - lowest * np.arcsinh(half / root), 0.0)
        return self.amplitude * length / math.sqrt(square)

    def reach(self) -> Array:
        """Half extents [(x, y, z)] of a box around the centre that holds the body."""
        axes = np.eye(3) if self.axes is None else self.axes
        scaled = axes * np.asarray(self.semi_axes)[:, None]
        if self.kind == "cuboid":
            return np.sum(np.abs(scaled), axis=0)
        if self.kind == "elliptical_cylinder":
            return np.sqrt(np.sum(scaled[:2] ** 2, axis=0)) + np.abs(scaled[2])
        factor = math.sqrt(_GAUSSIAN_REACH) if self.kind == "gaussian" else 1.0
        return factor * np.sqrt(np.sum(scaled**2, axis=0))


def _interval(p: Array, v: Array, is_cuboid: bool) -> Array:
    """Length in s of the part of p + s v inside a unit cuboid or cylinder."""
    low = np.full(p.shape[:-1], -np.inf)
    high = np.full(p.shape[:-1], np.inf)

    def cut(first: Array, last: Array) -> None:
        np.maximum(low, first, out=low)
        np.minimum(high, last, out=high)

    for axis in range(3) if is_cuboid else (2,):
        if abs(v[axis]) > 1e-12:
            ends = (np.array([[-1.0], [1.0]]) - p[..., axis].ravel()) / v[axis]
            ends = np.sort(ends, axis=0).reshape(2, *low.shape)
            cut(ends[0], ends[1])
        else:
            inside = np.abs(p[..., axis]) <= 1.0
            cut(np.where(inside, -np.inf, np.inf), np.where(inside, np.inf, -np.inf))
    if not is_cuboid:
        square = float(v[:2] @ v[:2])
        gap = 1.0 - np.sum(p[..., :2] ** 2, axis=-1)
        if square > 1e-24:
            along = p[..., :2] @ v[:2]
            root = np.sqrt(np.maximum(along**2 + square * gap, 0.0))
            cut((-along - root) / square, (-along + root) / square)
        else:
            cut(
                np.where(gap >= 0, -np.inf, np.inf), np.where(gap >= 0, np.inf, -np.inf)
            )
    return np.maximum(high - low, 0.0)


def _check_supersample(supersample: int) -> None:
    if supersample < 1:
        raise errors.InputError(
            f"analytic: expected supersample >= 1, got {supersample}; 3 is usual"
        )


def places(count: int, pitch: float) -> Array:
    """Centres [count] of voxels or pixels about the middle."""
    return np.asarray((np.arange(count) - (count - 1) / 2) * pitch, np.float64)


def tilts(
    bodies: Iterable[Body],
    angles_deg: npt.ArrayLike,
    shape_yx: tuple[int, int],
    pitch: float = 1.0,
    supersample: int = 1,
) -> Array:
    """Exact tilts [n_tilts, y, x].

    Args:
        bodies: densities, which add up.
        angles_deg: [n_tilts] degrees.
        shape_yx: detector rows and columns.
        pitch: of pixels, in the unit of the bodies.
        supersample: 1 takes the ray through the centre of each pixel, more the mean of
            supersample**2 rays spread over it.

    Returns:
        amplitude x length; divide by the pitch for the unit of
        `temdiff_jax.projector.project`, intensity x voxel.

    Raises:
        InputError: supersample below one.
    """
    _check_supersample(supersample)
    angles = np.atleast_1d(np.asarray(angles_deg, float))
    within = places(supersample, pitch / supersample)
    y, u = ((places(n, pitch)[:, None] + within).ravel() for n in shape_yx)
    out = np.zeros((len(angles), *shape_yx))
    fine = (shape_yx[0], supersample, shape_yx[1], supersample)
    for body in bodies:
        for image, angle in zip(out, np.deg2rad(angles)):
            rays = body.line_integral(float(angle), u[None, :], y[:, None])
            image += rays.reshape(fine).mean(axis=(1, 3))
    return out


def volume(
    bodies: Iterable[Body],
    shape_zyx: tuple[int, int, int],
    pitch: float = 1.0,
    supersample: int = 3,
) -> Array:
    """Means of voxels [z, y, x], each from supersample**3 places inside it.

    A Gaussian is cut off where it has fallen to 2^-16 of its top.

    Args:
        bodies: densities, which add up.
        shape_zyx: extents, voxels.
        pitch: of voxels, in the unit of the bodies.
        supersample: places per axis; 1 takes the density at the voxel's centre.

    Raises:
        InputError: supersample below one.
    """
    _check_supersample(supersample)
    out = np.zeros(shape_zyx)
    axes = [places(count, pitch) for count in shape_zyx]
    within = places(supersample, pitch / supersample)
    for body in bodies:
        # Only the voxels of the box around the body are visited.
        boxes = []
        for axis, centre, reach in zip(axes, body.centre[::-1], body.reach()[::-1]):
            first, last = np.searchsorted(
                axis, [centre - reach - pitch, centre + reach + pitch]
            )
            boxes.append(slice(int(first), int(last)))
        fine = [(axis[box][:, None] + within).ravel() for axis, box in zip(axes, boxes)]
        # One layer of voxels at a time, since the finer grid is much larger.
        for layer in range(boxes[0].stop - boxes[0].start):
            z = fine[0][layer * supersample : (layer + 1) * supersample]
            values = body.density(
                fine[2][None, None, :], fine[1][None, :, None], z[:, None, None]
            )
            rows, columns = (len(line) // supersample for line in fine[1:])
            shape = (supersample, rows, supersample, columns, supersample)
            means = values.reshape(shape).mean(axis=(0, 2, 4))
            out[boxes[0].start + layer, boxes[1], boxes[2]] += means
    return out
