"""Times our projector beside other projects', alternating in one run.

    make peers
    python -m launch.benchmark_projector --rounds=5 --output=projector.json

Timings on a busy or frequency-scaled machine drift by more than the differences of
interest, so every round times all projectors one after another, each round starts
with another one, and the ratio of a peer is the median over rounds of (its median /
our median in the same round).  Each peer runs in a process and an environment of
its own (third_party/peers); one that is not installed is left out by name.

Everything is float32 on the CPU unless JAX_PLATFORMS says otherwise; compilation
and warm-up are apart; layout changes and transfers are not timed.  The volume
is as wide as the detector (no lateral margin), as in the peers.  "differs" is the
relative L2 distance of a peer's projection of smooth blobs from ours: the
discretisations differ, so 1e-3 to 1e-2 is expected; ASTRA 'linear' is the same one.

Prints a Markdown table; ``--output`` writes all samples as JSON.
"""

from __future__ import annotations

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from absl import app, flags, logging

from temdiff_jax import geometry as geometry_lib
from temdiff_jax import layout, projector

ROOT = pathlib.Path(__file__).resolve().parent.parent
OURS = "temdiff_jax"
DIRECTIONS = ("forward", "adjoint")

# Row of the table: environment, adapter, words added to its command line.
PEERS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "astra": ("astra", "astra_peer.py", ()),
    "mbirjax": ("mbirjax", "mbirjax_peer.py", ()),
    "scico": ("scico", "scico_peer.py", ()),
    "scico-2d": ("scico", "scico_peer.py", ("--method", "2d")),
}

_SHAPE = flags.DEFINE_list("shape", ["128", "128", "128"], "Volume extents z,y,x.")
_ANGLES = flags.DEFINE_string(
    "angles", "-40:40:41", "START:STOP:COUNT, degrees, both ends included."
)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Rounds over all projectors.", 1)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed calls per round and way.", 1)
_PEERS = flags.DEFINE_list("peers", list(PEERS), "Rows to run beside ours.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for all samples.")
_TIMEOUT = flags.DEFINE_integer("timeout_s", 600, "Limit for one peer's process.", 1)
_PYTHON = {
    name: flags.DEFINE_string(
        f"{name}_python",
        f".venv-peers/{name}/bin/python",
        f"Interpreter of the environment with {name}, absolute or from the root.",
    )
    for name in sorted({environment for environment, _, _ in PEERS.values()})
}

Result = dict[str, Any]


def parse_case(shape: Sequence[str], angles: str) -> tuple[tuple[int, ...], np.ndarray]:
    """Extents ``(z, y, x)`` and degrees ``[n_tilts]`` from the flags' text."""
    try:
        extents = tuple(int(word) for word in shape)
        start, stop, count = angles.split(":")
        angles_deg = np.linspace(float(start), float(stop), int(count))
    except ValueError:
        extents, angles_deg = (), np.empty(0)
    if len(extents) != 3 or min(extents) < 1 or angles_deg.size == 0:
        raise app.UsageError(
            "case: expected --shape=Z,Y,X and --angles=START:STOP:COUNT, got "
            f"{','.join(shape)} and {angles}; pass for example --shape=128,128,128 "
            "--angles=-40:40:41"
        )
    return extents, angles_deg


def smooth_blobs(shape: tuple[int, ...], count: int = 12) -> np.ndarray:
    """A volume ``[z, y, x]`` float32 on which discretisations ought to agree."""
    rng = np.random.default_rng(1)
    axes = [np.linspace(-1.0, 1.0, n) for n in shape]
    volume = np.zeros(shape, np.float32)
    for _ in range(count):
        widths = rng.uniform(0.08, 0.2)
        profiles = [
            np.exp(-0.5 * ((axis - rng.uniform(-0.5, 0.5)) / widths) ** 2)
            for axis in axes
        ]
        volume += np.einsum("i,j,k->ijk", *profiles).astype(np.float32)
    return volume


