"""The inverse problem of one tilt series as a value, and how solvers look at it.

    y = A x + n,   n ~ N(0, Sigma)

Every method is a function of a ``Problem``.  Those that know nothing of tilts take its
``measurement``: the same equation with the operator as two functions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.inverse.precision import Precision, as_precision, low_rank
from temdiff_jax.projector import backproject, placed, project, ray_lengths

# Voxel size whose logarithm a network is shown as 0.
UNIT_NM = 10.0


class Units(NamedTuple):
    """Affine map between input intensities and normalised ones, scalars.

    ``normalised = (intensity - mean) / contrast`` per voxel, hence
    ``(tilts - mean * ray_lengths) / contrast`` per ray.
    """

    mean: jax.Array
    contrast: jax.Array


class Inputs(NamedTuple):
    """What a network is shown of a series; volumes are wide and normalised.

    Attributes:
      tikhonov: Quadratic estimate ``[z, x, y]``.
      level: Standard deviation of the estimate over the field of view; the network
        sees volumes divided by it.
      coverage: How well each voxel is seen, ``[z, x, 1]`` in [0, 1].
      features: Scalars, see ``series.inputs.features``.
      regression: Estimate of a regression network ``[z, x, y]`` around which another
        one samples; None where there is none.
    """

    tikhonov: jax.Array
    level: jax.Array
    coverage: jax.Array
    features: jax.Array
    regression: jax.Array | None = None

    @property
    def best(self) -> jax.Array:
        """The regression's estimate or, without one, the quadratic estimate."""
        return self.tikhonov if self.regression is None else self.regression


