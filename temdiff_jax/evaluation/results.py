"""Rows of an evaluation on disk: JSON lines, appended run by run, read back whole."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from temdiff_jax import errors

Row = dict[str, Any]
Key = tuple[str, str, str]

# What a stored row must share with the evaluation that wants to reuse it.
_IDENTITY = ("protocol", "seed", "truth_sha256")
# The same, asked of rows only when the evaluation states it.
_STATED = ("settings",)


def finite(value: Any) -> Any:
    """Replace non-finite numbers by None: JSON knows neither NaN nor infinity."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read_rows(path: str | Path) -> list[Row]:
    """Read the rows of all finished runs from a JSON-lines file.

    An unfinished last line, and a run of which only some rows were written before the
    process ended, are left out.

    Raises:
        errors.InputError: a line other than the last is not a row.
    """
    groups = _read_groups(Path(path))
    return [row for group in groups.values() for row in group]


def _read_groups(path: Path) -> dict[Key, list[Row]]:
    """Complete runs by (volume, case, run), in file order."""
    lines = path.read_bytes().split(b"\n")
    groups: dict[Key, list[Row]] = {}
    for number, line in enumerate(lines[:-1], start=1):
        try:
            row = json.loads(line)
            key = (row["volume"], row["case"], row["run"])
            row["estimates"] = int(row["estimates"])
        except (ValueError, TypeError, KeyError):
            raise errors.InputError(
                f"results file is damaged: expected one row a line, got line {number} "
                f"of {path} unreadable; remove that line or start a new file"
            ) from None
        groups.setdefault(key, []).append(row)
    # A run cut short and repeated leaves its first rows behind; the last ones count.
    last = {key: rows[-rows[-1]["estimates"] :] for key, rows in groups.items()}
    return {k: rows for k, rows in last.items() if len(rows) == rows[-1]["estimates"]}


class ResultStore:
    """Finished runs of a file, and the way to add more; without a path, nothing.

    Attributes:
        about: volume -> further fields of its rows, for instance ``specimen``, the
            unit of the statistics when several volumes come from one.
    """

    def __init__(
        self,
        path: str | Path | None,
        about: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Read what is there and cut off a half-written last line."""
        self.about = about or {}
        self._path = None if path is None else Path(path)
        self._groups: dict[Key, list[Row]] = {}
        if self._path is None or not self._path.exists():
            return
        self._groups = _read_groups(self._path)
        # Without the cut, the next row would be welded to the unfinished one.
        content = self._path.read_bytes()
        end = content.rfind(b"\n") + 1
        if end != len(content):
            with self._path.open("r+b") as stream:
                stream.truncate(end)

    def find(self, base: Mapping[str, Any], run: str) -> list[Row] | None:
        """Return the rows of a finished run, or None.

        Raises:
            errors.InputError: the rows come from another protocol, seed or truth, or
                from a method of this name with other settings.
        """
        rows = self._groups.get((base["volume"], base["case"], run))
        for row in rows or ():
            stated = [field for field in _STATED if field in base]
            for field in (*_IDENTITY, *stated):
                if row.get(field) != base[field]:
                    raise errors.InputError(
                        f"results file belongs to another evaluation: expected {field} "
                        f"{base[field]} for volume {base['volume']}, case "
                        f"{base['case']}, got {row.get(field)}; give this evaluation "
                        "a file of its own"
                    )
        return rows

    def append(self, rows: list[Row]) -> None:
        """Write the rows of one run in one piece."""
        if self._path is None:
            return
        text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(text)
