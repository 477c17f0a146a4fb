"""A run that is stopped goes on where it was, with the bits of one that was not."""

import dataclasses
import json

import numpy as np
import pytest

from temdiff_jax.errors import InputError
from temdiff_jax.reconstruction import api, plan, sample, watch
from temdiff_jax.reconstruction.settings import Settings
from temdiff_jax.series.preparation import SeriesOptions

ANGLES = np.array([-12.0, -5.0, 0.0, 6.0, 13.0])
THICKNESS = 8
TILTS = np.random.default_rng(0).normal(8.0, 1.0, (5, 8, 12)).astype(np.float32)
SETTINGS = Settings(window=32, cg_iters=3, mean_cg_iters=4)
EFFORT = {"num_samples": 2, "num_steps": 4}


class Stopped(Exception):
    """Stands for a signal."""


@pytest.fixture
def planned(prior, monkeypatch):
    monkeypatch.setattr(sample, "CHUNK_STEPS", 2)
    monkeypatch.setattr(sample, "BATCH_VOXELS", 1)
    return make(prior)


def make(prior, **effort):
    choice = plan.choose("default", prior, SETTINGS, **(EFFORT | effort))
    options = SeriesOptions(THICKNESS, contrast="bright", weighting="robust")
    return plan.make_plan(TILTS, ANGLES, choice, options, key=3)


def stopped_at(planned, folder, when):
    """Runs until so many reports; returns what was told, and the result if any."""
    told = []

    def tell(done, total, text):
        told.append((done, total, text))
        if len(told) == when:
            raise Stopped

    try:
        return told, api.run(planned, state=folder, on_progress=tell)
    except Stopped:
        return told, None


def test_goes_on_after_any_stop_bit_for_bit(planned, tmp_path):
    """Stopped at every report in turn, it ends where a run in one piece does."""
    told, whole = stopped_at(planned, None, 0)
    assert [step[:2] for step in told][-1] == (planned.total, planned.total)
    assert [step[0] for step in told] == sorted(step[0] for step in told)
    folder, when, parts = tmp_path / "state", 1, None
    while parts is None:
        _, parts = stopped_at(planned, folder, when)
        when += 1
    assert when > 6
    for field in dataclasses.fields(api.Result):
        a, b = getattr(whole, field.name), getattr(parts, field.name)
        if isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b, err_msg=field.name)
    assert parts.provenance["run"] == whole.provenance["run"]
    assert parts.provenance["weighting"] == whole.provenance["weighting"]
    kept = sorted(path.name for path in folder.iterdir())
    finished = ["mean.npz", "problem.npz", "run.json", "samples_0.npz", "samples_1.npz"]
    assert kept == finished
    watch.remove_folder(folder)
    assert not folder.exists()


def test_state_of_another_run_is_refused_and_says_what_differs(
    planned,
    prior,
    tmp_path,
):
    folder = tmp_path / "state"
    stopped_at(planned, folder, 1)
    for change, said in (
        ({"num_samples": 3}, "settings: num_samples 3 instead of 2"),
        ({"solver": "ddim"}, 'settings: solver "ddim" instead of'),
    ):
        with pytest.raises(InputError, match=said):
            api.run(make(prior, **change), state=folder)
    tilted = dataclasses.replace(
        planned, job=planned.job._replace(tilts=planned.job.tilts + 1)
    )
    with pytest.raises(InputError, match="unfinished run: .* got input "):
        api.run(tilted, state=folder)


def test_a_folder_of_something_else_or_damaged_is_refused(planned, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match=r"expected run.json"):
        api.run(planned, state=tmp_path)
    folder = tmp_path / "state"
    stopped_at(planned, folder, 2)
    part = folder / "problem.npz"
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(InputError, match="expected a finished part"):
        api.run(planned, state=folder)
    (folder / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"expected JSON in"):
        api.run(planned, state=folder)


def test_identity_is_json_and_names_equal_runs_alike(planned, prior):
    identity = planned.identity()
    assert json.loads(json.dumps(identity)) == identity
    assert watch.run_id(identity) == watch.run_id(make(prior).identity())
    other = dataclasses.replace(
        planned, key=plan.make_plan(TILTS, ANGLES, planned.choice, key=4).key
    )
    assert watch.run_id(other.identity()) != watch.run_id(identity)
