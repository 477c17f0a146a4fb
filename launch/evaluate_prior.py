"""What a prior that samples is worth: one table on volumes kept out of its training.

    python -m launch.evaluate_prior --prior=FILE.safetensors --out=prior.md \\
        --volume=DATA/fib25_medulla/validation_crop1_128.npz:volume --cases=10/1,60/3

For each tilt scheme, of bright-stain series with 1 % noise, on the finest grid of
``--factors``: the mean call over the quadratic estimate; the mean of the samples and
one sample against that call (exact samples give -10 log10(1 + 1/S) and -3.01 dB); error
over spread and share of errors within the 90 % interval of Student's t, in means over
1, 2 and 4 voxels; correlation of spread and error; power of a sample over that of the
truth, shell by shell, both without the mean call; sliced Wasserstein distance of
samples from the volumes over that between the volumes; what the denoiser gains on its
linear guess at each noise level.  Then the same distance, and the spectrum, of samples
drawn without tilts on each coarser grid.  The picture beside the page shows truth, mean
call, samples, spread and error of every case, and samples without tilts beside real
blocks.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft
import scipy.stats
from absl import app, flags

from launch import program
from temdiff_jax.diffusion import algebra, schedule, solvers, spectrum
from temdiff_jax.errors import InputError
from temdiff_jax.evaluation import sliced
from temdiff_jax.evaluation.protocol import Case, seed_for
from temdiff_jax.evaluation.sliced import binned
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.inverse.problem import Problem
from temdiff_jax.inverse.tikhonov import settings_for
from temdiff_jax.io import write
from temdiff_jax.priors import Prior, load_prior
from temdiff_jax.projector import project
from temdiff_jax.reconstruction import methods, multigrid
from temdiff_jax.reconstruction.denoiser import (
    denoiser,
    frame_of,
    regressed,
    spread_of_guess,
    unconditional,
)
from temdiff_jax.reconstruction.settings import Settings
from temdiff_jax.reconstruction.watch import Watch
from temdiff_jax.report import gallery
from temdiff_jax.series import inputs
from temdiff_jax.series.grids import grids_of
from temdiff_jax.simulator import grey_to_stain

NOISE = 0.01  # of the deviation of the tilts
LEVELS = (0.3, 1.0, 3.0, 10.0, 30.0)
BINS = (1, 2, 4)
SHELLS = np.arange(0.0, 0.5, 0.0625)  # cycles a voxel
_SOLVER = functools.partial(solvers.dpm_solver_2m, eta=1.0)
FREE_STEPS = 24  # of samples without tilts


class Drawn(NamedTuple):
    """One series, everything in units of the residual on the finest grid.

    Attributes:
      truth, base, mean: ``[z, x, y]``: volume, quadratic estimate, mean call.
      samples: ``[s, z, x, y]``.
      gains: Of the denoiser over its linear guess at ``LEVELS``, dB.
      spread: Of the error of the mean call by the network's own head, ``[z, x, y]``;
        NaN without one.
      known: What the samples are drawn around, ``[z, x, y]``: the estimate of a
        regression, or the base.
    """

    truth: np.ndarray
    base: np.ndarray
    mean: np.ndarray
    samples: np.ndarray
    gains: np.ndarray
    spread: np.ndarray
    known: np.ndarray


def define_flags() -> None:
    """Defines the flags; not on import, so that programs can be imported together."""
    flags.DEFINE_string("prior", None, "Name or file of the prior.")
    flags.DEFINE_multi_string("volume", None, "npz file:key, uint8, heavy stain dark.")
    flags.DEFINE_string("cases", "10/1,60/3,120/3", "Tilt schemes, range/step.")
    flags.DEFINE_integer("size", 64, "Edge of the central cube that is used, voxels.")
    flags.DEFINE_list("factors", [], "Binnings, coarsest first; default: the prior's.")
    flags.DEFINE_list("steps", [], "Noise levels on each grid; default: 10, then 4.")
    flags.DEFINE_float("voxel_nm", 10.0, "Voxel size of the volumes.")
    flags.DEFINE_integer(
        "cg_iters", 0, "Of the projection update in every step of every grid; 0: none."
    )
    flags.DEFINE_integer("samples", 8, "Samples of each series.")
    flags.DEFINE_integer("seed", 0, "Of the noise and the samples.")
    flags.DEFINE_string("out", None, "Markdown page to write, and its picture.")
    flags.mark_flags_as_required(["prior", "volume"])


def read_volume(name: str, size: int) -> np.ndarray:
    """The stain of the central cube of a volume, core layout, bright where dense.

    Raises:
      InputError: No such file or key, or a volume that is too small.
    """
    path, _, key = name.partition(":")
    if not Path(path).is_file():
        raise InputError(f"--volume: expected file:key, found no file {path}")
    with np.load(path, allow_pickle=False) as archive:
        if key not in archive:
            raise InputError(
                f"--volume: expected the key {key!r} in {path}, got {sorted(archive)}"
            )
        volume = archive[key]
    if volume.ndim != 3 or min(volume.shape) < size:
        raise InputError(
            f"--size: expected at most {min(volume.shape)} for {path}, got {size}"
        )
    cut = tuple(slice((n - size) // 2, (n - size) // 2 + size) for n in volume.shape)
    return np.ascontiguousarray(np.swapaxes(grey_to_stain(volume)[cut], 1, 2))


def simulate(
    truth: np.ndarray,
    case: Case,
    seed: int,
    voxel_nm: float,
    noise_share: float = NOISE,
) -> Problem:
    """A noisy series of a cube that goes on as its mirror image on both sides."""
    size = truth.shape[1]
    geometry = TiltGeometry.from_degrees(
        case.angles_deg, thickness=truth.shape[0], width=size, height=truth.shape[2]
    )
    margin = geometry.margin
    wide = np.pad(truth, ((0, 0), (margin, margin), (0, 0)), mode="symmetric")
    tilts = np.asarray(project(jnp.asarray(wide), geometry))
    noise = np.random.default_rng(seed).standard_normal(tilts.shape)
    tilts = tilts + noise_share * tilts.std() * noise.astype(np.float32)
    problem = inputs.normalise(jnp.asarray(tilts), geometry)
    return Problem(
        geometry, problem.tilts, problem.precision, problem.units, voxel_nm=voxel_nm
    )


@functools.partial(jax.jit, static_argnames="window")
def _denoised(prior, problem, clean, noise, sigma, *, window):
    """Squared errors of the denoiser and of its linear guess."""
    noisy = clean + sigma * noise
    guess = denoiser(prior, problem, window)(noisy[None], sigma)[0]
    law = prior.residual_scale.spectrum
    after = jnp.full(1, float(problem.shown.regression is not None))
    power = law(clean.shape, problem.shown.features[None], jnp.ones(1), after)
    linear, _ = spectrum.linear_guess(noisy[None], sigma[None], power)
    return jnp.mean((guess - clean) ** 2), jnp.mean((linear[0] - clean) ** 2)


@functools.partial(jax.jit, static_argnames="window")
def _head(prior, problem, *, window):
    """Standard deviation of the error of the mean call, ``[z, x, y]``."""
    zeros = jnp.zeros((1, *problem.field_of_view))
    if not prior.network.config.log_variance:
        return jnp.full(zeros.shape[1:], jnp.nan)
    head = spread_of_guess(prior, problem, window)
    return head(zeros, jnp.float32(prior.sigma_mean))[0]


def draw(
    prior: Prior,
    truth: np.ndarray,
    problem: Problem,
    steps: multigrid.Steps,
    key,
    count,
    pull: multigrid.Pull = multigrid.NO_PULL,
) -> Drawn:
    """Mean call, samples and denoiser of one series."""
    if not prior.network.config.refines:
        return _draw_on_one_grid(prior, truth, problem, key, count)
    settings = settings_for(np.rad2deg(problem.geometry.angles_rad))
    window, first = (128, 128, 128), None
    ready = regressed(inputs.with_inputs(problem, settings), prior, window)
    if ready.shown.regression is not None:
        first = ready.to_input_units(ready.shown.regression)
    grids = grids_of(problem, settings, steps.factors, first)
    means = tuple(multigrid.mean_of(prior, grid, window=window) for grid in grids)
    samples = multigrid.draw(
        key,
        prior,
        grids,
        means,
        count=count,
        chain=multigrid.Chain(steps, _SOLVER, window, pull),
    )
    finest = grids[-1]
    frame = frame_of(finest, prior)
    unit = float(frame.unit * finest.units.contrast)
    base = np.asarray(finest.to_input_units(finest.shown.tikhonov))
    known = np.asarray(finest.to_input_units(frame.base))
    coarse = binned(truth, steps.factors[-1])
    clean = jnp.asarray((coarse - known) / unit)
    noise = jax.random.normal(jax.random.fold_in(key, 1), clean.shape)
    errors = [
        _denoised(prior, finest, clean, noise, jnp.float32(s), window=window)
        for s in LEVELS
    ]
    gains = np.array([10 * np.log10(float(b) / float(a)) for a, b in errors])
    scaled = [np.asarray(v) / unit for v in (coarse, base, means[-1], samples)]
    head = np.asarray(_head(prior, finest, window=window))
    return Drawn(*scaled, gains, head, known / unit)


def _draw_on_one_grid(prior, truth, problem, key, count) -> Drawn:
    """As the default method does it for a prior without a linear guess."""
    settings = settings_for(np.rad2deg(problem.geometry.angles_rad))
    ready = inputs.with_inputs(problem, settings)
    choice = Settings(num_samples=count, mirrors=False)
    method = methods.table()["default"]
    found = method.run(key, ready, prior, choice, Watch())
    assert found.samples is not None
    unit = float(frame_of(ready, prior).unit * ready.units.contrast)
    base = ready.to_input_units(ready.shown.tikhonov)
    scaled = [np.asarray(v) / unit for v in (truth, base, found.volume, found.samples)]
    nothing = np.full(truth.shape, np.nan)
    return Drawn(*scaled, np.full(len(LEVELS), np.nan), nothing, scaled[1])


@functools.partial(jax.jit, static_argnames=("shape", "count"))
def draw_free(
    key: jax.Array,
    prior: Prior,
    voxel_nm: float,
    *,
    shape: tuple[int, int, int],
    count: int,
) -> jax.Array:
    """``count`` specimens ``[count, z, x, y]`` of unit variance, without tilts."""
    guess = algebra.predictor(unconditional(prior, voxel_nm))
    sigmas = schedule.karras(
        FREE_STEPS, sigma_max=spectrum.SIGMA_HIGH, sigma_min=multigrid.SIGMA_LAST
    )
    start, steps = jax.random.split(key)
    x = sigmas[0] * jax.random.normal(start, (count, *shape))
    return algebra.run(_SOLVER(guess), steps, x, sigmas)[0].x


def _standard(volumes: np.ndarray) -> np.ndarray:
    """Mean 0 and deviation 1 over all of them."""
    return (volumes - volumes.mean()) / volumes.std()


def _shells(one: np.ndarray, real: np.ndarray) -> str:
    """Power of one set of volumes over that of another by frequency, dB."""
    modes = np.sqrt(
        sum(
            f**2
            for f in np.meshgrid(
                *(np.arange(n) / (2 * n) for n in real.shape[1:]), indexing="ij"
            )
        )
    )
    axes, shells = (1, 2, 3), []
    above, below = (
        np.mean(scipy.fft.dctn(v, axes=axes, norm="ortho") ** 2, axis=0)
        for v in (one, real)
    )
    for low, high in zip(SHELLS, [*SHELLS[1:], 0.5]):
        inside = (modes >= low) & (modes < high)
        if inside.any():
            ratio = above[inside].mean() / below[inside].mean()
            shells.append(f"{10 * np.log10(ratio):+.1f}")
    return " ".join(shells)


def _ratios(drawn: np.ndarray, real: Sequence[np.ndarray]) -> str:
    """Relative sliced Wasserstein distances, or what is missing."""
    if len(real) < 2:
        return "needs two volumes"
    return ", ".join(f"{v:.2f}" for v in sliced.relative(drawn, real))


def decibel(error: np.ndarray) -> float:
    """Of a mean square."""
    return float(10 * np.log10(np.mean(error**2)))


def _gain(truth: np.ndarray, base: np.ndarray, mean: np.ndarray, factor: int) -> float:
    """Of one estimate on another over cells, dB."""
    cells, below, above = (binned(v, factor) for v in (truth, base, mean))
    return decibel(cells - below) - decibel(cells - above)


def row(drawn: Sequence[Drawn]) -> dict[str, str]:
    """The figures of one tilt scheme, by name."""
    truth, base, mean, samples, gains, head, known = map(np.stack, zip(*drawn))
    count = samples.shape[1]
    reference = decibel(truth - mean)
    figures = {
        "mean call over quadratic, dB": f"{decibel(truth - base) - reference:+.2f}",
        "the same, bin 2": f"{_gain(truth, base, mean, 2):+.2f}",
        "of it the regression": f"{_gain(truth, base, known, 1):+.2f}",
        f"mean of {count}": f"{reference - decibel(truth - samples.mean(1)):+.2f}",
        "one sample": f"{reference - decibel(truth - samples[:, 0]):+.2f}",
    }
    widen = np.sqrt(1 + 1 / count)
    quantile = scipy.stats.t.ppf(0.95, count - 1)
    ratios, shares, correlations = [], [], []
    for factor in BINS:
        if min(truth.shape[1:]) < factor:
            continue
        cells, drawn_cells = binned(truth, factor), binned(samples, factor)
        error = np.abs(cells - drawn_cells.mean(1))
        spread = drawn_cells.std(1, ddof=1) * widen
        ratios.append(np.sqrt(np.mean(error**2) / np.mean(spread**2)))
        shares.append(np.mean(error < quantile * spread))
        correlations.append(np.corrcoef(spread.ravel(), error.ravel())[0, 1])
    for name, values in (
        ("error over spread", ratios),
        ("within 90 %", shares),
        ("correlation", correlations),
    ):
        figures[f"{name}, bin 1, 2, 4"] = ", ".join(f"{v:.2f}" for v in values)
    error = np.abs(truth - mean)
    # A head without contrast, such as an untrained one, has no correlation.
    alike = np.corrcoef(head.ravel(), error.ravel())[0, 1] if np.ptp(head) else 0.0
    figures["head of the mean call: error over spread, within 90 %, correlation"] = (
        f"{np.sqrt(np.mean(error**2) / np.mean(head**2)):.2f}, "
        f"{np.mean(error < scipy.stats.norm.ppf(0.95) * head):.2f}, "
        f"{alike:.2f}"
    )
    figures["spectrum by shell, dB"] = _shells(samples[:, 0] - mean, truth - mean)
    figures["sliced Wasserstein over real, bin 1, 2, 4"] = _ratios(samples[:, 0], truth)
    levels = ", ".join(f"{s:g}" for s in LEVELS)
    figures[f"denoiser over linear at {levels}, dB"] = ", ".join(
        f"{g:+.2f}" for g in gains.mean(axis=0)
    )
    return figures


def rows_of(name: str, drawn: Drawn) -> dict[str, list[np.ndarray]]:
    """Pictures of one series: central slices along the beam, across y."""
    middle = drawn.truth.shape[2] // 2
    spread = drawn.samples.std(axis=0, ddof=1)
    error = np.abs(drawn.truth - drawn.samples.mean(axis=0))
    volumes = [drawn.truth, drawn.base, drawn.mean, *drawn.samples[:2]]
    return {
        f"{name}: truth, quadratic estimate, mean call, two samples": [
            v[:, :, middle] for v in volumes
        ],
        f"{name}: spread of the samples, error of their mean": [
            v[:, :, middle] for v in (spread, error)
        ],
    }


def page(table: dict[str, dict[str, str]]) -> str:
    """Figures down, tilt schemes across."""
    names = list(next(iter(table.values())))
    lines = ["| | " + " | ".join(table) + " |", "|---" * (1 + len(table)) + "|"]
    lines += [
        f"| {name} | " + " | ".join(table[case][name] for case in table) + " |"
        for name in names
    ]
    return "\n".join(lines) + "\n"


def steps_of(prior: Prior, factors: Sequence, counts: Sequence) -> multigrid.Steps:
    """Grids and noise levels as given or, where empty, as the product has them."""
    if not factors:
        coarser = (2,) if prior.regression is not None else (4, 2)
        factors = (*coarser, 1) if prior.network.config.refines else (1,)
    counts = counts or (10, *[multigrid.FINER_STEPS] * (len(factors) - 1))
    return multigrid.Steps(tuple(map(int, factors)), tuple(map(int, counts)))


def main(argv: Sequence[str]) -> None:
    """Draws, scores, writes."""
    given = flags.FLAGS
    with program.refusals("evaluate_prior", argv):
        prior = load_prior(given.prior)
        steps = steps_of(prior, given.factors, given.steps)
        if len(steps.factors) != len(steps.counts) or given.size % steps.factors[0]:
            raise InputError(
                f"--factors: expected as many as --steps, the first a divisor of "
                f"{given.size}, got {list(steps.factors)} and {list(steps.counts)}"
            )
        refines = prior.network.config.refines
        if not refines and steps.factors != (1,):
            raise InputError(
                f"--factors: expected 1 alone (and --steps=8) for "
                f"{prior.card.get('name')!r}, which samples on one grid, got "
                f"{list(steps.factors)}"
            )
        volumes = {name: read_volume(name, given.size) for name in given.volume}
        table, pictures = {}, {}
        pull = multigrid.Pull(None, given.cg_iters, spectrum.SIGMA_HIGH)
        for text in given.cases.split(","):
            case = Case.from_name(text)
            drawn = []
            for name, truth in volumes.items():
                seed = seed_for(given.seed, Path(name).name, text)
                problem = simulate(truth, case, seed, given.voxel_nm)
                key = jax.random.key(seed)
                numbers = (steps, key, given.samples, pull)
                drawn.append(draw(prior, truth, problem, *numbers))
            table[text] = row(drawn)
            pictures |= rows_of(text, drawn[0])
        free = {}
        for factor in [f for f in steps.factors if refines and f > 1]:
            real = _standard(
                np.stack([binned(truth, factor) for truth in volumes.values()])
            )
            size = factor * given.voxel_nm
            samples = draw_free(
                jax.random.key(given.seed),
                prior,
                size,
                shape=real.shape[1:],
                count=given.samples,
            )
            samples = _standard(np.asarray(samples))
            free[f"{size:g} nm"] = {
                "spectrum by shell, dB": _shells(samples, real),
                "sliced Wasserstein over real, bin 1, 2, 4": _ratios(samples, real),
            }
            middle = real.shape[3] // 2
            for name, found in (("no tilts, samples", samples), ("real", real)):
                pictures[f"{name}, {size:g} nm"] = [v[..., middle] for v in found[:5]]
        text = page(table)
        if free:
            text += "\nWithout tilts:\n\n" + page(free)
        if given.out:
            write.write_bytes(Path(given.out), text.encode(), overwrite=True)
            picture = Path(given.out).with_suffix(".png")
            gallery.write_gallery(
                picture, pictures, title="Samples of the prior", overwrite=True
            )
        print(text, end="")


if __name__ == "__main__":
    define_flags()
    app.run(main)
