"""Times one case after another: our projector, and peers in turn with it.

A ``Suite`` holds the peers and what is known of their speed; for each case it makes
``Contestant``s, lets them warm up, times them in rounds and returns plain rows, which
``report`` turns into tables.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from launch.benchmarking import limits as machine_limits
from launch.benchmarking import peers as peers_lib
from launch.benchmarking import report as projector_report
from temdiff_jax import geometry as geometry_lib
from temdiff_jax import layout, projector
from temdiff_jax.inverse import cg

OURS = projector_report.OURS
DIRECTIONS = machine_limits.DIRECTIONS
PEER_DIRECTIONS = ("forward", "adjoint")
# Solves whose difference is taken: both loop, so that nothing but steps differs.
CG_STEPS = (2, 8)
CG_RIDGE = 0.1
MAX_CALLS = 40

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """One geometry; ``shape`` is (z, y, x), tilts are evenly spaced over +-top."""

    shape: tuple[int, int, int]
    num_tilts: int
    top_deg: float

    @property
    def angles_deg(self) -> np.ndarray:
        """Degrees ``[n_tilts]``."""
        return np.linspace(-self.top_deg, self.top_deg, self.num_tilts)

    @property
    def size(self) -> int:
        """Voxels times tilts."""
        return int(np.prod(self.shape)) * self.num_tilts


@dataclasses.dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
      rounds: Rounds over all projectors.
      seconds: Timed calls of a projector and direction, all rounds together.
      slow_s: A call longer than this is made once.
      limit_s: What a peer may need for a case.
    """

    rounds: int = 3
    seconds: float = 0.5
    slow_s: float = 1.5
    limit_s: float = 25.0

    def calls(self, seconds_a_call: float) -> int:
        """Calls of one round."""
        wanted = self.seconds / self.rounds / max(seconds_a_call, 1e-6)
        return int(np.clip(round(wanted), 1, MAX_CALLS))


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


# The geometry is an argument: angles held by closure would be constants.
_project = jax.jit(projector.project)
_backproject = jax.jit(projector.backproject)
_normal = jax.jit(projector.normal_op)


@functools.partial(jax.jit, static_argnames="steps")
def _solve(rhs: jax.Array, geometry: geometry_lib.TiltGeometry, steps: int):
    """Conjugate gradients on ``A^T A + ridge`` from zero."""

    def operator(x):
        return projector.normal_op(x, geometry) + CG_RIDGE * x

    return cg.conjugate_gradient(operator, rhs, jnp.zeros_like(rhs), num_iters=steps)


