"""Times our projector beside other projects', alternating in one run.

    make peers
    python -m launch.benchmark_projector --output=runs/projector.jsonl

Volumes of 64^3, 128^3, 256^3 and 512x512x128 voxels with 5, 11, 41 and 121 tilts over
+-60 degrees (--shapes, --tilts, --top_deg): forward, adjoint, normal operator and one
conjugate-gradient step of ours, forward and adjoint of every installed peer.

Timings on a busy or frequency-scaled machine drift by more than the differences of
interest, so every round times all projectors one after another, each round starts
with another one, and the ratio of a peer is the median over rounds of (its median /
our median in the same round).  Calls beyond --slow_s are made once.

A peer that would need more than --limit_s for a case, judged by its time for the case
before in proportion to voxels times tilts, is left out with that prediction in its
cell; one that takes three times the limit all the same is stopped.

Each case is written to --output when it is done, one JSON line, and read from there
instead of being run again: the same command goes on after an interruption.  The
Markdown is built from that file; --document=docs/reports/benchmarks.md puts it between
the markers there.

Everything is float32 on the CPU unless JAX_PLATFORMS says otherwise; compilation and
warm-up are apart; layout changes and transfers are not timed.  The volume is as wide
as the detector (no lateral margin), as in the peers.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import platform
import time
from collections.abc import Sequence
from typing import Any

import jax
from absl import app, flags, logging

from launch import program
from launch.benchmarking import limits as machine_limits
from launch.benchmarking import peers as peers_lib
from launch.benchmarking import report as projector_report
from launch.benchmarking.timing import Case, Effort, Suite
from temdiff_jax import geometry as geometry_lib
from temdiff_jax.errors import InputError

Row = dict[str, Any]


def parse_cases(
    shapes: Sequence[str], tilts: Sequence[str], top_deg: float
) -> list[Case]:
    """The flags' text, e.g. ``["64x64x64"]`` and ``["5", "11"]``, as cases."""
    cases = []
    for text in shapes:
        words = text.split("x")
        extents = tuple(int(word) for word in words if word.isdecimal())
        if len(words) != 3 or len(extents) != 3 or min(extents) < 2:
            raise InputError(
                "benchmark: expected --shapes=ZxYxX,... of at least 2 voxels, got "
                f"{text!r}; pass for example --shapes=64x64x64,128x512x512"
            )
        for word in tilts:
            if not word.isdecimal() or int(word) < 1:
                raise InputError(
                    f"benchmark: expected --tilts=COUNT,..., got {word!r}; pass for "
                    "example --tilts=5,41"
                )
            cases.append(Case(extents, int(word), top_deg))
    if not 0 < top_deg <= geometry_lib.MAX_TILT_DEG:
        raise InputError(
            f"benchmark: expected --top_deg within (0, 90], got {top_deg:g}; pass the "
            "largest tilt in degrees"
        )
    return cases


def define_flags() -> None:
    """Defines the flags; not on import, so that programs can be imported together."""
    shapes = ["64x64x64", "128x128x128", "256x256x256", "128x512x512"]
    effort = Effort()
    flags.DEFINE_list("shapes", shapes, "Volume extents ZxYxX.")
    flags.DEFINE_list("tilts", ["5", "11", "41", "121"], "Numbers of tilts.")
    flags.DEFINE_float("top_deg", 60.0, "Largest tilt, degrees.")
    flags.DEFINE_integer("rounds", effort.rounds, "Rounds over all projectors.", 1)
    flags.DEFINE_float("seconds", effort.seconds, "Of calls per projector and way.")
    flags.DEFINE_float("slow_s", effort.slow_s, "Longer calls are made once.")
    flags.DEFINE_float("limit_s", effort.limit_s, "For one peer and one case.")
    flags.DEFINE_string("output", None, "JSON lines; an existing file is continued.")
    flags.DEFINE_string("document", None, "Markdown file with the markers.")
    flags.DEFINE_bool("report_only", False, "Build the Markdown, measure nothing.")
    peers_lib.define_flags()


def machine_record() -> Row:
    """The ceilings, and which machine it was."""
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "machine": dataclasses.asdict(machine_limits.measure_machine()),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "processor": projector_report.processor_name() or platform.machine(),
        "backend": jax.default_backend(),
        # Far above zero: others were at work, repeat on a quiet machine.
        "load": round(os.getloadavg()[0], 2),
    }


def run(given: flags.FlagValues) -> list[Row]:
    """Runs what is not in the file yet; the records of all of it."""
    cases = parse_cases(given.shapes, given.tilts, given.top_deg)
    path = pathlib.Path(given.output) if given.output else None
    records = projector_report.read_records(path)
    if given.report_only:
        return records
    done = projector_report.cases_in(records)
    effort = Effort(given.rounds, given.seconds, given.slow_s, given.limit_s)
    peers = peers_lib.installed(given)
    suite = Suite(peers, effort)

    def keep(record: Row) -> None:
        records.append(record)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    try:
        keep(machine_record())
        for case in cases:
            key = dataclasses.asdict(case) | {"shape": list(case.shape)}
            earlier = next((r for r in done if r["case"] == key), None)
            if earlier is not None:
                suite.learn(case, earlier["rows"])
                continue
            load = round(os.getloadavg()[0], 2)
            begin = time.perf_counter()
            rows = suite.run(case)
            took = round(time.perf_counter() - begin, 1)
            keep({"case": key, "rows": rows, "load": load, "took_s": took})
            logging.info("%s, %d tilts: %.1f s", case.shape, case.num_tilts, took)
    finally:
        peers_lib.stop_all(list(peers.values()))
    return records


def main(argv: Sequence[str]) -> None:
    """Runs the suite, prints the tables and puts them into the document."""
    with program.refusals("benchmark_projector", argv):
        records = run(flags.FLAGS)
        text = projector_report.markdown(records)
        if flags.FLAGS.document:
            path = pathlib.Path(flags.FLAGS.document)
            short = projector_report.markdown(records, brief=True)
            projector_report.replace_between_markers(path, short)
    print(text)


if __name__ == "__main__":
    # Like the peers' adapters: the CPU unless the caller chose otherwise.  Set
    # before jax picks a backend, which happens at the first array.
    if "JAX_PLATFORMS" not in os.environ:
        jax.config.update("jax_platforms", "cpu")
    define_flags()
    app.run(main)
