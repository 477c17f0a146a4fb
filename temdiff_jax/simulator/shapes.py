"""Building blocks of the phantoms: places, soft edges, smooth fields and grain.

Everything here works on `Points`, a tuple of the z, x and y coordinates in voxels
relative to the centre of the volume; its members broadcast together, so that the
same function serves a whole grid and a short list of places.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from temdiff_jax import errors

Points = tuple[Array, Array, Array]
Triple = Sequence[Array] | Array

Shape = tuple[int, int, int]
Phantom = Callable[[Array, Shape], Array]

MIN_EXTENT = 8

# A logistic edge rises from 10 % to 90 % over 4.4 scales: about one voxel.
EDGE_SCALE = 0.25
# Farther than any place, and a number that sums and products keep finite.
FAR = 1.0e9


def check_shape(shape: Shape) -> None:
    """Raises `InputError` unless the shape is three extents of 8 voxels or more."""
    if len(shape) != 3 or min(shape) < MIN_EXTENT:
        raise errors.InputError(
            f"phantom is too small: expected three extents (nz, nx, ny) of at least "
            f"{MIN_EXTENT}, got {tuple(shape)}; ask for a larger volume"
        )


def phantom(function: Phantom) -> Phantom:
    """Compiles a phantom for a static shape, which it checks while tracing."""

    @functools.partial(jax.jit, static_argnames="shape")
    @functools.wraps(function)
    def compiled(key: Array, shape: Shape) -> Array:
        check_shape(shape)
        return jnp.clip(function(key, shape), 0.0, 1.0)

    return compiled


def grid(shape: Shape) -> Points:
    """Voxel coordinates of a core volume, relative to its centre (n - 1) / 2.

    Args:
        shape: extents (nz, nx, ny).

    Returns:
        z [nz, 1, 1], x [1, nx, 1] and y [1, 1, ny], float32, in voxels.
    """
    z, x, y = (jnp.arange(n, dtype=jnp.float32) - (n - 1) / 2 for n in shape)
    return z[:, None, None], x[None, :, None], y[None, None, :]


def columns(places: Array) -> Points:
    """Splits places [n, (z, x, y)] into `Points` of shape [n] each."""
    return places[:, 0], places[:, 1], places[:, 2]


class Draws:
    """Random numbers of one draw, handed out in the order of the calls.

    Every call of `jax.random` adds a whole hash to the program, and the dozens that a
    phantom needs would take most of the time to compile it; this makes one.

    Args:
        key: random key.
        size: how many uniform numbers there are.
    """

    def __init__(self, key: Array, size: int = 2048) -> None:
        self._pool = jax.random.uniform(key, (size,), jnp.float32)
        self._taken = 0

    def uniform(
        self, low: Array | float, high: Array | float, shape: tuple[int, ...] = ()
    ) -> Array:
        """Uniform float32 numbers in [low, high) of the given shape."""
        start, self._taken = self._taken, self._taken + math.prod(shape)
        if self._taken > self._pool.size:
            raise ValueError(
                f"random numbers ran out: expected at most {self._pool.size}, got "
                f"requests for {self._taken}; raise the size of the draw"
            )
        numbers = self._pool[start : self._taken].reshape(shape)
        return low + (high - low) * numbers

    def integers(self, low: int, high: int, count: int) -> Array:
        """Uniform integers [count], int32, in [low, high)."""
        numbers = self.uniform(low, high, (count,))
        return jnp.clip(jnp.floor(numbers), low, high - 1).astype(jnp.int32)

    def normal_pairs(self, shape: tuple[int, ...]) -> tuple[Array, Array]:
        """Two independent arrays of standard normal numbers (Box and Muller 1958)."""
        length = jnp.sqrt(-2.0 * jnp.log1p(-self.uniform(0.0, 1.0, shape)))
        angle = self.uniform(0.0, 2.0 * math.pi, shape)
        return length * jnp.cos(angle), length * jnp.sin(angle)

    def directions(self, count: int) -> Array:
        """Unit vectors [count, (z, x, y)], uniform on the sphere."""
        z, angle = self.uniform(-1.0, 1.0, (count,)), self.uniform(0.0, 1.0, (count,))
        ring, angle = jnp.sqrt(jnp.maximum(1.0 - z**2, 0.0)), 2.0 * math.pi * angle
        return jnp.stack([z, ring * jnp.cos(angle), ring * jnp.sin(angle)], axis=-1)

    def places(self, shape: Shape, count: int, margin: float = 0.0) -> Array:
        """Places [count, (z, x, y)] in the volume grown by `margin` voxels."""
        half = jnp.asarray([(n - 1) / 2 for n in shape], jnp.float32)
        half = jnp.maximum(half + margin, 0.0)
        return half * self.uniform(-1.0, 1.0, (count, 3))


def start(key: Array) -> tuple[Draws, Array]:
    """The numbers of a phantom and the key of its grain."""
    draws_key, grain_key = jax.random.split(key)
    return Draws(draws_key), grain_key


def frames_along(draws: Draws, first: Array) -> Array:
    """Orthonormal frames [n, 3, (z, x, y)] whose first row is `first` [n, 3].

    The turn about the first row is random.
    """
    second = jnp.cross(first, draws.directions(first.shape[0]))
    second = second / (jnp.linalg.norm(second, axis=-1, keepdims=True) + 1e-6)
    return jnp.stack([first, second, jnp.cross(first, second)], axis=-2)


def dot(left: Triple, right: Triple) -> Array:
    """Scalar product of two triples, whose members broadcast."""
    return left[0] * right[0] + left[1] * right[1] + left[2] * right[2]


def minus(points: Points, centre: Triple) -> Points:
    """Offsets of points from a place (z, x, y), which may differ per voxel."""
    return points[0] - centre[0], points[1] - centre[1], points[2] - centre[2]


def inside(distance: Array, scale: float = EDGE_SCALE) -> Array:
    """Soft indicator of a body: 1 where the signed distance (voxels) is negative."""
    return jax.nn.sigmoid(-distance / scale)


def band(distance: Array, half_width: Array | float) -> Array:
    """Soft indicator of the sheet |distance| < half_width, both in voxels."""
    return inside(jnp.abs(distance) - half_width)


def blend(background: Array, value: Array | float, mask: Array) -> Array:
    """Paints `value` over `background` where the soft mask is 1."""
    return background + mask * (value - background)


class Fields(NamedTuple):
    """K smooth random fields as sums of the same M plane waves.

    Attributes:
        waves: wave vectors [M, (z, x, y)] in radians per voxel.
        cosines: amplitudes [K, M] of the cosines.
        sines: amplitudes [K, M] of the sines.
    """

    waves: Array
    cosines: Array
    sines: Array


def draw_fields(
    draws: Draws, count: int, wavelength: Array | float, modes: int = 14
) -> Fields:
    """Draws independent fields of zero mean and unit variance.

    With Gaussian amplitudes each field is, given the wave vectors, a stationary
    Gaussian field; a few modes suffice for texture at one length scale.

    Args:
        draws: where random numbers come from.
        count: number of fields K.
        wavelength: middle wavelength in voxels; modes spread by +-40 % about it.
        modes: number of plane waves M.
    """
    spread = draws.uniform(0.6, 1.4, (modes, 1))
    waves = draws.directions(modes) * (spread * 2 * math.pi / wavelength)
    cosines, sines = draws.normal_pairs((count, modes))
    amplitude = 1.0 / math.sqrt(modes)
    return Fields(waves, amplitude * cosines, amplitude * sines)


def with_gradient(fields: Fields, index: int) -> Fields:
    """Appends the z, x and y derivatives of one field as three more fields."""
    slopes = fields.waves.T
    return Fields(
        fields.waves,
        jnp.concatenate([fields.cosines, slopes * fields.sines[index]]),
        jnp.concatenate([fields.sines, -slopes * fields.cosines[index]]),
    )


def fields_on_grid(fields: Fields, shape: Shape) -> list[Array]:
    """Evaluates fields on a volume grid, as K volumes [z, x, y].

    The cosine of a sum is separable, so one matrix product per volume replaces a
    cosine per voxel and wave.
    """
    phases = [
        p.reshape(-1, 1) * fields.waves[:, axis] for axis, p in enumerate(grid(shape))
    ]
    (cos_z, cos_x, cos_y), (sin_z, sin_x, sin_y) = (
        [wave(phase) for phase in phases] for wave in (jnp.cos, jnp.sin)
    )
    cos_z, sin_z = cos_z[:, None, :], sin_z[:, None, :]
    cos_zx = (cos_z * cos_x - sin_z * sin_x).reshape(-1, cos_x.shape[-1])
    sin_zx = (sin_z * cos_x + cos_z * sin_x).reshape(-1, cos_x.shape[-1])
    left = jnp.concatenate([cos_zx, sin_zx], axis=1)
    cos_y, sin_y = cos_y.T, sin_y.T
    high = jax.lax.Precision.HIGHEST
    volumes = []
    for cosine, sine in zip(fields.cosines, fields.sines, strict=True):
        a, b = cosine[:, None], sine[:, None]
        right = jnp.concatenate([a * cos_y + b * sin_y, b * cos_y - a * sin_y])
        volumes.append(jnp.matmul(left, right, precision=high).reshape(shape))
    return volumes


def fields_at(fields: Fields, places: Array) -> Array:
    """Evaluates fields at places [n, (z, x, y)], as [K, n]."""
    high = jax.lax.Precision.HIGHEST
    phase = jnp.matmul(fields.waves, places.T, precision=high)
    return jnp.matmul(fields.cosines, jnp.cos(phase), precision=high) + jnp.matmul(
        fields.sines, jnp.sin(phase), precision=high
    )


def stored(*volumes: Array) -> tuple[Array, ...]:
    """The finite arrays themselves, which XLA computes once and keeps.

    XLA:CPU repeats a chain of cheap operations in every fused loop that reads its
    result, and gives up vector instructions for a loop with a table look-up in it.
    The state of a loop is always stored, so the arrays go through a loop of no
    turns, whose condition only the data decide (measured: up to ten times faster).
    `lax.optimization_barrier` does not help: it is gone before fusion.
    """
    first = volumes[0]
    never = jnp.abs(first[(0,) * first.ndim]) > 2.0 * FAR
    state = jax.lax.while_loop(
        lambda state: state[0],
        lambda state: (jnp.zeros_like(state[0]), *(-v for v in state[1:])),
        (never, *volumes),
    )
    return state[1:]


def grain(key: Array, shape: Shape, reach: Array | float) -> Array:
    """Noise [z, x, y] of zero mean and unit variance, correlated over 1-2 voxels.

    Bytes smoothed along the three axes are nearly Gaussian and cost a quarter of
    the random bits of normal numbers.

    Args:
        key: random key.
        shape: extents (nz, nx, ny).
        reach: weight of each neighbour along an axis, 0 (white) to 1.
    """
    raw = jax.random.bits(key, shape, jnp.uint8).astype(jnp.float32)
    noise = (raw - 127.5) / math.sqrt((256**2 - 1) / 12)
    for axis in range(3):
        neighbours = jnp.roll(noise, 1, axis) + jnp.roll(noise, -1, axis)
        noise = (noise + reach * neighbours) / jnp.sqrt(1.0 + 2.0 * reach**2)
    return stored(noise)[0]
