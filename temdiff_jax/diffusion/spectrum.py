"""A denoiser around the best linear guess: the skip that the data's spectrum asks for.

    x_s = r + s z,  z ~ N(0, I)
    L   = P / (P + s^2) x_s          in a cosine transform (mirrored borders)
    D   = L + c F(x_s, L, ln s),     c^2 = mean_k P s^2 / (P + s^2)

P is the power of the clean residual r in every mode, so L is its Wiener filter and c
the deviation of what L leaves.  The network starts at the best linear denoiser and
learns only what is not Gaussian; the scalar skip of EDM is the case of a white P.  At
``s >= SIGMA_MEAN`` the input carries nothing: it is replaced by zero, L vanishes and D
is the conditional mean of r.

P is a smooth function of the mode and of what is known of the series (range, tilts,
thickness, noise, voxel size): a network of a few hundred numbers, fitted to the
periodograms of simulated residuals by the likelihood of Whittle and kept in the prior's
card.

Sources: Karras et al., NeurIPS 2022 (EDM), whose preconditioning this is for P = 1;
Wiener 1949; Whittle, J. R. Stat. Soc. B 15 (1953) 125 (the likelihood).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

SIGMA_MEAN = 1000.0
# Noise levels that are trained: ln s ~ N(LOG_MEAN, LOG_STD^2) between the two.
SIGMA_LOW, SIGMA_HIGH = 0.03, 200.0
LOG_MEAN, LOG_STD = 0.2, 1.9
# Smallest variance of a linear guess by which it is divided before it is shown.
LEAST_SHARE = 0.02
LOWEST = 1.0 / 128.0  # cycles a voxel, added in squares: the mode of mean value
HIDDEN = 24
MOST_SCALAR = 3.0
NUM_MODES_IN = 5
# Scalars of a series before its voxel size, those of ``model.NUM_SERIES``.
NUM_SERIES = 5


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Spectrum:
    """Power of a residual in every mode, given the scalars of its series.

    Attributes:
      layers: ``((weight [i, o], bias [o]), ...)`` of the three layers.
      half_range: Index of the scalar that is the log of the half-range over 15 degrees.
    """

    layers: tuple[tuple[jax.Array, jax.Array], ...]
    half_range: int = dataclasses.field(default=0, metadata={"static": True})

    def __call__(
        self,
        shape: tuple[int, int, int],
        features: jax.Array,
        present: jax.Array,
        regressed: jax.Array | None = None,
    ) -> jax.Array:
        """Power of the modes of a window.

        Args:
          shape: Extents ``(nz, nx, ny)``.
          features: Scalars of the series, ``[b, f]``, see ``series.inputs.features``.
          present: 1 for a residual given its tilts, 0 for a volume without, ``[b]``.
          regressed: 1 for what a regression network leaves, 0 for what the quadratic
            estimate does, ``[b]``; None for the latter.

        Returns:
          ``[b, nz, nx, ny]``, float32, of modes of an orthonormal cosine transform.
        """
        modes = _modes(shape, self._tangent(features))
        known = _known(features, present, regressed)
        return self._power(modes, known[:, None, None, None])

    def _tangent(self, features: jax.Array) -> jax.Array:
        return jnp.tan(jnp.deg2rad(15.0 * jnp.exp(features[:, self.half_range])))

    def _power(self, modes: jax.Array, known: jax.Array) -> jax.Array:
        (first, bias), *rest = self.layers
        rest_of_first = first[NUM_MODES_IN:]
        # A spectrum of quadratic estimates alone has no row for the regression.
        known = known[..., : rest_of_first.shape[0]]
        hidden = modes @ first[:NUM_MODES_IN] + known @ rest_of_first + bias
        for weight, bias in rest:
            hidden = jnp.tanh(hidden) @ weight + bias
        return jnp.exp(jnp.clip(hidden[..., 0], -12.0, 12.0))


def _known(
    features: jax.Array, present: jax.Array, regressed: jax.Array | None = None
) -> jax.Array:
    """Scalars ``[b, NUM_SERIES + 3]``; without tilts only the voxel size.

    Not the level: over the blocks of a fit it goes with their blur and grain by chance,
    and the fitted power of fine modes fell by 20 dB between two series alike.
    """
    wide = present[:, None]
    # A series far from those of the fit has the power of the nearest.
    features = MOST_SCALAR * jnp.tanh(features / MOST_SCALAR)
    series, size, _ = jnp.split(features, (NUM_SERIES, NUM_SERIES + 1), axis=1)
    after = jnp.zeros_like(wide) if regressed is None else regressed[:, None] * wide
    return jnp.concatenate([series * wide, size, wide, after], axis=-1)


def _modes(shape: tuple[int, int, int], tangent: jax.Array) -> jax.Array:
    """What the spectrum depends on, ``[b, nz, nx, ny, NUM_MODES_IN]``.

    Log frequency and its square, its directions along z and y, and how far inside the
    missing wedge a mode lies, ``tanh ln(|kz| / (|kx| tan a))``.
    """
    axes = [np.arange(n) / (2.0 * n) for n in shape]
    kz, kx, ky = (
        jnp.asarray(a, jnp.float32) for a in np.meshgrid(*axes, indexing="ij")
    )
    square = kz**2 + kx**2 + ky**2 + LOWEST**2
    log = 0.5 * jnp.log(square) + 2.0
    slope = tangent[:, None, None, None]
    wedge = jnp.tanh(jnp.log((kz + 0.25 * LOWEST) / (kx * slope + 0.25 * LOWEST)))
    fixed = [log, 0.3 * log**2, kz**2 / square, ky**2 / square]
    wide = [jnp.broadcast_to(f, wedge.shape) for f in fixed]
    return jnp.stack([*wide, wedge], axis=-1)


@functools.cache
def _cosines(size: int) -> np.ndarray:
    """Orthonormal DCT-II, ``[modes, voxels]``."""
    row = np.arange(size)
    matrix = np.cos(np.pi * (row[None] + 0.5) * row[:, None] / size)
    matrix[0] *= np.sqrt(0.5)
    return (matrix * np.sqrt(2.0 / size)).astype(np.float32)


def to_modes(x: jax.Array) -> jax.Array:
    """Orthonormal cosine transform of the last three axes."""
    a, b, c = (_cosines(n) for n in x.shape[-3:])
    return jnp.einsum("...zxy,iz,jx,ky->...ijk", x, a, b, c, optimize="optimal")


def from_modes(x: jax.Array) -> jax.Array:
    """Inverse of ``to_modes``."""
    a, b, c = (_cosines(n) for n in x.shape[-3:])
    return jnp.einsum("...ijk,iz,jx,ky->...zxy", x, a, b, c, optimize="optimal")


def _wide(values: jax.Array) -> jax.Array:
    return values[:, None, None, None]


def linear_guess(
    x: jax.Array, sigma: jax.Array, power: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """L and c of noisy data.

    Args:
      x: ``[b, z, x, y]``.
      sigma: ``[b]``.
      power: P, ``[b, z, x, y]``.

    Returns:
      The guess ``[b, z, x, y]`` and the deviation of what it leaves, ``[b]``.
    """
    noise = _wide(sigma) ** 2
    known = jnp.where(_wide(sigma) >= SIGMA_MEAN, 0.0, power / (power + noise))
    guess = from_modes(to_modes(x) * known)
    left = jnp.mean(power * (1.0 - known), axis=(1, 2, 3))
    return guess, jnp.sqrt(left)


# (scaled x, noise embedding [b], shown linear guess) -> F, or F and its log variance.
Refiner = Callable[[jax.Array, jax.Array, jax.Array], Any]


def denoise_with(
    network: Refiner, x: jax.Array, sigma: jax.Array, power: jax.Array
) -> tuple[Any, jax.Array, jax.Array]:
    """What the network makes of noisy data, and the linear guess around which.

    Args:
      network: Condition and parameters bound.
      x: ``[b, z, x, y]``.
      sigma: ``[b]``.
      power: P, ``[b, z, x, y]``.

    Returns:
      Output of the network, L and c: ``D = L + c F``.
    """
    guess, left = linear_guess(x, sigma, power)
    total = jnp.mean(power, axis=(1, 2, 3))
    scale = jnp.where(sigma >= SIGMA_MEAN, 0.0, 1.0 / jnp.sqrt(total + sigma**2))
    shown = guess / _wide(jnp.sqrt(jnp.maximum(total - left**2, LEAST_SHARE * total)))
    relative = jnp.log(sigma) - 0.5 * jnp.log(total)
    return network(_wide(scale) * x, relative / 4.0, shown), guess, left


def denoise(
    network: Refiner, x: jax.Array, sigma: jax.Array, power: jax.Array
) -> jax.Array:
    """Best guess D of the clean residual, ``[b, z, x, y]``; see ``denoise_with``."""
    output, guess, left = denoise_with(network, x, sigma, power)
    return guess + _wide(left) * output


def training_levels(share: jax.Array) -> jax.Array:
    """Noise levels of quantiles ``share``, between SIGMA_LOW and SIGMA_HIGH."""
    normal = jax.scipy.special.ndtri(jnp.clip(share, 1e-4, 1.0 - 1e-4))
    return jnp.clip(jnp.exp(LOG_MEAN + LOG_STD * normal), SIGMA_LOW, SIGMA_HIGH)


def init(key: jax.Array) -> Spectrum:
    """A spectrum to fit; its last layer begins with zeros, P = 1."""
    sizes = [NUM_MODES_IN + NUM_SERIES + 3, HIDDEN, HIDDEN, 1]
    layers = []
    for index, (rows, columns) in enumerate(zip(sizes[:-1], sizes[1:])):
        draw = jax.random.normal(jax.random.fold_in(key, index), (rows, columns))
        layers.append((draw * float(index < 2) / rows**0.5, jnp.zeros(columns)))
    return Spectrum(tuple(layers))


def _table(rng, group, spectrum, count):
    """Random modes of periodograms of one shape: their inputs, scalars and squares.

    Half of them evenly, half evenly over the logarithm of the frequency, since few
    modes hold most of the power.
    """
    power, features, present, regressed = group
    shape = power.shape[1:]
    axes = np.meshgrid(*(np.arange(n) / (2.0 * n) for n in shape), indexing="ij")
    square = sum(a**2 for a in axes).ravel() + LOWEST**2
    chance = square**-1.5
    chance = 0.5 * chance / chance.sum() + 0.5 / chance.size
    modes = np.asarray(_modes(shape, spectrum._tangent(features)))
    modes = modes.reshape(len(power), -1, NUM_MODES_IN)
    known = np.asarray(_known(features, present, regressed))
    rows = []
    for index, values in enumerate(np.asarray(power).reshape(len(power), -1)):
        chosen = rng.choice(chance.size, count, p=chance)
        scalars = np.broadcast_to(known[index], (count, known.shape[1]))
        rows.append((modes[index, chosen], scalars, values[chosen]))
    return [np.concatenate(column) for column in zip(*rows)]


@functools.partial(jax.jit, static_argnames=("steps", "rate"))
def _climb(spectrum, modes, known, power, *, steps: int, rate: float):
    optimiser = optax.adam(rate)

    def loss(spectrum):
        log = jnp.log(spectrum._power(modes, known))
        return jnp.mean(power * jnp.exp(-log) + log)

    def step(carry, _):
        spectrum, state = carry
        change, state = optimiser.update(jax.grad(loss)(spectrum), state)
        return (optax.apply_updates(spectrum, change), state), None

    carry = (spectrum, optimiser.init(spectrum))
    return jax.lax.scan(step, carry, length=steps)[0][0]


def fit(
    key: jax.Array,
    groups: list[tuple[jax.Array, jax.Array, jax.Array, jax.Array]],
    *,
    modes: int = 100_000,
    steps: int = 1000,
) -> Spectrum:
    """The spectrum of largest Whittle likelihood, ``-sum(p / P + ln P)``.

    Args:
      key: Of the first weights.
      groups: Periodograms of one shape each: squares of the modes ``[n, z, x, y]``,
        features ``[n, f]``, which are given their tilts ``[n]`` and which of them are
        left by a regression ``[n]``.
      modes: Random modes of all periodograms that are fitted.
      steps: Of Adam.

    Returns:
      The fitted spectrum.
    """
    spectrum = init(key)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    total = sum(len(power) for power, *_ in groups)
    tables = [_table(rng, group, spectrum, max(1, modes // total)) for group in groups]
    columns = [jnp.asarray(np.concatenate(column)) for column in zip(*tables)]
    spectrum = _climb(spectrum, *columns, steps=steps, rate=5e-3)
    return _climb(spectrum, *columns, steps=steps // 2, rate=1e-3)


def to_json(spectrum: Spectrum) -> list[dict[str, list]]:
    """Numbers for a card or a checkpoint."""
    return [
        {"weight": np.asarray(w, float).tolist(), "bias": np.asarray(b, float).tolist()}
        for w, b in spectrum.layers
    ]


def from_json(layers: list[dict[str, list]]) -> Spectrum:
    """Inverse of ``to_json``.

    Raises:
      ValueError: Sizes that do not follow one another, or numbers that are not finite.
    """
    found = tuple(
        (jnp.asarray(row["weight"], jnp.float32), jnp.asarray(row["bias"], jnp.float32))
        for row in layers
    )
    sizes = [w.shape[1] for w, _ in found]
    follow = all(w.shape[0] == n for (w, _), n in zip(found[1:], sizes))
    fits = all(b.shape == w.shape[1:] for w, b in found)
    finite = all(bool(jnp.all(jnp.isfinite(a))) for row in found for a in row)
    if len(found) != 3 or sizes[-1] != 1 or not (follow and fits and finite):
        raise ValueError(f"a spectrum of layers {[w.shape for w, _ in found]}")
    return Spectrum(found)
