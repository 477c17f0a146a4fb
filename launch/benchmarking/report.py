"""Tables of the projector benchmark, built from its JSON lines.

Records are ``{"machine": ..}``, the ceilings of one run, and ``{"case": .., "rows":
..}``, one case with a row for ours and for each peer.  Nothing is measured here, so
the tables can be built again from an old file.
"""

from __future__ import annotations

import json
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from launch.benchmarking import limits as machine_limits
from temdiff_jax.errors import InputError

OURS = "temdiff_jax"
BEGIN = "<!-- benchmark_projector: begin -->"
END = "<!-- benchmark_projector: end -->"
WORDS = {
    "forward": "forward",
    "adjoint": "adjoint",
    "normal": "normal operator",
    "cg": "CG step",
}
CASE_HEADER = ("z x y x x", "tilts")

Record = dict[str, Any]


def read_records(path: pathlib.Path | None) -> list[Record]:
    """Records of a file, none where it does not exist.

    Raises:
      InputError: A line that is not JSON; a line cut short at the end of the file,
        by an interruption while it was written, is left out instead.
    """
    if path is None or not path.exists():
        return []
    records = []
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines) and not text.endswith("\n"):
                # What is appended next must start a line of its own.
                path.write_text("".join(f"{kept}\n" for kept in lines[:-1]))
                break
            raise InputError(
                f"{path}: expected one JSON object a line, got {line[:40]!r} in line "
                f"{number}; name another --output or delete the file"
            ) from error
    return records


def cases_in(records: Sequence[Record]) -> list[Record]:
    """The records of cases."""
    return [record for record in records if "case" in record]


def replace_between_markers(path: pathlib.Path, text: str) -> None:
    """Puts a text between the two markers of a Markdown file.

    Raises:
      InputError: The file has not one pair of markers.
    """
    content = path.read_text(encoding="utf-8")
    before, begin, rest = content.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(
            f"{path}: expected the lines {BEGIN} and {END}, got neither or one; add "
            "both where the tables belong"
        )
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def processor_name() -> str:
    """The processor as Linux calls it, empty elsewhere."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return names[0] if names else ""


def median_ms(row: Record, direction: str) -> float:
    """Median over all samples of a row."""
    return statistics.median(sum(row["samples"][direction], []))


def ratio(row: Record, ours: Record, direction: str) -> float:
    """Median over rounds of a peer's median over ours in the same round."""
    pairs = zip(row["samples"][direction], ours["samples"][direction])
    return statistics.median(
        statistics.median(theirs) / statistics.median(mine) for theirs, mine in pairs
    )


def normal_ratio(row: Record, ours: Record) -> float:
    """A peer's forward and adjoint, one after the other, over our normal operator."""
    both = median_ms(row, "forward") + median_ms(row, "adjoint")
    return both / median_ms(ours, "normal")


def size_of(record: Record) -> float:
    """Voxels times tilts."""
    return float(np.prod(record["case"]["shape"])) * record["case"]["num_tilts"]


def exponent(records: Sequence[Record], direction: str) -> tuple[float, float]:
    """Slope of log time over log (voxels times tilts), and the largest factor off."""
    sizes = np.log([size_of(record) for record in records])
    times = np.log([median_ms(record["rows"][0], direction) for record in records])
    slope, offset = np.polyfit(sizes, times, 1)
    return float(slope), float(np.exp(np.max(np.abs(times - slope * sizes - offset))))


def name_of(record: Record) -> list[str]:
    """First cells of a row, those of ``CASE_HEADER``."""
    case = record["case"]
    return ["x".join(map(str, case["shape"])), str(case["num_tilts"])]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(cells) + " |" for cells in rows)])