class Frame(NamedTuple):
    """How a sampler's variable stands for volumes: ``volume = base + unit * variable``.

    Attributes:
      base: Wide volume ``[z, x, y]``, normalised; the margin keeps it.
      unit: Intensity of one unit of the variable, scalar.
    """

    base: jax.Array
    unit: jax.Array


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Linear data about one variable, ``data = A x + n`` with ``n ~ N(0, Sigma)``.

    Attributes:
      forward: A, of one variable without a batch.
      adjoint: A^T, exact.
      data: y.
      precision: ``Sigma^-1``; weights given as an array become one.
      problem: Whose view this is; None for an operator of other origin.
      frame: How the variable stands for the volumes of the problem.
    """

    forward: Callable[[jax.Array], jax.Array]
    adjoint: Callable[[jax.Array], jax.Array]
    data: jax.Array
    precision: Any
    problem: Problem | None = None
    frame: Frame | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", as_precision(self.precision))

    def residual(self, x: jax.Array) -> jax.Array:
        """``y - A x``."""
        return self.data - self.forward(x)

    def pull(self, residual: jax.Array) -> jax.Array:
        """``A^T Sigma^-1 r``."""
        return self.adjoint(self.precision * residual)

    def normal(self, x: jax.Array) -> jax.Array:
        """``A^T Sigma^-1 A x``."""
        return self.pull(self.forward(x))

    def unweighted(self) -> Measurement:
        """The same with Sigma = 1, masked data apart."""
        seen = self.precision.seen().astype(self.data.dtype)
        return dataclasses.replace(self, precision=Precision(seen))

    def empty(self) -> jax.Array:
        """A variable of zeros."""
        like = jax.eval_shape(self.adjoint, self.data)
        return jnp.zeros(like.shape, like.dtype)

    def noise_std(self) -> jax.Array:
        """Root of the mean variance of the data that are not masked."""
        seen = jnp.broadcast_to(self.precision.seen(), self.data.shape)
        variance = jnp.broadcast_to(self.precision.variance(), self.data.shape)
        return jnp.sqrt(jnp.sum(variance) / jnp.maximum(jnp.sum(seen), 1))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Problem:
    """One tilt series, checked, normalised and weighed; a pytree.

    Attributes:
      geometry: Rays.
      tilts: Normalised line integrals ``[n_tilts, u, y]``, dense matter bright.
      precision: Inverse covariance of the tilts, normalised units; weights given as
        an array become one.
      units: The way back to the input.
      inputs: What a network is shown; None until it is asked for.
      voxel_nm: Voxel size, scalar; that of the unit where nobody knows it.
    """

    geometry: TiltGeometry
    tilts: jax.Array
    precision: Any
    units: Units
    inputs: Inputs | None = None
    voxel_nm: jax.Array | float = UNIT_NM

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", as_precision(self.precision))

    @property
    def shown(self) -> Inputs:
        """``inputs``, which must be there."""
        assert self.inputs is not None
        return self.inputs

    @property
    def field_of_view(self) -> tuple[int, int, int]:
        """Extents ``(z, x, y)`` of what is reconstructed, voxels."""
        nz, _, ny = self.geometry.volume_shape
        return nz, self.geometry.num_u, ny

    def to_volume(self, variable: jax.Array, frame: Frame) -> jax.Array:
        """Wide normalised volume of a variable ``[z, x, y]`` over the field of view."""
        return frame.base + frame.unit * self.geometry.pad_lateral(variable)

    def to_variable(self, volume: jax.Array, frame: Frame) -> jax.Array:
        """Inverse of ``to_volume`` inside the field of view."""
        return self.geometry.crop(volume - frame.base) / frame.unit

    def to_input_units(self, volume: jax.Array) -> jax.Array:
        """Field of view ``[..., z, x, y]`` of wide normalised volumes, input units."""
        units = self.units
        return self.geometry.crop(volume) * units.contrast + units.mean

    def background(self) -> jax.Array:
        """Line integrals of the mean that was removed, normalised, ``[n, u, 1]``.

        ``[n, u, y]`` where the tilts have a motion.
        """
        return self.units.mean * ray_lengths(self.geometry) / self.units.contrast

    def measurement(self, frame: Frame) -> Measurement:
        """The tilts as linear data about a variable over the field of view."""
        geometry, unit = self.geometry, frame.unit

        def forward(variable):
            return project(unit * geometry.pad_lateral(variable), geometry)

        def adjoint(tilts):
            return unit * geometry.crop(backproject(tilts, geometry))

        data = self.tilts - project(frame.base, geometry)
        return Measurement(forward, adjoint, data, self.precision, self, frame)

    def straightened(self) -> tuple[Problem, Callable[[jax.Array], jax.Array]]:
        """The problem of aligned tilts, resampled once, for methods that need them.

        Coherent errors are left out, and pixels that do not lie in the images.

        Returns:
          The problem, and a function that leads its volumes back to the specimen.
        """
        if self.geometry.motion is None:
            return self, lambda volume: volume
        geometry, turn, back = placed.straightened(self.geometry)
        shape = self.tilts.shape
        seen = jnp.broadcast_to(self.precision.seen(), shape).astype(self.tilts.dtype)
        weight = self.precision.per_tilt(shape) * (turn(seen) > 0.5)
        problem = Problem(
            geometry, turn(self.tilts), weight, self.units, voxel_nm=self.voxel_nm
        )
        return problem, back

    def binned(self, factor: int) -> Problem:
        """The same specimen on a grid of voxels ``factor`` times as large.

        A pixel is the mean of the pixels of a block that are not masked, divided by
        the factor, since its line integral counts larger voxels: volumes of both grids
        have the same intensities.  Extents that do not divide grow, half on either
        side, by pixels without weight; a thickness likewise.  ``inputs`` are left out,
        they belong to a grid.

        Args:
          factor: Edge of the blocks along u and y, and of the voxels; 1 or more.
        """
        size = self.voxel_nm * factor
        if factor == 1:
            return dataclasses.replace(self, inputs=None)
        nz, _, ny = self.geometry.volume_shape
        nu, margin = self.geometry.num_u, self.geometry.margin
        coarse_u = -(-nu // factor)
        shape = (
            -(-nz // factor),
            coarse_u + 2 * -(-margin // factor),
            -(-ny // factor),
        )
        geometry = dataclasses.replace(
            self.geometry,
            volume_shape=shape,
            num_u=coarse_u,
            motion=placed.binned(self.geometry.motion, factor),
        )
        tilts, precision = bin_tilts(self.tilts, self.precision, factor)
        return Problem(geometry, tilts, precision, self.units, voxel_nm=size)

    def grown(self, multiple: int) -> Problem:
        """The same on extents that a number divides.

        Further pixels without weight, as many on either side, repeat those at the
        border.  ``inputs`` are left out.

        Args:
          multiple: Of thickness, width and height.

        Raises:
          ValueError: An odd number of voxels would be added along z or x, which would
            move the tilt axis.
        """
        nz, nu, ny = self.field_of_view
        deep, wide, high = (-n % multiple for n in (nz, nu, ny))
        if deep % 2 or wide % 2:
            raise ValueError(f"{nz} x {nu} to multiples of {multiple}: an odd change")
        geometry = dataclasses.replace(
            self.geometry,
            volume_shape=(
                nz + deep,
                self.geometry.volume_shape[1] + wide,
                ny + high,
            ),
            num_u=nu + wide,
        )
        sides = ((wide // 2, wide // 2), (high // 2, high - high // 2))
        old, shape = self.precision, self.tilts.shape
        weight = jnp.pad(jnp.broadcast_to(old.weight, shape), ((0, 0), *sides))
        modes = old.modes
        if modes is not None:
            modes = jnp.pad(modes, ((0, 0), (0, 0), *sides))
        return Problem(
            geometry,
            jnp.pad(self.tilts, ((0, 0), *sides), mode="edge"),
            dataclasses.replace(old, weight=weight, modes=modes),
            self.units,
            voxel_nm=self.voxel_nm,
        )


def bin_tilts(
    tilts: jax.Array, precision: Precision, factor: int
) -> tuple[jax.Array, Precision]:
    """Means of blocks over the factor, and their precision; see ``Problem.binned``.

    With S the pixels of a block that are not masked, ``|S|`` of them, and D and Q of
    ``Precision``: ``D' = sum_S D / (|S| f)^2`` and ``Q' = sum_S Q / (|S| f)``.
    """
    seen = jnp.broadcast_to(precision.seen(), tilts.shape).astype(tilts.dtype)
    inverse = precision.independent_variance()
    count = _block_sums(seen, factor)
    share = jnp.where(count > 0, 1.0 / (jnp.maximum(count, 1.0) * factor), 0.0)
    means = share * _block_sums(seen * tilts, factor)
    variance = share**2 * _block_sums(seen * inverse, factor)
    weight = jnp.where(count > 0, 1.0 / jnp.where(count > 0, variance, 1.0), 0.0)
    if precision.modes is None:
        return means, Precision(weight)
    columns = share[:, None] * _block_sums(seen[:, None] * precision.modes, factor)
    found = low_rank(weight, columns)
    if precision.rotation is None:
        return means, found
    rotation = jnp.einsum("kij,kjl->kil", precision.rotation, found.rotation)
    return means, dataclasses.replace(found, rotation=rotation)


def _block_sums(images: jax.Array, factor: int) -> jax.Array:
    """Sums over blocks of the last two axes, zeros added half on either side."""
    pad = [(0, 0)] * (images.ndim - 2)
    for extent in images.shape[-2:]:
        missing = -extent % factor
        pad.append((missing // 2, missing - missing // 2))
    padded = jnp.pad(images, pad)
    nu, ny = padded.shape[-2] // factor, padded.shape[-1] // factor
    blocks = padded.reshape(*padded.shape[:-2], nu, factor, ny, factor)
    return jnp.sum(blocks, axis=(-3, -1))
