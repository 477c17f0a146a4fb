"""Table T5: what uncertainty weighting is worth on misaligned and corrupted series.

    python -m launch.studies.weighting_table --data_dir=DATA --cases=10/1,40/2 \\
        --methods=tikhonov,mean --out=runs/weighting.jsonl

Columns are conditions of the series: a residual shift in pixels, with the other errors
of ``simulator.IMPERFECT`` in proportion, or one fault of an aligned series.  Rows are
methods and forms of the weighting (``weighting.FORMS``); ``assumed`` is the spread of
the shift that the weighting assumes, in pixels, the other spreads in proportion, or
"known" for that of the column; "adaptive" assumes nothing.  Every form but "off" masks
pixels and repairs them.

PSNR and RMSE (stain in [0, 1]) are taken after the best gain and offset over the voxels
seen by all views.  Drawn shifts that move the whole specimen are no error: the truth is
moved along before it is compared.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import os
import sys
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from scipy import ndimage

from launch import program
from temdiff_jax import evaluation, layout
from temdiff_jax.errors import InputError
from temdiff_jax.evaluation import metrics, protocol, results, runner
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.inverse.problem import Problem
from temdiff_jax.inverse.quadratic import Metric
from temdiff_jax.inverse.tikhonov import TikhonovSettings, settings_for
from temdiff_jax.model import conv
from temdiff_jax.priors import Prior, load_prior
from temdiff_jax.reconstruction.estimate import mean_estimate
from temdiff_jax.reconstruction.settings import Settings
from temdiff_jax.series import inputs, noise, weighting
from temdiff_jax.simulator import IMPERFECT, ErrorConfig, grey_to_stain, simulate_series
from temdiff_jax.training.volumes import load_sources

_DATA = flags.DEFINE_string("data_dir", None, "Folder of the volumes.", required=True)
_VOLUMES = flags.DEFINE_list(
    "volumes",
    [f"fib25_medulla/validation_crop{i}_128.npz:volume" for i in range(3)],
    "path:key entries.",
)
_CASES = flags.DEFINE_list("cases", ["10/1", "40/2"], "Range/step.")
_SHIFTS = flags.DEFINE_list("shifts", ["0", "0.5", "1", "2"], "Pixels; may be empty.")
_FAULTS = flags.DEFINE_list(
    "faults", ["gain", "shifted", "hot", "border", "all"], "Of an aligned series."
)
_METHODS = flags.DEFINE_list("methods", ["tikhonov"], "Among tikhonov and mean.")
_FORMS = flags.DEFINE_list("forms", list(weighting.FORMS), "Rows.")
_ASSUMED = flags.DEFINE_list("assumed", ["1", "known"], "Spread of the shift, px.")
_CROP = flags.DEFINE_integer("crop", 64, "Thickness and width, voxels.", 16)
_HEIGHT = flags.DEFINE_integer("height", 64, "Extent along the tilt axis.", 16)
_ROUNDS = flags.DEFINE_integer("rounds", 2, "Of the weighting.", 1)
_PRIOR = flags.DEFINE_string("prior", "default", "Of mean.")
_MIRRORS = flags.DEFINE_bool("mirrors", False, "Average mean over mirror images.")
_SEED = flags.DEFINE_integer("seed", 0, "Of noise and errors.", 0)
_OUT = flags.DEFINE_string("out", None, "JSON lines; runs found there are kept.")

METHODS = ("tikhonov", "mean")
FAULTS = ("gain", "shifted", "hot", "border", "all")
WRONG_DOSE = 1.5  # factor, of one tilt
WRONG_SHIFT = 5  # pixels, of another
HOT_SHARE = 0.01
PROTOCOL = "weighting-v1"


@dataclasses.dataclass(frozen=True)
class Series:
    """Line integrals ``[n_tilts, u, y]``, and ``[z, y, x]`` to score against."""

    tilts: np.ndarray
    geometry: TiltGeometry
    truth: np.ndarray
    mask: np.ndarray
    shift_px: float


def scaled_errors(shift_px: float) -> ErrorConfig:
    """``IMPERFECT`` with this spread of the shift and all else in proportion."""
    every = dataclasses.asdict(IMPERFECT).items()
    factor = shift_px / IMPERFECT.shift_px
    return ErrorConfig(**{name: factor * value for name, value in every})


def spread_for(shift_px: float, contrast: jax.Array) -> weighting.Spread:
    """What the weighting assumes: ``IMPERFECT`` in proportion, normalised units.

    The gain of ``IMPERFECT`` is one of the dose: an offset of the logarithm.
    """
    errors = scaled_errors(shift_px)
    return weighting.Spread(
        shift_u=errors.shift_px,
        shift_v=errors.shift_px,
        tilt_rad=math.radians(errors.tilt_deg),
        rotation_rad=math.radians(errors.rotation_deg),
        magnification=errors.magnification,
        gain=0.0,
        offset=errors.gain / contrast,
    )


def moved_truth(
    truth: np.ndarray, angles_rad: np.ndarray, shift_u: np.ndarray, shift_v: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The truth ``[z, y, x]`` moved as the shifts move it on average, and a mask.

    Least squares of ``shift_u = x cos + z sin``, ``shift_v = y``; the mask is true
    where the moved volume has come from inside.
    """
    design = np.stack([np.cos(angles_rad), np.sin(angles_rad)], axis=1)
    along_x, along_z = np.linalg.lstsq(design, shift_u, rcond=None)[0]
    move = (float(along_z), float(np.mean(shift_v)), float(along_x))
    moved = ndimage.shift(truth, move, order=3, mode="nearest")
    whole = ndimage.shift(np.ones_like(truth), move, order=1, mode="constant")
    return moved, whole > 0.999


