"""Many series, one after the other: each once, by whichever process comes first.

A list names the series; a folder holds what became of each.  A process takes a series
by a lock on its folder, which the system frees when the process ends, however it ends;
so any number of processes may share one list and one folder, at once or later.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from temdiff_jax import parallel
from temdiff_jax.errors import InputError
from temdiff_jax.io import lock, tilt_series, write
from temdiff_jax.reconstruction import api, plan, watch
from temdiff_jax.series.preparation import SeriesOptions

STATUS, STATE, WHOLE = "status.json", "unfinished", "config.json"
# What a line of the list may say of its series beside the path.
FIELDS = {
    "name": str,
    "angles": str,
    "alignment": str,
    "thickness": int,
    "voxel_size": float,
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ManyConfig:
    """How every series of a list is reconstructed; see ``reconstruct`` for each.

    Attributes:
      method, prior, num_samples, num_steps, weighting, log, seed: As there; None and 0
        leave a choice to the method.
      thickness: Of series whose line says none.
      volume_format: "mrc" or "ome-zarr".
      samples, slabs: Devices along the axes of the mesh; 0 for as many as there are,
        samples first.  1 and 1 is no mesh.
    """

    method: str = "default"
    prior: str = "default"
    num_samples: int = 0
    num_steps: int = 0
    weighting: str = "adaptive"
    log: str = "auto"
    seed: int = 0
    thickness: int = 0
    volume_format: str = "mrc"
    samples: int = 1
    slabs: int = 1

    def decides(self) -> dict[str, Any]:
        """JSON-ready: what all processes and restarts of one folder must share."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("samples", "slabs")
        }


class Entry(NamedTuple):
    """A line of the list: a name, the file or folder, and what else is said of it."""

    name: str
    path: pathlib.Path
    said: dict[str, Any]


def read_list(path: str | pathlib.Path) -> list[Entry]:
    """Reads a list of series.

    Args:
      path: Of a text: one series a line, ``PATH[,field=value...]`` with the fields of
        ``FIELDS``; paths are relative to the list.  Empty lines and those that begin
        with # are left out.

    Raises:
      InputError: No such file, no series, an unknown field, a bad value, or two series
        of one name.
    """
    file = pathlib.Path(path)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"series list: expected a text at {file}, got {type(error).__name__}; "
            "write one path a line"
        ) from None
    entries: dict[str, Entry] = {}
    for number, row in enumerate(csv.reader(lines), start=1):
        if not row or not row[0].strip() or row[0].startswith("#"):
            continue
        where = f"series list: {file}, line {number}"
        said = dict(_said(where, field) for field in row[1:])
        place = file.parent / row[0].strip()
        name = said.pop("name", place.name.split(".")[0])
        if name in entries or name != pathlib.PurePath(name).name:
            raise InputError(
                f"{where}: expected a name of its own, got {name!r}; add name=NAME"
            )
        for of in ("angles", "alignment"):
            if of in said:
                said[of] = file.parent / said[of]
        entries[name] = Entry(name, place, said)
    if not entries:
        raise InputError(
            f"series list: expected at least one path in {file}, got none; write one "
            "a line"
        )
    return list(entries.values())


def _said(where: str, text: str) -> tuple[str, Any]:
    name, sign, value = text.strip().partition("=")
    try:
        if not sign or name not in FIELDS:
            raise ValueError
        return name, FIELDS[name](value)
    except ValueError:
        raise InputError(
            f"{where}: expected field=value with a field of {sorted(FIELDS)}, got "
            f"{text.strip()!r}; correct the line"
        ) from None


class Row(NamedTuple):
    """What became of a series: "done", "failed", or "open" to be done."""

    name: str
    state: str
    seconds: float = 0.0
    chi2: float = float("nan")
    said: str = ""