class OurProjector:
    """``project`` and ``backproject``, jitted, with arrays on the device."""

    def __init__(self, shape: tuple[int, ...], angles_deg: np.ndarray) -> None:
        self._geometry = geometry_lib.TiltGeometry.from_degrees(
            angles_deg,
            thickness=shape[0],
            height=shape[1],
            width=shape[2],
            lateral_margin=0,
        )
        # The geometry is an argument: angles held by closure would be constants.
        self._project = jax.jit(projector.project)
        self._backproject = jax.jit(projector.backproject)
        rng = np.random.default_rng(0)
        tilts_shape = (len(angles_deg), *shape[1:])
        volume = layout.volume_to_core(rng.random(shape, dtype=np.float32))
        tilts = layout.tilts_to_core(rng.random(tilts_shape, dtype=np.float32))
        self._volume, self._tilts = jax.block_until_ready((volume, tilts))
        self._first_ms = {name: self._once(name) for name in DIRECTIONS}

    def _once(self, direction: str) -> float:
        call: Callable[[], jax.Array] = {
            "forward": lambda: self._project(self._volume, self._geometry),
            "adjoint": lambda: self._backproject(self._tilts, self._geometry),
        }[direction]
        begin = time.perf_counter()
        jax.block_until_ready(call())
        return 1e3 * (time.perf_counter() - begin)

    def measure(self, repeats: int) -> Result:
        """One round's samples under the keys that the peers print."""
        result: Result = {
            "peer": OURS,
            "version": f"jax {jax.__version__}",
            "method": "project, backproject, jitted",
            "device": jax.devices()[0].device_kind,
        }
        for name in DIRECTIONS:
            self._once(name)
            result[f"{name}_samples_ms"] = [self._once(name) for _ in range(repeats)]
            result[f"{name}_first_call_ms"] = self._first_ms[name]
        projected = self._project(self._volume, self._geometry)
        spread = self._backproject(self._tilts, self._geometry)
        p, t, v, b = (
            np.asarray(array, np.float64)
            for array in (projected, self._tilts, self._volume, spread)
        )
        gap = abs(np.vdot(p, t) - np.vdot(v, b))
        scale = np.linalg.norm(p) * np.linalg.norm(t)
        result["adjoint_mismatch"] = float(gap / scale)
        return result

    def project(self, volume: np.ndarray) -> np.ndarray:
        """``[z, y, x]`` to ``[n_tilts, y, x]``."""
        tilts = self._project(layout.volume_to_core(volume), self._geometry)
        return np.asarray(layout.tilts_from_core(tilts))


def peer_python(name: str) -> pathlib.Path:
    """The interpreter of a peer, whether or not it exists."""
    return ROOT / _PYTHON[PEERS[name][0]].value


def run_peer(name: str, *words: str) -> str:
    """Runs a peer's adapter on the case of the flags; its standard output."""
    _, script, added = PEERS[name]
    # The peer must import from its own environment alone.
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "XLA_FLAGS")
    }
    case = ["--shape", *_SHAPE.value, f"--angles={_ANGLES.value}"]
    adapter = ROOT / "third_party" / "peers" / script
    completed = subprocess.run(
        [str(peer_python(name)), str(adapter), *case, *added, *words],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT.value,
        env=environment,
        check=False,
    )
    if completed.returncode:
        raise RuntimeError(
            f"{name}: expected exit code 0, got {completed.returncode}; its last "
            f"words, to be repaired or left out with --peers:\n"
            f"{completed.stderr[-2000:]}"
        )
    return completed.stdout


def measure_peer(name: str, repeats: int) -> Result:
    """One round of a peer: the JSON line of its adapter."""
    output = run_peer(name, "--repeats", str(repeats), "--json")
    return json.loads(output.strip().splitlines()[-1])


def difference_of_peer(name: str, volume: np.ndarray, ours: np.ndarray) -> float:
    """Relative L2 distance of a peer's projection from ours."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = f"{folder}/volume.npy", f"{folder}/tilts.npy"
        np.save(source, volume)
        run_peer(name, "--volume", source, "--out", target)
        theirs = np.load(target, allow_pickle=False)
    return float(np.linalg.norm(theirs - ours) / np.linalg.norm(ours))


def collate(rounds: list[dict[str, Result]], name: str) -> Result:
    """Pools a projector's rounds: quartiles, and its ratio to ours per round."""
    latest = rounds[-1][name]
    row: Result = {
        key: latest.get(key) for key in ("version", "method", "device", "cores")
    }
    row["projector"] = name
    row["adjoint_mismatch"] = max(r[name]["adjoint_mismatch"] for r in rounds)
    for direction in DIRECTIONS:
        key = f"{direction}_samples_ms"
        samples = [value for r in rounds for value in r[name][key]]
        row[f"{direction}_quartiles_ms"] = np.percentile(samples, (25, 50, 75)).tolist()
        row[f"{direction}_ratio"] = statistics.median(
            statistics.median(r[name][key]) / statistics.median(r[OURS][key])
            for r in rounds
        )
        row[key] = [r[name][key] for r in rounds]
    return row


