"""Samples of the volume given the tilts: the prior bound to one prepared series.

The jitted programs here take parameters and data as arguments, so that a second
series of the same extents compiles nothing.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from temdiff_jax.diffusion import (
    algebra,
    consistency,
    parameterisation,
    schedule,
    solvers,
)
from temdiff_jax.errors import InputError
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.inverse.quadratic import Metric
from temdiff_jax.model import Condition, Network
from temdiff_jax.reconstruction import tiling
from temdiff_jax.series import inputs

# Voxels of all samples advanced together; bounds the memory of the network.
BATCH_VOXELS = 2_500_000
# Steps of one compiled chunk, at most: the time between two reports.
CHUNK_STEPS = 5
# Of the reverse process, by name: (predictor, eta) -> kernel.
SOLVERS: dict[str, Callable[[algebra.Predictor, jax.Array | float], algebra.Kernel]] = {
    "ddim": lambda guess, eta: algebra.ddim(guess, eta=eta),
    "dpm++2m_sde": lambda guess, eta: solvers.dpm_solver_2m(guess, eta=1.0),
}


class Options(NamedTuple):
    """Static choices of a sampler; numbers that may be swept are arguments.

    The defaults, and those of ``Knobs`` and of the numbers of samples and steps, were
    chosen from table T7: docs/samplers.md, "Which to choose".

    Attributes:
      window: Largest extent given to the network at once, voxels.
      lateral: The same across the beam, along x and y, where it is smaller; 0 for
        ``window``.  Of use to networks whose norms take their statistics over space
        (docs/ablations.md).
      cg_iters: Conjugate-gradient steps of a consistency update.
      mean_cg_iters: The same for the one-call estimate.
      mirrors: Whether the one-call estimate is averaged over the eight mirror
        images of the problem (the laws of imaging do not change under them, the
        network's answer does a little).
      solver: Of ``SOLVERS``. "ddim" takes ``Knobs.eta``; "dpm++2m_sde", of second
        order, has a share of fresh noise of its own and leaves eta alone.
    """

    window: int = 128
    lateral: int = 0
    cg_iters: int = 8
    mean_cg_iters: int = 20
    mirrors: bool = True
    solver: str = "dpm++2m_sde"


class Knobs(NamedTuple):
    """Numbers of a sampler that do not recompile it.

    Attributes:
      eta: Share of fresh noise in a step of "ddim", in [0, 1].
      prior_precision: lambda_c, factor on the metric of the guess.
      consistency_from: Largest noise level at which the data pull.
      outside: Standard deviation of a guess beside the field of view over that
        inside in series of wide range, of the one-call estimate as well, see
        ``consistency.guess_spread``; 1 for everywhere alike.
    """

    eta: float = 0.85
    prior_precision: float = 1.0
    consistency_from: float = 80.0
    outside: float = consistency.OUTSIDE


def check_options(options: Options, network: Network) -> None:
    """Refuses an unknown solver, and a window that does not fit network and blending.

    Raises:
      InputError: Unknown; not a multiple of the network's, or not above the overlap.
    """
    if options.solver not in SOLVERS:
        raise InputError(
            f"options.solver: expected one of {list(SOLVERS)}, got "
            f"{options.solver!r}; choose one"
        )
    multiple = network.config.multiple
    for name in ("window", "lateral"):
        window = getattr(options, name)
        if name == "lateral" and window == 0:
            continue
        if window % multiple or window <= tiling.OVERLAP:
            raise InputError(
                f"options.{name}: expected a multiple of {multiple} above "
                f"{tiling.OVERLAP}, got {window}; {16 * multiple} is such a number"
            )


def windows(options: Options) -> tuple[int, int, int]:
    """Largest extents along z, x and y that the network is given."""
    across = min(options.window, options.lateral or options.window)
    return (options.window, across, across)


def frame_of(
    ready: inputs.Prepared, scale: inputs.ResidualScale
) -> consistency.ResidualFrame:
    """Units in which the network sees the series."""
    unit = ready.level * scale(ready.features)
    return consistency.ResidualFrame(ready.tikhonov, unit, ready.tilts, ready.weight)


def denoiser(
    network: Network,
    params: dict,
    ready: inputs.Prepared,
    geometry: TiltGeometry,
    window: tuple[int, int, int],
):
    """``(x, sigma) -> x0`` over the field of view, in windows where needed.

    x is ``[b, z, x, y]``, sigma a scalar.
    """
    estimate = geometry.crop(ready.tikhonov) / ready.level
    seen = jnp.broadcast_to(geometry.crop(ready.coverage), estimate.shape)
    swept: Sequence[jax.Array] = ()
    if network.config.moments:
        assert ready.moments is not None
        swept = tuple(ready.moments)

    def apply(x, sigma):
        batch = x.shape[0]

        def one_window(x, estimate, seen, *swept):
            here = Condition(
                estimate,
                seen,
                jnp.broadcast_to(ready.features, (batch, *ready.features.shape)),
                jnp.ones((batch,)),
                jnp.stack(swept, axis=-1) if swept else None,
            )
            return parameterisation.denoise(
                lambda scaled, level: network.apply(params, scaled, level, here),
                x,
                jnp.full((batch,), sigma),
            )

        given = (estimate, seen, *swept)
        fields = [x, *(jnp.broadcast_to(f, x.shape) for f in given)]
        return tiling.apply_windowed(
            one_window, fields, window=window, multiple=network.config.multiple
        )

    return apply


def _mirror(volume: jax.Array, flips: jax.Array) -> jax.Array:
    """Mirrors ``[..., z, x, y]`` along the axes whose flag is set, ``[3]``."""
    for axis in range(3):
        volume = jnp.where(flips[axis], jnp.flip(volume, axis - 3), volume)
    return volume


def _mirror_series(ready: inputs.Prepared, flips: jax.Array) -> inputs.Prepared:
    """What the network would be told of the mirrored specimen."""
    moments = ready.moments
    if moments is not None:
        sign = jnp.where(flips[0] != flips[1], -1.0, 1.0)
        signs = jnp.stack([1.0, sign, 1.0])[:, None, None, None]
        moments = _mirror(moments, flips) * signs
    return ready._replace(
        tikhonov=_mirror(ready.tikhonov, flips),
        coverage=_mirror(ready.coverage, flips),
        moments=moments,
    )


@functools.partial(jax.jit, static_argnames=("network", "options"))
def mean_estimate(
    params: dict,
    ready: inputs.Prepared,
    geometry: TiltGeometry,
    scale: inputs.ResidualScale,
    metric: Metric,
    outside: jax.Array | float = consistency.OUTSIDE,
    *,
    network: Network,
    options: Options,
) -> tuple[jax.Array, jax.Array]:
    """The conditional mean by the network, and one projection update.

    The denoiser at infinite noise is the conditional mean, averaged over mirror
    images if asked for; the update pulls it to the tilts in the metric of its
    error (P4).

    Returns:
      Wide normalised volumes ``[z, x, y]``: after and before the update.
    """
    if network.config.moments:
        ready = inputs.with_moments(ready, geometry)
    frame = frame_of(ready, scale)
    zeros = jnp.zeros((1, *geometry.crop(ready.tikhonov).shape))

    def one_mirror(flips: jax.Array) -> jax.Array:
        here = _mirror_series(ready, flips)
        guess = denoiser(network, params, here, geometry, windows(options))
        return _mirror(guess(zeros, parameterisation.SIGMA_MEAN)[0], flips)

    flips = jnp.asarray(list(itertools.product((False, True), repeat=3)))
    raw = lax.map(one_mirror, flips if options.mirrors else flips[:1])
    before = consistency.to_volume(jnp.mean(raw, axis=0), frame, geometry)
    after, _ = consistency.proximal_update(
        before,
        frame.tilts,
        geometry,
        frame.weight,
        metric,
        num_iters=options.mean_cg_iters,
        spread=consistency.guess_spread(geometry, outside),
    )
    return after, before


def make_kernel(
    params: dict,
    ready: inputs.Prepared,
    geometry: TiltGeometry,
    scale: inputs.ResidualScale,
    metric: Metric,
    knobs: Knobs,
    *,
    network: Network,
    options: Options,
) -> algebra.Kernel:
    """The default sampler: denoiser, proximal consistency in every step, a solver."""
    if network.config.moments:
        ready = inputs.with_moments(ready, geometry)
    frame = frame_of(ready, scale)
    guess = denoiser(network, params, ready, geometry, windows(options))
    data = consistency.proximal_consistency(
        frame,
        geometry,
        Metric(
            metric.smoothness * knobs.prior_precision,
            metric.ridge * knobs.prior_precision,
        ),
        num_iters=options.cg_iters,
        outside=knobs.outside,
    )
    data = algebra.within(data, high=knobs.consistency_from)
    predictor = algebra.constrain(algebra.predictor(guess), data)
    return SOLVERS[options.solver](predictor, knobs.eta)


@functools.partial(jax.jit, static_argnames=("count", "fov", "solver"))
def initial_state(
    key: jax.Array, count: int, fov: tuple[int, int, int], solver: str = "ddim"
) -> algebra.State:
    """Start of ``count`` samples: noise ``[count, z, x, y]``, one key each.

    Neither the denoiser nor the constraint of ``make_kernel`` remembers anything, so
    what a solver remembers is that of a predictor that does nothing.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))
    noise = jax.vmap(lambda k: jax.random.normal(k, fov))(keys)
    idle = algebra.constrain(algebra.predictor(lambda x, sigma: x), algebra.identity())
    return SOLVERS[solver](idle, 0.0).init(schedule.SIGMA_MAX * noise)


