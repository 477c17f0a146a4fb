"""Data precision: the inverse covariance of the tilts, diagonal or with coherent modes.

Noise is independent from pixel to pixel; an error of alignment or of the dose moves a
whole tilt at once.  To first order the covariance of tilt k is

    Sigma = D + Q Q^T,    D = diag(1 / w),    Q = J S^(1/2)

with one derivative image of the tilt per uncertain parameter as column of J and the
parameters' covariance S.  Turned so that Q^T W Q = diag(lambda), the identity of
Woodbury and its square root are

    Sigma^-1 = W - W Q diag(1 / (1 + lambda)) Q^T W = L^T L
    L        = (I - W^(1/2) Q diag(g) Q^T W^(1/2)) W^(1/2),
    g        = (1 - (1 + lambda)^(-1/2)) / lambda.

A masked pixel has w = 0: its variance is infinite and nothing else changes.

Source: Woodbury, Inverting modified matrices, Princeton (1950); Hager, SIAM Rev. 31
(1989) 221.
"""

from __future__ import annotations

import dataclasses
from typing import cast

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Precision:
    """``Sigma^-1`` of a tilt series, block by block; a pytree of arrays.

    Stands wherever an array of weights multiplies a residual: ``precision * residual``
    applies it.  It is a linear map of residuals, so it must never multiply squares:
    write ``residual * (weight * residual)``, which is right for arrays as well.

    Attributes:
      weight: w, inverse variance of the independent part, broadcastable to
        ``[n_tilts, u, y]``; 0 where masked.
      modes: Q, ``[n_tilts, m, u, y]``, units of the tilts; ``None`` for none.
      strength: lambda, ``[n_tilts, m]``: how far a mode stands above the noise.
      rotation: V, ``[n_tilts, m, m]``, from the columns given to ``low_rank`` to Q.
      axis_name: Mesh axis along which the detector is split under ``shard_map``.
    """

    weight: jax.Array
    modes: jax.Array | None = None
    strength: jax.Array | None = None
    rotation: jax.Array | None = None
    axis_name: str | None = dataclasses.field(default=None, metadata={"static": True})

    # NumPy arrays leave the product to this class too.
    __array_ufunc__ = None

    def __mul__(self, residual: jax.Array) -> jax.Array:
        """``Sigma^-1 r`` of a residual ``[n_tilts, u, y]``."""
        weighted = self.weight * residual
        if self.strength is None:
            return weighted
        within = self._project(weighted) / (1 + self.strength)
        return weighted - self.weight * self._expand(within)

    __rmul__ = __mul__

    def whiten(self, residual: jax.Array) -> jax.Array:
        """``L r``: white with variance 1 (0 where masked) if r has this precision."""
        root = jnp.sqrt(self.weight)
        return self._shrink(root * residual, root)

    def whiten_transpose(self, white: jax.Array) -> jax.Array:
        """``L^T v``; ``whiten_transpose(whiten(r))`` is ``Sigma^-1 r``."""
        root = jnp.sqrt(self.weight)
        return root * self._shrink(white, root)

    def quadratic(self, residual: jax.Array) -> jax.Array:
        """``r^T Sigma^-1 r`` of every tilt, ``[n_tilts]``, never negative."""
        return _over_detector(self.whiten(residual) ** 2, self.axis_name)

    def amplitudes(self, residual: jax.Array) -> jax.Array:
        """What the modes explain of a residual, ``[n_tilts, m]``.

        Posterior mean of the coefficients of the columns given to ``low_rank``, whose
        prior is N(0, 1): multiplied by its spread, each parameter's error to first
        order.
        """
        if self.strength is None or self.rotation is None:
            return jnp.zeros((*residual.shape[:1], 0), residual.dtype)
        within = self._project(self.weight * residual) / (1 + self.strength)
        return jnp.einsum("kij,kj->ki", self.rotation, within, precision="highest")

    def log_determinant(self, shape: tuple[int, int, int]) -> jax.Array:
        """``ln det Sigma`` of every tilt over its unmasked pixels, ``[n_tilts]``.

        ``shape`` is that of the tilts (of the local part under ``shard_map``).
        """
        weight = jnp.broadcast_to(self.weight, shape)
        seen = weight > 0
        logs = jnp.where(seen, -jnp.log(jnp.where(seen, weight, 1.0)), 0.0)
        total = _over_detector(logs, self.axis_name)
        if self.strength is None:
            return total
        return total + jnp.sum(jnp.log1p(self.strength), axis=1)

    def sample(self, key: jax.Array, shape: tuple[int, int, int]) -> jax.Array:
        """Errors ``[n_tilts, u, y]`` drawn from N(0, Sigma); 0 where masked."""
        key_pixels, key_modes = jax.random.split(key)
        weight = jnp.broadcast_to(self.weight, shape)
        seen = weight > 0
        std = jnp.where(seen, 1 / jnp.sqrt(jnp.where(seen, weight, 1.0)), 0.0)
        drawn = std * jax.random.normal(key_pixels, shape, weight.dtype)
        if self.strength is None:
            return drawn
        # Q Q^T does not depend on the rotation, so Q takes the coefficients itself.
        coherent = jax.random.normal(key_modes, self.strength.shape, weight.dtype)
        return drawn + jnp.where(seen, self._expand(coherent), 0.0)

    def seen(self) -> jax.Array:
        """Which pixels are not masked, broadcastable to the tilts."""
        return jnp.asarray(self.weight) > 0

    def independent_variance(self) -> jax.Array:
        """``D``, 0 where masked, broadcastable to the tilts."""
        seen = self.seen()
        return jnp.where(seen, 1.0 / jnp.where(seen, self.weight, 1.0), 0.0)

    def variance(self) -> jax.Array:
        """``diag(Sigma)``, 0 where masked, broadcastable to the tilts."""
        if self.modes is None:
            return self.independent_variance()
        coherent = jnp.where(self.seen(), jnp.sum(self.modes**2, axis=1), 0.0)
        return self.independent_variance() + coherent

    def diagonal_part(self) -> jax.Array:
        """``diag(Sigma^-1)``, broadcastable to the tilts: precision pixel by pixel."""
        if self.modes is None or self.strength is None:
            return self.weight
        share = jnp.einsum(
            "kmuy,km->kuy", self.modes**2, 1 / (1 + self.strength), precision="highest"
        )
        return self.weight * (1 - self.weight * share)

    def per_tilt(self, shape: tuple[int, int, int]) -> jax.Array:
        """Mean of ``diagonal_part`` over each tilt, ``[n_tilts, 1, 1]``."""
        diagonal = self.diagonal_part()
        if diagonal.shape[1:] == (1, 1):
            return diagonal
        spread = jnp.broadcast_to(diagonal, shape)
        count = _over_detector(jnp.ones_like(spread), self.axis_name)
        return (_over_detector(spread, self.axis_name) / count)[:, None, None]

    def scaled(self, factors: jax.Array) -> Precision:
        """``f_k Sigma_k^-1`` for factors ``[n_tilts]`` of zero or more."""
        weight = factors[:, None, None] * self.weight
        if self.modes is None:
            return dataclasses.replace(self, weight=weight)
        # Sigma / f = D / f + (Q / sqrt f) (Q / sqrt f)^T; lambda and V stay.
        root = jnp.sqrt(jnp.where(factors > 0, factors, jnp.inf))
        modes = self.modes / root[:, None, None, None]
        return dataclasses.replace(self, weight=weight, modes=modes)

    def _project(self, weighted: jax.Array) -> jax.Array:
        """``Q^T v``, ``[n_tilts, m]``."""
        inner = jnp.einsum("kmuy,kuy->km", self.modes, weighted, precision="highest")
        return lax.psum(inner, self.axis_name) if self.axis_name else inner

    def _expand(self, coefficients: jax.Array) -> jax.Array:
        """``Q c``, ``[n_tilts, u, y]``."""
        return jnp.einsum("kmuy,km->kuy", self.modes, coefficients, precision="highest")

    def _shrink(self, white: jax.Array, root: jax.Array) -> jax.Array:
        """``(I + K K^T)^(-1/2) v`` with ``K = W^(1/2) Q``; symmetric."""
        if self.strength is None:
            return white
        above = jnp.sqrt(1 + self.strength)
        within = self._project(root * white) / (above * (above + 1))
        return white - root * self._expand(within)