def markdown(rows: list[Result]) -> str:
    """The table: milliseconds as median (quartiles), ratios to ours."""
    lines = [
        "| projector | version | forward ms | ratio | adjoint ms | ratio "
        "| adjoint mismatch | differs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row["projector"], row["version"]]
        for direction in DIRECTIONS:
            low, median, high = row[f"{direction}_quartiles_ms"]
            cells.append(f"{median:.1f} ({low:.1f}-{high:.1f})")
            cells.append(f"{row[f'{direction}_ratio']:.1f}")
        cells.append(f"{row['adjoint_mismatch']:.0e}")
        cells.append("-" if row["differs"] is None else f"{row['differs']:.1e}")
        lines.append(f"| {' | '.join(cells)} |")
    notes = [f"{row['projector']}: {row['method']}." for row in rows]
    return "\n".join([*lines, "", *notes])


def heading(
    shape: tuple[int, ...], angles_deg: np.ndarray, loads: Sequence[float]
) -> str:
    """What was run and how busy the machine was."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count()
    return (
        f"Volume {'x'.join(map(str, shape))} (z, y, x), {len(angles_deg)} tilts from "
        f"{angles_deg[0]:g} to {angles_deg[-1]:g} degrees, {jax.default_backend()}, "
        f"{cores} cores; {_REPEATS.value} calls in each of {len(loads)} rounds, load "
        f"average before them {', '.join(map(str, loads))}."
    )


def available_peers(requested: Sequence[str]) -> list[str]:
    """The requested peers whose interpreter exists; the others are logged."""
    unknown = sorted(set(requested) - set(PEERS))
    if unknown:
        raise app.UsageError(
            f"--peers: expected some of {', '.join(PEERS)}, got {unknown[0]}; "
            "correct the name"
        )
    present = [name for name in requested if os.access(peer_python(name), os.X_OK)]
    for name in requested:
        if name not in present:
            logging.warning(
                "%s left out: no %s; run `make peers`", name, peer_python(name)
            )
    return present


def main(argv: Sequence[str]) -> None:
    """Runs the rounds and prints the table."""
    if len(argv) > 1:
        raise app.UsageError(f"expected flags only, got {argv[1]}; write --flag=value")
    shape, angles_deg = parse_case(_SHAPE.value, _ANGLES.value)
    peers = available_peers(_PEERS.value)
    ours = OurProjector(shape, angles_deg)
    volume = smooth_blobs(shape)
    projected = ours.project(volume)
    differs = {name: difference_of_peer(name, volume, projected) for name in peers}

    names = [OURS, *peers]
    rounds: list[dict[str, Result]] = []
    loads: list[float] = []
    for index in range(_ROUNDS.value):
        # Far above the core count: others were at work, repeat on a quiet machine.
        loads.append(round(os.getloadavg()[0], 2))
        shift = index % len(names)
        rounds.append({})
        for name in names[shift:] + names[:shift]:
            rounds[-1][name] = (
                ours.measure(_REPEATS.value)
                if name == OURS
                else measure_peer(name, _REPEATS.value)
            )
        logging.info("round %d of %d done", index + 1, _ROUNDS.value)

    rows = [{**collate(rounds, name), "differs": differs.get(name)} for name in names]
    print(heading(shape, angles_deg, loads) + "\n")
    print(markdown(rows))
    if _OUTPUT.value:
        report = {
            "shape_zyx": shape,
            "angles": _ANGLES.value,
            "load_averages": loads,
            "rows": rows,
        }
        pathlib.Path(_OUTPUT.value).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    # Like the peers' adapters: the CPU unless the caller chose otherwise.  Set
    # before jax picks a backend, which happens at the first array.
    if "JAX_PLATFORMS" not in os.environ:
        jax.config.update("jax_platforms", "cpu")
    sys.exit(app.run(main))
