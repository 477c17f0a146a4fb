"""Protocol ``volume-v1``: how a reconstruction is scored, as code.

Truth and reconstruction share one grid ``[z, y, x]``. Scores are taken over the voxels
seen by every view, with the range of the truth volume, and for every method alike in
three variants: ``raw``; ``matched``, after the best gain and offset; ``gauge``, after
the best depth shift and scale and then gain and offset. Fourier scores use the same
mask with a cosine taper.
"""

import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from temdiff_jax import errors
from temdiff_jax.evaluation import (
    conical,
    fourier,
    gauge,
    membrane,
    metrics,
    quantities,
    results,
)

PROTOCOL = "volume-v1"
VARIANTS = ("raw", "matched", "gauge")

Row = results.Row


class Estimate(NamedTuple):
    """A reconstruction that says how far it may be off.

    Attributes:
      volume: ``[z, y, x]``, the mean of samples.
      std: Their standard deviation (unbiased), in the same units.
      samples: Their number.
    """

    volume: ArrayLike
    std: ArrayLike
    samples: int


AnyEstimate = ArrayLike | Estimate
Method = Callable[
    [NDArray[Any], NDArray[np.float64], int], ArrayLike | Mapping[str, AnyEstimate]
]
Simulate = Callable[[NDArray[Any], NDArray[np.float64], int], ArrayLike]


@dataclasses.dataclass(frozen=True)
class Case:
    """One symmetric tilt scheme.

    ``Case(5, 1)`` has name ``"10/1"``: 10 degrees of range in steps of 1 degree, that
    is 11 tilts from -5 to 5 degrees.
    """

    half_range_deg: float
    step_deg: float

    def __post_init__(self) -> None:
        steps = 2 * self.half_range_deg / self.step_deg if self.step_deg > 0 else 0.0
        if not (
            0 < self.half_range_deg <= 90 and math.isclose(steps, max(1, round(steps)))
        ):
            raise errors.InputError(
                "case is no tilt scheme: expected 0 < half range <= 90 and a step that "
                f"divides the range, got half range {self.half_range_deg} and step "
                f"{self.step_deg}; change the step"
            )

    @classmethod
    def from_name(cls, name: str) -> "Case":
        """Read ``"range/step"`` in degrees, e.g. ``"10/1"``."""
        try:
            full, step = (float(part) for part in name.split("/"))
        except ValueError:
            raise errors.InputError(
                f"case name is unreadable: expected range/step in degrees, got {name!r}"
                "; write for example 10/1"
            ) from None
        return cls(full / 2, step)

    @property
    def name(self) -> str:
        """``"range/step"`` in degrees."""
        return f"{2 * self.half_range_deg:g}/{self.step_deg:g}"

    @property
    def num_tilts(self) -> int:
        """Number of tilts, both ends included."""
        return round(2 * self.half_range_deg / self.step_deg) + 1

    @property
    def angles_deg(self) -> NDArray[np.float64]:
        """Tilt angles in degrees, ascending and symmetric, float64 ``[n_tilts]``."""
        index = np.arange(self.num_tilts, dtype=np.float64) - (self.num_tilts - 1) / 2
        return index * float(self.step_deg)


CASES = (
    Case(4, 2),
    Case(5, 1),
    Case(10, 2),
    Case(20, 2),
    Case(30, 3),
    Case(60, 3),
)


