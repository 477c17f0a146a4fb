"""What a result table is made of, as frozen data: configs/tables/ holds the tables."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from temdiff_jax.errors import InputError
from temdiff_jax.evaluation import protocol, quantities
from temdiff_jax.simulator import ALIGNED, IMPERFECT, ErrorConfig

KINDS = ("accuracy", "hard", "misalignment", "cost", "ablation")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A known specimen.

    Attributes:
      file: ``path:key`` of an .npz below the data folder.
      name: Short, unique; the unit of the statistics.
      tissue: Where it comes from, for the rows of one source.
      stain_is_dark: Grey level of heavy stain.
    """

    file: str
    name: str
    tissue: str
    stain_is_dark: bool = True


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Regime:
    """How well the simulated series are aligned; rows are kept in a file per name.

    Attributes:
      name: Of the file and of the block in the table.
      errors: Spread of the errors.
      level: Residual shift in pixels, the place on the axis of T5.
    """

    name: str
    errors: ErrorConfig = ALIGNED
    level: float = 0.0


PERFECT = Regime(name="perfect")


def imperfect(shift_px: float) -> Regime:
    """`simulator.IMPERFECT` with all errors in proportion to its shift of 1 px."""
    if shift_px == 0:
        return PERFECT
    name = "imperfect" if shift_px == 1 else f"imperfect_{shift_px:g}px"
    errors = scaled_errors(IMPERFECT, shift_px / IMPERFECT.shift_px)
    return Regime(name=name, errors=errors, level=shift_px)