class OurProjector:
    """The projector of one case, jitted, with arrays on the device."""

    compiles = True

    def __init__(self, case: Case) -> None:
        shape = case.shape
        self._geometry = geometry_lib.TiltGeometry.from_degrees(
            case.angles_deg,
            thickness=shape[0],
            height=shape[1],
            width=shape[2],
            lateral_margin=0,
        )
        rng = np.random.default_rng(0)
        volume = layout.volume_to_core(rng.random(shape, dtype=np.float32))
        tilts_shape = (case.num_tilts, *shape[1:])
        tilts = layout.tilts_to_core(rng.random(tilts_shape, dtype=np.float32))
        self._volume, self._tilts = jax.block_until_ready((volume, tilts))

        calls = {
            "forward": (_project, self._volume),
            "adjoint": (_backproject, self._tilts),
            "normal": (_normal, self._volume),
            "cg": (functools.partial(_solve, steps=CG_STEPS[1]), self._volume),
            "cg_short": (functools.partial(_solve, steps=CG_STEPS[0]), self._volume),
        }
        self._calls: dict[str, Callable[[], Any]] = {
            name: functools.partial(function, argument, self._geometry)
            for name, (function, argument) in calls.items()
        }

    def _once(self, name: str) -> float:
        begin = time.perf_counter()
        jax.block_until_ready(self._calls[name]())
        return 1e3 * (time.perf_counter() - begin)

    def open(self) -> Row:
        """Compiles everything; what the peers answer to ``open``."""
        first = {f"{name}_first_call_ms": self._once(name) for name in self._calls}
        return {
            "version": f"jax {jax.__version__}",
            "method": "project, backproject, normal_op, conjugate_gradient, jitted",
            "device": jax.devices()[0].device_kind,
            **first,
        }

    def time(self, direction: str, calls: int) -> list[float]:
        """Milliseconds of calls, for ``cg`` of one step.

        A solve applies the operator to its start as well, so a step is the difference
        of a longer and a shorter solve, divided.
        """
        if direction != "cg":
            return [self._once(direction) for _ in range(calls)]
        added = CG_STEPS[1] - CG_STEPS[0]
        pairs = [(self._once("cg"), self._once("cg_short")) for _ in range(calls)]
        return [(long - short) / added for long, short in pairs]

    def adjoint_mismatch(self) -> float:
        """``|<A x, p> - <x, A^T p>| / (|A x| |p|)``, sums in double precision."""
        p, t, v, b = (
            np.asarray(array, np.float64)
            for array in (
                self._calls["forward"](),
                self._tilts,
                self._volume,
                self._calls["adjoint"](),
            )
        )
        gap = abs(np.vdot(p, t) - np.vdot(v, b))
        return float(gap / (np.linalg.norm(p) * np.linalg.norm(t)))

    def project(self, volume: np.ndarray) -> np.ndarray:
        """``[z, y, x]`` to ``[n_tilts, y, x]``."""
        tilts = _project(layout.volume_to_core(volume), self._geometry)
        return np.asarray(layout.tilts_from_core(tilts))


class Contestant:
    """One projector in one case, ours or a peer's, and its samples so far."""

    def __init__(self, source: OurProjector | peers_lib.Peer, effort: Effort) -> None:
        self.source = source
        self._effort = effort
        ours = isinstance(source, OurProjector)
        self.directions = DIRECTIONS if ours else PEER_DIRECTIONS
        self.row: Row = {"projector": OURS if ours else source.name, "samples": {}}
        self._calls: dict[str, int] = {}

    def ask(self, do: str, **fields: Any) -> Row:
        """A request to a peer."""
        assert isinstance(self.source, peers_lib.Peer)
        return self.source.ask(do, timeout_s=3 * self._effort.limit_s, **fields)

    def time(self, direction: str, calls: int) -> list[float]:
        """Samples, milliseconds."""
        if isinstance(self.source, OurProjector):
            return self.source.time(direction, calls)
        return self.ask("time", direction=direction, calls=calls)["samples_ms"]

    def open(self, case: Case) -> None:
        """Builds, warms up and decides how often to call."""
        if isinstance(self.source, OurProjector):
            self.row |= self.source.open()
        else:
            angles = case.angles_deg.tolist()
            self.row |= self.ask("open", shape=case.shape, angles_deg=angles)
        for direction in self.directions:
            first = self.row[f"{direction}_first_call_ms"]
            if self.source.compiles or first < 1e3 * self._effort.slow_s:
                first = self.time(direction, 1)[0]
            if first > 1e3 * self._effort.slow_s:
                self.row["samples"][direction] = [[first]]
            else:
                self._calls[direction] = self._effort.calls(1e-3 * first)
                self.row["samples"][direction] = []

    def round(self) -> None:
        """The samples of one round."""
        for direction, calls in self._calls.items():
            self.row["samples"][direction].append(self.time(direction, calls))

    def seconds(self) -> float:
        """Forward and adjoint together, medians."""
        return 1e-3 * sum(
            statistics.median(sum(self.row["samples"][direction], []))
            for direction in PEER_DIRECTIONS
        )

    def is_cheap(self) -> bool:
        """Whether a few calls more do not matter."""
        return self.seconds() < 1.0

    def check(self, shape: tuple[int, int, int], tilts: np.ndarray | None) -> None:
        """Adjointness and agreement, where they cost little; ends the case."""
        if isinstance(self.source, OurProjector):
            self.row["adjoint_mismatch"] = self.source.adjoint_mismatch()
            return
        if tilts is not None and self.is_cheap():
            self.row |= self.ask("check")
            self.row["differs"] = difference_of_peer(self, shape, tilts)
        self.ask("close")


