"""What `temdiff reconstruct --dry-run` says beside what a run takes.

    python -m launch.studies.forecast_table --out=runs/forecast

Every case is a run of the command on a series of blobs in noise, in a process of its
own that compiles everything anew; measured are its largest resident memory and the time
of its processor and of the clock.  Rows are kept in forecast.jsonl, and a second run
goes on where the first one stopped; forecast.md has the table.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags, logging
from scipy import ndimage

from launch import program
from temdiff_jax.errors import InputError
from temdiff_jax.io import write

# Extents z, y, x, tilts, method, and whether the tilts have an alignment.
CASES = (
    "24x48x48/11/mean",
    "48x96x80/21/mean/moved",
    "64x128x128/21/mean",
    "64x192x192/21/tikhonov",
    "64x256x256/21/mean",
    "48x96x96/21/default",
)
_OUT = flags.DEFINE_string("out", None, "Folder of rows and table.", required=True)
_CASES = flags.DEFINE_list("cases", list(CASES), "Z x Y x X/tilts/method[/moved], ...")

CHILD = """
import resource, sys, time
began = time.monotonic()
from temdiff_jax.cli.main import main
code = main(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
clock = time.monotonic() - began
print(f"\\n{used.ru_maxrss * 1024} {used.ru_utime + used.ru_stime} {clock}")
sys.exit(code)
"""


class Case(NamedTuple):
    """One run: extents of the volume, tilts, method, and whether they are moved."""

    shape: tuple[int, int, int]
    num_tilts: int
    method: str
    moved: bool

    @classmethod
    def from_name(cls, name: str) -> Case:
        """Reads ZxYxX/tilts/method[/moved].

        Raises:
          InputError: It is written in another way.
        """
        try:
            extents, tilts, method, *more = name.split("/")
            z, y, x = (int(n) for n in extents.split("x"))
            if more not in ([], ["moved"]):
                raise ValueError
            return cls((z, y, x), int(tilts), method, bool(more))
        except ValueError:
            raise InputError(
                f"--cases: expected ZxYxX/tilts/method[/moved], got {name!r}; write "
                f"for example {CASES[0]}"
            ) from None


def write_series(case: Case, folder: pathlib.Path) -> list[str]:
    """Writes stack, angles and, of moved tilts, transforms; words that name them."""
    _, height, width = case.shape
    angles = np.linspace(-20.0, 20.0, case.num_tilts)
    rng = np.random.default_rng(0)
    blobs = ndimage.gaussian_filter(rng.normal(size=(height, width)), 2.0) * 20.0 + 8.0
    moves = [ndimage.shift(blobs, (0.0, 0.05 * a), mode="wrap") for a in angles]
    tilts = np.array(moves) + rng.normal(size=(case.num_tilts, height, width))
    stack, tlt = folder / "series.mrc", folder / "series.tlt"
    write.write_mrc(stack, tilts.astype(np.float32), 100.0, is_stack=True)
    write.write_tlt(tlt, angles)
    words = [str(stack), "--angles", str(tlt)]
    if not case.moved:
        return words
    xf = folder / "series.xf"
    turn = np.deg2rad(2.0)
    c, s = np.cos(turn), np.sin(turn)
    rows = [f"{c:.6f} {-s:.6f} {s:.6f} {c:.6f} {0.1 * a:.3f} 1.0\n" for a in angles]
    write.write_text(xf, "".join(rows))
    return [*words, "--alignment", str(xf)]


def measure(name: str, folder: pathlib.Path) -> dict[str, Any]:
    """Runs one case in a process of its own; what was said and what it took."""
    case = Case.from_name(name)
    folder.mkdir(parents=True)
    words = ["reconstruct", *write_series(case, folder), "--out", str(folder / "out")]
    words += ["--thickness", str(case.shape[0]), "--method", case.method, "--json"]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *words],
        env=os.environ | {"XDG_CACHE_HOME": str((folder / "cache").absolute())},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise InputError(f"{name}: expected a run that ends, got {done.stderr[-300:]}")
    text, _, last = done.stdout.rstrip().rpartition("\n")
    said = json.loads(text)["forecast"]
    peak, processor, clock = (float(n) for n in last.split())
    return {
        "case": name,
        "forecast_mib": said["memory_bytes"] / 2**20,
        "measured_mib": peak / 2**20,
        "forecast_s": said["seconds"],
        "clock_s": clock,
        "processor_s": processor,
        "stages": said["stages"],
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown of all rows."""
    lines = [
        "| z x y x x, tilts, method | memory said, MiB | measured | said over measured "
        "| time said, s | clock | processor |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        share = row["forecast_mib"] / row["measured_mib"]
        lines.append(
            f"| {row['case']} | {row['forecast_mib']:.0f} | {row['measured_mib']:.0f} "
            f"| {share:.2f} | {row['forecast_s']:.0f} | {row['clock_s']:.0f} "
            f"| {row['processor_s']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def run(out: pathlib.Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """Measures the cases that are not in the file yet."""
    for name in names:
        Case.from_name(name)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "forecast.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines]
    for name in names:
        if any(row["case"] == name for row in rows):
            continue
        rows.append(measure(name, out / name.replace("/", "_")))
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        logging.info("%s", rows[-1])
    write.write_text(out / "forecast.md", table(rows), overwrite=True)
    return rows


def main(argv: Sequence[str]) -> None:
    """Measures and prints the table."""
    with program.refusals("forecast_table", argv):
        rows = run(pathlib.Path(_OUT.value), _CASES.value)
    print(table(rows))


if __name__ == "__main__":
    app.run(main)