def scaled_errors(errors: ErrorConfig, factor: float) -> ErrorConfig:
    """Every spread times a factor; with one seed the same errors, so many times."""
    values = dataclasses.asdict(errors)
    return ErrorConfig(**{name: factor * spread for name, spread in values.items()})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One method with its settings.

    Attributes:
      name: Of the rows; another setting needs another name.
      method: A name of `runner.standard_methods`; "" is the name itself.
      samples, steps: Of methods that sample; None is the default of the method.
      settings: Options of the learned methods by name, see ``launch.evaluate``.
      against: Run that an ablation is compared with; "" for a default.
      weights: Name under which the file of its own network must be given; without the
        file the run is left out. "" for methods of the default prior and of none.
    """

    name: str
    method: str = ""
    samples: int | None = None
    steps: int | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    against: str = ""
    weights: str = ""

    @property
    def kind(self) -> str:
        """Name of the method."""
        return self.method or self.name


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TablePlan:
    """One table.

    Attributes:
      name: Stem of its files.
      title: First line.
      kind: Of `KINDS`.
      volumes: Specimens.
      cases: ``range/step`` in degrees.
      runs: Methods, in the order of the rows.
      regimes: Alignment of the series.
      columns: Scores.
      ours: Rows that each other method is compared with; the first that was run.
      crop: Edge of the cubes, voxels; a specimen thinner than that is taken whole.
      height: Extent along y, the tilt axis, where the blocks are no cubes; 0 for
        `crop`.  Rays lie in planes of constant y, so that a low block has the same
        rays as a cube and costs less.
      blocks: Disjoint cubes of each specimen; 1 is its centre.
      replicates: Noises of each cube.
      seed: Of noises and samples.
      variant: Of the scores, see `protocol.VARIANTS`.
      repeats: Timed runs of a "cost" table, after one that compiles.
    """

    name: str
    title: str
    kind: str
    volumes: tuple[Volume, ...]
    cases: tuple[str, ...]
    runs: tuple[Run, ...]
    regimes: tuple[Regime, ...] = (PERFECT,)
    columns: tuple[str, ...] = ("rmse", "psnr", "ssim")
    ours: tuple[str, ...] = ("mean",)
    crop: int = 96
    height: int = 0
    blocks: int = 1
    replicates: int = 1
    seed: int = 0
    variant: str = "matched"
    repeats: int = 3


def check(plan: TablePlan) -> None:
    """Refuses a plan that cannot become a table.

    Raises:
      InputError: Unknown kind, column or variant; names that occur twice or are
        compared with nothing; numbers below 1; a case that is no tilt scheme.
    """
    unknown = [name for name in plan.columns if name not in quantities.COLUMNS]
    if plan.kind not in KINDS or unknown or plan.variant not in protocol.VARIANTS:
        raise InputError(
            f"table {plan.name}: expected a kind among {list(KINDS)}, columns among "
            f"{sorted(quantities.COLUMNS)} and a variant among "
            f"{list(protocol.VARIANTS)}, got {plan.kind!r}, {list(plan.columns)} and "
            f"{plan.variant!r}; correct the configuration"
        )
    for what, names in (
        ("volumes", [v.name for v in plan.volumes]),
        ("runs", [r.name for r in plan.runs]),
        ("regimes", [r.name for r in plan.regimes]),
        ("cases", list(plan.cases)),
    ):
        if not names or len(set(names)) < len(names):
            raise InputError(
                f"table {plan.name}: expected {what} with different names, got "
                f"{names}; correct the configuration"
            )
    known = {run.name for run in plan.runs}
    lost = [run.name for run in plan.runs if run.against and run.against not in known]
    if lost:
        raise InputError(
            f"table {plan.name}: expected `against` to name a run of the table, got "
            f"other names in {lost}; correct the configuration"
        )
    counts = (plan.crop, plan.blocks, plan.replicates, plan.repeats)
    if min(counts) < 1 or plan.height < 0:
        raise InputError(
            f"table {plan.name}: expected crop, blocks, replicates and repeats of at "
            f"least 1 and a height of at least 0, got {list(counts)} and "
            f"{plan.height}; correct the configuration"
        )
    for case in plan.cases:
        protocol.Case.from_name(case)


def cut(
    shape: Sequence[int], edge: int, count: int, height: int = 0
) -> list[tuple[slice, ...]]:
    """Cubes of a volume: the central one, or several that share no voxel.

    Several are cells of a grid about the centre, each as far as possible from those
    taken before. An axis shorter than the edge is taken whole.

    Args:
      shape: Of the volume (z, y, x).
      edge: Of a cube, voxels.
      count: How many.
      height: Extent along y instead of the edge, if not 0.

    Raises:
      InputError: The grid has fewer cells.
    """
    extents = (edge, height or edge, edge)
    sizes = [min(n, m) for n, m in zip(shape, extents, strict=True)]
    if count == 1:
        starts = [tuple((n - m) // 2 for n, m in zip(shape, sizes, strict=True))]
    else:
        fits = [n // m for n, m in zip(shape, sizes, strict=True)]
        if int(np.prod(fits)) < count:
            raise InputError(
                f"blocks: expected at most {int(np.prod(fits))} of {sizes} voxels in a "
                f"volume of {list(shape)}, got {count}; take fewer or smaller ones"
            )
        starts = _far_apart(shape, sizes, fits, count)
    return [
        tuple(slice(a, a + m) for a, m in zip(start, sizes, strict=True))
        for start in starts
    ]


def _far_apart(
    shape: Sequence[int], sizes: Sequence[int], fits: Sequence[int], count: int
) -> list[tuple[int, ...]]:
    """Starts of cells, the first in a corner, the next farthest from all before."""
    axes = [
        [(n - f * m) // 2 + i * m for i in range(f)]
        for n, m, f in zip(shape, sizes, fits, strict=True)
    ]
    cells = list(itertools.product(*axes))
    taken = [cells.pop(0)]
    while len(taken) < count:
        gaps = [
            min(sum((a - b) ** 2 for a, b in zip(cell, t, strict=True)) for t in taken)
            for cell in cells
        ]
        taken.append(cells.pop(int(np.argmax(gaps))))
    return taken


def volume_names(plan: TablePlan, volume: Volume) -> list[tuple[str, int]]:
    """Names of the cubes and noises of a specimen, each with the number of its cube.

    Edge and height belong to the name, so that tables with other cubes share a folder.
    """
    return [
        (
            f"{volume.name}-{plan.crop}"
            + (f"h{plan.height}" if plan.height else "")
            + (f"-{block + 1}of{plan.blocks}" if plan.blocks > 1 else "")
            + (f"-noise{noise}" if noise else ""),
            block,
        )
        for block in range(plan.blocks)
        for noise in range(plan.replicates)
    ]


def about(plan: TablePlan) -> dict[str, dict[str, str]]:
    """Specimen and tissue by name of the cube."""
    return {
        name: {"specimen": volume.name, "tissue": volume.tissue}
        for volume in plan.volumes
        for name, _ in volume_names(plan, volume)
    }


def select(
    rows: Sequence[protocol.Row], plan: TablePlan, only: Sequence[str] = ()
) -> list[protocol.Row]:
    """Rows that belong to a plan, in its order.

    Args:
      rows: Of a file that other tables may share.
      plan: The table.
      only: Names of runs; all if empty.
    """
    volumes = {name: i for i, name in enumerate(about(plan))}
    cases = {name: i for i, name in enumerate(plan.cases)}
    runs = {
        run.name: i for i, run in enumerate(plan.runs) if not only or run.name in only
    }
    kept = [
        row
        for row in rows
        if row["volume"] in volumes and row["case"] in cases and row["run"] in runs
    ]

    def place(row: protocol.Row) -> tuple[int, int, int]:
        return volumes[row["volume"]], cases[row["case"]], runs[row["run"]]

    return sorted(kept, key=place)
