"""Plants every cause of contradiction in simulated series and counts what is named.

    python -m launch.studies.causes
    python -m launch.studies.causes --sizes=32 --planted=shifts,axis --clean=0
    python -m launch.studies.causes --volume=crop.npz:volume --clean=10

Three specimens, each imaged at three sizes, are damaged in every way that
``temdiff_jax.trust`` can name; then clean series of all kinds of phantoms are looked at
for false alarms.  Prints Markdown; needs no data and runs for minutes on a CPU.  With
--volume the specimens are blocks of a volume instead.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from scipy import ndimage

from launch import program
from temdiff_jax.errors import InputError, check_known
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.io.alignment import Alignment
from temdiff_jax.series import inputs, preparation
from temdiff_jax.simulator import (
    ErrorConfig,
    ImagingConfig,
    grey_to_stain,
    phantoms,
    simulate_series,
)
from temdiff_jax.trust import causes, levels

_SIZES = flags.DEFINE_list("sizes", ["24", "32", "40"], "Pixels a side.")
_PLANTED = flags.DEFINE_list(
    "planted", [], 'Causes by name; all if empty, "none" for none.'
)
_CLEAN = flags.DEFINE_integer("clean", 50, "Clean series for false alarms.", 0)
_SEED = flags.DEFINE_integer("seed", 0, "Of specimens, noise and damage.")
_VOLUME = flags.DEFINE_string("volume", None, "npz file:key, volume [z, y, x].")
_DOSE = flags.DEFINE_float("dose", 5000.0, "Electrons per pixel and tilt.")

SPECIMENS = ("tissue", "particles", "lamella")
# Not symmetric, so that an order turned round is no mirror image.
ANGLES = np.arange(-24.0, 33.0, 4.0)
SHIFT_PX = 1.5


class Series(NamedTuple):
    """What a user would hand over."""

    tilts: np.ndarray
    angles: np.ndarray
    options: preparation.SeriesOptions


class Images(NamedTuple):
    """One specimen, imaged: ``[n, y, x]``, clean, shifted, another, in bright field."""

    clean: np.ndarray
    moved: np.ndarray
    shifts: np.ndarray
    other: np.ndarray
    intensities: np.ndarray
    thickness: int


@functools.partial(jax.jit, static_argnames=("shape", "mode"))
def _imaged(key: jax.Array, stain: jax.Array, severity: Any, shape: Any, mode: str):
    thickness, width, height = shape
    geometry = TiltGeometry.from_degrees(
        ANGLES, thickness=thickness, width=width, height=height, lateral_margin=0
    )
    config = ImagingConfig(
        mode=mode,
        dose=(_DOSE.value, _DOSE.value),
        errors=ErrorConfig(shift_px=SHIFT_PX),
        exact_counts=False,
    )
    found = simulate_series(key, stain, geometry, config, severity)
    moved = jnp.stack([found.errors.shift_u, found.errors.shift_v], axis=1)
    return found.counts / found.dose, moved


def image(kind: str, size: int, seed: int) -> Images:
    """A phantom by its kind, or a block of the volume."""
    shape = (size // 2, size, size)
    wide = (size // 2, 2 * size, size)  # matter beside the field of view, as in a slab
    key = jax.random.key(seed)
    first, second = (
        jnp.asarray(_middle(_specimen(kind, k), wide)) for k in jax.random.split(key)
    )

    def look(stain: jax.Array, severity: float, mode: str = "haadf") -> Any:
        full = (shape[0], wide[1], shape[2])
        tilts, moved = _imaged(key, stain, jnp.float32(severity), full, mode)
        middle = tilts[:, size // 2 : size // 2 + size]
        return np.swapaxes(np.asarray(middle), 1, 2), np.asarray(moved)

    moved, shifts = look(first, 1.0)
    return Images(
        look(first, 0.0)[0],
        moved,
        shifts,
        look(second, 0.0)[0],
        look(first, 0.0, "bright_field")[0],
        shape[0],
    )


def _middle(volume: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    start = [(n - m) // 2 for n, m in zip(volume.shape, shape, strict=True)]
    return volume[tuple(slice(a, a + m) for a, m in zip(start, shape, strict=True))]


def _specimen(kind: str, key: jax.Array) -> np.ndarray:
    """Stain ``[z, x, y]`` of the largest size, of which the others are the middle."""
    largest = max(int(size) for size in _SIZES.value)
    shape = (largest // 2, 2 * largest, largest)
    if _VOLUME.value is None:
        return np.asarray(dict(phantoms.PHANTOMS)[kind](key, shape))
    path, _, name = _VOLUME.value.rpartition(":")
    with np.load(path, allow_pickle=False) as file:
        volume = np.swapaxes(grey_to_stain(file[name]), 1, 2)
    room = [n - m + 1 for n, m in zip(volume.shape, shape, strict=True)]
    at = [
        int(jax.random.randint(k, (), 0, r))
        for k, r in zip(jax.random.split(key, 3), room)
    ]
    return volume[tuple(slice(a, a + m) for a, m in zip(at, shape, strict=True))]


def _as_is(tilts: np.ndarray, images: Images, **options: Any) -> Series:
    chosen = {"thickness": images.thickness, "contrast": "bright"} | options
    return Series(tilts, ANGLES, preparation.SeriesOptions(**chosen))


def _foreign(images: Images, rng: np.random.Generator) -> Series:
    tilts = images.clean.copy()
    rows = rng.choice(len(tilts), 2, replace=False)
    tilts[rows] = images.other[rows]
    return _as_is(tilts, images)


def _turned(degrees: float) -> Callable[[Images, np.random.Generator], Series]:
    def make(images: Images, rng: np.random.Generator) -> Series:
        turned = ndimage.rotate(
            images.clean, degrees, axes=(1, 2), reshape=False, order=3, mode="reflect"
        )
        return _as_is(turned, images)

    return make


def _ordered(how: Callable[[np.random.Generator], np.ndarray]) -> Any:
    def make(images: Images, rng: np.random.Generator) -> Series:
        return _as_is(images.clean, images)._replace(angles=ANGLES[how(rng)])

    return make


def _swapped(rng: np.random.Generator) -> np.ndarray:
    order = np.arange(len(ANGLES))
    first = int(rng.integers(len(order) // 2))
    second = first + int(rng.integers(3, len(order) // 2))
    order[[first, second]] = order[[second, first]]
    return order


def _alike(images: Images, rng: np.random.Generator) -> Series:
    middle = images.clean[len(ANGLES) // 2]
    noise = np.sqrt(np.abs(middle) / _DOSE.value)
    return _as_is(middle + noise * rng.normal(size=images.clean.shape), images)


def _binned(images: Images, rng: np.random.Generator) -> Series:
    count = len(ANGLES)
    half = Alignment(ANGLES, 0.5 * images.shifts, np.zeros(count), np.ones(count))
    return _as_is(images.moved, images, alignment=half)


def _contrast(images: Images) -> float:
    return float(np.median(images.clean.std(axis=(1, 2))))


# Name of a plant -> the kind that should be named, and how it is made.
PLANTS: dict[str, tuple[str, Any]] = {
    "two foreign tilts": ("tilts", _foreign),
    "shifts of 1.5 px": ("shifts", lambda i, r: _as_is(i.moved, i)),
    "axis 90 degrees": ("axis", _turned(90.0)),
    "axis 20 degrees": ("axis", _turned(20.0)),
    "two angles swapped": ("order", _ordered(_swapped)),
    "order shuffled": ("order", _ordered(lambda r: r.permutation(len(ANGLES)))),
    "angles constant": ("refused", _ordered(lambda r: np.zeros(len(ANGLES), int))),
    "images alike": ("alike", _alike),
    "offset": ("offset", lambda i, r: _as_is(i.clean + 10 * _contrast(i), i)),
    "thickness a third": (
        "thickness",
        lambda i, r: _as_is(i.clean, i, thickness=i.thickness // 3),
    ),
    "no logarithm": ("logarithm", lambda i, r: _as_is(i.intensities, i, log="off")),
    "logarithm": ("logarithm", lambda i, r: _as_is(i.clean, i, log="on")),
    "sense": ("sense", lambda i, r: _as_is(i.clean, i, contrast="dark")),
    "alignment of half the size": ("binning", _binned),
}


def named(series: Series) -> tuple[str, str]:
    """The kind of the likeliest cause, "none" without, and its line."""
    try:
        job = preparation.check_series(series.tilts, series.angles, series.options)
    except InputError as error:
        return "refused", str(error)
    tilts = jnp.asarray(np.swapaxes(job.tilts, 1, 2))
    problem = inputs.normalise(tilts, job.geometry)
    found = causes.compare(causes.given(problem))
    by_level = levels.causes(job.tilts, job.series.angles_deg, job.intensity)
    both = causes.ranked((*found.causes, *by_level))
    if not both:
        return "none", f"agreement {found.agreement:.0f}, sees {found.visible_px:g} px"
    return both[0].kind, "; ".join(f"{c.kind} {c.gain:.0f}" for c in both)


def main(argv: Sequence[str]) -> None:
    """Prints both tables."""
    with program.refusals("causes", argv):
        for name in _PLANTED.value:
            check_known("--planted", name, [*PLANTS, "none"])
        sizes = [int(size) for size in _SIZES.value]
    rng = np.random.default_rng(_SEED.value)
    chosen = [name for name in _PLANTED.value or PLANTS if name != "none"]
    table: dict[str, collections.Counter[str]] = collections.defaultdict(
        collections.Counter
    )
    for number, kind in enumerate(SPECIMENS if chosen else ()):
        for size in sizes:
            images = image(kind, size, _SEED.value + number)
            for plant in chosen:
                found, line = named(PLANTS[plant][1](images, rng))
                table[plant][found] += 1
                print(f"{kind} {size} {plant}: {line}", flush=True)
    print(
        "\n| planted | should be named | rightly | named instead |\n|---|---|---|---|"
    )
    for plant in table:
        right = PLANTS[plant][0]
        rest = {k: n for k, n in table[plant].items() if k != right}
        instead = ", ".join(f"{k} {n}" for k, n in rest.items()) or "-"
        total = sum(table[plant].values())
        print(f"| {plant} | {right} | {table[plant][right]} of {total} | {instead} |")
    alarms = 0
    for number in range(_CLEAN.value):
        kind = list(dict(phantoms.PHANTOMS))[number % len(phantoms.PHANTOMS)]
        size = sizes[number % len(sizes)]
        images = image(kind, size, _SEED.value + 1000 + number)
        found, line = named(_as_is(images.clean, images))
        alarms += found != "none"
        print(f"clean {kind} {size}: {line}", flush=True)
    print(f"\n{alarms} false alarms on {_CLEAN.value} clean series")


if __name__ == "__main__":
    app.run(main)
