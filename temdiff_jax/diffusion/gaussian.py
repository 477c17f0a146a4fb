"""A test bench with known answers: Gaussian data, linear measurements.

For ``x0 ~ N(m, C)`` and ``y = A x0 + n`` everything that a sampler approximates is
known in closed form: the denoiser, with and without the data, the probability-flow
solution and the posterior.  ``score`` runs any sampler and compares its samples with
the posterior along the singular directions of A, those that the data see and those
that they do not, so that a rule's bias and its wrong spread show before any network is
trained.

Source: the closed forms are those of linear-Gaussian regression, Bishop, Pattern
Recognition and Machine Learning (2006), equations 2.113 to 2.117.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from temdiff_jax.diffusion import algebra
from temdiff_jax.errors import InputError
from temdiff_jax.inverse.problem import Measurement

# (denoiser, measurement) -> sampler, as the functions of ``methods``
MakeSampler = Callable[
    [Callable[[jax.Array, jax.Array], jax.Array], Measurement], algebra.Sampler
]


class Gaussian(NamedTuple):
    """``N(mean, basis diag(variances) basis^T)`` over ``[d]``; columns of the basis."""

    mean: jax.Array
    basis: jax.Array
    variances: jax.Array

    def covariance(self) -> jax.Array:
        """``[d, d]``."""
        return (self.basis * self.variances) @ self.basis.T


class Bench(NamedTuple):
    """Prior, matrix A ``[n, d]``, standard deviation of the noise, data ``[n]``."""

    prior: Gaussian
    matrix: jax.Array
    noise_std: jax.Array
    data: jax.Array


class Score(NamedTuple):
    """A sampler against the posterior, per right singular vector of A, ``[d]``.

    Attributes:
      strength: Singular values, 0 for what no datum sees.
      mean_error: Mean of the samples minus the posterior's, in its standard
        deviations.
      variance_ratio: Variance of the samples over the posterior's.
      num_samples: Samples compared.
    """

    strength: np.ndarray
    mean_error: np.ndarray
    variance_ratio: np.ndarray
    num_samples: int

    def standard_error(self) -> np.ndarray:
        """Of ``mean_error``, from the spread of the samples."""
        return np.sqrt(self.variance_ratio / self.num_samples)

    def seen(self) -> np.ndarray:
        """Mask of the directions that the data see."""
        return self.strength > 1e-6 * self.strength.max()


def make_problem(
    dim: int = 12,
    num_data: int = 6,
    *,
    noise_std: float = 0.1,
    condition: float = 10.0,
    seed: int = 0,
) -> Bench:
    """A problem in general position with a prior of mean variance 1.

    A has norm 1 and singular values down to 0.3; the eigenvectors of the prior are
    not those of A, so that what the data see and what they do not are correlated.

    Args:
      dim: Unknowns.
      num_data: Data, at most as many.
      noise_std: Of the data.
      condition: Largest over smallest variance of the prior; 1 is white.
      seed: Of basis, matrix, truth and noise.

    Returns:
      A problem in the default float type of jax.

    Raises:
      InputError: More data than unknowns, or a condition below 1.
    """
    if not 1 <= num_data <= dim or condition < 1:
        raise InputError(
            f"make_problem: expected 1 <= num_data <= dim and condition >= 1, got "
            f"num_data {num_data}, dim {dim}, condition {condition:g}; a taller matrix "
            f"has the same posterior as one of dim rows"
        )
    rng = np.random.default_rng(seed)
    basis, left, right = (
        np.linalg.qr(rng.normal(size=(n, n)))[0] for n in (dim, num_data, dim)
    )
    variances = np.geomspace(condition, 1.0, dim)
    variances /= variances.mean()
    mean = 0.5 * rng.normal(size=dim)
    matrix = (left * np.linspace(1.0, 0.3, num_data)) @ right[:, :num_data].T
    truth = mean + basis @ (np.sqrt(variances) * rng.normal(size=dim))
    data = matrix @ truth + noise_std * rng.normal(size=num_data)
    # From NumPy arrays, not Python numbers: those would be weakly typed, and another
    # problem would compile anew.
    prior = Gaussian(*(jnp.asarray(a) for a in (mean, basis, variances)))
    return Bench(
        prior, *(jnp.asarray(np.asarray(a)) for a in (matrix, noise_std, data))
    )


def measurement(problem: Bench) -> Measurement:
    """The data as samplers see them."""
    return Measurement(
        lambda x: problem.matrix @ x,
        lambda r: problem.matrix.T @ r,
        problem.data,
        1.0 / problem.noise_std**2,
    )


def posterior(problem: Bench) -> Gaussian:
    """The law of x0 given the data: precision ``C^{-1} + A^T A / noise^2``."""
    prior, weight = problem.prior, 1.0 / problem.noise_std**2
    inverse = (prior.basis / prior.variances) @ prior.basis.T
    precision = inverse + weight * problem.matrix.T @ problem.matrix
    strength, basis = jnp.linalg.eigh(precision)
    right = inverse @ prior.mean + weight * problem.matrix.T @ problem.data
    mean = basis @ ((basis.T @ right) / strength)
    return Gaussian(mean, basis, 1.0 / strength)


def denoiser(law: Gaussian) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """``m + C (C + s^2)^{-1} (x - m)`` for ``x [b, d]``: the mean of x0 given x.

    With the prior's law it is the unconditional denoiser, with the posterior's the
    conditional one.
    """

    def apply(x, sigma):
        gain = law.variances / (law.variances + sigma**2)
        return law.mean + ((x - law.mean) @ law.basis * gain) @ law.basis.T

    return apply


def flow(
    law: Gaussian, x: jax.Array, sigma: jax.Array, sigma_next: jax.Array
) -> jax.Array:
    """Probability-flow solution from one level to another, ``x [b, d]``.

    In the basis of C, ``x - m`` scales with ``sqrt(c + s^2)``.
    """
    ratio = (law.variances + sigma_next**2) / (law.variances + sigma**2)
    moved = (x - law.mean) @ law.basis * jnp.sqrt(ratio)
    return law.mean + moved @ law.basis.T


def compare(samples: jax.Array, problem: Bench) -> Score:
    """Samples ``[b, d]`` against the posterior."""
    exact = posterior(problem)
    _, strength, rows = np.linalg.svd(np.asarray(problem.matrix))
    strength = np.append(strength, np.zeros(len(rows) - len(strength)))
    along = np.asarray(samples, np.float64) @ rows.T
    variance = np.diag(rows @ np.asarray(exact.covariance()) @ rows.T)
    error = (along.mean(axis=0) - rows @ np.asarray(exact.mean)) / np.sqrt(variance)
    ratio = along.var(axis=0, ddof=1) / variance
    return Score(strength, error, ratio, len(along))


def score(
    make: MakeSampler, problem: Bench, key: jax.Array, *, count: int = 4096
) -> Score:
    """Runs a sampler with the exact unconditional denoiser, and compares.

    Args:
      make: ``(denoiser, measurement) -> sampler``.
      problem: Prior and data.
      key: Of the samples.
      count: Samples.

    Returns:
      The comparison; the whole run is one compiled program.
    """

    @jax.jit
    def program(key, problem):
        sampler = make(denoiser(problem.prior), measurement(problem))
        return algebra.draw(sampler, key, (count, problem.prior.mean.size))

    return compare(program(key, problem), problem)


HEADER = (
    "| sampler | network calls | error seen | variance seen | error unseen "
    "| variance unseen |\n| --- | --- | --- | --- | --- | --- |"
)


def row(name: str, found: Score, method: algebra.Sampler) -> str:
    """A line of the Markdown table under ``HEADER``.

    Errors are root mean squares over directions, in standard deviations of the
    posterior, where ``1 / sqrt(count)`` is the size of chance; variances are the
    smallest and largest ratio to the posterior's.
    """
    seen, steps = found.seen(), method.sigmas.shape[0] - 1
    calls = f"{steps * method.calls}"
    if method.backward:
        calls += f" + {steps * method.backward} back"
    cells = [name, calls]
    for part in (seen, ~seen):
        if not part.any():
            cells += ["-", "-"]
            continue
        ratio = found.variance_ratio[part]
        cells.append(f"{np.sqrt(np.mean(found.mean_error[part] ** 2)):.2f}")
        cells.append(f"{ratio.min():.2f} - {ratio.max():.2f}")
    return "| " + " | ".join(cells) + " |"


def report(
    name: str, make: MakeSampler, problem: Bench, key: jax.Array, *, count: int = 4096
) -> str:
    """Runs a sampler on the bench and gives its line of the table."""
    found = score(make, problem, key, count=count)
    method = make(denoiser(problem.prior), measurement(problem))
    return row(name, found, method)
