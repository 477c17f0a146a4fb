"""A list of series: read, claimed, done once each, gone on with, and counted."""

import json
import subprocess
import sys
import time
import types

import numpy as np
import pytest

from temdiff_jax.errors import InputError
from temdiff_jax.io import lock
from temdiff_jax.reconstruction import many


@pytest.fixture
def listed(tmp_path):
    """A list of three series, of which the files are there."""
    for name in "abc":
        (tmp_path / f"{name}.mrc").write_text(name)
    path = tmp_path / "series.txt"
    path.write_text("# first\na.mrc,thickness=8\n\nb.mrc,name=second\nc.mrc\n")
    return path


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Makes a sweep whose reconstructions only say that they were asked for."""
    done = []

    def finish(self, entry, planned):
        done.append(entry.name)
        if entry.path.read_text() == "bad":
            raise InputError("tilts: expected some, got none; record them")
        return types.SimpleNamespace(chi2=np.array([0.9, 1.1]))

    monkeypatch.setattr(many.Sweep, "_planned", lambda self, entry: None)
    monkeypatch.setattr(many.Sweep, "_finish", finish)

    def make(**config):
        config = many.ManyConfig(**config)
        made = many.Sweep(config, tmp_path / "work", lambda s: None, lambda: None)
        made.begin()
        return made

    return types.SimpleNamespace(make=make, done=done, folder=tmp_path / "work")


def test_a_line_names_a_series_and_what_is_known_of_it(listed, tmp_path):
    first, second, third = many.read_list(listed)
    assert first == many.Entry("a", tmp_path / "a.mrc", {"thickness": 8})
    assert second.name == "second" and third.said == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected at least one path"),
        ("a.mrc\nsub/a.mrc", "line 2: expected a name of its own, got 'a'"),
        ("a.mrc,name=../a", "expected a name of its own"),
        ("a.mrc,deep=3", "expected field=value with a field of"),
        ("a.mrc,thickness=three", "got 'thickness=three'"),
    ],
)
def test_lists_that_cannot_be_meant_are_refused(text, message, tmp_path):
    path = tmp_path / "list.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        many.read_list(path)
    with pytest.raises(InputError, match="expected a text at"):
        many.read_list(tmp_path / "none.txt")


def test_every_series_is_done_once_and_a_failure_stops_no_other(listed, sweep):
    (listed.parent / "b.mrc").write_text("bad")
    entries = many.read_list(listed)
    rows = sweep.make().run(entries)
    assert [row.state for row in rows] == ["done", "failed", "done"]
    assert sweep.done == ["a", "second", "c"]
    assert rows[0].chi2 == 1.0 and "expected some, got none" in rows[1].said
    lines = list(many.table(rows))
    assert len(lines) == 5 and lines[-1] == "3 series: 2 done, 1 failed"
    # A later start tries again what failed, and nothing else.
    (listed.parent / "b.mrc").write_text("good")
    rows = sweep.make().run(entries)
    assert [row.state for row in rows] == ["done"] * 3
    assert sweep.done == ["a", "second", "c", "second"]
    # Files that changed are another series.
    (listed.parent / "c.mrc").write_text("longer")
    sweep.make().run(entries)
    assert sweep.done[4:] == ["c"]


def test_a_failure_is_not_repeated_by_a_process_that_began_before(listed, sweep):
    entries = many.read_list(listed)
    (listed.parent / "b.mrc").write_text("bad")
    early = sweep.make()
    sweep.make().run(entries)
    rows = early.run(entries)
    assert sweep.done == ["a", "second", "c"]
    assert [row.state for row in rows] == ["done", "failed", "done"]


HOLD = """
import pathlib, sys, time
from temdiff_jax.io import lock
with lock.claimed(pathlib.Path(sys.argv[1])) as holder:
    print(holder, flush=True)
    time.sleep(60)
"""


def test_what_another_process_holds_is_left_to_it_until_it_dies(listed, sweep):
    entries = many.read_list(listed)
    command = [sys.executable, "-c", HOLD, str(sweep.folder / "a")]
    made = sweep.make()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "None\n"
        rows = made.run(entries)
        assert [row.state for row in rows] == ["open", "done", "done"]
        with lock.claimed(sweep.folder / "a") as holder:
            assert holder == str(other.pid)
        other.kill()
    time.sleep(0.1)
    assert [row.state for row in sweep.make().run(entries)] == ["done"] * 3
    assert sweep.done == ["second", "c", "a"]


def test_a_folder_belongs_to_one_configuration(sweep, tmp_path):
    sweep.make(num_steps=4)
    sweep.make(num_steps=4, samples=0, slabs=0)
    with pytest.raises(InputError, match="got num_steps = 8 instead of 4; repeat"):
        sweep.make(num_steps=8)
    kept = json.loads((sweep.folder / many.WHOLE).read_text())
    assert kept["num_steps"] == 4 and "slabs" not in kept
    remote = many.Sweep(many.ManyConfig(), "gs://bucket/x", print, print)
    with pytest.raises(InputError, match="expected a folder of this machine"):
        remote.begin()