@functools.partial(
    jax.jit, static_argnames=("network", "options", "steps"), donate_argnums=(1,)
)
def sample_chunk(
    key: jax.Array,
    state: algebra.State,
    params: dict,
    ready: inputs.Prepared,
    geometry: TiltGeometry,
    scale: inputs.ResidualScale,
    metric: Metric,
    knobs: Knobs,
    sigmas: jax.Array,
    start: jax.Array,
    *,
    network: Network,
    options: Options,
    steps: int,
) -> tuple[algebra.State, algebra.Info]:
    """``steps`` steps of the grid from step ``start`` on, one ``lax.scan``."""
    kernel = make_kernel(
        params,
        ready,
        geometry,
        scale,
        metric,
        knobs,
        network=network,
        options=options,
    )
    return algebra.run_steps(kernel, key, state, sigmas, start, steps)


@jax.jit
def to_volumes(
    residuals: jax.Array,
    ready: inputs.Prepared,
    geometry: TiltGeometry,
    scale: inputs.ResidualScale,
) -> jax.Array:
    """Wide normalised volumes ``[b, z, x, y]`` of residuals."""
    frame = frame_of(ready, scale)
    return jax.vmap(lambda r: consistency.to_volume(r, frame, geometry))(residuals)


@jax.jit
def to_input_units(
    volume: jax.Array, ready: inputs.Prepared, geometry: TiltGeometry
) -> jax.Array:
    """Field of view ``[..., z, x, y]`` of wide normalised volumes, input units."""
    units = ready.scaling
    return geometry.crop(volume) * units.contrast + units.mean


