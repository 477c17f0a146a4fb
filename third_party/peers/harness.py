"""What the peer adapters share: options, timing, checks and the JSON line.

Only numpy and the standard library, so that the file works in every peer's own
environment.  An adapter supplies an object with the methods of ``Operator`` and
calls ``main``.

Geometry, the same for every peer: volumes in files are ``[z, y, x]``, tilts
``[n_tilts, y, x]``, the tilt axis is +y, centres are ``(n - 1) / 2``, detector
pitch = voxel pitch = 1, the detector is as large as the volume's (y, x) face, and

    x_det = x cos(theta) + z sin(theta).

An adapter translates its package's habit (axis order, sense of rotation) into
this; ``checks.centroid_error`` proves on every run that it did, against the formula.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TextIO

import checks
import numpy as np


class Operator(Protocol):
    """One peer's projector for one geometry.

    Layout changes happen in the four conversions and are never timed;
    ``forward`` and ``adjoint`` return only when the result is complete.  A native
    array is valid until the next conversion or call of the same kind.

    May also have ``centroid_tolerance_px``, where its grid of pixels cannot be laid
    on ours, and ``close()``, which gives back what deleting the object does not.
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
    parser.add_argument(
        "--serve", action="store_true", help="answer requests on standard input"
    )
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


def random_data(
    shape: tuple[int, int, int], num_tilts: int
) -> tuple[np.ndarray, np.ndarray]:
    """What is projected while the clock runs: ``[z, y, x]``, ``[n_tilts, y, x]``."""
    rng = np.random.default_rng(0)
    volume = rng.random(shape, dtype=np.float32)
    return volume, rng.random((num_tilts, *shape[1:]), dtype=np.float32)


def measure(
    operator: Operator,
    shape: tuple[int, int, int],
    angles_deg: np.ndarray,
    repeats: int,
) -> dict[str, Any]:
    """Checks and times one operator; the content of the JSON line."""
    volume, tilts = random_data(shape, len(angles_deg))
    # Timed first, so that the first calls hold the compilation.
    native_volume = operator.volume_to_native(volume)
    native_tilts = operator.tilts_to_native(tilts)
    forward = time_calls(lambda: operator.forward(native_volume), repeats)
    adjoint = time_calls(lambda: operator.adjoint(native_tilts), repeats)
    found = checks.check(operator, shape, angles_deg, volume, tilts)
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
        **found,
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


class Session:
    """One case at a time, in the steps that a benchmark asks for.

    Requests are dictionaries with ``do``: ``open`` (``shape``, ``angles_deg``), then
    any number of ``time`` (``direction``, ``calls``), ``check`` and ``project``
    (``volume``, ``out``: paths of .npy files), then ``close``.
    """

    def __init__(
        self,
        build: Callable[[argparse.Namespace], Operator],
        options: argparse.Namespace,
    ) -> None:
        self._build = build
        self._options = options
        self._operator: Any = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Does one request; raises whatever the package raises."""
        step = {
            "open": self._open,
            "time": self._time,
            "check": self._check,
            "project": self._project,
            "close": self._close,
        }[request.pop("do")]
        return step(**request)

    def _open(self, shape: list[int], angles_deg: list[float]) -> dict[str, Any]:
        self._close()
        self._options.shape = tuple(shape)
        self._options.angles = np.asarray(angles_deg, np.float64)
        operator = self._operator = self._build(self._options)
        self._data = random_data(self._options.shape, len(angles_deg))
        volume = operator.volume_to_native(self._data[0])
        tilts = operator.tilts_to_native(self._data[1])
        self._calls = {
            "forward": lambda: operator.forward(volume),
            "adjoint": lambda: operator.adjoint(tilts),
        }
        return {
            "version": operator.version,
            "method": operator.method,
            "device": operator.device,
            "cores": usable_cores(),
            **{f"{name}_first_call_ms": self._once(name) for name in self._calls},
        }

    def _once(self, direction: str) -> float:
        begin = time.perf_counter()
        self._calls[direction]()
        return round(1e3 * (time.perf_counter() - begin), 4)

    def _time(self, direction: str, calls: int) -> dict[str, Any]:
        return {"samples_ms": [self._once(direction) for _ in range(calls)]}

    def _check(self) -> dict[str, float]:
        options = self._options
        return checks.check(self._operator, options.shape, options.angles, *self._data)

    def _project(self, volume: str, out: str) -> dict[str, Any]:
        loaded = load_volume(volume, self._options.shape)
        native = self._operator.volume_to_native(loaded)
        tilts = self._operator.tilts_from_native(self._operator.forward(native))
        np.save(out, np.ascontiguousarray(tilts, np.float32))
        return {}

    def _close(self) -> dict[str, Any]:
        # A large case must not hold memory while another one is timed.
        getattr(self._operator, "close", lambda: None)()
        self._operator = self._calls = self._data = None
        return {}


def serve(session: Session, requests: TextIO, answers: TextIO) -> None:
    """One JSON answer a line for one JSON request a line; errors are answers too."""
    for line in requests:
        try:
            answer = session.answer(json.loads(line))
        # The process goes on: one case may be too much for a package, the next not.
        except (Exception, SystemExit) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


@contextlib.contextmanager
def result_stream() -> Iterator[TextIO]:
    """Standard output for the result alone; what a package prints goes to errors.

    Descriptors, not ``sys.stdout``: compiled packages print too.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(os.dup(kept), "w", encoding="utf-8") as stream:
            yield stream
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def main(
    parser: argparse.ArgumentParser,
    build: Callable[[argparse.Namespace], Operator],
    argv: list[str] | None = None,
) -> None:
    """Runs one adapter: a projection to a file, checks and timings, or requests.

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
    with result_stream() as results:
        if options.serve:
            serve(Session(build, options), sys.stdin, results)
            return
        operator = build(options)
        if options.volume:
            native = operator.volume_to_native(load_volume(options.volume, shape))
            tilts = operator.tilts_from_native(operator.forward(native))
            np.save(options.out, np.ascontiguousarray(tilts, np.float32))
            return
        result = measure(operator, shape, options.angles, options.repeats)
        if options.json:
            print(json.dumps(result), file=results)
            return
        for key, value in result.items():
            if not key.endswith("_samples_ms"):
                print(f"{key:>24}  {value}", file=results)