def seed_for(seed: int, volume: str, case: str) -> int:
    """Derive the simulation seed of one volume and case, in [0, 2**31).

    It depends on the names alone, so neither the order of the loop, nor resuming, nor
    adding a volume changes the noise of another; every method sees the same tilts.
    """
    digest = hashlib.sha256(f"{seed}\0{volume}\0{case}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def score(
    reconstruction: ArrayLike,
    truth: ArrayLike,
    angles_deg: ArrayLike,
    *,
    mask: ArrayLike | None = None,
) -> dict[str, Any]:
    """Score one reconstruction by protocol ``volume-v1``.

    Args:
        reconstruction, truth: volumes ``[z, y, x]`` on the same grid.
        angles_deg: tilt angles in degrees; they give the mask and the measured region.
        mask: voxels that count, bool ``[z, y, x]``; default: seen by all views.

    Returns:
        ``raw``, ``matched`` and ``gauge``: dicts with rmse, nrmse, psnr (dB), ssim
        (3-D), ssim_xy, ssim_xz, ssim_yz, e_in, e_out, fsc_half (cycles per voxel),
        cone_ratio (see `conical`), membrane_width and membrane_depth (of the mean
        profile across flat membranes, over the truth's; see `membrane`).
        Beside them ``fraction`` of voxels kept, ``data_range``, ``gain`` and
        ``offset`` of the match, ``depth_shift`` (voxels), ``depth_scale``,
        ``membrane`` (number of sites, width and depth of the truth), and ``shells``:
        curves of the matched variant (frequency, e_in, e_out, ratio_in, ratio_out,
        fsc, and the conical fsc_z, fsc_y, fsc_x). Plain Python numbers throughout.

    Raises:
        ValueError: shapes differ, a voxel is not finite, the truth is constant, or
            the mask leaves nothing to average.
    """
    rec, ref = metrics.check_volumes(reconstruction, truth)
    if mask is None:
        mask = metrics.seen_by_all_views(ref.shape, angles_deg)
    keep = metrics.check_mask(mask, ref.shape)
    weight = fourier.soft_mask(keep)
    matched = metrics.affine_match(rec, ref, keep)
    depth = gauge.fit_depth_gauge(rec, ref, keep)
    corrected = metrics.affine_match(depth.volume, ref, keep)
    volumes = {"raw": rec, "matched": matched.volume, "gauge": corrected.volume}
    sheets = membrane.find_sheets(ref, keep)
    true_profile = membrane.mean_profile(ref, sheets)
    result: dict[str, Any] = {
        "fraction": float(keep.mean()),
        "data_range": metrics.data_range(ref),
        "gain": matched.gain,
        "offset": matched.offset,
        "depth_shift": depth.shift,
        "depth_scale": depth.scale,
        "membrane": {
            "sites": int(sheets[0].size),
            "width": true_profile.width,
            "depth": true_profile.depth,
        },
    }
    cones: conical.ConicalCorrelation | None = None
    for variant, volume in volumes.items():
        scores, shells = _scores(volume, ref, angles_deg, keep, weight)
        # Blind to gain and offset, so that raw and matched share one.
        if cones is None or variant == "gauge":
            cones = conical.conical_correlation(volume, ref, weight=weight)
        profile = membrane.mean_profile(volume, sheets)
        scores |= {
            "cone_ratio": cones.ratio,
            "membrane_width": _over(profile.width, true_profile.width),
            "membrane_depth": _over(profile.depth, true_profile.depth),
        }
        result[variant] = scores
        if variant == "matched":
            along = zip("zyx", np.eye(3), strict=True)
            shells |= {f"fsc_{axis}": cones.along(v).tolist() for axis, v in along}
            result["shells"] = shells
    return result


