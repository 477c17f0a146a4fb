"""What the peer adapters share: options, timing, checks and the JSON line.

Only numpy and the standard library, so that the file works in every peer's own
environment.  An adapter supplies an object with the methods of ``Operator`` and
calls ``main``.

Geometry, the same for every peer: volumes in files are ``[z, y, x]``, tilts
``[n_tilts, y, x]``, the tilt axis is +y, centres are ``(n - 1) / 2``, detector
pitch = voxel pitch = 1, the detector is as large as the volume's (y, x) face, and

    x_det = x cos(theta) + z sin(theta).

An adapter translates its package's habit (axis order, sense of rotation) into
this; ``centroid_error`` proves on every run that it did, against the formula.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

# A wrong sense of rotation moves the test blob by many pixels, a coarse footprint
# by a fraction of one.
MAX_CENTROID_ERROR_PX = 0.75


class Operator(Protocol):
    """One peer's projector for one geometry.

    Layout changes happen in the four conversions and are never timed;
    ``forward`` and ``adjoint`` return only when the result is complete.  A native
    array is valid until the next conversion or call of the same kind.
    """

    peer: str
    version: str
    method: str
    device: str

    def volume_to_native(self, volume: np.ndarray) -> Any:
        """``[z, y, x]`` float32 to what ``forward`` takes."""

    def tilts_to_native(self, tilts: np.ndarray) -> Any:
        """``[n_tilts, y, x]`` float32 to what ``adjoint`` takes."""

    def forward(self, volume: Any) -> Any:
        """Line integrals of a native volume, native layout."""

    def adjoint(self, tilts: Any) -> Any:
        """Back projection of native tilts, native layout."""

    def tilts_from_native(self, tilts: Any) -> np.ndarray:
        """Result of ``forward`` to ``[n_tilts, y, x]``."""

    def volume_from_native(self, volume: Any) -> np.ndarray:
        """Result of ``adjoint`` to ``[z, y, x]``."""


def parse_angles(text: str) -> np.ndarray:
    """Reads ``start:stop:count``, both ends included, as degrees ``[n_tilts]``."""
    try:
        start, stop, count = text.split(":")
        angles = np.linspace(float(start), float(stop), int(count))
    except ValueError:
        angles = np.empty(0)
    if angles.size == 0 or not np.all(np.abs(angles) <= 90.0):
        raise argparse.ArgumentTypeError(
            "angles: expected START:STOP:COUNT in degrees within [-90, 90], got "
            f"{text!r}; pass for example -40:40:41"
        )
    return angles


def build_parser(description: str) -> argparse.ArgumentParser:
    """Options that every adapter has; adapters may add their own."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--shape",
        type=int,
        nargs=3,
        default=(128, 128, 128),
        metavar=("Z", "Y", "X"),
        help="volume extents, voxels; the detector has Y rows and X columns",
    )
    parser.add_argument(
        "--angles",
        type=parse_angles,
        default=parse_angles("-40:40:41"),
        metavar="START:STOP:COUNT",
        help="tilt angles, degrees, both ends included",
    )
    parser.add_argument("--repeats", type=int, default=20, help="timed calls each way")
    parser.add_argument("--json", action="store_true", help="print one JSON line")
    parser.add_argument("--volume", help="a float .npy volume [z, y, x] to project")
    parser.add_argument("--out", help="where its tilts [n_tilts, y, x] go, .npy")
    return parser


def join_negative_values(argv: list[str]) -> list[str]:
    """Glues ``--angles`` to its value: argparse takes ``-40:40:41`` for an option."""
    joined: list[str] = []
    for word in argv:
        if joined and joined[-1] == "--angles":
            joined[-1] = f"--angles={word}"
        else:
            joined.append(word)
    return joined


def time_calls(call: Callable[[], Any], repeats: int) -> tuple[float, list[float]]:
    """Wall times of a blocking call, milliseconds: (first call, the later ones).

    The first call holds compilation and first-touch costs and is kept apart; a
    second one warms the caches and is dropped.
    """

    def once() -> float:
        begin = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - begin)

    first = once()
    once()
    return first, [once() for _ in range(repeats)]


def summary(name: str, first: float, samples: list[float]) -> dict[str, Any]:
    """Median, quartiles and raw samples under the keys of the JSON line."""
    low, median, high = np.percentile(samples, (25, 50, 75))
    return {
        f"{name}_ms": round(float(median), 3),
        f"{name}_quartiles_ms": [round(float(low), 3), round(float(high), 3)],
        f"{name}_first_call_ms": round(first, 3),
        f"{name}_samples_ms": [round(value, 3) for value in samples],
    }