def difference_of_peer(
    peer: Contestant, shape: tuple[int, int, int], ours: np.ndarray
) -> float:
    """Relative L2 distance of a peer's projection of smooth blobs from ours."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = f"{folder}/volume.npy", f"{folder}/tilts.npy"
        np.save(source, smooth_blobs(shape))
        peer.ask("project", volume=source, out=target)
        theirs = np.load(target, allow_pickle=False)
    return float(np.linalg.norm(theirs - ours) / np.linalg.norm(ours))


class Suite:
    """Runs cases and remembers how fast each peer was."""

    def __init__(self, peers: dict[str, peers_lib.Peer], effort: Effort) -> None:
        self._peers = peers
        self._effort = effort
        # Seconds for each voxel times tilt, from the last case that was timed.
        self._rates: dict[str, float] = {}

    def learn(self, case: Case, rows: Sequence[Row]) -> None:
        """Takes the speeds from the rows of a case, timed now or earlier."""
        for row in rows:
            if "took_more_than_s" in row:
                self._rates[row["projector"]] = row["took_more_than_s"] / case.size
            elif row["projector"] != OURS and "skipped" not in row:
                total = sum(
                    statistics.median(sum(row["samples"][direction], []))
                    for direction in PEER_DIRECTIONS
                )
                self._rates[row["projector"]] = 1e-3 * total / case.size

    def predicted_s(self, name: str, case: Case) -> float:
        """Seconds that a peer will need for a case; 0 where nothing is known."""
        # A first call that compiles has to be followed by another one.
        passes = 2 if self._peers[name].compiles else 1
        return passes * self._rates.get(name, 0.0) * case.size

    def _open_peer(self, name: str, case: Case) -> tuple[Contestant | None, Row]:
        predicted = self.predicted_s(name, case)
        if predicted > self._effort.limit_s:
            reason = f"not run: about {predicted:.0f} s"
            return None, {"projector": name, "skipped": reason}
        contestant = Contestant(self._peers[name], self._effort)
        try:
            contestant.open(case)
        except peers_lib.PeerTimeout as error:
            limit = {"took_more_than_s": 3 * self._effort.limit_s}
            return None, {"projector": name, "skipped": str(error), **limit}
        except peers_lib.PeerError as error:
            logging.warning("%s: %s", name, error)
            return None, {"projector": name, "skipped": f"failed: {error}"}
        return contestant, contestant.row

    def run(self, case: Case) -> list[Row]:
        """Rows of ours and of every peer."""
        ours = Contestant(OurProjector(case), self._effort)
        ours.open(case)
        rows, running = [ours.row], [ours]
        for name in self._peers:
            contestant, row = self._open_peer(name, case)
            rows.append(row)
            if contestant is not None:
                running.append(contestant)
        failed = []
        for index in range(self._effort.rounds):
            shift = index % len(running)
            for contestant in running[shift:] + running[:shift]:
                if contestant not in failed and not self._attempt(contestant.round):
                    failed.append(contestant)
        tilts = None
        if any(c.is_cheap() for c in running[1:] if c not in failed):
            assert isinstance(ours.source, OurProjector)
            tilts = ours.source.project(smooth_blobs(case.shape))
        for contestant in running:
            if contestant not in failed:
                self._attempt(lambda c=contestant: c.check(case.shape, tilts))
        for contestant in failed:
            contestant.row["skipped"] = "failed while it was timed"
        self.learn(case, rows)
        return rows

    def _attempt(self, step: Callable[[], None]) -> bool:
        """Whether a step of a peer went well; otherwise the log says why not."""
        try:
            step()
        except peers_lib.PeerError as error:
            logging.warning("%s", error)
            return False
        return True