def _scores(
    volume: NDArray[np.float64],
    truth: NDArray[np.float64],
    angles_deg: ArrayLike,
    keep: NDArray[np.bool_],
    weight: NDArray[np.float64],
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """All numbers of one variant, and its curves over shells."""
    wedge = fourier.wedge_split_error(volume, truth, angles_deg, weight=weight)
    ratio = fourier.spectrum_ratio(volume, truth, angles_deg, weight=weight)
    fsc = fourier.fourier_shell_correlation(volume, truth, weight=weight)
    scores = {
        **quantities.scores(volume, truth, keep),
        "e_in": wedge.e_in,
        "e_out": wedge.e_out,
        "fsc_half": fourier.crossing(fsc),
    }
    curves = {
        "frequency": wedge.frequency,
        "e_in": wedge.e_in_shells,
        "e_out": wedge.e_out_shells,
        "ratio_in": ratio.inside,
        "ratio_out": ratio.outside,
        "fsc": fsc.fsc,
    }
    return scores, {name: curve.tolist() for name, curve in curves.items()}


def _over(value: float, unit: float) -> float:
    return value / unit if unit > 0 else float("nan")


def evaluate(
    volumes: Mapping[str, ArrayLike],
    cases: Iterable[Case],
    methods: Mapping[str, Method],
    simulate: Simulate,
    *,
    seed: int = 0,
    store: results.ResultStore | None = None,
    on_row: Callable[[Row], None] | None = None,
) -> list[Row]:
    """Score every method on every volume and case.

    Args:
        volumes: name -> truth ``[z, y, x]``; looked up once per volume.
        cases: tilt schemes, for instance `CASES`.
        methods: name -> ``method(tilts [n_tilts, y, x], angles_deg, thickness)``,
            returning a volume ``[z, y, x]``, or label -> volume when one run yields
            several estimates; their rows are named ``"name, label"``. An `Estimate`
            in the place of a volume has its spread scored too. A method may
            carry attributes, read after its run: ``calls`` and ``pairs``, network
            evaluations and projector pairs of one run, numbers or functions of
            angles_deg; ``settings``, JSON values that rows must share to be reused.
        simulate: ``simulate(truth, angles_deg, seed)`` -> tilts ``[n_tilts, y, x]``;
            run once per volume and case, so that all methods see the same tilts.
        seed: base seed; see `seed_for`.
        store: rows of earlier runs. Runs found there are not repeated, new rows are
            appended at once, so an interrupted evaluation continues. The name of a
            method is its identity: new settings need a new name or a new file.
        on_row: called with every new row.

    Returns:
        One dict per volume, case and estimate: the fields of `_run`, then those of
        `score`; None stands for a number that does not exist.

    Raises:
        errors.InputError: the file holds rows of another truth, seed, protocol or
            settings.
        ValueError: tilts or a reconstruction of the wrong shape. Exceptions of a
            method pass through; the rows before it are safe in the file.
    """
    store = store or results.ResultStore(None)
    cases = tuple(cases)
    rows: list[Row] = []
    for volume_name in volumes:
        truth = np.asarray(volumes[volume_name])
        for case in cases:
            base = _identity(truth, volume_name, case, seed)
            more = store.about.get(volume_name, {})
            tilts: NDArray[Any] | None = None
            for run, method in methods.items():
                settings = getattr(method, "settings", None)
                named = base if settings is None else {**base, "settings": settings}
                found = store.find(named, run)
                if found is None:
                    if tilts is None:
                        tilts = _tilts(simulate, truth, case, base["seed"])
                    found = _run(
                        method, tilts, truth, case, {**named, **more, "run": run}
                    )
                    store.append(found)
                    for row in found:
                        if on_row is not None:
                            on_row(row)
                rows.extend(found)
    return rows


def _identity(truth: NDArray[Any], volume: str, case: Case, seed: int) -> Row:
    """What a row says about its input; the hash is over shape and float32 voxels."""
    array = np.ascontiguousarray(truth, dtype="<f4")
    digest = hashlib.sha256(str(array.shape).encode())
    digest.update(array.tobytes())
    return {
        "protocol": PROTOCOL,
        "volume": volume,
        "case": case.name,
        "seed": seed_for(seed, volume, case.name),
        "truth_sha256": digest.hexdigest()[:16],
    }


def _tilts(
    simulate: Simulate, truth: NDArray[Any], case: Case, seed: int
) -> NDArray[Any]:
    tilts = np.asarray(simulate(truth, case.angles_deg, seed))
    expected = (case.num_tilts, truth.shape[1])
    if tilts.ndim != 3 or tilts.shape[:2] != expected:
        raise ValueError(
            "simulated tilts do not fit: expected [n_tilts, y, x] = "
            f"{[*expected, truth.shape[2]]}, got {list(tilts.shape)}; return public "
            "layout from simulate"
        )
    return tilts


def _run(
    method: Method, tilts: NDArray[Any], truth: NDArray[Any], case: Case, base: Row
) -> list[Row]:
    """Time one method and score what it returns.

    Adds to ``base`` (protocol, volume, case, seed, truth_sha256, run): method, the
    name of the estimate; estimates, their number in this run; shape; seconds, wall
    time of the whole run with compilation; calls and pairs where the method tells
    them; failed, None or the reason why a row has no scores. A diverged result is
    thus a row, never a silent gap in a mean.
    """
    angles = case.angles_deg
    start = time.perf_counter()
    output = method(tilts, angles, truth.shape[0])
    # The conversion waits for an asynchronous device, so it belongs to the time.
    if isinstance(output, Mapping):
        found = {f"{base['run']}, {label}": part for label, part in output.items()}
    else:
        found = {base["run"]: output}
    spreads = {k: part for k, part in found.items() if isinstance(part, Estimate)}
    volumes = {
        name: np.asarray(part.volume if isinstance(part, Estimate) else part)
        for name, part in found.items()
    }
    seconds = time.perf_counter() - start
    counts = {name: _count(method, name, angles) for name in ("calls", "pairs")}
    counts = {name: count for name, count in counts.items() if count is not None}
    rows = []
    for name, volume in volumes.items():
        row = {
            **base,
            "method": name,
            "estimates": len(volumes),
            "shape": list(truth.shape),
            "seconds": seconds,
            **counts,
            "failed": None,
        }
        bad = int(volume.size - np.isfinite(volume).sum())
        if bad:
            row["failed"] = f"{bad} of {volume.size} voxels are not finite"
        else:
            row |= score(volume, truth, angles)
            if name in spreads:
                row |= _judge_spread(row, spreads[name], angles)
        rows.append(results.finite(row))
    return rows


def _judge_spread(
    row: Row, estimate: Estimate, angles_deg: NDArray[np.float64]
) -> dict[str, float]:
    mask = metrics.seen_by_all_views(row["shape"], angles_deg)
    spread = metrics.mean_spread(estimate.std, row["gain"], mask)
    tau = metrics.tau(row["matched"]["rmse"], spread, estimate.samples)
    return {"spread": spread, "tau": tau}


def _count(method: Method, name: str, angles_deg: NDArray[np.float64]) -> float | None:
    """What a method says it costs, for these angles."""
    count = getattr(method, name, None)
    return count(angles_deg) if callable(count) else count
