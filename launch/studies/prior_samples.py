"""Draws from a prior without any tilts, beside real blocks.

    python -m launch.studies.prior_samples --data_dir=DATA --out=runs/prior_samples

The network is asked without its condition, so that what comes out is its idea of a
specimen.  Written are prior_samples.png (slices of samples, slices of real blocks and
the power spectra of both) and prior_samples.json (the spectra, and how far apart they
are).
"""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging

from launch import program
from temdiff_jax.diffusion import algebra, parameterisation, schedule
from temdiff_jax.errors import InputError
from temdiff_jax.evaluation import fourier
from temdiff_jax.io import write
from temdiff_jax.model import NUM_FEATURES, Condition, Network, conv
from temdiff_jax.priors import load_prior
from temdiff_jax.report import gallery
from temdiff_jax.simulator import grey_to_stain
from temdiff_jax.training.volumes import load_sources

_DATA = flags.DEFINE_string("data_dir", None, "Folder of the volumes.", required=True)
_VOLUMES = flags.DEFINE_list(
    "volumes",
    [f"fib25_medulla/validation_crop{i}_128.npz:volume" for i in range(4)],
    "path:key entries of real volumes.",
)
_OUT = flags.DEFINE_string("out", None, "Folder for the figure.", required=True)
_PRIOR = flags.DEFINE_string("prior", "default", "Name or file of the prior.")
_COUNT = flags.DEFINE_integer("count", 8, "Samples, and real blocks.", 1)
_SIZE = flags.DEFINE_integer("size", 64, "Edge of a block, voxels.", 16)
_STEPS = flags.DEFINE_integer("steps", 40, "Steps of the sampler.", 2)
_ETA = flags.DEFINE_float("eta", 1.0, "Share of ancestral noise.", 0.0, 1.0)
_SEED = flags.DEFINE_integer("seed", 0, "Of the samples and of the blocks.", 0)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace earlier files.")


@functools.partial(jax.jit, static_argnames=("network", "size", "steps"))
def sample(
    key: jax.Array,
    params: dict,
    eta: jax.Array,
    *,
    network: Network,
    size: int,
    steps: int,
) -> jax.Array:
    """One volume ``[z, x, y]`` of unit variance from the unconditional prior."""
    shape = (1, size, size, size)
    absent = Condition(
        jnp.zeros(shape), jnp.zeros(shape), jnp.zeros((1, NUM_FEATURES)), jnp.zeros(1)
    )

    def denoiser(x, sigma):
        return parameterisation.denoise(
            lambda scaled, level: network.apply(params, scaled, level, absent),
            x,
            jnp.full((1,), sigma),
        )

    key_start, key_steps = jax.random.split(key)
    sigmas = schedule.karras(steps)
    start = sigmas[0] * jax.random.normal(key_start, shape)
    kernel = algebra.ddim(algebra.predictor(denoiser), eta=eta)
    state, _ = algebra.run(kernel, key_steps, start, sigmas)
    return state.x[0]


def real_blocks(volumes: list[np.ndarray], count: int, size: int, seed: int):
    """Random cubes of the volumes as stain, mean 0 and variance 1, ``[z, x, y]``."""
    rng = np.random.default_rng(seed)
    blocks = []
    for index in range(count):
        stain = grey_to_stain(volumes[index % len(volumes)])
        if min(stain.shape) < size:
            raise InputError(
                f"--size: expected at most {min(stain.shape)} for these volumes, got "
                f"{size}; choose a smaller one"
            )
        start = [int(rng.integers(n - size + 1)) for n in stain.shape]
        block = stain[tuple(slice(s, s + size) for s in start)]
        blocks.append((block - block.mean()) / block.std())
    return blocks


def mean_spectrum(blocks) -> tuple[np.ndarray, np.ndarray]:
    """Average of the blocks' power spectra."""
    spectra = [fourier.power_spectrum(block) for block in blocks]
    return spectra[0][0], np.mean([power for _, power in spectra], axis=0)


def run() -> None:
    """Samples, compares, writes."""
    prior = load_prior(_PRIOR.value)
    multiple = prior.network.config.multiple
    if _SIZE.value % multiple:
        raise InputError(
            f"--size: expected a multiple of {multiple}, got {_SIZE.value}; this "
            "network halves its input"
        )
    out = pathlib.Path(_OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    volumes = load_sources(_DATA.value, tuple(_VOLUMES.value))
    real = real_blocks(volumes, _COUNT.value, _SIZE.value, _SEED.value)
    drawn = []
    for index in range(_COUNT.value):
        key = jax.random.fold_in(jax.random.key(_SEED.value), index)
        volume = sample(
            key,
            prior.params,
            jnp.float32(_ETA.value),
            network=prior.network,
            size=_SIZE.value,
            steps=_STEPS.value,
        )
        drawn.append(np.asarray(volume))
        logging.info("sample %d of %d", index + 1, _COUNT.value)
    frequency, of_samples = mean_spectrum(drawn)
    _, of_blocks = mean_spectrum(real)
    apart = 10 * np.abs(np.log10(of_samples / of_blocks))
    middle = _SIZE.value // 2
    gallery.write_gallery(
        out / "prior_samples.png",
        {
            "samples of the prior without tilts (xz)": [v[:, :, middle] for v in drawn],
            "real blocks (xz)": [v[:, :, middle] for v in real],
        },
        title=f"prior {prior.card.get('name')}: {_STEPS.value} steps, seed "
        f"{_SEED.value}",
        curves={
            "samples": (frequency, of_samples),
            "real blocks": (frequency, of_blocks),
        },
        curve_labels=("frequency, cycles per voxel", "power, unit variance"),
        overwrite=_OVERWRITE.value,
    )
    record = {
        "prior": prior.card.get("name"),
        "sha256": prior.sha256,
        "frequency_per_voxel": frequency.tolist(),
        "power_samples": of_samples.tolist(),
        "power_blocks": of_blocks.tolist(),
        "mean_distance_db": float(apart.mean()),
        "standard_deviation": [float(v.std()) for v in drawn],
    }
    write.write_json(out / "prior_samples.json", record, overwrite=_OVERWRITE.value)
    print(f"spectra {apart.mean():.1f} dB apart on average, {apart.max():.1f} at most")


def main(argv: Sequence[str]) -> None:
    """Runs, and exits with 2 on bad input."""
    conv.prefer_own(os.environ)
    with program.refusals("prior_samples", argv):
        run()


if __name__ == "__main__":
    app.run(main)