def simulate(stain: np.ndarray, case: evaluation.Case, name: str, seed: int) -> Series:
    """One series of a stain volume ``[z, y, x]`` under a named condition."""
    shift = float(name) if name not in FAULTS else 0.0
    nz, ny, nx = stain.shape
    geometry = TiltGeometry.from_degrees(
        case.angles_deg, thickness=nz, width=nx, height=ny
    )
    margin = geometry.margin
    wide = np.pad(stain, ((0, 0), (0, 0), (margin, margin)), mode="symmetric")
    config = dataclasses.replace(
        runner.PROTOCOL_IMAGING,
        errors=scaled_errors(shift),
        hot_pixels=HOT_SHARE if name in ("hot", "all") else 0.0,
    )
    core = layout.volume_to_core(jnp.asarray(wide, jnp.float32))
    made = _simulate(jax.random.key(seed), core, geometry, config)
    tilts = corrupt(np.array(made.tilts), name, np.random.default_rng(seed))
    drawn = (geometry.angles_rad, made.errors.shift_u, made.errors.shift_v)
    truth, mask = moved_truth(stain, *(np.asarray(a, np.float64) for a in drawn))
    mask &= metrics.seen_by_all_views(stain.shape, case.angles_deg)
    return Series(tilts, geometry, truth, mask, shift)


_simulate = jax.jit(simulate_series, static_argnums=3)