def number(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:.0f}" if value >= 99.95 else f"{value:#.3g}"


def times_table(records: Sequence[Record]) -> str:
    """Our milliseconds as median (quartiles), and nanoseconds for a voxel and tilt."""
    rows = []
    for record in records:
        ours = record["rows"][0]
        cells = name_of(record)
        for direction in WORDS:
            samples = sum(ours["samples"][direction], [])
            low, median, high = np.percentile(samples, (25, 50, 75))
            cells.append(f"{number(median)} ({number(low)}-{number(high)})")
        for direction in ("forward", "adjoint"):
            cells.append(f"{1e6 * median_ms(ours, direction) / size_of(record):.3f}")
        rows.append(cells)
    header = [*CASE_HEADER, *(f"{word} ms" for word in WORDS.values())]
    return table([*header, "forward ns", "adjoint ns"], rows)


def limits_table(
    records: Sequence[Record], machine: machine_limits.Machine
) -> tuple[str, dict[str, tuple[float, float]]]:
    """Share of the ceilings reached; the table and the range of each direction.

    Two shares a cell: of the slower of memory and arithmetic, and of the slowest of
    all three, each with the name of the one that is slowest.
    """
    rows, shares = [], {direction: [] for direction in WORDS}
    for record in records:
        case = record["case"]
        angles = np.linspace(-case["top_deg"], case["top_deg"], case["num_tilts"])
        cells = name_of(record)
        for direction in WORDS:
            work = machine_limits.work_of(direction, tuple(case["shape"]), angles)
            limits = work.limits_ms(machine)
            took = median_ms(record["rows"][0], direction)
            slowest = max(limits, key=limits.__getitem__)
            shares[direction].append(limits[slowest] / took)
            del limits["cache"]
            slower = max(limits, key=limits.__getitem__)
            cells.append(
                f"{slower} {limits[slower] / took:.0%}, "
                f"{slowest} {shares[direction][-1]:.0%}"
            )
        rows.append(cells)
    ranges = {key: (min(values), max(values)) for key, values in shares.items()}
    return table([*CASE_HEADER, *WORDS.values()], rows), ranges


def peers_table(records: Sequence[Record], direction: str, names: Sequence[str]) -> str:
    """Milliseconds of every projector and, for peers, how many times ours."""
    rows = []
    for record in records:
        ours = record["rows"][0]
        cells = [*name_of(record), number(median_ms(ours, direction))]
        by_name = {row["projector"]: row for row in record["rows"]}
        for name in names:
            row = by_name.get(name, {"skipped": "not run"})
            if "skipped" in row:
                # Words of a package may hold what a table cannot.
                words = row["skipped"].replace("|", "/").split()
                cells.append(" ".join(words)[:80])
            else:
                times = number(ratio(row, ours, direction))
                cells.append(f"{number(median_ms(row, direction))} ({times}x)")
        rows.append(cells)
    return table([*CASE_HEADER, OURS, *names], rows)


def best_table(records: Sequence[Record]) -> str:
    """The fastest peer of each case and direction, as a multiple of our time."""
    rows = []
    for record in records:
        ours, *theirs = record["rows"]
        timed = [row for row in theirs if "skipped" not in row]
        if not timed:
            continue
        cells = name_of(record)
        for direction in ("forward", "adjoint"):
            best = min(timed, key=lambda row, way=direction: median_ms(row, way))
            factor = number(ratio(best, ours, direction))
            cells.append(f"{best['projector']}, {factor}x")
        best = min(timed, key=lambda row: normal_ratio(row, ours))
        cells.append(f"{best['projector']}, {number(normal_ratio(best, ours))}x")
        rows.append(cells)
    return table([*CASE_HEADER, "forward", "adjoint", "both"], rows)


def checks_table(records: Sequence[Record], names: Sequence[str]) -> str:
    """Versions, methods, adjointness and distance from ours, the worst of all cases."""
    rows = []
    for name in [OURS, *names]:
        found = [
            row
            for record in records
            for row in record["rows"]
            if row["projector"] == name and "version" in row
        ]
        if not found:
            continue
        cells = [name, found[-1]["version"]]
        for key in ("centroid_error_px", "adjoint_mismatch", "differs"):
            values = [row[key] for row in found if key in row]
            cells.append(f"{max(values):.0e}" if values else "-")
        rows.append([*cells, found[-1]["method"]])
    header = ["projector", "version", "centre off, px", "adjoint mismatch", "differs"]
    return table([*header, "method"], rows)


def markdown(records: Sequence[Record], *, brief: bool = False) -> str:
    """All tables; brief without those of every limit and of every peer.

    Raises:
      InputError: No case or no ceilings among the records.
    """
    cases = cases_in(records)
    machines = [record for record in records if "machine" in record]
    if not cases or not machines:
        raise InputError(
            "benchmark: expected records of a machine and of a case, got "
            f"{len(machines)} and {len(cases)}; run the benchmark with this --output"
        )
    cases = sorted(cases, key=lambda r: (np.prod(r["case"]["shape"]), size_of(r)))
    last = machines[-1]
    machine = machine_limits.Machine.from_record(last["machine"])
    names = list(
        dict.fromkeys(row["projector"] for r in cases for row in r["rows"][1:])
    )
    limits, ranges = limits_table(cases, machine)
    loads = [record["load"] for record in cases]
    parts = [
        f"{last['processor']}, {last['cores']} cores, {last['backend']}; tilts over "
        f"+-{cases[0]['case']['top_deg']:g} degrees; load average before the cases "
        f"{min(loads):g} to {max(loads):g}.",
        "**Ours.** Median (quartiles), milliseconds; last columns: nanoseconds for "
        "each voxel and tilt.",
        times_table(cases),
        "**Limits.** Measured in this run: multiply-adds "
        f"{machine.loop_gflop_s:.0f} GFLOP/s in a loop and "
        f"{machine.product_gflop_s:.0f} in a matrix product; "
        f"{machine.cache_gb_s:.0f} GB/s in cache; two reads and a write over "
        + ", ".join(f"{mb:g} MB {gb_s:.0f}" for mb, gb_s in machine.streams)
        + " GB/s, of which the one at the size of a case counts as its memory.",
        *(
            ()
            if brief
            else (
                "First the share of the slower of memory and arithmetic, then of the "
                "slowest of these and of the rows that pass between caches and "
                "registers.",
                limits,
            )
        ),
        "Share of the slowest limit: "
        + "; ".join(
            f"{WORDS[key]} {low:.0%} to {high:.0%}"
            for key, (low, high) in ranges.items()
        )
        + ".",
    ]
    if len(cases) > 1:
        fits = {key: exponent(cases, key) for key in WORDS}
        parts.append(
            "Time grows with (voxels x tilts) to the power of "
            + "; ".join(
                f"{slope:.3f}, {WORDS[key]} (at most a factor {off:.2f} off the line)"
                for key, (slope, off) in fits.items()
            )
            + "."
        )
    if names:
        for direction in () if brief else ("forward", "adjoint"):
            parts.append(f"**{WORDS[direction].capitalize()}, milliseconds.**")
            parts.append(peers_table(cases, direction, names))
        parts.append(
            "**The fastest peer**, as a multiple of our time. Both: its forward and "
            "adjoint one after the other against our normal operator."
        )
        parts.append(best_table(cases))
    parts.append(checks_table(cases, names))
    return "\n\n".join(parts)
