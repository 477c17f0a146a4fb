"""From a raw output F to a denoiser of unit-variance data, and back.

    x_s = r + s z,  z ~ N(0, I);   D = c_skip x_s + c_out F(c_in x_s, ln(s) / 4)

A parameterisation is a function ``sigma -> (c_skip, c_out, c_in)``: what the network is
shown, and what it is asked for.  The default is that of EDM,

    c_skip = 1 / (s^2 + 1),  c_out = s / sqrt(s^2 + 1),  c_in = 1 / sqrt(s^2 + 1)

The others, with ``a = 1 / sqrt(1 + s^2)`` and the flow time ``t = s / (1 + s)``, are

    x0      F = r                            input x_s
    eps     F = z                            input x_s
    score   F = -z / s                       input x_s
    v       F = a z - s a r                  input a x_s, the variance-preserving scale
    flow    F = z - r, the velocity          input (1 - t) x_s = (1 - t) r + t z

All are views of one denoiser: ``to_view`` and ``from_view`` pass between them, and a
sampler cannot tell which of them it was given.  For data of unit variance EDM is the v
view with its sign turned.

At ``s >= SIGMA_MEAN`` the noisy input carries nothing; it is replaced by zero, a
sufficient statistic, and every view is D itself, the conditional mean of the data.

Sources: Karras et al., NeurIPS 2022 (EDM), with sigma_data = 1; Salimans and Ho, ICLR
2022 (v); Ho et al., NeurIPS 2020 (eps); Lipman et al., ICLR 2023 (flow velocity).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

SIGMA_MEAN = 80.0

Scalings = tuple[jax.Array, jax.Array, jax.Array]
View = Callable[[jax.Array], Scalings]


def scalings(sigma: jax.Array) -> Scalings:
    """``c_skip, c_out, c_in`` of EDM, for noise levels of any shape."""
    total = sigma**2 + 1.0
    mean_only = sigma >= SIGMA_MEAN
    c_skip = jnp.where(mean_only, 0.0, 1.0 / total)
    c_out = jnp.where(mean_only, 1.0, sigma / jnp.sqrt(total))
    c_in = jnp.where(mean_only, 0.0, 1.0 / jnp.sqrt(total))
    return c_skip, c_out, c_in


def x0_scalings(sigma: jax.Array) -> Scalings:
    """The view whose output is the clean data."""
    return _or_mean(sigma, jnp.zeros_like(sigma), jnp.ones_like(sigma), 1.0)


def eps_scalings(sigma: jax.Array) -> Scalings:
    """The view whose output is the noise of unit variance."""
    return _or_mean(sigma, jnp.ones_like(sigma), -sigma, 1.0)


def score_scalings(sigma: jax.Array) -> Scalings:
    """The view whose output is the gradient of the log density of ``x_s``."""
    return _or_mean(sigma, jnp.ones_like(sigma), sigma**2, 1.0)


def v_scalings(sigma: jax.Array) -> Scalings:
    """The view whose output is v, its input on the variance-preserving scale."""
    root = jnp.sqrt(sigma**2 + 1.0)
    return _or_mean(sigma, 1.0 / root**2, -sigma / root, 1.0 / root)


def flow_scalings(sigma: jax.Array) -> Scalings:
    """The view whose output is the velocity of the straight path from data to noise."""
    rest = 1.0 / (1.0 + sigma)
    return _or_mean(sigma, rest, -sigma * rest, rest)


VIEWS: dict[str, View] = {
    "edm": scalings,
    "eps": eps_scalings,
    "flow": flow_scalings,
    "score": score_scalings,
    "v": v_scalings,
    "x0": x0_scalings,
}


def _or_mean(sigma, c_skip, c_out, c_in) -> Scalings:
    mean_only = sigma >= SIGMA_MEAN
    return (
        jnp.where(mean_only, 0.0, c_skip),
        jnp.where(mean_only, 1.0, c_out),
        jnp.where(mean_only, 0.0, c_in),
    )


def noise_embedding(sigma: jax.Array) -> jax.Array:
    """Scalar shown to the network, ``ln(s) / 4``."""
    return jnp.log(sigma) / 4.0


def _wide(values: jax.Array) -> jax.Array:
    return values[:, None, None, None]


def to_view(
    x: jax.Array, x0: jax.Array, sigma: jax.Array, view: View = scalings
) -> jax.Array:
    """The output of a view that stands for the guess ``x0``.

    Args:
      x: Noisy data ``x_s``, ``[b, z, x, y]``.
      x0: Guess of the clean data, or the clean data for the target of a training.
      sigma: ``[b]``.
      view: One of ``VIEWS``.

    Returns:
      ``[b, z, x, y]``.
    """
    c_skip, c_out, _ = view(sigma)
    return (x0 - _wide(c_skip) * x) / _wide(c_out)


def from_view(
    x: jax.Array, output: jax.Array, sigma: jax.Array, view: View = scalings
) -> jax.Array:
    """The guess of the clean data for the output of a view; inverse of ``to_view``."""
    c_skip, c_out, _ = view(sigma)
    return _wide(c_skip) * x + _wide(c_out) * output


def as_view(
    denoiser: Callable[[jax.Array, jax.Array], jax.Array], view: View
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """A denoiser as a network of a view.

    Args:
      denoiser: ``(x_s [b, z, x, y], sigma [b]) -> x0``.
      view: One of ``VIEWS``.

    Returns:
      ``(c_in x_s, noise embedding [b]) -> output``, what ``denoise`` takes.  Not
      defined at the mean level, where the input is zero whatever x is.
    """

    def network(scaled, embedding):
        sigma = jnp.exp(4.0 * embedding)
        x = scaled / _wide(view(sigma)[2])
        return to_view(x, denoiser(x, sigma), sigma, view)

    return network


def denoise(
    network: Callable[[jax.Array, jax.Array], jax.Array],
    x: jax.Array,
    sigma: jax.Array,
    view: View = scalings,
) -> jax.Array:
    """Best guess of the clean data given noisy ``x``.

    Args:
      network: ``(scaled x, noise embedding [b]) -> F``, condition and parameters
        already bound.
      x: ``[b, z, x, y]``.
      sigma: ``[b]``.
      view: What the network was trained to return, one of ``VIEWS``.

    Returns:
      ``[b, z, x, y]``.
    """
    c_in = view(sigma)[2]
    raw = network(_wide(c_in) * x, noise_embedding(sigma))
    return from_view(x, raw, sigma, view)


def loss_per_example(
    network: Callable[[jax.Array, jax.Array], jax.Array],
    clean: jax.Array,
    sigma: jax.Array,
    noise: jax.Array,
    view: View = scalings,
) -> jax.Array:
    """``mean |D - r|^2 / c_out^2`` of each example, ``[b]``: the error of F.

    In the default view F is asked for a target of unit variance at every level; in
    another the levels are weighted as that view weights them (all alike in ``eps``,
    by ``1 / s^2`` of that in ``score``, by ``s^2`` of it in ``x0``).
    """
    noisy = clean + _wide(sigma) * noise
    guess = denoise(network, noisy, sigma, view)
    _, c_out, _ = view(sigma)
    return jnp.mean(((guess - clean) / _wide(c_out)) ** 2, axis=(1, 2, 3))


def denoise_both(
    network: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]],
    x: jax.Array,
    sigma: jax.Array,
    view: View = scalings,
) -> tuple[jax.Array, jax.Array]:
    """``denoise`` with a network that tells its variance.

    Args:
      network: Returns F and the logarithm of the variance of F.
      x: ``[b, z, x, y]``.
      sigma: ``[b]``.
      view: One of ``VIEWS``.

    Returns:
      The guess, and the logarithm of the variance of the clean data about it.
    """
    _, c_out, c_in = view(sigma)
    raw, spread = network(_wide(c_in) * x, noise_embedding(sigma))
    return from_view(x, raw, sigma, view), spread + 2.0 * jnp.log(jnp.abs(_wide(c_out)))


def variance_loss(error: jax.Array, log_variance: jax.Array) -> jax.Array:
    """Loss of a logarithm of the variance ``s``, given the errors ``e``: ``[b]``.

        mean 0.5 (exp(-s) e^2 + s) exp(s)^0.5

    with neither e nor the last factor differentiated: the gradient in s is that of the
    Gaussian likelihood, its smallest value at ``exp(s) = e^2`` on average, and the
    factor keeps voxels of small variance from drowning the others.

    Source: Seitzer et al., ICLR 2022 (beta-NLL with beta = 0.5), for s alone.

    Args:
      error: ``[b, z, x, y]``.
      log_variance: The same shape.
    """
    squared = jax.lax.stop_gradient(error) ** 2
    weight = jax.lax.stop_gradient(jnp.exp(0.5 * log_variance))
    loss = 0.5 * (jnp.exp(-log_variance) * squared + log_variance) * weight
    return jnp.mean(loss, axis=(1, 2, 3))


def losses_per_example(
    network: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]],
    clean: jax.Array,
    sigma: jax.Array,
    noise: jax.Array,
    view: View = scalings,
) -> tuple[jax.Array, jax.Array]:
    """``loss_per_example`` of the first of two outputs, ``variance_loss`` of both.

    Args:
      network: Returns F and the logarithm of the variance of F.
      clean, sigma, noise, view: As for ``loss_per_example``.

    Returns:
      Both ``[b]``.
    """
    noisy = clean + _wide(sigma) * noise
    c_skip, c_out, c_in = view(sigma)
    raw, spread = network(_wide(c_in) * noisy, noise_embedding(sigma))
    error = (_wide(c_skip) * noisy + _wide(c_out) * raw - clean) / _wide(c_out)
    return jnp.mean(error**2, axis=(1, 2, 3)), variance_loss(error, spread)