def draw_groups(
    key: jax.Array,
    params: dict,
    ready: inputs.Prepared,
    geometry: TiltGeometry,
    scale: inputs.ResidualScale,
    metric: Metric,
    knobs: Knobs,
    *,
    network: Network,
    options: Options,
    num_samples: int,
    num_steps: int,
    report: Callable[[int, str], None],
) -> Iterator[jax.Array]:
    """Samples in groups of equal size, so that one program serves them all.

    Args:
      key, params, ready, geometry, scale, metric, knobs: As for ``sample_chunk``.
      network, options: The same.
      num_samples: Samples of all groups together.
      num_steps: Noise levels.
      report: Called with the sample-steps done and a message.

    Yields:
      Wide normalised volumes ``[group, z, x, y]``.
    """
    fov = (geometry.volume_shape[0], geometry.num_u, geometry.volume_shape[2])
    group = _largest_divisor(num_samples, BATCH_VOXELS // int(np.prod(fov)))
    chunk = _largest_divisor(num_steps, CHUNK_STEPS)
    sigmas = schedule.karras(num_steps)
    # Arrays, not Python numbers: another value compiles nothing.
    knobs = Knobs(*(jnp.float32(k) for k in knobs))
    args = (params, ready, geometry, scale, metric, knobs, sigmas)
    static = {"network": network, "options": options, "steps": chunk}
    for first in range(0, num_samples, group):
        begin, go_on = jax.random.split(jax.random.fold_in(key, first))
        state = initial_state(begin, group, fov, options.solver)
        for start in range(0, num_steps, chunk):
            state, _ = sample_chunk(go_on, state, *args, jnp.int32(start), **static)
            jax.block_until_ready(state.x)
            done = first * num_steps + (start + chunk) * group
            report(done, f"sampling {first + group} of {num_samples}")
        yield to_volumes(state.x, ready, geometry, scale)


def _largest_divisor(number: int, most: int) -> int:
    """Largest divisor of a positive number that is at most ``most``, at least 1."""
    sizes = range(1, max(1, min(number, most)) + 1)
    return max(size for size in sizes if number % size == 0)
