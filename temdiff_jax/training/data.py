"""Examples: a pure function of (seed, step, index).

A phase of ``steps_per_phase`` steps simulates a set of blocks once, from
(seed, phase), and its steps cut random crops from them, from (seed, step): resuming
needs nothing but the step.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from temdiff_jax.geometry import TiltGeometry, lateral_margin_for
from temdiff_jax.inverse.problem import UNIT_NM, Problem
from temdiff_jax.inverse.tikhonov import TikhonovSettings, settings_for_half_range
from temdiff_jax.priors import Prior, load_prior
from temdiff_jax.priors.regress import regress
from temdiff_jax.series import grids, inputs
from temdiff_jax.simulator import (
    StainConfig,
    phantoms,
    sample_stain,
    simulate_series,
)
from temdiff_jax.simulator.imaging import ImagingConfig
from temdiff_jax.simulator.stain import SourceBank, binned_bank
from temdiff_jax.training import volumes
from temdiff_jax.training.config import DataConfig, Scenario

# Phases from here on are no part of the training.
FIRST_RESERVED = 2**31 - 1
# Larger voxels are drawn from sources binned by the next smaller of these.
BINNINGS = (1, 2, 4)
# Share of blocks with the scenario's voxels; of the others the range of the factor.
NOMINAL, VOXEL_FACTOR = 0.6, (0.75, 1.35)
# Standard deviation of the log of the voxel size as it is told.
TOLD_STD = 0.1
# NumPy while blocks and crops wait on the host, JAX inside a program.
Array: TypeAlias = Any


class Block(NamedTuple):
    """One simulated specimen over its field of view, core layout, network units.

    Attributes:
      truth: ``(volume - mean) / (contrast * level)``, ``[z, x, y]``.
      estimate: The quadratic estimate in the same units.
      coverage: ``[z, x, 1]``.
      features: ``[NUM_FEATURES]``.
      regression: The estimate of a regression network, or the quadratic one again, in
        the same units; None where no network is shown it.
    """

    truth: Array
    estimate: Array
    coverage: Array
    features: Array
    regression: Array | None = None


class Batch(NamedTuple):
    """Crops of one step, ``[b, ...]`` of what a ``Block`` holds."""

    truth: Array
    estimate: Array
    coverage: Array
    features: Array
    regression: Array | None = None


class Conditions(NamedTuple):
    """Numbers of one series that no program depends on.

    Attributes:
      half_range_deg: Half the tilt range.
      smoothness, ridge: Of the quadratic estimate, for this range.
      severity: Factor on the errors of the series.
      num_tilts: Tilts of the series, at most those of the scenario; None for these.
      voxel: Logarithm of the voxel size over ``UNIT_NM``, as it is told.
    """

    half_range_deg: jax.Array
    smoothness: jax.Array
    ridge: jax.Array
    severity: jax.Array | float = 1.0
    num_tilts: jax.Array | None = None
    voxel: jax.Array | float = 0.0


def wide_shape(scenario: Scenario, data: DataConfig) -> tuple[int, int, int]:
    """Core extents of the simulated slab, margin included."""
    width, height = scenario.field or (data.block_width, data.block_height)
    margin = lateral_margin_for(
        np.array([scenario.half_range_deg[1]]), scenario.thickness, width
    )
    return (scenario.thickness, width + 2 * margin, height)


@functools.partial(jax.jit, static_argnames=("scenario", "width", "imaging"))
def simulate_block(
    key: jax.Array,
    stain: jax.Array,
    conditions: Conditions,
    regression: Prior | None = None,
    *,
    scenario: Scenario,
    width: int,
    imaging: ImagingConfig,
) -> tuple[Block, ...]:
    """Images one slab and computes its condition on every grid of the scenario.

    Args:
      key: Typed PRNG key.
      stain: Wide slab ``[z, x, y]``.
      conditions: Of this series.
      regression: Network whose estimate blocks hold besides the quadratic one.
      scenario: Kind of series; its half-ranges and its ``misaligned`` are not read.
      width: Field of view, columns.
      imaging: Simulator ranges; the scenario's errors replace its own.

    Returns:
      A ``Block`` of JAX arrays for each of ``scenario.grids``.
    """
    half_range_deg, smoothness, ridge, severity, num_tilts, voxel = conditions
    keys = jax.random.split(key, 4)
    count = scenario.num_tilts if num_tilts is None else num_tilts
    index = jnp.arange(scenario.num_tilts)
    # Tilts beyond the count weigh nothing, so that one program serves every count.
    ramp = jnp.where(index < count, 2.0 * index / (count - 1.0) - 1.0, 0.0)
    angles = jnp.deg2rad(half_range_deg * ramp)
    nz, nx, ny = stain.shape
    geometry = TiltGeometry(angles, (nz, nx, ny), width, None)
    config = dataclasses.replace(imaging, errors=scenario.errors)
    series = simulate_series(keys[0], stain, geometry, config, severity)
    lose = jax.random.bernoulli(keys[1], scenario.drop)
    keep = jax.random.bernoulli(keys[2], 0.7, (scenario.num_tilts,))
    # The two outermost tilts stay, so that the nominal range stays what it is.
    ends = (index == 0) | (index == count - 1)
    valid = jnp.where(lose & ~ends, keep, True) & (index < count)
    valid = valid.astype(jnp.float32)
    # Traced, so that one program serves every range.
    settings = TikhonovSettings(cast(float, smoothness), cast(float, ridge))
    size = UNIT_NM * jnp.exp(voxel)
    ready = inputs.prepare(series.tilts, geometry, settings, valid, size)
    truth = geometry.crop(series.volume)
    if regression is None:
        return (block_of(truth, ready),)
    if not scenario.regressed:
        block = block_of(truth, ready)
        return (block._replace(regression=block.estimate),)
    volume = regress(regression, ready)
    bare = dataclasses.replace(ready, inputs=None)
    found = grids.grids_of(bare, settings, scenario.grids, volume)
    return tuple(
        block_of(grids.binned(truth, factor), grid)
        for grid, factor in zip(found, scenario.grids)
    )


def block_of(truth: jax.Array, grid: Problem) -> Block:
    """A specimen ``[z, x, y]``, input units, as a network is shown it on a grid."""
    crop, shown, units = grid.geometry.crop, grid.shown, grid.units
    regression = shown.regression
    return Block(
        (truth - units.mean) / (units.contrast * shown.level),
        crop(shown.tikhonov) / shown.level,
        crop(shown.coverage),
        shown.features,
        None if regression is None else crop(regression) / shown.level,
    )


def _severity(key: jax.Array, scenario: Scenario) -> float | jax.Array:
    """Factor on the errors of a series; see ``Scenario.misaligned``."""
    if scenario.misaligned is None:
        return 1.0
    whether, size = jax.random.uniform(jax.random.split(key, 4)[3], (2,))
    return jnp.where(whether < scenario.misaligned, size, 0.0)


_sample_real = jax.jit(sample_stain, static_argnames=("shape", "config"))


@functools.partial(jax.jit, static_argnames=("shape",))
def _sample_phantom(key: jax.Array, shape: tuple[int, int, int]) -> jax.Array:
    return phantoms.random_phantom(key, shape)


class BlockSource:
    """Simulates the blocks of a phase; holds no state but the loaded volumes."""

    def __init__(
        self,
        bank: SourceBank,
        data: DataConfig,
        seed: int,
        regression: Prior | None = None,
    ):
        self.bank = bank
        self.regression = regression
        self.data = data
        self.seed = seed
        coarsest = max(s.voxel_nm for s in data.scenarios) / data.source_voxel_nm
        self.banks = {1: bank} | {
            factor: binned_bank(bank, factor)
            for factor in BINNINGS[1:]
            if factor <= coarsest
        }
        shapes = [wide_shape(s, data) for s in data.scenarios]
        # One compiled phantom program serves all scenarios by cropping.
        self.phantom_shape = tuple(max(s[i] for s in shapes) for i in range(3))

    @classmethod
    def from_files(
        cls, folder: str | Path, names: tuple[str, ...], data: DataConfig, seed: int
    ) -> BlockSource:
        """Loads the named volumes and packs them; raises as `volumes.load_sources`."""
        sources = volumes.load_weighted_sources(folder, names)
        if data.source_shares and names == data.sources:
            sources = volumes.shared(sources, data.source_shares)
        regression = load_prior(data.regression) if data.regression else None
        return cls(volumes.pack(sources), data, seed, regression)

    def _stain(
        self, key: jax.Array, scenario: Scenario, voxel_nm: float, phantom: bool
    ) -> jax.Array:
        """A slab of a scenario, ``[z, x, y]``, a phantom or tissue at a voxel size."""
        shape = wide_shape(scenario, self.data)
        if phantom:
            stain = _sample_phantom(key, self.phantom_shape)
            start = [(a - b) // 2 for a, b in zip(self.phantom_shape, shape)]
            return stain[tuple(slice(s, s + n) for s, n in zip(start, shape))]
        ratio = voxel_nm / self.data.source_voxel_nm
        factor = max(f for f in self.banks if f == 1 or f <= ratio * 1.01)
        zoom = jnp.float32(ratio / factor)
        config = _at_voxel(self.data.stain, scenario.voxel_nm / UNIT_NM)
        return _sample_real(key, self.banks[factor], shape, config, zoom)

    def blocks(self, phase: int, index: int, scenario: Scenario) -> tuple[Block, ...]:
        """Series ``index`` of a phase on its grids, as NumPy arrays."""
        rng = np.random.Generator(np.random.Philox(key=[self.seed, phase]))
        draws = rng.random((index + 1, 2))[index]
        own = np.random.Generator(np.random.Philox(key=[self.seed + 7, phase])).random(
            (index + 1, 4)
        )[index]
        key = jax.random.fold_in(
            jax.random.fold_in(jax.random.key(self.seed), phase), index
        )
        key_stain, key_series = jax.random.split(key)
        phantom = draws[0] < self.data.phantom_fraction
        factor = 1.0 if own[0] < NOMINAL else _log_between(VOXEL_FACTOR, own[1])
        voxel = scenario.voxel_nm * factor
        stain = self._stain(key_stain, scenario, voxel, phantom)
        half_range = _log_between(scenario.half_range_deg, draws[1])
        count = scenario.num_tilts
        if scenario.fewest_tilts:
            limits = (scenario.fewest_tilts - 0.5, count + 0.5)
            count = min(count, round(_log_between(limits, own[2])))
        told = np.log(voxel / UNIT_NM) + TOLD_STD * float(scipy.special.ndtri(own[3]))
        settings = settings_for_half_range(half_range)
        conditions = Conditions(
            jnp.float32(half_range),
            jnp.float32(settings.smoothness),
            jnp.float32(settings.ridge),
            _severity(key_series, scenario),
            jnp.int32(count),
            jnp.float32(told),
        )
        found = simulate_block(
            key_series,
            stain,
            conditions,
            self.regression,
            scenario=_simulated(scenario),
            width=scenario.field[0] if scenario.field else self.data.block_width,
            imaging=self.data.imaging,
        )
        return jax.tree.map(np.asarray, found)

    def phase(self, phase: int) -> list[Block]:
        """All blocks of a phase, scenarios interleaved; see ``DataConfig.pool``."""
        if self.data.pool and phase < FIRST_RESERVED:
            phase %= self.data.pool
        count = len(self.data.scenarios)
        return [
            block
            for i in range(count * self.data.blocks_per_scenario)
            for block in self.blocks(phase, i, self.data.scenarios[i % count])
        ]


def _log_between(limits: tuple[float, float], share: float) -> float:
    """Log-uniform between two limits, for a share uniform in [0, 1]."""
    low, high = np.log(limits)
    return float(np.exp(low + share * (high - low)))


def _at_voxel(config: StainConfig, ratio: float) -> StainConfig:
    """Grain and blur of larger voxels: means of grain, blur that grows more slowly."""
    if ratio <= 1.0:
        return config
    low, high = config.grain
    grain = (low / ratio, high / ratio)
    blur = (config.blur[0] / ratio**0.5, config.blur[1] / ratio**0.5)
    return dataclasses.replace(config, grain=grain, blur=blur)


def _simulated(scenario: Scenario) -> Scenario:
    """The part of a scenario that the simulation program depends on."""
    return dataclasses.replace(
        scenario, misaligned=None, half_range_deg=(1.0, 1.0), voxel_nm=0.0
    )


def extents(crop: int | tuple[int, int, int], thickness: int) -> tuple[int, int, int]:
    """Extents ``(z, x, y)`` of a crop of a block; see ``DataConfig.crop``."""
    nz, nx, ny = (crop, crop, crop) if isinstance(crop, int) else crop
    return (nz or thickness, nx, ny)


def cut_batch(
    blocks: list[Block],
    *,
    seed: int,
    step: int,
    batch: int,
    crop: int | tuple[int, int, int],
    mirror: bool = True,
    voxels: int = 0,
) -> Batch:
    """Random crops of random blocks, mirrored at random: a function of (seed, step).

    Crops of the whole thickness come from blocks of one thickness, that of a block
    drawn first.

    With ``voxels`` there are as many crops as hold at most so many, at least one; a
    thickness whose crop holds more is drawn less often, so that blocks of every
    thickness are shown equally many voxels.
    """
    rng = np.random.Generator(np.random.Philox(key=[seed + 1, step]))
    if voxels:
        each = [int(np.prod(extents(crop, b.truth.shape[0]))) for b in blocks]
        share = np.cumsum(np.minimum(1.0, voxels / np.array(each)))
        first = blocks[int(np.searchsorted(share, share[-1] * rng.random(), "right"))]
    else:
        first = blocks[rng.integers(len(blocks))]
    sizes = extents(crop, first.truth.shape[0])
    if voxels:
        batch = max(1, voxels // int(np.prod(sizes)))
    fitting = [
        i for i, b in enumerate(blocks) if extents(crop, b.truth.shape[0]) == sizes
    ]
    chosen = rng.permutation(fitting)[:batch]
    if batch > len(fitting):
        chosen = rng.choice(fitting, size=batch)
    rows = []
    for index in chosen:
        shape = blocks[index].truth.shape
        start = [
            int(rng.integers(n - c + 1)) for n, c in zip(shape, sizes, strict=True)
        ]
        row = _cut(blocks[index], start, sizes)
        rows.append(_mirrored(row, rng.random(3) < 0.5) if mirror else row)
    return _stack(rows)


def _mirrored(crop: Block, flips: np.ndarray) -> Block:
    """Mirrored along the flagged axes.

    A mirror image of a slab is the image of a mirrored slab: y turns the tilts over,
    x and z reverse the sign of the angles.
    """
    cut = tuple(slice(None, None, -1 if flip else 1) for flip in flips)
    return _sliced(crop, cut)


def central(block: Block, multiple: int) -> Batch:
    """The central part of a block whose extents are multiples, as a batch of one."""
    shape = block.truth.shape
    sizes = [n // multiple * multiple for n in shape]
    start = [(n - c) // 2 for n, c in zip(shape, sizes, strict=True)]
    return _stack([_cut(block, start, sizes)])


def _cut(block: Block, start: Sequence[int], sizes: Sequence[int]) -> Block:
    cut = tuple(slice(s, s + c) for s, c in zip(start, sizes, strict=True))
    coverage = np.broadcast_to(block.coverage, block.truth.shape)
    return _sliced(block._replace(coverage=coverage), cut)


def _sliced(block: Block, cut: tuple[slice, ...]) -> Block:
    return Block(
        block.truth[cut],
        block.estimate[cut],
        block.coverage[cut],
        block.features,
        None if block.regression is None else block.regression[cut],
    )


def _stack(rows: Sequence[Block]) -> Batch:
    return Batch(*jax.tree.map(lambda *column: np.stack(column), *rows))
