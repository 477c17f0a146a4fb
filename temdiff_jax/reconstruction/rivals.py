"""Rivals of the prior, from tilts to a volume: DOLCE, DiffusionMBIR and DDS.

The samplers are in ``diffusion.methods``; here they meet
tilts and weights, under the settings of their programs or under shorter ones.  What
differs from the papers, and the weights they need, is told in docs/rivals.md.

Each method is given the tilts as ``reconstruct`` normalises them.  Outside the field of
view the slab is the quadratic estimate, as for the prior.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from temdiff_jax import layout
from temdiff_jax.diffusion import algebra, consistency, schedule
from temdiff_jax.diffusion.methods import slicewise, unguided
from temdiff_jax.errors import InputError
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.inverse.tikhonov import TikhonovSettings, settings_for
from temdiff_jax.model import Network
from temdiff_jax.priors import Prior, load_prior
from temdiff_jax.reconstruction import posterior
from temdiff_jax.series import inputs

MakeSampler = Callable[..., algebra.Sampler]
# Steps of one compiled program: the time between two reports.
CHUNK_STEPS = 50


class Settings(NamedTuple):
    """How a rival samples.

    Attributes:
      make: Of ``diffusion``: ``(denoise, problem, sigmas=..., ...) -> Sampler``.
      grid: ``num_steps -> sigmas``, one of ``diffusion.methods.SCHEDULES``.
      num_steps: Noise levels.
      num_samples: Samples whose mean is the estimate.
      numbers: Arguments of ``make`` that do not recompile, by name.
      counts: Arguments that do, such as the number of solver steps.
      conditional, volume: The network it needs: whether it sees the tilts, and
        whether it is asked for the volume; None takes either.
      calls: Network evaluations of a step.
      landing_pairs: Projections and back projections after the last step, as pairs;
        None where a step has as many as its solver needs.
    """

    make: MakeSampler
    grid: Callable[[int], jax.Array]
    num_steps: int
    num_samples: int = 1
    numbers: tuple[tuple[str, float], ...] = ()
    counts: tuple[tuple[str, Any], ...] = ()
    conditional: bool | None = None
    volume: bool | None = None
    calls: int = 1
    landing_pairs: int | None = 0


# What the released programs do.
DOLCE = Settings(
    slicewise.dolce,
    schedule.vp_linear,
    num_steps=40,
    num_samples=8,
    conditional=True,
    volume=True,
    landing_pairs=None,
)
DIFFUSION_MBIR = Settings(
    slicewise.diffusion_mbir,
    schedule.ve_geometric,
    num_steps=2000,
    conditional=False,
    volume=True,
    calls=2,
    landing_pairs=2,
)
DDS_3D = Settings(
    slicewise.dds_3d,
    schedule.vp_linear,
    num_steps=50,
    conditional=False,
    volume=True,
)
DDS = Settings(unguided.dds, schedule.vp_linear, num_steps=50)

# Shorter runs.  Fewer steps make fewer updates of the data, so each is stronger.
# Numbers that differ from the program's are the best of the scans in docs/rivals.md.
DOLCE_FAST = DOLCE._replace(num_steps=20, num_samples=4)
DIFFUSION_MBIR_FAST = DIFFUSION_MBIR._replace(
    num_steps=100,
    numbers=(("coupling", 0.006), ("threshold", 0.3)),
    counts=(("num_iters", 3),),
)
# The program's numbers of DDS_3D were the best of theirs.
DDS_TUNED = DDS._replace(numbers=(("eta", 0.0),), counts=(("num_iters", 1),))

RIVALS = {
    "dolce": DOLCE,
    "dolce_fast": DOLCE_FAST,
    "diffusion_mbir": DIFFUSION_MBIR,
    "diffusion_mbir_fast": DIFFUSION_MBIR_FAST,
    "dds": DDS,
    "dds_tuned": DDS_TUNED,
    "dds_3d": DDS_3D,
}
# Rivals that take the weights of another where they are given none.
SHARED_WEIGHTS = {
    "dolce_fast": "dolce",
    "diffusion_mbir_fast": "diffusion_mbir",
    "dds_3d": "diffusion_mbir",
}


def reconstruct(
    tilts: np.ndarray,
    angles_deg: np.ndarray,
    *,
    thickness: int,
    settings: Settings,
    prior: str | Path | Prior,
    seed: int = 0,
    window: int = 128,
    on_progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """The estimate of a rival.

    Args:
      tilts: Line integrals ``[n_tilts, y, x]``, dense matter bright, aligned.
      angles_deg: Degrees, one per tilt, ascending.
      thickness: Slab thickness, voxels.
      settings: One of ``RIVALS``, or such a one with other numbers.
      prior: Weights.
      seed: Of the samples.
      window: Largest extent given to the network at once, voxels.
      on_progress: Called with the steps done and those of all samples.

    Returns:
      ``[z, y, x]`` float32, input units.

    Raises:
      InputError: The network is of another kind than the method's.
    """
    loaded = prior if isinstance(prior, Prior) else load_prior(prior)
    check_network(settings, loaded)
    posterior.check_options(posterior.Options(window=window), loaded.network)
    _, height, width = tilts.shape
    geometry = TiltGeometry.from_degrees(
        angles_deg, thickness=thickness, width=width, height=height
    )
    tikhonov = settings_for(angles_deg)
    ready = _prepare(
        layout.tilts_to_core(tilts),
        geometry,
        jnp.float32(tikhonov.smoothness),
        jnp.float32(tikhonov.ridge),
        num_iters=tikhonov.num_iters,
    )
    bound = (loaded.params, ready, geometry, loaded.residual_scale)
    every = settings.num_samples * settings.num_steps
    report = on_progress or _silent
    total = jnp.zeros(())
    # One by one: a volume is a batch of slices already.
    for index in range(settings.num_samples):
        key = jax.random.fold_in(jax.random.key(seed), index)
        tell = functools.partial(_tell, report, index * settings.num_steps, every)
        total = total + _draw(key, bound, loaded.network, settings, window, tell)
    return np.asarray(layout.volume_from_core(total / settings.num_samples))


def _tell(
    report: Callable[[int, int], None], before: int, total: int, done: int
) -> None:
    """Reports steps of one sample as steps of all."""
    report(before + done, total)


def _silent(done: int, total: int) -> None:
    """Reports to nobody."""


def _draw(
    key: jax.Array,
    bound: tuple[Any, ...],
    network: Network,
    settings: Settings,
    window: int,
    report: Callable[[int], None],
) -> jax.Array:
    """One sample ``[z, x, y]``, input units, a few steps at a time."""
    sigmas = settings.grid(settings.num_steps)
    numbers = {name: jnp.float32(value) for name, value in settings.numbers}
    static = {
        "network": network,
        "make": settings.make,
        "counts": settings.counts,
        "window": window,
    }
    args = (*bound, sigmas, numbers)
    key_start, key_steps = jax.random.split(key)
    state = _begin(key_start, *args, **static)
    for start in range(0, settings.num_steps, CHUNK_STEPS):
        count = min(CHUNK_STEPS, settings.num_steps - start)
        first = jnp.int32(start)
        state = _advance(key_steps, state, first, *args, count=count, **static)
        jax.block_until_ready(state.x)
        report(start + count)
    return _finish(state.x[0], *args, **static)


def solver_pairs(settings: Settings) -> int | None:
    """Projections and back projections of all samples, as pairs.

    An update of n conjugate-gradient steps is n + 1 of them.  None where the solver
    ends at rounding error and its steps are not counted beforehand.  Those of the
    quadratic estimate and of the power iterations for an operator norm are not in it.
    """
    if settings.landing_pairs is None:
        return None
    default = inspect.signature(settings.make).parameters["num_iters"].default
    solved = dict(settings.counts).get("num_iters", default) + 1
    return settings.num_samples * (settings.num_steps * solved + settings.landing_pairs)


def check_network(settings: Settings, prior: Prior) -> None:
    """Refuses weights that were trained for something else.

    Raises:
      InputError: Conditional where it must not be, or asked for another thing.
    """
    config = prior.network.config
    volume = config.target == "volume"
    fits = settings.conditional in (None, config.conditional)
    if fits and settings.volume in (None, volume):
        return
    wanted = "a conditional" if settings.conditional else "an unconditional"
    got = "a conditional" if config.conditional else "an unconditional"
    raise InputError(
        f"prior: expected {wanted} network of volumes for "
        f"{getattr(settings.make, '__name__', 'this method')}, got {got} one of the "
        f"{config.target} in {prior.card.get('name')!r}; see docs/rivals.md"
    )


@functools.partial(jax.jit, static_argnames=("num_iters",))
def _prepare(
    tilts: jax.Array,
    geometry: TiltGeometry,
    smoothness: Any,
    ridge: Any,
    *,
    num_iters: int,
) -> inputs.Prepared:
    return inputs.prepare(
        tilts, geometry, TikhonovSettings(smoothness, ridge, num_iters)
    )


def volume_frame(
    ready: inputs.Prepared,
    scale: inputs.ResidualScale,
    geometry: TiltGeometry,
) -> consistency.ResidualFrame:
    """Units of a network that is asked for the volume.

    Around the mean, in units of the volume's expected spread; the quadratic estimate
    stays where the sampler does not reach.
    """
    inside = geometry.pad_lateral(geometry.crop(ready.tikhonov))
    unit = ready.level * jnp.sqrt(1.0 + scale(ready.features) ** 2)
    return consistency.ResidualFrame(
        ready.tikhonov - inside, unit, ready.tilts, ready.weight
    )


def _bind(
    params: dict,
    ready: inputs.Prepared,
    geometry: TiltGeometry,
    scale: inputs.ResidualScale,
    sigmas: jax.Array,
    numbers: dict[str, jax.Array],
    *,
    network: Network,
    make: MakeSampler,
    counts: tuple[tuple[str, Any], ...],
    window: int,
) -> tuple[algebra.Sampler, consistency.ResidualFrame]:
    """The sampler of a series, and the units of its variable."""
    if network.config.target == "volume":
        frame = volume_frame(ready, scale, geometry)
    else:
        frame = posterior.frame_of(ready, scale)
    cube = (window, window, window)
    denoise = posterior.denoiser(network, params, ready, geometry, cube)
    problem = consistency.projector_measurement(frame, geometry)
    sampler = make(denoise, problem, sigmas=sigmas, **numbers, **dict(counts))
    return sampler, frame


_STATIC = ("network", "make", "counts", "window")


@functools.partial(jax.jit, static_argnames=_STATIC)
def _begin(
    key: jax.Array,
    params: dict,
    ready: inputs.Prepared,
    geometry: TiltGeometry,
    *rest: Any,
    **static: Any,
) -> algebra.State:
    sampler, _ = _bind(params, ready, geometry, *rest, **static)
    shape = geometry.crop(ready.tikhonov).shape
    return sampler.kernel.init(sampler.start(key, (1, *shape)))


@functools.partial(
    jax.jit, static_argnames=("count", *_STATIC), donate_argnames="state"
)
def _advance(
    key: jax.Array,
    state: algebra.State,
    start: jax.Array,
    *args: Any,
    count: int,
    **static: Any,
) -> algebra.State:
    sampler, _ = _bind(*args, **static)
    kernel, sigmas = sampler.kernel, sampler.sigmas
    return algebra.run_steps(kernel, key, state, sigmas, start, count)[0]


@functools.partial(jax.jit, static_argnames=_STATIC)
def _finish(
    residual: jax.Array,
    params: dict,
    ready: inputs.Prepared,
    geometry: TiltGeometry,
    *rest: Any,
    **static: Any,
) -> jax.Array:
    _, frame = _bind(params, ready, geometry, *rest, **static)
    wide = consistency.to_volume(residual, frame, geometry)
    return posterior.to_input_units(wide, ready, geometry)
