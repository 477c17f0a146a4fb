"""From a stain density to counts on a detector and back to line integrals.

Bright field: ``I = dose * exp(-integral mu ds)``, Poisson counts, detector blur
and read noise, then ``-ln(I / dose)``.  HAADF: counts proportional to the line
integral.  ``dose`` is electrons per pixel and tilt.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.projector import project
from temdiff_jax.simulator.errors import (
    ALIGNED,
    DrawnErrors,
    ErrorConfig,
    draw_errors,
    shrink,
    warp_tilts,
)

# Below this many expected electrons a count is treated as this many, so that the
# logarithm stays finite where a beam is fully stopped.
MIN_COUNTS = 0.5


# Modulation transfer at 1/4, 1/2 and 3/4 of Nyquist, read from the curves that ship
# with InSilicoTEM (Vulovic et al., J. Struct. Biol. 2013); a CCD is the middle of its
# four.
DETECTORS = {
    "K2": (0.90, 0.79, 0.66),
    "Falcon": (0.41, 0.16, 0.09),
    "CCD": (0.42, 0.15, 0.05),
}
# Electrons of a hot pixel in units of the dose, uniform.
HOT_LEVEL = (3.0, 30.0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImagingConfig:
    """Ranges from which one series is drawn; equal ends fix a value.

    Attributes:
      mode: "bright_field", "haadf" or "ideal" (noise-free line integrals).
      dose: Electrons per pixel and tilt, log-uniform.
      resin_path: Mean t / Lambda of the resin at zero tilt, uniform.
      contrast: Standard deviation of the stain's -ln T at zero tilt, uniform.
      blur_px: Gaussian detector and optics blur, pixels, uniform.
      mtf: Transfer of the detector at 1/4, 1/2 and 3/4 of Nyquist, after the blur;
        None for a perfect one.  ``DETECTORS`` holds measured ones.
      read_noise: Electrons rms.
      hot_pixels: Share of detector pixels that are too bright, the same in every tilt.
      errors: Geometric and intensity errors.
      exact_counts: Poisson draws; false takes the Gaussian limit (above some 100
        electrons the two cannot be told apart, and it is faster).
    """

    mode: str = "bright_field"
    dose: tuple[float, float] = (500.0, 20000.0)
    resin_path: tuple[float, float] = (0.4, 1.2)
    contrast: tuple[float, float] = (0.15, 0.45)
    blur_px: tuple[float, float] = (0.0, 0.8)
    mtf: tuple[float, float, float] | None = None
    read_noise: float = 2.0
    hot_pixels: float = 0.0
    errors: ErrorConfig = ALIGNED
    exact_counts: bool = True


class SimulatedSeries(NamedTuple):
    """A simulated tilt series with its truth.

    Attributes:
      tilts: Measured line integrals, ``[n_tilts, u, y]``.
      volume: The attenuation that produced them, ``[z, x, y]``, same units.
      counts: Detected electrons ``[n_tilts, u, y]`` (equal to ``tilts`` if ideal).
      errors: Every drawn error.
      dose: Electrons per pixel.
    """

    tilts: jax.Array
    volume: jax.Array
    counts: jax.Array
    errors: DrawnErrors
    dose: jax.Array


def gaussian_blur(tilts: jax.Array, sigma: jax.Array, radius: int = 4) -> jax.Array:
    """Separable Gaussian blur of ``[n_tilts, u, y]``, edges repeated.

    ``sigma`` may be traced and zero; the kernel is cut at ``radius`` pixels.
    """
    taps = jnp.arange(-radius, radius + 1, dtype=tilts.dtype)
    kernel = jnp.exp(-0.5 * (taps / jnp.maximum(sigma, 1e-3)) ** 2)
    kernel = kernel / jnp.sum(kernel)
    for axis in (1, 2):
        pad = [(0, 0)] * 3
        pad[axis] = (radius, radius)
        padded = jnp.pad(tilts, pad, mode="edge")
        size = tilts.shape[axis]
        blurred = sum(
            kernel[i] * jax.lax.slice_in_dim(padded, i, i + size, axis=axis)
            for i in range(2 * radius + 1)
        )
        tilts = jnp.asarray(blurred)
    return tilts


def apply_mtf(tilts: jax.Array, mtf: tuple[float, float, float]) -> jax.Array:
    """Filters ``[n_tilts, u, y]`` by a radial detector transfer.

    Linear between 1 at zero frequency, the three values at 1/4, 1/2, 3/4 of Nyquist
    and the last of them beyond; mirrored borders, so that no edge wraps around.
    """
    nu, ny = tilts.shape[1:]
    padded = jnp.pad(tilts, ((0, 0), (0, nu), (0, ny)), mode="symmetric")
    radius = jnp.hypot(jnp.fft.fftfreq(2 * nu)[:, None], jnp.fft.rfftfreq(2 * ny))
    knots = jnp.array([0.0, 0.125, 0.25, 0.375])
    transfer = jnp.interp(radius, knots, jnp.array([1.0, *mtf]))
    spectrum = jnp.fft.rfft2(padded) * transfer
    return jnp.fft.irfft2(spectrum, s=(2 * nu, 2 * ny))[:, :nu, :ny]


def simulate_series(
    key: jax.Array,
    stain: jax.Array,
    geometry: TiltGeometry,
    config: ImagingConfig,
    severity: jax.Array | float = 1.0,
) -> SimulatedSeries:
    """Images a stain density as a tilt series: a pure function of the key.

    The nominal angles are those of ``geometry``; drawn tilt errors move the true
    ones.  Intensities are in units of inverse voxels (mu) for bright field, such
    that ``tilts`` are line integrals of ``volume`` up to blur, errors and noise.

    Args:
      key: Typed PRNG key.
      stain: Stain density, about [0, 1], ``[z, x, y]`` (the wide volume).
      geometry: Nominal geometry.
      config: Ranges and errors.
      severity: Factor on every drawn error of geometry and intensity; may be traced.

    Returns:
      The series and its truth.

    Raises:
      ValueError: Unknown mode.
    """
    keys = jax.random.split(key, 7)
    uniform = lambda k, r: jax.random.uniform(k, minval=r[0], maxval=r[1])  # noqa: E731
    log_dose = uniform(keys[0], (jnp.log(config.dose[0]), jnp.log(config.dose[1])))
    dose = jnp.exp(log_dose)
    errors = draw_errors(keys[1], geometry.angles_rad, config.errors, severity)
    nz = geometry.volume_shape[0]
    inside = None
    if config.errors.z_shrink:
        stain, inside = shrink(stain, errors.thickness)
    flat = jnp.sum(stain, axis=0)
    contrast = uniform(keys[2], config.contrast) / jnp.maximum(jnp.std(flat), 1e-6)
    resin = uniform(keys[3], config.resin_path) / nz
    volume = contrast * stain
    if config.mode == "bright_field":
        base = jnp.maximum(resin - contrast * jnp.mean(stain), 0.0)
        volume = volume + (base if inside is None else base * inside[:, None, None])
    true_geometry = dataclasses.replace(
        geometry, angles_rad=geometry.angles_rad + errors.tilt_rad, steep=None
    )
    if config.errors == ALIGNED:
        true_geometry = geometry
    path = project(volume, true_geometry)
    if config.errors != ALIGNED:
        path = warp_tilts(path, errors)
    blur = uniform(keys[4], config.blur_px)
    if config.mode == "ideal":
        return SimulatedSeries(path, volume, path, errors, dose)
    level = dose * errors.gain[:, None, None] * _ramp(errors.ramp, path.shape)
    if config.mode == "bright_field":
        signal = jnp.exp(-path)
    elif config.mode == "haadf":
        signal = path
    else:
        raise ValueError(
            "simulator: expected mode bright_field, haadf or ideal, got "
            f"{config.mode!r}; correct the imaging configuration"
        )
    expected = level * gaussian_blur(signal, blur)
    if config.mtf is not None:
        expected = apply_mtf(expected, config.mtf)
    if config.errors.offset:
        expected = expected + dose * errors.offset[:, None, None]
    counts = _draw_counts(keys[5], keys[6], expected, config)
    if config.hot_pixels:
        counts = _with_hot_pixels(jax.random.fold_in(key, 7), counts, dose, config)
    if config.mode == "bright_field":
        tilts = -jnp.log(jnp.maximum(counts, MIN_COUNTS) / dose)
    else:
        tilts = counts / dose
    return SimulatedSeries(tilts, volume, counts, errors, dose)


def _ramp(ramp, shape):
    u = jnp.linspace(-0.5, 0.5, shape[1])[None, :, None]
    v = jnp.linspace(-0.5, 0.5, shape[2])[None, None, :]
    return 1.0 + ramp[:, 0, None, None] * u + ramp[:, 1, None, None] * v


def _with_hot_pixels(key, counts, dose, config):
    key_where, key_level = jax.random.split(key)
    shape = counts.shape[1:]
    hot = jax.random.bernoulli(key_where, config.hot_pixels, shape)
    low, high = HOT_LEVEL
    level = dose * jax.random.uniform(key_level, shape, minval=low, maxval=high)
    return jnp.where(hot, counts + level, counts)


def _draw_counts(key, key_read, expected, config):
    expected = jnp.maximum(expected, 0.0)
    if config.exact_counts:
        counts = jax.random.poisson(key, expected).astype(jnp.float32)
    else:
        noise = jax.random.normal(key, expected.shape)
        counts = expected + jnp.sqrt(expected) * noise
    return counts + config.read_noise * jax.random.normal(key_read, expected.shape)