def centroid_error(
    operator: Operator, shape: tuple[int, int, int], angles_deg: np.ndarray
) -> float:
    """Largest distance, pixels, between a blob's projected and predicted centre.

    The blob, a Gaussian, sits above the centre and off the tilt axis, so that a
    wrong sign of the angle, a mirrored axis or a shifted centre all show.
    """
    offset = np.array([shape[0] / 5, -shape[1] / 7, shape[2] / 6])
    centre = (np.array(shape) - 1) / 2
    grids = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij", sparse=True)
    squares = sum(
        ((grid - c - o) / max(1.2, n / 24)) ** 2
        for grid, c, o, n in zip(grids, centre, offset, shape, strict=True)
    )
    volume = np.exp(-0.5 * squares).astype(np.float32)
    tilts = operator.tilts_from_native(
        operator.forward(operator.volume_to_native(volume))
    ).astype(np.float64)
    mass = tilts.sum(axis=(1, 2))
    measured_x = tilts.sum(axis=1) @ (np.arange(shape[2]) - centre[2]) / mass
    measured_y = tilts.sum(axis=2) @ (np.arange(shape[1]) - centre[1]) / mass
    theta = np.deg2rad(angles_deg)
    predicted_x = offset[2] * np.cos(theta) + offset[0] * np.sin(theta)
    return float(
        max(
            np.abs(measured_x - predicted_x).max(),
            np.abs(measured_y - offset[1]).max(),
        )
    )


def adjoint_mismatch(
    operator: Operator, volume: np.ndarray, tilts: np.ndarray
) -> float:
    """``|<A x, p> - <x, A* p>| / (|A x| |p|)`` in double precision sums."""
    projected = operator.tilts_from_native(
        operator.forward(operator.volume_to_native(volume))
    ).astype(np.float64)
    spread = operator.volume_from_native(
        operator.adjoint(operator.tilts_to_native(tilts))
    ).astype(np.float64)
    gap = np.vdot(projected, tilts) - np.vdot(volume, spread)
    return float(abs(gap) / (np.linalg.norm(projected) * np.linalg.norm(tilts)))


def measure(
    operator: Operator,
    shape: tuple[int, int, int],
    angles_deg: np.ndarray,
    repeats: int,
) -> dict[str, Any]:
    """Checks and times one operator; the content of the JSON line."""
    rng = np.random.default_rng(0)
    volume = rng.random(shape, dtype=np.float32)
    tilts = rng.random((len(angles_deg), *shape[1:]), dtype=np.float32)
    # Timed first, so that the first calls hold the compilation.
    native_volume = operator.volume_to_native(volume)
    native_tilts = operator.tilts_to_native(tilts)
    forward = time_calls(lambda: operator.forward(native_volume), repeats)
    adjoint = time_calls(lambda: operator.adjoint(native_tilts), repeats)
    error = centroid_error(operator, shape, angles_deg)
    if error > MAX_CENTROID_ERROR_PX:
        raise SystemExit(
            f"{operator.peer}: expected a projected centre within "
            f"{MAX_CENTROID_ERROR_PX} px of x cos + z sin, got {error:.2f} px; the "
            "package's geometry differs from the adapter's: install the pinned version"
        )
    mismatch = adjoint_mismatch(operator, volume, tilts)
    return {
        "peer": operator.peer,
        "version": operator.version,
        "method": operator.method,
        "shape_zyx": list(shape),
        "n_tilts": len(angles_deg),
        "angles_deg": [float(angles_deg[0]), float(angles_deg[-1])],
        "repeats": repeats,
        **summary("forward", *forward),
        **summary("adjoint", *adjoint),
        "centroid_error_px": round(error, 4),
        "adjoint_mismatch": float(f"{mismatch:.3g}"),
        "device": operator.device,
        "cores": usable_cores(),
        "python": platform.python_version(),
    }


def usable_cores() -> int:
    """Cores this process may run on, not those the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load_volume(path: str, shape: tuple[int, int, int]) -> np.ndarray:
    """A float32 ``[z, y, x]`` volume of the requested extents from a .npy file."""
    volume = np.load(path, allow_pickle=False)
    if volume.shape != tuple(shape):
        raise SystemExit(
            f"{path}: expected a volume [z, y, x] of shape {list(shape)}, got "
            f"{list(volume.shape)}; pass its extents with --shape"
        )
    return np.ascontiguousarray(volume, np.float32)


def main(
    parser: argparse.ArgumentParser,
    build: Callable[[argparse.Namespace], Operator],
    argv: list[str] | None = None,
) -> None:
    """Runs one adapter: a projection to a file, or checks and timings.

    Args:
      parser: From ``build_parser``, perhaps with options added.
      build: Makes the operator from the parsed options; it imports the package.
      argv: Words of the command line; those of the process by default.
    """
    options = parser.parse_args(
        join_negative_values(sys.argv[1:] if argv is None else argv)
    )
    if bool(options.volume) != bool(options.out):
        parser.error("--volume and --out go together; pass both or neither")
    if options.repeats < 1 or min(options.shape) < 1:
        parser.error("--repeats and --shape take positive whole numbers")
    shape = tuple(options.shape)
    # Packages print progress and notices; standard output holds the result alone.
    with contextlib.redirect_stdout(sys.stderr):
        operator = build(options)
        if options.volume:
            native = operator.volume_to_native(load_volume(options.volume, shape))
            tilts = operator.tilts_from_native(operator.forward(native))
            np.save(options.out, np.ascontiguousarray(tilts, np.float32))
            return
        result = measure(operator, shape, options.angles, options.repeats)
    if options.json:
        print(json.dumps(result))
    else:
        for key, value in result.items():
            if not key.endswith("_samples_ms"):
                print(f"{key:>24}  {value}")
