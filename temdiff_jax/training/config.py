"""Everything a training run is made of, as frozen data."""

from __future__ import annotations

import dataclasses

from temdiff_jax.model import NetworkConfig
from temdiff_jax.simulator import ALIGNED, ErrorConfig, ImagingConfig, StainConfig


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One kind of tilt series to train on; each compiles one simulation program.

    Attributes:
      half_range_deg: Half the tilt range, log-uniform between the two.
      num_tilts: Tilts of the series.
      thickness: Slab thickness in voxels.
      drop: Probability that a series loses tilts (each with probability 0.3).
      errors: Misalignment of the series.
      misaligned: Share of the series that have these errors, each times a factor of
        its own, uniform in [0, 1]; None for all of them at full size.
      fewest_tilts: Tilts of a series, log-uniform from this to ``num_tilts``; 0 for
        always as many.
      voxel_nm: Voxel size; the specimen of the sources is drawn at this scale.
      regressed: Whether blocks hold the estimate of ``DataConfig.regression``.
      grids: Binnings of such a series, coarsest first; a block of each.
      field: Width and height of its blocks, voxels; () for those of the others.
    """

    half_range_deg: tuple[float, float]
    num_tilts: int
    thickness: int
    drop: float = 0.25
    errors: ErrorConfig = ALIGNED
    misaligned: float | None = None
    fewest_tilts: int = 0
    voxel_nm: float = 10.0
    regressed: bool = False
    grids: tuple[int, ...] = (1,)
    field: tuple[int, ...] = ()


SMALL_ERRORS = ErrorConfig(
    shift_px=0.5, tilt_deg=0.1, tilt_scale=0.02, rotation_deg=0.1, gain=0.02
)

SCENARIOS = (
    Scenario(half_range_deg=(3.5, 6.0), num_tilts=5, thickness=96),
    Scenario(half_range_deg=(4.0, 7.0), num_tilts=11, thickness=96),
    Scenario(half_range_deg=(7.0, 14.0), num_tilts=11, thickness=96),
    Scenario(half_range_deg=(14.0, 25.0), num_tilts=21, thickness=96),
    Scenario(half_range_deg=(25.0, 38.0), num_tilts=21, thickness=96),
    Scenario(half_range_deg=(45.0, 65.0), num_tilts=41, thickness=96),
    Scenario(
        half_range_deg=(6.0, 35.0), num_tilts=15, thickness=64, errors=SMALL_ERRORS
    ),
    Scenario(half_range_deg=(4.0, 14.0), num_tilts=9, thickness=64),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Where blocks come from and how examples are cut.

    Attributes:
      sources: npz files, each ``path:key``, relative to the data folder.
      source_shares: How often each source is drawn; () for by its voxels.
      source_voxel_nm: Voxel size of the sources.
      validation: The same, never trained on.
      validation_blocks: Held-out blocks of each scenario.
      scenarios: Kinds of series.
      blocks_per_scenario: Blocks simulated per scenario and phase.
      steps_per_phase: Training steps from one phase to the next.
      phases_kept: Blocks of this many phases are drawn from, so that the uses of a
        block lie far apart and none is learned by heart.
      block_width, block_height: Field of view of a simulated block, voxels.
      crop: Extents (z, x, y) of a training crop, or the edge of a cube, multiples of
        the network's.  z = 0 takes the whole thickness: a narrow range smears along
        z, and the surfaces of the slab are part of what the network must know.
      mirror: Whether crops are mirrored at random along z, x and y.
      phantom_fraction: Share of blocks that are procedural phantoms.
      pool: Phases that are simulated at all; later ones are these again.  0 for no
        repetition.
      stain: How crops of the sources are varied.
      imaging: Ranges of the simulator.
      regression: Name or file of the prior whose one call regressed scenarios begin
        with; "" for none.
    """

    sources: tuple[str, ...] = (
        "fib25_medulla/training_sample1_250.npz:volume",
        "fib25_medulla/training_sample2_200.npz:volume",
        "gala_medulla/gala_crops.npz:train",
        "gala_medulla/gala_crops.npz:example",
    )
    source_shares: tuple[float, ...] = ()
    source_voxel_nm: float = 10.0
    validation: tuple[str, ...] = (
        "fib25_medulla/validation_crop0_128.npz:volume",
        "fib25_medulla/validation_crop3_128.npz:volume",
    )
    validation_blocks: int = 2
    scenarios: tuple[Scenario, ...] = SCENARIOS
    blocks_per_scenario: int = 3
    steps_per_phase: int = 48
    phases_kept: int = 4
    block_width: int = 64
    block_height: int = 40
    crop: int | tuple[int, int, int] = (0, 32, 32)
    mirror: bool = True
    phantom_fraction: float = 0.15
    pool: int = 0
    stain: StainConfig = StainConfig()
    imaging: ImagingConfig = ImagingConfig(exact_counts=False)
    regression: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OptimConfig:
    """Warm-up, a constant rate and a final linear decay to zero.

    Attributes:
      optimiser: "muon" (with Adam for vectors, stem and head) or "adam".
      learning_rate: Peak.
      warmup_steps: Linear from zero.
      num_steps: Last step.
      decay_steps: Length of the final decay.
      clip_norm: Global gradient norm.
      ema_decay: Of the exported weights; warmed up as (1 + n) / (10 + n).
      batch: Crops per pass through the network.
      batch_voxels: Voxels of the crops of a pass, at most, where crops have several
        sizes; 0 for ``batch`` crops of any size.
      accumulate: Passes whose gradients are averaged into one step, which thus sees
        ``batch * accumulate`` crops in the memory of ``batch``.
      mean_fraction: Share of the batch trained as the conditional mean.
      drop_condition: Share of the batch trained without its condition.
      noise: Distribution of the noise levels, a name in ``schedule.TRAINING_NOISE``.
      scale_by_series: Whether the unit of the residual follows the scalars of the
        series; else it is one constant.
      average_lengths: Relative widths of further averages of the weights, two of which
        allow to choose any other after the training, see ``averages``.
      average_every: Steps between snapshots of them.
    """

    optimiser: str = "muon"
    learning_rate: float = 1.5e-3
    warmup_steps: int = 100
    num_steps: int = 6400
    decay_steps: int = 3600
    clip_norm: float = 1.0
    ema_decay: float = 0.998
    batch: int = 4
    batch_voxels: int = 0
    accumulate: int = 1
    mean_fraction: float = 0.75
    drop_condition: float = 0.08
    noise: str = "log_normal"
    scale_by_series: bool = True
    average_lengths: tuple[float, ...] = ()
    average_every: int = 100


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MeshConfig:
    """Devices of a run; the default uses one and no mesh at all.

    Attributes:
      batch: Devices that share the crops of a step.
      slabs: Devices that share one crop, cut into slabs along y.
      fsdp: Share out parameters, averages and moments over the ``batch`` devices
        instead of repeating them on each.
    """

    batch: int = 1
    slabs: int = 1
    fsdp: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """One training run."""

    name: str = "default"
    seed: int = 0
    network: NetworkConfig = NetworkConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    mesh: MeshConfig = MeshConfig()
    checkpoint_every: int = 200
    validate_every: int = 240
    keep_checkpoints: int = 2