def as_precision(weight: Precision | ArrayLike) -> Precision:
    """A precision as it is; an inverse variance as independent errors."""
    if hasattr(weight, "__array__") or isinstance(weight, int | float):
        return Precision(jnp.asarray(weight))
    return cast(Precision, weight)  # or what stands for one while trees are rebuilt


def diagonal(weight: jax.Array, *, axis_name: str | None = None) -> Precision:
    """Independent errors of inverse variance ``weight``, ``[n_tilts, u, y]``.

    ``weight`` may also be anything that broadcasts to that, as ``[n_tilts, 1, 1]``.
    """
    return Precision(weight, axis_name=axis_name)


def low_rank(
    weight: jax.Array, columns: jax.Array, *, axis_name: str | None = None
) -> Precision:
    """Independent errors and coherent ones, ``Sigma_k = D_k + sum_j c_kj c_kj^T``.

    Costs one Gram matrix and one eigenproblem of m x m per tilt; each product then
    is three passes over the modes.  In float32 modes up to some 1e6 times above the
    noise (lambda) are resolved.

    Args:
      weight: As for ``diagonal``.
      columns: ``[n_tilts, m, u, y]``: derivative images times the standard deviation
        of their parameter (``scale_images``), units of the tilts.
      axis_name: Mesh axis along which the detector is split, under ``shard_map``;
        sums over the detector then become sums over its devices.
    """
    weighted = weight[:, None] * columns
    gram = jnp.einsum("kiuy,kjuy->kij", weighted, columns, precision="highest")
    gram = lax.psum(gram, axis_name) if axis_name else gram
    _, rotation = jnp.linalg.eigh(gram)
    modes = jnp.einsum("kiuy,kij->kjuy", columns, rotation, precision="highest")
    # Again from the modes: small eigenvalues of a graded matrix are inaccurate.
    strength = _over_detector(weight[:, None] * modes**2, axis_name)
    return Precision(weight, modes, strength, rotation, axis_name)


def with_variances(weight: jax.Array, columns: jax.Array) -> jax.Array:
    """The cheap stand-in of ``low_rank``: variances add up pixel by pixel.

    ``1 / w' = 1 / w + sum_j c_j^2``, a weight array ``[n_tilts, u, y]``.  It takes the
    coherent errors of a tilt for independent ones, so a tilt seems to know more about
    its own mean shift than it does, and less about everything else.
    """
    return weight / (1 + weight * jnp.sum(columns**2, axis=1))


def _over_detector(values: jax.Array, axis_name: str | None) -> jax.Array:
    total = jnp.sum(values, axis=(-2, -1))
    return lax.psum(total, axis_name) if axis_name else total
