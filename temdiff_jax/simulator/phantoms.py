"""Random specimens with known truth, from scratch in JAX.

Each phantom is a pure function of a typed key and a static core shape (nz, nx, ny)
and returns a float32 volume [z, x, y] in [0, 1]: the stain or mass density, 0 for
vacuum, resin or unstained matter and 1 for the heaviest. All share one signature, so
that `jax.lax.switch` picks among them. Sizes are in voxels and drawn over the range
that FIB-SEM of stained tissue (4-10 nm voxels) and STEM of needles and lamellae show.

Under `jax.vmap` a batched switch evaluates every branch; a batch of
`random_phantom` is therefore cheaper through `jax.lax.map`.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from temdiff_jax import errors
from temdiff_jax.simulator import materials, shapes, specimens

PHANTOMS: tuple[tuple[str, shapes.Phantom], ...] = (
    ("tissue", specimens.tissue),
    ("vesicles", specimens.vesicles),
    ("particles", materials.particles),
    ("needle", materials.needle),
    ("lamella", materials.lamella),
)
DEFAULT_PROBABILITIES: tuple[float, ...] = (0.5, 0.1, 0.15, 0.15, 0.1)


@functools.partial(jax.jit, static_argnames=("shape", "probabilities"))
def random_phantom(
    key: Array,
    shape: shapes.Shape,
    probabilities: tuple[float, ...] = DEFAULT_PROBABILITIES,
) -> Array:
    """Draws one phantom of a random kind.

    Args:
        key: typed key.
        shape: (nz, nx, ny), static.
        probabilities: relative weight of each of `PHANTOMS`, static.

    Returns:
        density [z, x, y], float32 in [0, 1].

    Raises:
        InputError: probabilities do not match `PHANTOMS`, are negative or all zero.
    """
    shapes.check_shape(shape)
    if len(probabilities) != len(PHANTOMS) or min(probabilities) < 0:
        raise errors.InputError(
            f"phantom probabilities are wrong: expected {len(PHANTOMS)} numbers >= 0 "
            f"for {[name for name, _ in PHANTOMS]}, got {probabilities}; give one each"
        )
    if sum(probabilities) <= 0:
        raise errors.InputError(
            "phantom probabilities are wrong: expected a positive sum, got "
            f"{probabilities}; make at least one of them positive"
        )
    k_kind, k_draw = jax.random.split(key)
    weights = jnp.asarray(probabilities, jnp.float32)
    kind = jax.random.categorical(k_kind, jnp.log(weights))
    branches = [lambda key, draw=draw: draw(key, shape) for _, draw in PHANTOMS]
    return jax.lax.switch(kind, branches, k_draw)


@functools.partial(jax.jit, static_argnames=("shape", "supersample"))
def ball(
    shape: shapes.Shape,
    centre: Sequence[float] = (0.0, 0.0, 0.0),
    radius: float = 8.0,
    value: float = 1.0,
    supersample: int = 4,
) -> Array:
    """A uniform ball, each voxel the mean of supersample**3 sub-voxels.

    The line integral at tilt theta, at detector place (u, y) from the centre, is
    `2 * value * sqrt(max(radius**2 - (u - u0)**2 - (y - y0)**2, 0))` voxels with
    `u0 = x0 cos(theta) + z0 sin(theta)`; the volume is `4/3 pi radius**3`.

    Args:
        shape: (nz, nx, ny).
        centre: (z0, x0, y0) in voxels from the volume's centre (n - 1) / 2.
        radius: voxels.
        value: density inside.
        supersample: sub-voxels per axis.

    Returns:
        density [z, x, y], float32.
    """
    if supersample < 1:
        raise errors.InputError(
            f"ball cannot be sampled: expected supersample >= 1, got {supersample}; "
            "4 brings the volume of a ball of 5 voxels radius within 0.5 %"
        )
    offset = [p - c for p, c in zip(shapes.grid(shape), centre, strict=True)]

    def add(number: Array, filled: Array) -> Array:
        digits = (number, number // supersample, number // supersample**2)
        step = [(d % supersample + 0.5) / supersample - 0.5 for d in digits]
        square = sum((o + s) ** 2 for o, s in zip(offset, step, strict=True))
        return filled + (square <= radius**2)

    empty = jnp.zeros(shape, jnp.float32)
    return value * jax.lax.fori_loop(0, supersample**3, add, empty) / supersample**3