@dataclasses.dataclass(frozen=True)
class Sweep:
    """One pass of this process over a list.

    Attributes:
      config: How.
      workdir: Folder of all processes.
      say: Told a line about every series.
      beat: Called at every sign of progress.
      started: When it began, seconds since the epoch.
    """

    config: ManyConfig
    workdir: pathlib.Path
    say: Callable[[str], None]
    beat: Callable[[], None]
    started: float = dataclasses.field(default_factory=time.time)

    def begin(self) -> None:
        """Makes the folder, or finds that of the same configuration.

        Raises:
          InputError: It was made for another one, or is remote.
        """
        folder = lock.check_local(self.workdir)
        folder.mkdir(parents=True, exist_ok=True)
        wanted, path = self.config.decides(), folder / WHOLE
        if not path.exists():
            write.write_json(path, wanted, overwrite=True)
        found = json.loads(path.read_text(encoding="utf-8"))
        other = [name for name in wanted if found.get(name) != wanted[name]]
        if other:
            name = other[0]
            raise InputError(
                f"workdir: expected the configuration of {path}, got {name} = "
                f"{wanted[name]!r} instead of {found.get(name)!r}; repeat that, or "
                "name another folder"
            )

    def run(self, entries: list[Entry]) -> list[Row]:
        """Reconstructs what nobody else has, and returns what became of all.

        Goes over the list again until nothing is left to take, so that what a killed
        process held is taken up; a series that failed is tried once a start.
        """
        tried: set[str] = set()
        before = None
        while len(tried) != before:
            before = len(tried)
            for entry in entries:
                if entry.name not in tried and self._take(entry):
                    tried.add(entry.name)
        return [self.row(entry) for entry in entries]

    def _take(self, entry: Entry) -> bool:
        """Does a series unless it is done or held; whether it was this process's."""
        if jax.process_index():
            return bool(parallel.from_first_process(0)) and self._do(entry)
        with lock.claimed(self.workdir / entry.name) as holder:
            free = holder is None and self._is_to_do(entry)
            return bool(parallel.from_first_process(int(free))) and self._do(entry)

    def _is_to_do(self, entry: Entry) -> bool:
        state = self.row(entry).state
        if state == "failed":  # tried again once a start, by one of the processes
            return (self.workdir / entry.name / STATUS).stat().st_mtime < self.started
        return state != "done"

    def _do(self, entry: Entry) -> bool:
        folder, started = self.workdir / entry.name, time.monotonic()
        self.beat()
        try:
            result = parallel.all_succeed("series", lambda: self._planned(entry))
            found = self._finish(entry, result)
            status = {"state": "done", "chi2": float(np.nanmedian(found.chi2))}
        except (InputError, OSError, MemoryError, jax.errors.JaxRuntimeError) as error:
            if jax.process_count() > 1 and not isinstance(error, InputError):
                raise  # the others wait for this process
            text = " ".join(str(error).split()) or type(error).__name__
            status = {"state": "failed", "said": text[:500]}
        status |= {"seconds": time.monotonic() - started, "input": marks(entry)}
        if not jax.process_index():
            write.write_json(folder / STATUS, status, overwrite=True)
            if status["state"] == "done":
                watch.remove_folder(folder / STATE)
        self.say(f"{entry.name}: {status['state']} {status.get('said', '')}".rstrip())
        return True

    def _planned(self, entry: Entry) -> plan.Plan:
        config, said = self.config, entry.said
        series = tilt_series.load_tilt_series(
            entry.path,
            said.get("angles"),
            alignment=said.get("alignment"),
            voxel_size_angstrom=said.get("voxel_size"),
        )
        given = {
            name: getattr(config, name) or None for name in ("num_samples", "num_steps")
        }
        choice = plan.choose(config.method, config.prior, None, **given)
        thickness = said.get("thickness") or config.thickness or series.thickness_px
        options = SeriesOptions(
            thickness=None if thickness is None else int(thickness),
            voxel_size_angstrom=series.voxel_size_angstrom,
            log=config.log,
            weighting=config.weighting,
            alignment=series.alignment,
        )
        mesh = self._mesh(choice, series.tilts.shape[1])
        made = plan.make_plan(
            series.tilts, series.angles_deg, choice, options, key=config.seed, mesh=mesh
        )
        state = self.workdir / entry.name / STATE
        if not jax.process_index():
            kept = watch.kept_identity(state)
            if kept not in (None, json.loads(json.dumps(made.identity()))):
                watch.remove_folder(state)
        return made

    def _mesh(self, choice: plan.Choice, rows: int) -> Any:
        samples, slabs = self.config.samples, self.config.slabs
        if (samples, slabs) == (1, 1) and jax.process_count() == 1:
            return None
        if not samples or not slabs:
            samples, slabs = plan.division(choice, rows, jax.device_count())
        return parallel.sampling_mesh(samples, slabs)

    def _finish(self, entry: Entry, planned: plan.Plan) -> api.Result:
        folder = self.workdir / entry.name

        def tell(done: int, total: int, text: str) -> None:
            self.beat()

        result = api.run(planned, state=folder / STATE, on_progress=tell)
        if not jax.process_index():
            form = self.config.volume_format
            result.save(folder, entry.name, volume_format=form, overwrite=True)
        return result

    def row(self, entry: Entry) -> Row:
        """What is known of a series; one whose files changed since is open again."""
        path = self.workdir / entry.name / STATUS
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return Row(entry.name, "open")
        if found.get("input") != marks(entry):
            return Row(entry.name, "open")
        chi2, said = found.get("chi2", float("nan")), found.get("said", "")
        return Row(entry.name, found["state"], found["seconds"], chi2, said)


def marks(entry: Entry) -> list[list[Any]]:
    """Size and time of the files of a series, by which a change is seen."""
    found = []
    for path in (entry.path, entry.said.get("angles"), entry.said.get("alignment")):
        if path is not None and path.exists():
            status = path.stat()
            found.append([str(path), status.st_size, status.st_mtime_ns])
    return found


def table(rows: list[Row]) -> Iterator[str]:
    """The rows as lines of text, and one that counts them."""
    width = max(len(row.name) for row in rows)
    yield f"{'series':{width}}  state    minutes   chi2  remark"
    for row in rows:
        minutes = f"{row.seconds / 60:7.1f}" if row.seconds else "      -"
        chi2 = "     -" if np.isnan(row.chi2) else f"{row.chi2:6.2f}"
        line = f"{row.name:{width}}  {row.state:7}  {minutes}  {chi2}  {row.said}"
        yield line.rstrip()
    states = [row.state for row in rows]
    counts = [f"{states.count(s)} {s}" for s in dict.fromkeys(states)]
    yield f"{len(rows)} series: " + ", ".join(counts)