def corrupt(tilts: np.ndarray, name: str, rng: np.random.Generator) -> np.ndarray:
    """Faults of line integrals ``[n_tilts, u, y]``, but for hot pixels.

    gain: the dose of one tilt.  shifted: another tilt, along u.  border: two to six
    pixels of its mean on two sides of every tilt.
    """
    tilts, count = tilts.copy(), len(tilts)
    if name in ("gain", "all"):
        tilts[count // 4] -= math.log(WRONG_DOSE)
    if name in ("shifted", "all"):
        k = (3 * count) // 4
        tilts[k] = ndimage.shift(tilts[k], (WRONG_SHIFT, 0), order=1, mode="nearest")
    if name in ("border", "all"):
        for image in tilts:
            value = image.mean()
            along_u, along_v = rng.integers(2, 7, 2)
            if rng.integers(2):
                image[:along_u], image[:, :along_v] = value, value
            else:
                image[-along_u:], image[:, -along_v:] = value, value
    return tilts


@functools.partial(jax.jit, static_argnames="num_iters")
def _prepare(tilts, geometry, metric, *, num_iters):
    return inputs.prepare(tilts, geometry, TikhonovSettings(*metric, num_iters))


def prepare(series: Series, form: str, assumed: str) -> tuple[Problem, dict]:
    """A series ready for a method, and what the weighting found."""
    settings = settings_for(np.rad2deg(np.asarray(series.geometry.angles_rad)))
    tilts, keep, record = series.tilts, None, {}
    if form != "off":
        masks = weighting.find_masks(tilts, series.geometry)
        tilts, keep = weighting.repair(tilts, masks.keep), jnp.asarray(masks.keep)
        record["masked"] = masks.shares()
    metric = Metric(jnp.float32(settings.smoothness), jnp.float32(settings.ridge))
    ready = _prepare(
        jnp.asarray(tilts), series.geometry, metric, num_iters=settings.num_iters
    )
    if form == "off":
        return ready, record
    spread = None
    if assumed:
        shift = series.shift_px if assumed == "known" else float(assumed)
        spread = spread_for(shift, ready.units.contrast)
    found = weighting.weigh(
        ready,
        metric,
        form=form,
        spread=spread,
        keep=keep,
        rounds=_ROUNDS.value,
        num_iters=settings.num_iters,
    )
    geometry = series.geometry
    per_tilt = found.precision.per_tilt(geometry.tilts_shape)
    shown = ready.shown._replace(
        tikhonov=found.volume,
        level=jnp.maximum(jnp.std(geometry.crop(found.volume)), 1e-6),
        coverage=noise.coverage(geometry, per_tilt),
    )
    ready = dataclasses.replace(ready, precision=found.precision, inputs=shown)
    for name in ("factors", "chi2", "misalignment"):
        record[name] = np.asarray(getattr(found, name), float).round(4).tolist()
    return ready, record


def estimate(method: str, ready: Problem, prior: Prior | None) -> np.ndarray:
    """Volume ``[z, y, x]`` in input units."""
    wide = ready.shown.tikhonov
    if method == "mean":
        assert prior is not None
        settings = Settings(mirrors=_MIRRORS.value)
        wide, _ = mean_estimate(prior, ready, settings)
    core = ready.to_input_units(wide)
    return np.asarray(layout.volume_from_core(core))


def score(volume: np.ndarray, series: Series) -> dict[str, float]:
    """RMSE and PSNR of ``[z, y, x]`` after the affine match."""
    judged = (series.truth, series.mask)
    error = metrics.rmse(metrics.affine_match(volume, *judged).volume, *judged)
    return {"rmse": error, "psnr": -20 * math.log10(error)}


def weighings() -> list[tuple[str, str]]:
    """(form, assumed) of the rows of every method."""
    rows = []
    for form in _FORMS.value:
        spreads = _ASSUMED.value if form in ("diagonal", "low-rank") else [""]
        rows += [(form, assumed) for assumed in spreads]
    return rows


def centre(volume: np.ndarray) -> np.ndarray:
    """Middle ``[crop, height, crop]`` of ``[z, y, x]`` as stain in [0, 1]."""
    stain = grey_to_stain(volume)
    sizes = (_CROP.value, _HEIGHT.value, _CROP.value)
    if any(n < m for n, m in zip(stain.shape, sizes, strict=True)):
        raise InputError(
            f"--crop, --height: expected at most {list(stain.shape)} for this volume, "
            f"got {list(sizes)}; choose smaller ones"
        )
    start = [(n - m) // 2 for n, m in zip(stain.shape, sizes, strict=True)]
    part = stain[tuple(slice(s, s + m) for s, m in zip(start, sizes, strict=True))]
    low, high = float(part.min()), float(part.max())
    return np.asarray((part - low) / max(high - low, 1e-12), np.float32)


def settings_of(method: str, prior: Prior | None) -> dict[str, str | int | bool]:
    """What decides about a row beside its name."""
    if method != "mean" or prior is None:
        return {"rounds": _ROUNDS.value}
    used = {"prior": prior.sha256, "mirrors": _MIRRORS.value}
    return {"rounds": _ROUNDS.value} | used


def rows_of(
    volume_name: str,
    truth: np.ndarray,
    case: evaluation.Case,
    column: str,
    prior: Prior | None,
    store: results.ResultStore,
) -> Iterator[dict]:
    """Every row of one series, from the file or new."""
    label = f"{case.name}, {column}"
    seed = protocol.seed_for(_SEED.value, volume_name, label)
    digest = hashlib.sha256(str(truth.shape).encode() + truth.tobytes())
    series = None
    for form, assumed in weighings():
        ready = None
        for method in _METHODS.value:
            run = ", ".join(filter(None, (method, form, assumed)))
            base = {
                "protocol": PROTOCOL,
                "volume": volume_name,
                "case": label,
                "seed": seed,
                "truth_sha256": digest.hexdigest()[:16],
                "settings": settings_of(method, prior),
            }
            found = store.find(base, run)
            if found is None:
                series = series or simulate(truth, case, column, seed)
                if ready is None:
                    ready, record = prepare(series, form, assumed)
                volume = estimate(method, ready, prior)
                row = base | {"run": run, "estimates": 1}
                found = [row | score(volume, series) | record]
                store.append(found)
            yield from found


def against_off(rows: Sequence[dict]) -> None:
    """Adds "psnr over off", the difference to the same method unweighted."""
    plain = {(row["volume"], row["case"], row["run"]): row["psnr"] for row in rows}
    for row in rows:
        run = row["run"].partition(", ")[0] + ", off"
        same = plain.get((row["volume"], row["case"], run))
        if same is not None:
            row["psnr over off"] = row["psnr"] - same


def table(rows: Sequence[dict], case: str, columns: Sequence[str], metric: str) -> str:
    """Markdown: mean and standard error over the volumes of a case."""
    runs = list(dict.fromkeys(row["run"] for row in rows))
    lines = [
        f"{case}, {metric}",
        "",
        "| method, weighting, assumed px | " + " | ".join(columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    digits = 4 if metric == "rmse" else 2
    for run in runs:
        cells = []
        for column in columns:
            values = [
                row[metric]
                for row in rows
                if (row["run"], row["case"]) == (run, f"{case}, {column}")
                and metric in row
            ]
            text = f"{np.mean(values):.{digits}f}" if values else ""
            text = text.removeprefix("-") if text.strip("-0.") == "" else text
            if len(values) > 1:
                error = np.std(values, ddof=1) / math.sqrt(len(values))
                text += f" +- {error:.{digits}f}"
            cells.append(text)
        lines.append(f"| {run} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def run() -> None:
    """Scores, then prints the tables."""
    asked = (
        ("methods", _METHODS.value, METHODS),
        ("faults", _FAULTS.value, FAULTS),
        ("forms", _FORMS.value, weighting.FORMS),
    )
    for flag, names, known in asked:
        if wrong := set(names) - {"", *known}:
            raise InputError(
                f"--{flag}: expected some of {list(known)}, got {min(wrong)!r}; "
                "correct the list"
            )
    columns = [c for c in [*_SHIFTS.value, *_FAULTS.value] if c]
    cases = [evaluation.Case.from_name(name) for name in _CASES.value]
    volumes = load_sources(_DATA.value, tuple(_VOLUMES.value))
    prior = load_prior(_PRIOR.value) if "mean" in _METHODS.value else None
    store = results.ResultStore(_OUT.value)
    rows: list[dict] = []
    for name, volume in zip(_VOLUMES.value, volumes, strict=True):
        truth = centre(volume)
        for case in cases:
            for column in columns:
                for row in rows_of(name, truth, case, column, prior, store):
                    rows.append(row)
                    print(
                        f"{row['volume']} {row['case']} {row['run']} {row['psnr']:.2f}",
                        file=sys.stderr,
                    )
    against_off(rows)
    for case in cases:
        for metric in ("psnr", "rmse", "psnr over off"):
            print(table(rows, case.name, columns, metric))


def main(argv: Sequence[str]) -> None:
    """Runs, and exits with 2 on bad input."""
    conv.prefer_own(os.environ)
    with program.refusals("weighting_table", argv):
        run()


if __name__ == "__main__":
    app.run(main)
