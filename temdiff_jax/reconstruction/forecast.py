"""What a reconstruction will need, from shapes and settings, before it begins.

Compiling the programs and asking for their memory would be exact and take minutes, so
these are closed formulas: bytes and seconds of each stage by volumes, tilts and feature
maps, fitted to the compiler's own plans (tests/reconstruction/test_forecast.py).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from temdiff_jax.geometry import lateral_margin_for
from temdiff_jax.inverse.tikhonov import settings_for
from temdiff_jax.reconstruction import sample, tiling
from temdiff_jax.reconstruction.methods import RESAMPLE
from temdiff_jax.reconstruction.plan import Choice, Plan

FLOAT = 4
# Memory of the runtime, of compilers and of a report, of which a run pays all, and what
# the program of a sampler adds (docs/reports/forecast.md).
PROGRAM_BYTES, SAMPLER_BYTES = 450 * 2**20, 80 * 2**20
# Wide volumes and stacks of tilts that live at once.
SOLVE_VOLUMES, SOLVE_TILTS = 4.4, 1.0
WEIGH_VOLUMES, WEIGH_TILTS = 18.0, 76.0
PULL_VOLUMES = 6.0
MAPS = 9.0
# Coherent modes of a tilt, with the weights.
MODES = 8
# Solves of the weighting, by its form: each as many iterations as the first estimate.
SOLVES = {"off": 0, "robust": 3, "diagonal": 3, "low-rank": 3, "adaptive": 5}
# A projection with its adjoint through shifts, and through turns as well, as multiples
# of one of aligned tilts; and the copies of the tilts that a motion keeps.
SHIFTED, TURNED, MOTION_TILTS = 3.7, 5.4, 5.5
# Seconds of one core: per tilt and voxel of a projection with its adjoint, and per
# floating-point operation of the network.
PAIR_S, FLOP_S = 6e-10, 1 / 40e9
ACCELERATOR = 100.0
COMPILE_S = 15.0


@dataclasses.dataclass(frozen=True)
class Size:
    """What decides the cost: tilts ``[n, y, x]``, a thickness, and how tilts lie.

    ``motion`` is the cost of a projection with its adjoint as a multiple of that of
    aligned tilts.
    """

    num_tilts: int
    height: int
    width: int
    thickness: int
    margin: int
    motion: float = 1.0

    @classmethod
    def of(cls, planned: Plan) -> Size:
        """Of a reconstruction."""
        geometry = planned.job.geometry
        nz, _, ny = geometry.volume_shape
        extents = (geometry.num_tilts, ny, geometry.num_u, nz, geometry.margin)
        lying = planned.job.series.alignment
        if lying is None or planned.choice.method.name in RESAMPLE:
            return cls(*extents)
        turned = np.any(lying.rotations_deg) or np.any(lying.magnifications != 1)
        return cls(*extents, TURNED if turned else SHIFTED)

    def binned(self, factor: int, angles_deg: np.ndarray) -> Size:
        """Of the same series on larger voxels."""
        extents = (self.height, self.width, self.thickness)
        height, width, depth = (max(n // factor, 1) for n in extents)
        margin = lateral_margin_for(angles_deg, depth, width)
        return Size(self.num_tilts, height, width, depth, margin, self.motion)

    @property
    def field(self) -> int:
        """Bytes of a volume over the field of view."""
        return FLOAT * self.thickness * self.width * self.height

    @property
    def wide(self) -> int:
        """Bytes of a volume with its margins."""
        return FLOAT * self.thickness * (self.width + 2 * self.margin) * self.height

    @property
    def tilts(self) -> int:
        """Bytes of the tilts."""
        return FLOAT * self.num_tilts * self.height * self.width


class Stage(NamedTuple):
    """One stage: its name, the bytes it holds on the device, seconds, and its steps."""

    name: str
    bytes: int
    seconds: float
    steps: int = 1


@dataclasses.dataclass(frozen=True)
class Forecast:
    """What a run needs.

    Attributes:
      stages: In their order.
      host: Bytes that the host holds of series and results, at most.
      on_host: Whether the device is the host's own processor.
      windows: Extents given to the network at once, ``(z, x, y)``; None without one.
      num_windows: How many of them one call of the network takes.
      calls, pairs: Of the network, and projections with their adjoints; None where
        nobody counted.
    """

    stages: tuple[Stage, ...]
    host: int
    on_host: bool
    windows: tuple[int, int, int] | None
    num_windows: int
    calls: int
    pairs: int | None

    @property
    def device_bytes(self) -> int:
        """Of arrays on the device, at most."""
        return max(stage.bytes for stage in self.stages)

    def added(self) -> int:
        """Bytes by which the process will still grow."""
        own = self.device_bytes if self.on_host else 0
        draws = any(stage.name == "sampling" for stage in self.stages)
        return PROGRAM_BYTES + draws * SAMPLER_BYTES + self.host + own

    @property
    def seconds(self) -> float:
        """Of all stages."""
        return sum(stage.seconds for stage in self.stages)

    def steps(self) -> tuple[float, ...]:
        """Seconds of every step that a run tells of."""
        return tuple(
            stage.seconds / stage.steps
            for stage in self.stages
            for _ in range(stage.steps)
        )


def predict(
    size: Size, choice: Choice, weighting: str, angles_deg: np.ndarray
) -> Forecast:
    """The forecast of a method on a series.

    Args:
      size: Extents.
      choice: Method, network and settings.
      weighting: Form of the weighting.
      angles_deg: Of the tilts.
    """
    settings, method = choice.settings, choice.method
    pair_s = PAIR_S * size.motion * size.num_tilts * size.wide / FLOAT / speed()
    iterations = settings_for(angles_deg).num_iters
    solves = (1 + SOLVES[weighting]) * (iterations + 1)
    solving = SOLVE_VOLUMES * size.wide + SOLVE_TILTS * size.tilts
    if weighting != "off":
        weighing = WEIGH_VOLUMES * size.wide + WEIGH_TILTS * size.tilts
        solving = max(solving, weighing)
    held = float((2 + MODES) * size.tilts + size.wide)
    if size.motion > 1:
        held += MOTION_TILTS * size.tilts
    quadratic = Stage(
        "quadratic estimate", int(held + solving), COMPILE_S + solves * pair_s
    )
    drawn = _drawn(choice)
    pairs = method.pairs(settings, angles_deg)
    host = 4 * size.tilts + (6 + 3 * drawn) * size.field
    on_host = jax.default_backend() == "cpu"
    if choice.prior is None:
        seconds = COMPILE_S + (pairs or 0) * pair_s
        work = Stage(
            method.name,
            int(held + (PULL_VOLUMES + 3) * size.wide + 2 * size.tilts),
            seconds,
            method.steps(settings),
        )
        return Forecast((quadratic, work), host, on_host, None, 0, 0, pairs)
    stages = (quadratic, *_network_stages(size, choice, held, pair_s))
    windows, count = _windows(size, choice)
    calls = method.calls(settings)
    return Forecast(stages, host, on_host, windows, count, calls, pairs)


def of_plan(planned: Plan) -> Forecast:
    """The forecast of a reconstruction; on a mesh, of each of its devices.

    Devices that are the processor of the host share its memory, so that theirs is
    counted together.
    """
    size, choice, job = Size.of(planned), planned.choice, planned.job
    form, angles = job.options.weighting, job.series.angles_deg
    whole = predict(size, choice, form, angles)
    if planned.mesh is None or whole.on_host:
        return whole
    shares, slabs = planned.mesh.devices.shape
    rows, settings = size.height // slabs, choice.settings
    settings = dataclasses.replace(
        settings,
        num_samples=max(settings.num_samples // shares, 1),
        rows=rows if slabs > 1 else settings.rows,
    )
    part = dataclasses.replace(size, height=rows)
    own = predict(part, dataclasses.replace(choice, settings=settings), form, angles)
    stages = [
        stage._replace(steps=told.steps)
        for stage, told in zip(own.stages, whole.stages, strict=True)
    ]
    return dataclasses.replace(whole, stages=tuple(stages))


def speed() -> float:
    """How many cores of a CPU the device is worth."""
    if jax.default_backend() == "cpu":
        return float(len(os.sched_getaffinity(0)))
    return ACCELERATOR


def device_limit() -> int | None:
    """Bytes of the first device; None where it is the host or does not tell."""
    statistics: Mapping[str, Any] | None = jax.devices()[0].memory_stats()
    return None if not statistics else statistics.get("bytes_limit")


def fitting(size: Size, planned: Plan, needed: Any) -> int | None:
    """Smallest binning with which a run fits; None where none up to 16 does.

    Args:
      size: Of the run that does not.
      planned: It.
      needed: ``Forecast -> bool``, whether it fits.
    """
    choice, job = planned.choice, planned.job
    angles = job.series.angles_deg
    for factor in range(2, 17):
        smaller = size.binned(factor, angles)
        if needed(predict(smaller, choice, job.options.weighting, angles)):
            return factor
    return None


def _drawn(choice: Choice) -> int:
    settings = choice.settings
    return settings.num_samples if "num_samples" in choice.method.takes else 0


def _windows(size: Size, choice: Choice) -> tuple[tuple[int, int, int], int]:
    """Extents of a window of the network, and how many cover the volume."""
    assert choice.prior is not None
    multiple = choice.prior.network.config.multiple
    extents = (size.thickness, size.width, size.height)
    padded = [n + -n % multiple for n in extents]
    window = tuple(
        min(n, w) for n, w in zip(padded, choice.settings.windows, strict=True)
    )
    count = [len(tiling.window_starts(n, w)) for n, w in zip(padded, window)]
    return (window[0], window[1], window[2]), int(np.prod(count))


def _network_stages(
    size: Size, choice: Choice, held: float, pair_s: float
) -> list[Stage]:
    """Those of a method with a network: one call, samples, or both."""
    assert choice.prior is not None
    settings, method = choice.settings, choice.method
    config = choice.prior.network.config
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(choice.prior.params))
    window, count = _windows(size, choice)
    voxels = int(np.prod(window))
    maps = MAPS * FLOAT * config.channels[0] * voxels / config.patch**3
    call_s = count * voxels * flop_per_voxel(config) * FLOP_S / speed()
    drawn, calls = _drawn(choice), method.calls(settings)
    # Twice the weights: the compiler keeps them in another order as well.
    fixed = held + 2 * weights
    stages = []
    once = method.steps(settings) - drawn * settings.num_steps
    sampled = drawn * settings.num_steps
    if once:
        own = max(calls - sampled, 1)
        seconds = COMPILE_S + own * call_s + (settings.mean_cg_iters + 1) * pair_s
        stages.append(
            Stage("one call", int(fixed + maps + PULL_VOLUMES * size.wide), seconds)
        )
    if sampled:
        together = choice.method.sampling is None or choice.method.sampling.together
        voxel_count = size.field // FLOAT
        most = max(sample.BATCH_VOXELS // voxel_count, 1) if together else 1
        group = sample.largest_divisor(drawn, most)
        back = 3.0 if method.backward(settings) else 1.0
        rest = calls - (calls - sampled if once else 0)
        seconds = COMPILE_S + (rest + 2 * method.backward(settings)) * call_s
        seconds += sampled * (settings.cg_iters + 1) * pair_s
        living = group * (back * maps + (PULL_VOLUMES + 3) * size.wide)
        stages.append(Stage("sampling", int(fixed + living), seconds, sampled))
    return stages


def flop_per_voxel(config: Any) -> float:
    """Operations of one call per voxel: convolutions of three taps an axis.

    A level has so many blocks on the way down, and one on the way up that is shown both
    ways; a block has two convolutions.
    """
    total = 0.0
    taps = 9 if config.planar else 27
    for level, (width, blocks) in enumerate(zip(config.channels, config.blocks)):
        shrink = config.patch**3 * 8**level
        convolutions = 2 * blocks + 3.0
        total += 2 * taps * width**2 * convolutions / shrink
    return total
